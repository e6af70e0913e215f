"""Where an upstream's credentials come from, and that they are the right ones, in time, and nowhere else."""

from __future__ import annotations

import base64
import json
import os
import secrets
import stat
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from prometheus_client import generate_latest

from mirror.upstream import watched
from tests.fakes.auth import Token
from tests.fakes.faults import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Mirror, Reply, StartMirror

NAME = "up.test"
APP, OTHER = f"/v2/{NAME}/org/app/manifests/v1", f"/v2/{NAME}/org/other/manifests/v1"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at files whenever they are needed."""
    monkeypatch.setattr(watched, "INTERVAL", 0.0)


@pytest.fixture(autouse=True)
def nothing_is_told(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """See that no secret is in any line of the log, nor in a metric, whatever a test does."""
    yield
    told = "".join([*capfd.readouterr(), generate_latest().decode()])
    for user in ("ann", "bob"):
        assert pair(user, f"canary-{user}").rstrip("=") not in told
    assert "canary" not in told


@pytest.fixture
def closed(upstream: FakeRegistry) -> FakeRegistry:
    """A registry that gives nobody anything without a token, and tokens to nobody without a password."""
    upstream.auth.mode = "bearer"
    upstream.auth.anonymous = False
    upstream.auth.users = {"ann": "canary-ann", "bob": "canary-bob"}
    upstream.add_image("org/app", "v1")
    upstream.add_image("org/other", "v1")
    return upstream


def pair(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()


def put(path: Path, content: str) -> Path:
    """Write a file as those do who write carefully: beside it, and then in its place."""
    new = path.with_suffix(".new")
    new.write_text(content)
    new.replace(path)
    return path


def auths(path: Path, up: FakeRegistry, **entries: dict[str, str]) -> Path:
    """Write a config.json with entries for the host of `up`, or (`_org_app`) for what lies below it."""
    named = {up.host + key.replace("_", "/"): entry for key, entry in entries.items()}
    return put(path, json.dumps({"auths": named}))


async def begin(start: StartMirror, up: FakeRegistry, *files: Path, **entry: Any) -> Mirror:
    sections: dict[str, Any] = {"credentials_files": [str(path) for path in files]} if files else {}
    return await start(
        {NAME: {"url": up.url, **entry}}, default_upstream=NAME, freshness=[{"match": "**", "ttl": "0s"}], **sections
    )


def fresh(reply: Reply) -> bool:
    """Say whether it came from upstream, or was confirmed there; what is cached would be served by itself, too."""
    return reply.status == 200 and "Warning" not in reply.headers


def users(up: FakeRegistry) -> list[str | None]:
    return [token.user for token in up.tokens]


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Put `docker-credential-NAME` where programs are looked for."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def write(name: str, body: str) -> Path:
        path = put(tmp_path / f"docker-credential-{name}", f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return write


def printing(username: str, secret: str, **more: Any) -> str:
    return f"cat > /dev/null; echo '{json.dumps({'Username': username, 'Secret': secret, **more})}'"


# A password of its own.


async def test_a_password_file_is_read_again_when_it_changes(
    closed: FakeRegistry, start: StartMirror, tmp_path: Path
) -> None:
    closed.auth.mode = "basic"
    secret = put(tmp_path / "secret", "canary-ann\n")
    mirror = await begin(start, closed, username="ann", password_file=str(secret))
    assert fresh(await mirror.get(APP))
    closed.auth.users["ann"] = "canary-new"
    put(secret, "canary-new\n")
    assert fresh(await mirror.get(OTHER))
    assert closed.auth.refused_passwords == 0


async def test_a_password_that_is_refused_is_looked_up_once_more_before_anybody_hears_of_it(
    closed: FakeRegistry, start: StartMirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "INTERVAL", 3600.0)
    secret = put(tmp_path / "secret", "canary-ann\n")
    mirror = await begin(start, closed, username="ann", password_file=str(secret))
    closed.auth.users["ann"] = "canary-new"
    put(secret, "canary-new\n")
    assert fresh(await mirror.get(APP))
    assert closed.auth.refused_passwords == 1


async def test_a_password_that_is_refused_is_not_shown_again_for_every_request(
    closed: FakeRegistry, start: StartMirror, tmp_path: Path
) -> None:
    """What is cached goes on being served, and Docker Hub locks accounts; a new password counts at once."""
    secret = put(tmp_path / "secret", "canary-ann\n")
    mirror = await begin(start, closed, username="ann", password_file=str(secret))
    assert {reply.status for reply in await mirror.pull("org/app", "v1")} == {200}
    closed.auth.users["ann"] = "canary-new"
    closed.auth.tokens.clear()
    for _ in range(5):
        assert "Warning" in (await mirror.get(APP)).headers
    assert closed.auth.refused_passwords == 1
    put(secret, "canary-new\n")
    assert fresh(await mirror.get(APP))
    assert closed.auth.refused_passwords == 1


async def test_a_file_that_breaks_leaves_the_last_password_in_use_and_is_told_of_once(
    closed: FakeRegistry, start: StartMirror, tmp_path: Path
) -> None:
    closed.auth.mode = "basic"
    secret = put(tmp_path / "secret", "canary-ann\n")
    mirror = await begin(start, closed, username="ann", password_file=str(secret))
    secret.unlink()
    with structlog.testing.capture_logs() as logs:
        assert fresh(await mirror.get(APP))
        assert fresh(await mirror.get(OTHER))
        put(secret, "")
        assert fresh(await mirror.get(OTHER))
        assert fresh(await mirror.get(OTHER))
        put(secret, "canary-ann")
        assert fresh(await mirror.get(OTHER))
    told = [(line["log_level"], line.get("cause")) for line in logs if line.get("files") == [str(secret)]]
    assert told == [
        ("error", "No such file or directory"),
        ("error", "is empty or longer than 64 KiB; put the password into it, and nothing else"),
        ("info", None),
    ]


@pytest.mark.parametrize(
    ("username", "password"),
    [
        ("_json_key", '{\n  "private_key": "canary-\\nü"\n}'),
        ("AWS", "canary" * 500),
        ("00000000-0000-0000-0000-000000000000", "canary:with:colons"),
        ("$oauthtoken", "canary-nv"),
        ("robot$ci", "canary-harbor"),
    ],
)
@pytest.mark.parametrize("mode", ["bearer", "basic"])
async def test_the_users_of_all_clouds_are_shown_as_they_are(
    closed: FakeRegistry, start: StartMirror, mode: str, username: str, password: str
) -> None:
    closed.auth.mode = mode
    closed.auth.users = {username: password}
    mirror = await begin(start, closed, username=username, password=password)
    assert fresh(await mirror.get(APP))


# Files of Docker, Podman and Kubernetes.


async def test_a_namespaced_key_has_an_identity_of_its_own(
    closed: FakeRegistry, start: StartMirror, tmp_path: Path
) -> None:
    closed.auth.private = {"org/app": {"ann"}, "org/other": {"bob"}}
    entries = {"": {"auth": pair("bob", "canary-bob")}, "_org_app": {"auth": pair("ann", "canary-ann")}}
    file = auths(tmp_path / "config.json", closed, **entries)
    mirror = await begin(start, closed, file)
    assert all([fresh(await mirror.get(path)) for path in (APP, OTHER, APP)])
    assert users(closed) == ["ann", "bob"]
    assert {record.user for record in closed.requests if record.repo == "org/app" and record.user} == {"ann"}


async def test_a_changed_config_json_counts_at_once_and_a_key_that_is_gone_ends(
    closed: FakeRegistry, start: StartMirror, tmp_path: Path
) -> None:
    file = auths(tmp_path / "config.json", closed, **{"": {"auth": pair("ann", "canary-ann")}})
    mirror = await begin(start, closed, file)
    assert fresh(await mirror.get(APP))
    auths(file, closed, **{"": {"auth": pair("bob", "canary-bob")}})
    assert fresh(await mirror.get(APP))
    assert users(closed) == ["ann", "bob"]
    put(file, '{"auths": {}}')
    assert (await mirror.get(OTHER)).status == 404
    assert users(closed) == ["ann", "bob"]


async def test_credentials_for_one_host_are_not_shown_to_another(
    closed: FakeRegistry, other: FakeRegistry, start: StartMirror, tmp_path: Path
) -> None:
    other.auth = closed.auth
    other.add_image("org/app", "v1")
    file = auths(tmp_path / "config.json", other, **{"": {"auth": pair("ann", "canary-ann")}})
    mirror = await begin(start, closed, file)
    assert (await mirror.get(APP)).status == 404
    assert not any("Authorization" in record.headers for record in closed.requests)


async def test_an_identity_token_is_traded_for_a_token_and_never_sent_to_the_registry(
    closed: FakeRegistry, start: StartMirror, tmp_path: Path
) -> None:
    closed.auth.identity_tokens = {"canary-refresh": "ann"}
    file = auths(tmp_path / "config.json", closed, **{"": {"auth": pair("x", "y"), "identitytoken": "canary-refresh"}})
    mirror = await begin(start, closed, file)
    assert fresh(await mirror.get(APP))
    assert users(closed) == ["ann"]
    sent = [record for record in closed.requests if record.kind == "token"]
    assert [record.method for record in sent] == ["POST"]
    assert "canary" not in sent[0].query
    assert not any("canary" in value for record in closed.requests for value in record.headers.values())


async def test_an_identity_token_goes_to_no_token_service_outside_the_registrys_domain(
    closed: FakeRegistry, other: FakeRegistry, start: StartMirror, tmp_path: Path
) -> None:
    other.auth.identity_tokens = {"canary-refresh": "ann"}
    closed.auth.realm = other.url.replace("127.0.0.1", "localhost") + "/token"
    file = auths(tmp_path / "config.json", closed, **{"": {"identitytoken": "canary-refresh"}})
    mirror = await begin(start, closed, file)
    await mirror.get(APP)
    assert [record.method for record in other.requests] == ["GET"]
    assert not any("canary" in f"{record.query} {dict(record.headers)}" for record in other.requests)


async def test_a_registry_token_is_shown_to_the_registry_alone(
    closed: FakeRegistry, start: StartMirror, tmp_path: Path
) -> None:
    closed.redirect_blobs = True
    digest = closed.add_blob("org/app", b"content")
    token = secrets.token_urlsafe(12)
    closed.auth.tokens = [Token(token, "ann", ("repository:org/app:pull",), float("inf"), "")]
    file = auths(tmp_path / "config.json", closed, **{"": {"registrytoken": token}})
    mirror = await begin(start, closed, file)
    assert fresh(await mirror.get(APP))
    assert (await mirror.get(f"/v2/{NAME}/org/app/blobs/{digest}")).body == b"content"
    assert not [record for record in closed.requests if record.kind == "token"]
    assert not [record for record in closed.requests if record.kind == "storage" and "Authorization" in record.headers]
    closed.auth.tokens = []
    refused = await mirror.get(OTHER)
    assert refused.status == 404
    assert "refused the configured registry token (401)" in refused.message


@pytest.mark.parametrize("where", ["credHelpers", "credsStore"])
async def test_a_helper_is_asked_in_place_of_auths(
    closed: FakeRegistry, start: StartMirror, tmp_path: Path, helper: Callable[[str, str], Path], where: str
) -> None:
    helper("mine", printing("bob", "canary-bob"))
    entry = {"auth": pair("ann", "canary-ann")}
    chosen = {closed.host: "mine"} if where == "credHelpers" else "mine"
    file = put(tmp_path / "config.json", json.dumps({"auths": {closed.host: entry}, where: chosen}))
    mirror = await begin(start, closed, file)
    assert fresh(await mirror.get(APP))
    helper("mine", "echo credentials not found in native keychain; exit 1")
    again = await begin(start, closed, file)
    assert fresh(await again.get(OTHER))
    assert users(closed) == ["bob", "ann"]


async def test_no_helper_is_run_for_a_registry_that_asks_for_nothing(
    upstream: FakeRegistry, start: StartMirror, tmp_path: Path, helper: Callable[[str, str], Path]
) -> None:
    helper("mine", f"touch {tmp_path}/ran; exit 1")
    upstream.add_image("org/app", "v1")
    mirror = await begin(start, upstream, put(tmp_path / "config.json", '{"credsStore": "mine"}'))
    assert fresh(await mirror.get(APP))
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("impatient")
async def test_a_helper_that_fails_is_named_and_nothing_is_fetched_anonymously_instead(
    upstream: FakeRegistry, start: StartMirror, tmp_path: Path, helper: Callable[[str, str], Path]
) -> None:
    helper("mine", "echo no such vault >&2; exit 1")
    upstream.auth.mode = "bearer"  # and it would give a token to anybody
    upstream.add_image("org/app", "v1")
    mirror = await begin(start, upstream, put(tmp_path / "config.json", '{"credsStore": "mine"}'))
    reply = await mirror.get(APP)
    assert reply.status == 503
    assert "docker-credential-mine ended with 1: no such vault" in reply.message
    assert not upstream.tokens


# A program.


async def test_a_password_of_a_program_that_ended_early_is_replaced_without_anybody_noticing(
    closed: FakeRegistry, start: StartMirror, helper: Callable[[str, str], Path]
) -> None:
    """As private ECR does it: Basic alone, and 403 once the password has ended."""
    closed.auth.mode = "basic"
    command = helper("ecr", printing("ann", "canary-ann", ExpiresIn=43200))
    mirror = await begin(start, closed, exec=[str(command), "get"])
    assert fresh(await mirror.get(APP))
    closed.auth.users["ann"] = "canary-next"
    helper("ecr", printing("ann", "canary-next"))
    closed.fault(kind="manifest", times=1, then=Status(403, "DENIED", "Your authorization token has expired."))
    assert fresh(await mirror.get(OTHER))


async def test_short_lived_credentials_are_renewed_before_they_end(
    closed: FakeRegistry, start: StartMirror, helper: Callable[[str, str], Path]
) -> None:
    closed.auth.mode = "basic"
    command = helper("short", printing("ann", "canary-ann", ExpiresIn=3600))
    mirror = await begin(start, closed, exec=str(command))
    assert fresh(await mirror.get(APP))
    helper("short", printing("ann", "canary-next", ExpiresIn=3600))
    registry: Any = mirror.server.cache._upstreams.of(NAME)
    login = registry._exchange._logins._login
    login._given = replace(login._given, refresh_at=0.0)  # most of their hour is over
    assert fresh(await mirror.get(APP))  # by the old ones; the next are fetched meanwhile
    await login._start()
    closed.auth.users["ann"] = "canary-next"
    assert fresh(await mirror.get(APP))
    assert closed.auth.refused_passwords == 0


async def test_a_token_that_is_good_needs_no_credentials(
    closed: FakeRegistry, start: StartMirror, helper: Callable[[str, str], Path]
) -> None:
    command = helper("away", printing("ann", "canary-ann", ExpiresIn=3600))
    mirror = await begin(start, closed, exec=str(command))
    assert fresh(await mirror.get(APP))
    helper("away", "exit 1")
    registry: Any = mirror.server.cache._upstreams.of(NAME)
    login = registry._exchange._logins._login
    login._given = replace(login._given, refresh_at=0.0, expires_at=0.0)
    assert fresh(await mirror.get(APP))
    assert len(closed.tokens) == 1


async def test_credentials_that_stay_refused_are_denied_in_words(
    closed: FakeRegistry, start: StartMirror, helper: Callable[[str, str], Path], tmp_path: Path
) -> None:
    command = helper("wrong", f"echo >> {tmp_path}/runs; " + printing("ann", "canary-wrong"))
    mirror = await begin(start, closed, exec=str(command))
    for _ in range(3):
        reply = await mirror.get(APP)
        assert reply.status == 404
        assert "its token service 127.0.0.1 refused the configured user name and password (401)" in reply.message
        assert "canary" not in reply.message
    assert len((tmp_path / "runs").read_text().splitlines()) == 2
