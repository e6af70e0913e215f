"""Programs that print credentials: run for real, as small scripts."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from mirror.config import Secret
from mirror.config.credentials import Credentials, Kind
from mirror.errors import UpstreamUnavailable
from mirror.upstream import program
from mirror.upstream.program import Program, ProgramFailed, ask, parse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ANN = Credentials("ann", Secret("canary-1"))
BOB = Credentials("bob", Secret("canary-2"))


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], tuple[str, ...]]:
    """Write a program; return the command that runs it."""

    def write(body: str) -> tuple[str, ...]:
        path = tmp_path / "credentials"
        new = path.with_suffix(".new")
        new.write_text(f"#!/bin/sh\n{body}\n")
        new.chmod(0o755)
        new.rename(path)  # a script that runs cannot be written to
        return str(path), "get"

    return write


def printing(username: str = "ann", secret: str = "canary-1", **more: Any) -> str:  # noqa: S107
    """Return a script that counts its runs in `runs` and prints an answer."""
    answer = json.dumps({"ServerURL": "x", "Username": username, "Secret": secret, **more})
    return f"read server; echo $1 $server >> $(dirname $0)/runs; echo '{answer}'"


def runs(tmp_path: Path) -> list[str]:
    path = tmp_path / "runs"
    return path.read_text().splitlines() if path.exists() else []


async def test_a_program_is_told_the_server_and_asked_once_for_many(
    script: Callable[[str], tuple[str, ...]], tmp_path: Path
) -> None:
    login = Program(script(printing()), "quay.io", namespace="quay.io")
    found = await asyncio.gather(*(login.credentials() for _ in range(20)))
    assert set(found) == {ANN}
    assert await login.credentials() == ANN
    assert runs(tmp_path) == ["get quay.io"]
    assert "canary-1" in login.secrets()


async def test_credentials_are_renewed_before_they_end_and_nobody_waits_for_it(
    script: Callable[[str], tuple[str, ...]], tmp_path: Path
) -> None:
    login = Program(script(printing(ExpiresIn=100)), "x", namespace="x")
    assert await login.credentials() == ANN
    given = login._given
    assert given is not None
    life = given.expires_at - time.monotonic()
    assert 99 < life <= 100
    assert 0.78 * life < given.refresh_at - time.monotonic() < 0.91 * life
    script(printing("bob", "canary-2"))
    login._given = program.Given(ANN, refresh_at=0.0, expires_at=given.expires_at)
    assert await login.credentials() == ANN  # good for a while yet
    await asyncio.shield(login._start())
    assert await login.credentials() == BOB
    assert len(runs(tmp_path)) == 2
    assert {"canary-1", "canary-2"} <= set(login.secrets())


async def test_while_renewal_fails_the_last_good_credentials_serve_as_long_as_they_last(
    script: Callable[[str], tuple[str, ...]],
) -> None:
    login = Program(script("echo no canary >&2; exit 7"), "x", namespace="x.io")
    login._given = program.Given(ANN, refresh_at=0.0, expires_at=time.monotonic() + 60)
    with structlog.testing.capture_logs() as logs:
        assert await login.credentials() == ANN
        await asyncio.shield(login._start())
        assert await login.credentials() == ANN
        assert [line["cause"] for line in logs] == ["ended with 7: no canary"]
        login._given = program.Given(ANN, refresh_at=0.0, expires_at=0.0)
        with pytest.raises(UpstreamUnavailable, match=r"x\.io: there are no credentials: .* ended with 7"):
            await login.credentials()
    assert len(logs) == 1  # once, however often it is asked


async def test_a_program_that_fails_is_not_run_for_every_request(
    script: Callable[[str], tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = Program(script("echo >> $(dirname $0)/runs; exit 1"), "x", namespace="x")
    for _ in range(3):
        with pytest.raises(UpstreamUnavailable, match="ended with 1; run it by hand"):
            await login.credentials()
    assert len(runs(tmp_path)) == 1
    monkeypatch.setattr(program, "AGAIN", 0.0)
    login._not_before = 0.0
    script(printing())
    assert await login.credentials() == ANN


async def test_what_was_refused_is_asked_for_anew_once(
    script: Callable[[str], tuple[str, ...]], tmp_path: Path
) -> None:
    login = Program(script(printing()), "x", namespace="x")
    assert await login.credentials() == ANN
    assert not await login.renew(ANN)  # the same again
    assert not await login.renew(ANN)
    assert len(runs(tmp_path)) == 2
    login._asked_again = None
    script(printing("bob", "canary-2"))
    assert await login.renew(ANN)
    assert await login.credentials() == BOB
    assert await login.renew(ANN)  # somebody else has renewed them already
    assert len(runs(tmp_path)) == 3


@pytest.mark.parametrize(
    "body",
    [
        "echo credentials not found in native keychain; exit 1",
        """echo '{"ServerURL":"quay.io","Username":"","Secret":""}'""",  # docker-credential-pass 0.6.4
    ],
)
async def test_a_helper_that_knows_nothing_leaves_the_upstream_anonymous(
    script: Callable[[str], tuple[str, ...]], body: str
) -> None:
    assert await Program(script(body), "x", namespace="x").credentials() is None


async def test_the_user_token_has_an_identity_token(script: Callable[[str], tuple[str, ...]]) -> None:
    found = await Program(script(printing("<token>", "canary-3")), "x", namespace="x").credentials()
    assert found == Credentials("", Secret("canary-3"), Kind.IDENTITY_TOKEN)


@pytest.mark.parametrize("then", ["wait", "exit 0"])
async def test_a_program_that_hangs_is_ended_with_all_that_it_started(
    script: Callable[[str], tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    monkeypatch.setattr(program, "TIME_LIMIT", 0.3)
    command = script(f"(sleep 60) & echo $! > {tmp_path}/child; {then}")
    with pytest.raises(ProgramFailed, match="did not end within"):
        await ask(command, "x")
    child = int((tmp_path / "child").read_text())
    await _gone(child)


async def _gone(pid: int) -> None:
    for _ in range(200):
        try:
            with open(f"/proc/{pid}/stat") as stat:  # noqa: ASYNC230, PTH123
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except (FileNotFoundError, ProcessLookupError):
            return
        await asyncio.sleep(0.01)
    pytest.fail("it still runs")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("exit 3", "ended with 3; run it by hand to see why"),
        ("echo one >&2; echo the cause >&2; exit 1", "ended with 1: the cause"),
        ("echo leak canary-9 >&2; exit 1", "ended with 1; run it by hand"),  # a secret that is known
        ("echo word-abc; echo saw word-abc >&2; exit 1", "ended with 1; run it by hand"),  # what it printed
        ("echo bad key AKIAIOSFODNN7EXAMPLE00 >&2; exit 1", "ended with 1: bad key …"),  # what looks like one
        ("echo nonsense", "printed something that is not JSON"),
        ("echo []", "printed something that is not a JSON object"),
        ("""echo '{"Username": "a"}'""", 'printed no "Secret"'),
        ("""echo '{"Username": 7, "Secret": "s"}'""", 'printed no "Secret"'),
        ("""echo '{"Secret": "s", "ExpiresAt": "2001-01-01T00:00:00Z"}'""", "have ended already"),
        ("""echo '{"Secret": "s", "ExpiresAt": "soon"}'""", "no time"),
        ("""echo '{"Secret": "s", "ExpiresIn": "soon"}'""", "no time"),
        ("""echo '{"Secret": "s", "ExpiresIn": NaN}'""", "no time"),
        ("""echo '{"Username": "u", "Secret": "\\ud800"}'""", "cannot be sent"),
        ("yes canary-9", "printed more than 64 KiB"),
        ("cat >&2 /dev/zero; exit 1", "printed more than 64 KiB"),
    ],
)
async def test_a_failure_says_why_and_never_what_is_secret(
    script: Callable[[str], tuple[str, ...]], body: str, why: str
) -> None:
    with pytest.raises(ProgramFailed, match=why) as caught:
        await ask(script(body), "x", ("canary-9",))
    assert "canary" not in str(caught.value)
    assert "word-abc" not in str(caught.value)


async def test_a_long_complaint_does_not_hold_up_the_loop(script: Callable[[str], tuple[str, ...]]) -> None:
    began = time.process_time()
    with pytest.raises(ProgramFailed, match="ended with 1: token"):
        await ask(script("printf 'token %060000d' 0 >&2; exit 1"), "x")
    assert time.process_time() - began < 1


async def test_a_program_that_is_not_there_is_named_with_what_to_do() -> None:
    login = Program(("docker-credential-nowhere", "get"), "x", namespace="x.io")
    with pytest.raises(UpstreamUnavailable, match=r"docker-credential-nowhere cannot be run .*; install it"):
        await login.credentials()


@pytest.mark.parametrize(
    ("more", "life"),
    [
        ({}, float("inf")),
        ({"ExpiresIn": 43200}, 43200),
        ({"ExpiresIn": 0.5}, 0.5),
        ({"ExpiresIn": 10**400}, 3.1536e8),
        ({"ExpiresAt": "2023-11-14T23:13:20Z"}, 3600),
        ({"ExpiresAt": "2023-11-14T23:13:20"}, 3600),
        ({"ExpiresAt": "2023-11-15T00:13:20.25+01:00"}, 3600.25),
    ],
)
def test_how_long_credentials_last(more: dict[str, Any], life: float) -> None:
    given = parse(json.dumps({"Username": "a", "Secret": "s", **more}).encode(), now=1_700_000_000.0)
    now = time.monotonic()
    assert given.expires_at - now == pytest.approx(life, abs=0.2)
    assert given.refresh_at - now <= min(0.9 * life, program.REFRESH if not more else life)


async def test_a_run_under_way_ends_with_the_login(script: Callable[[str], tuple[str, ...]], tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    login = Program(script(f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 60"), "x", namespace="x")
    waiting = asyncio.create_task(login.credentials())
    while not pid.exists():  # noqa: ASYNC110  # another process writes it
        await asyncio.sleep(0.01)
    await login.close()
    with pytest.raises(UpstreamUnavailable, match="was broken off"):
        await waiting
    await _gone(int(pid.read_text()))
