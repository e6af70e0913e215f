"""Several credentials of one upstream: each by what is left of it, and one that fails is nobody's trouble."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from prometheus_client import REGISTRY, generate_latest

from mirror.upstream import watched
from tests.fakes.faults import Status
from tests.fakes.limit import RateLimit
from tests.fakes.manner import DENIED, Manner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, Mirror, Reply, StartMirror

NAME = "up.test"
USERS = ("ann", "bob", "cat")
LIMITED = "mirror_upstream_credential_set_aside"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at files whenever they are needed."""
    monkeypatch.setattr(watched, "INTERVAL", 0.0)


@pytest.fixture(autouse=True)
def nothing_is_told(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[None]:
    """See that no secret is in the log, in a metric, or on disk, whatever a test does."""
    yield
    told = "".join([*capfd.readouterr(), generate_latest().decode()]).encode()
    told += b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".secret")
    assert b"canary" not in told
    for user in USERS:
        assert base64.b64encode(f"{user}:canary-{user}".encode()).rstrip(b"=") not in told


@pytest.fixture
def up(upstream: FakeRegistry, clock: Clock) -> FakeRegistry:
    """A registry with Docker Hub's limits, which tokens may be had of without a password, too."""
    upstream.auth.mode = "bearer"
    upstream.auth.users = {user: f"canary-{user}" for user in USERS}
    upstream.limit = RateLimit(100, clock=clock)
    for number in range(40):
        upstream.add_image(f"org/app{number}", "v1", layers=[f"layer {number}".encode()])
    return upstream


def user(username: str, **more: Any) -> dict[str, Any]:
    return {"username": username, "password": f"canary-{username}", **more}


async def begin(start: StartMirror, up: FakeRegistry, *credentials: dict[str, Any], **sections: Any) -> Mirror:
    return await start(
        {NAME: {"url": up.url, "credentials": list(credentials)}},
        default_upstream=NAME,
        freshness=[{"match": "**", "ttl": "0s"}],
        budget=[],
        **sections,
    )


def by(up: FakeRegistry, **fields: Any) -> dict[str | None, int]:
    """Count the requests of each user."""
    found: dict[str | None, int] = {}
    for record in up.log.matching(**fields):
        found[record.user] = found.get(record.user, 0) + 1
    return found


def fresh(reply: Reply) -> bool:
    return reply.status == 200 and "Warning" not in reply.headers


def path(number: int = 0, reference: str = "v1") -> str:
    return f"/v2/org/app{number}/manifests/{reference}"


def aside(name: str) -> float | None:
    return REGISTRY.get_sample_value(LIMITED, {"namespace": NAME, "credential": name})


async def test_each_is_used_by_what_is_left_of_it_and_then_the_answer_comes_at_once(
    up: FakeRegistry, start: StartMirror, clock: Clock
) -> None:
    up.limit = RateLimit(100, accounts={"ann": 6, "bob": 12, "cat": 12}, clock=clock)
    up.auth.anonymous = False
    mirror = await begin(start, up, *map(user, USERS))
    for number in range(20):
        assert fresh(await mirror.get(path(number)))
    counted = by(up, counted=True)
    assert 3 <= counted["ann"] <= 5
    assert abs(counted["bob"] - counted["cat"]) <= 2
    for number in range(20, 30):
        assert fresh(await mirror.get(path(number)))
    assert up.count(limited=True) == 0
    assert by(up, counted=True) == {"ann": 6, "bob": 12, "cat": 12}
    up.forget()
    reply = await mirror.get(path(30))
    assert (reply.status, reply.code) == (503, "TOOMANYREQUESTS")
    assert int(reply.headers["Retry-After"]) > 600
    assert "ann, bob, cat" in reply.message
    assert up.count(kind="manifest", method="GET") == 0
    assert fresh(await mirror.get(path(0)))  # it is cached, and to ask by HEAD is not counted
    clock.advance(6 * 3600 + 1)
    assert fresh(await mirror.get(path(30)))


async def test_a_limit_of_one_goes_on_with_the_next_in_the_same_request(
    up: FakeRegistry, start: StartMirror, clock: Clock
) -> None:
    up.limit = RateLimit(100, retry_after=True, clock=clock)
    up.limit.use("ann", 200)  # somebody else has the same account
    mirror = await begin(start, up, user("ann"), user("bob"))
    assert fresh(await mirror.get(path(0)))
    assert by(up, limited=True) == {"ann": 1}
    assert fresh(await mirror.get(path(1)))
    assert by(up, counted=True) == {"bob": 2}
    assert by(up, limited=True) == {"ann": 1}


async def test_what_there_is_again_of_a_limit_is_seen_without_waiting_for_the_whole_window(
    up: FakeRegistry, start: StartMirror, clock: Clock
) -> None:
    up.limit = RateLimit(accounts={"ann": 3}, clock=clock)
    up.limit.use("ann", 2, ago=6 * 3600 - 120)  # in two minutes those are forgotten
    mirror = await begin(start, up, user("ann"))
    assert fresh(await mirror.get(path(0)))
    for number in range(1, 4):
        assert (await mirror.get(path(number))).status == 503
    assert by(up, kind="manifest", method="HEAD", status=200) == {"ann": 1}  # is not counted, and once a minute will do
    clock.advance(121)
    assert fresh(await mirror.get(path(1)))
    assert up.count(limited=True) == 0


async def test_all_that_rest_send_nothing_and_say_for_how_long_the_first_does(
    up: FakeRegistry, start: StartMirror
) -> None:
    for seconds in (900, 300):
        up.fault(kind="manifest", times=1, after=1, then=Status(429, retry_after=seconds))
    mirror = await begin(start, up, user("ann"), user("bob"))
    assert (await mirror.get(path(0))).status == 503
    asked = len(up.requests)
    reply = await mirror.get(path(1))
    assert reply.status == 503
    assert 295 < int(reply.headers["Retry-After"]) <= 300
    # A bare 429 is about abuse, whose limit is one of all requests.
    assert (await mirror.get("/v2/org/app1/tags/list")).status == 503
    assert len(up.requests) == asked


async def test_one_that_is_refused_is_set_aside_told_of_once_and_tried_again_later(
    up: FakeRegistry, start: StartMirror, clock: Clock
) -> None:
    up.auth.users["ann"] = "changed"
    mirror = await begin(start, up, user("ann"), user("bob"))
    with structlog.testing.capture_logs() as logs:
        for number in range(5):
            assert fresh(await mirror.get(path(number)))
    assert by(up, counted=True) == {"bob": 5}
    assert up.auth.refused_passwords == 1
    assert aside("ann") == 1
    told = [line for line in logs if line.get("account") == "ann"]
    assert len(told) == 1
    assert "its token service 127.0.0.1 refused the configured user name and password (401)" in told[0]["why"]
    up.auth.users["ann"] = "canary-ann"
    clock.advance(301)
    for number in range(5, 20):
        assert fresh(await mirror.get(path(number)))
    assert by(up, counted=True).keys() == {"ann", "bob"}
    assert aside("ann") == 0


async def test_one_that_is_set_aside_is_tried_again_when_its_file_changes(
    up: FakeRegistry, start: StartMirror, tmp_path: Path
) -> None:
    secret = tmp_path / "a.secret"
    secret.write_text("wrong")
    mirror = await begin(start, up, {"username": "ann", "password_file": str(secret)}, user("bob"))
    assert fresh(await mirror.get(path(0)))
    assert aside("ann") == 1
    new = tmp_path / "new.secret"
    new.write_text("canary-ann\n")
    new.replace(secret)
    for number in range(1, 20):
        assert fresh(await mirror.get(path(number)))
    assert aside("ann") == 0
    assert by(up, counted=True).keys() == {"ann", "bob"}
    assert up.auth.refused_passwords == 1


async def test_a_restart_tries_again_what_was_set_aside_before_it(up: FakeRegistry, start: StartMirror) -> None:
    up.auth.users["ann"] = "changed"
    mirror = await begin(start, up, user("ann"), user("bob"))
    assert fresh(await mirror.get(path(0)))
    await mirror.stop()
    up.auth.users["ann"] = "canary-ann"
    up.auth.users["bob"] = "changed"
    mirror = await begin(start, up, user("ann"), user("bob"))
    assert fresh(await mirror.get(path(1)))
    assert aside("ann") == 0


async def test_a_token_service_that_refuses_a_repository_says_nothing_of_the_credentials(
    up: FakeRegistry, start: StartMirror
) -> None:
    """ghcr.io and GitLab answer 403 to those who are let in elsewhere; whoever may see it is found all the same."""
    up.auth.manner = Manner(closed_tokens=DENIED)
    up.auth.private = {"org/app0": {"bob"}, "org/app1": {"bob"}, "org/absent": set()}
    mirror = await begin(start, up, user("ann"), user("bob"))
    with structlog.testing.capture_logs() as logs:
        assert fresh(await mirror.get(path(0)))
        assert fresh(await mirror.get(path(1)))
        assert (await mirror.get("/v2/org/absent/manifests/v1")).status == 404
    assert not [line for line in logs if "account" in line]
    assert aside("ann") in (0, None)


async def test_a_bound_credential_is_used_where_it_is_bound_and_nowhere_else(
    up: FakeRegistry, start: StartMirror
) -> None:
    up.add_image("acme/app", "v1", layers=[b"private"])
    up.auth.private = {"acme/app": {"bob"}}
    mirror = await begin(start, up, user("ann"), user("bob", name="team", repositories=["acme/**"]))
    replies = await mirror.pull("acme/app", "v1")
    assert {reply.status for reply in replies} == {200}
    await mirror.pull("org/app0", "v1")
    assert by(up, repo="acme/app", status=200).keys() == {"bob"}
    assert by(up, repo="org/app0", status=200).keys() == {"ann"}
    # Of what only they may see, nothing is shown elsewhere.
    layer = replies[0].json["layers"][0]["digest"]
    assert (await mirror.get(f"/v2/org/app0/blobs/{layer}")).status == 404


async def test_where_nothing_is_bound_and_nothing_general_it_is_asked_anonymously(
    up: FakeRegistry, start: StartMirror
) -> None:
    mirror = await begin(start, up, user("bob", repositories=["acme/**"]))
    assert fresh(await mirror.get(path(0)))
    assert {token.user for token in up.tokens} == {None}


@pytest.mark.parametrize("trouble", ["rests", "refused"])
async def test_others_say_nothing_of_a_repository_whose_own_credentials_cannot_ask(
    up: FakeRegistry, start: StartMirror, trouble: str
) -> None:
    """What is private is 404 to strangers: the cached tag must not be taken for one that is gone."""
    up.auth.manner = Manner(not_yours=DENIED.__class__(404, "NAME_UNKNOWN", "no such repository"))
    up.add_image("acme/app", "v1", layers=[b"private"])
    up.auth.private = {"acme/app": {"bob"}}
    mirror = await begin(start, up, user("ann"), user("bob", name="team", repositories=["acme/**"]))
    assert {reply.status for reply in await mirror.pull("acme/app", "v1")} == {200}
    if trouble == "rests":
        up.fault(kind="manifest", times=1, then=Status(429, retry_after=600))
    else:
        up.auth.users["bob"] = "changed"
        up.auth.tokens = [token for token in up.tokens if token.user != "bob"]
    for _ in range(2):
        reply = await mirror.get("/v2/acme/app/manifests/v1")
        assert reply.status == 200
        assert "Warning" in reply.headers
    other = await mirror.get("/v2/acme/app/manifests/v2")
    assert other.status == (503 if trouble == "rests" else 404)
    assert ("limits requests" if trouble == "rests" else "refused the configured user name") in other.message


async def test_anonymous_is_one_of_them_and_what_it_gets_is_public(up: FakeRegistry, start: StartMirror) -> None:
    up.add_image("secret/app", "v1", layers=[b"private"])
    up.auth.private = {"secret/app": {"ann"}}
    mirror = await begin(start, up, {"anonymous": True}, user("ann"))
    open_, closed = await mirror.pull("org/app0", "v1"), await mirror.pull("secret/app", "v1")
    assert {reply.status for reply in (*open_, *closed)} == {200}
    assert by(up, repo="org/app0", kind="manifest", status=200).keys() == {None}
    assert by(up, repo="secret/app", kind="manifest", status=200).keys() == {"ann"}
    shared, private = (reply.json["layers"][0]["digest"] for reply in (open_[0], closed[0]))
    # One that names a digest is enough for what is public, and for nothing else.
    assert (await mirror.get(f"/v2/secret/app/blobs/{private}")).status == 200
    assert (await mirror.get(f"/v2/org/app0/blobs/{private}")).status == 404
    assert (await mirror.get(f"/v2/org/app0/blobs/{shared}")).status == 200


async def test_a_program_that_fails_leaves_it_to_the_others(
    up: FakeRegistry, start: StartMirror, tmp_path: Path
) -> None:
    program = tmp_path / "vault"
    program.write_text("#!/bin/sh\necho no such vault >&2\nexit 1\n")
    program.chmod(0o700)
    mirror = await begin(start, up, {"exec": [str(program)]}, user("bob"))
    assert fresh(await mirror.get(path(0)))
    assert by(up, counted=True) == {"bob": 1}
    await mirror.stop()
    mirror = await begin(start, up, {"exec": [str(program)]})
    asked = len(up.requests)
    reply = await mirror.get(path(1))
    assert reply.status == 503
    assert "vault ended with 1: no such vault" in reply.message
    assert len(up.requests) == asked + 1  # the program is not run again so soon, so to try again would be in vain


async def test_blobs_stay_with_the_credentials_that_got_the_manifest(up: FakeRegistry, start: StartMirror) -> None:
    up.add_image("org/large", "v1", layers=[f"{number}".encode() for number in range(6)])
    mirror = await begin(start, up, *map(user, USERS))
    assert {reply.status for reply in await mirror.pull("org/large", "v1")} == {200}
    assert len(by(up, repo="org/large", kind="blob", status=200)) == 1
    assert len([token for token in up.tokens if "repository:org/large:pull" in token.scopes]) == 1
