"""`mirror trace` says what the mirror then does: the same pull, told first, then made."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from typer.testing import CliRunner

from mirror.cli import trace
from mirror.cli.main import app
from mirror.oci.reference import ImageReference
from mirror.store.store import Store
from tests.fakes.auth import Auth
from tests.fakes.faults import Status
from tests.fakes.limit import RateLimit

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.cli.course import Course
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, Mirror, StartMirror


class Follow(Protocol):
    """Traces the pull of an image."""

    async def __call__(self, mirror: Mirror, image: str = "app:v1") -> Course: ...


REPO = "library/app"
TAG = f"/v2/{REPO}/manifests/v1"


@pytest.fixture
def image(upstream: FakeRegistry) -> str:
    return str(upstream.add_image(REPO, "v1"))


@pytest.fixture
def follow(clock: Clock) -> Follow:
    """Trace as the command does, beside a mirror that runs, and see that nothing changes by it."""

    async def trace_it(mirror: Mirror, image: str = "app:v1") -> Course:
        mirror.server.store.dealings.flush()
        store = Store.open(mirror.server.config.storage)
        try:
            course = await trace._follow(mirror.server.config, store, image, ImageReference.parse(image), clock)
            for kind in ("budget", "rest", "aside", "circuit", "answer", "quarantine", "tag"):
                assert store.dealings.all(kind) == mirror.server.store.dealings.all(kind)
        finally:
            store.close()
        json.dumps(course.report())
        return course

    return trace_it


def steps(course: Course) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    label = ""
    for line in course.told()[1:]:
        label = line[2:16].strip() or label
        found.setdefault(label, []).append(line[17:])
    return found


@pytest.mark.usefixtures("image")
async def test_what_is_not_cached_is_said_to_be_fetched_and_nobody_is_asked_for_it(
    follow: Follow, start: StartMirror, upstream: FakeRegistry
) -> None:
    mirror = await start(upstream)
    told = steps(course := await follow(mirror, "app"))
    assert not course.fails
    [read] = told["read as"]
    assert read == (
        "docker.io/library/app:latest: without a registry it is docker.io, a name of one part is library/ there, "
        "without a tag it is latest"
    )
    assert told["may be pulled"] == ["yes: no rule of pulls matches"]
    assert told["cached"] == ["no"]
    assert told["now"] == ["docker.io is asked for the manifest by GET; if it does not answer, a pull gets 503"]
    assert not upstream.requests


async def test_a_cached_tag_is_told_with_its_age_and_what_upstream_answered_last(
    follow: Follow, start: StartMirror, upstream: FakeRegistry, image: str, clock: Clock
) -> None:
    upstream.limit = RateLimit(100, clock=clock)
    mirror = await start(upstream)
    await mirror.pull(REPO, "v1")
    upstream.forget()
    told = steps(await follow(mirror))
    assert told["cached"] == [image, "whole for linux/amd64"]
    assert told["freshness"] == ['rule "**": ttl 1m', "asked for now, fresh until 2026-09-21T14:14:20Z: fresh"]
    assert told["credentials"] == ["anonymous: 99 of 100 left, said now"]
    [place] = told["upstream"]  # a success is noted once a second at most
    assert re.fullmatch(rf"registry \({upstream.url}\); last, now: GET of a (manifest|blob): 200", place)
    assert told["now"] == ["a pull is answered from the cache, and docker.io is not asked"]
    clock.advance(61)
    told = steps(await follow(mirror))
    [now] = told["now"]
    assert now == (
        f"docker.io is asked by HEAD, which is not counted; if it still has {image[:19]} the cache serves it; if the "
        "tag has moved, what is new is fetched; if it does not answer, the cached one is served, marked stale"
    )
    assert not upstream.requests
    assert (await mirror.get(TAG)).status == 200
    assert [record.method for record in upstream.requests] == ["HEAD"]


@pytest.mark.usefixtures("image")
async def test_a_limit_that_runs_out_is_told_with_what_is_saved(
    follow: Follow, start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    upstream.limit = RateLimit(100, clock=clock)
    upstream.limit.use("192.0.2.1", 99)
    mirror = await start(upstream)
    await mirror.pull(REPO, "v1")
    upstream.forget()
    clock.advance(3600)
    told = steps(await follow(mirror))
    assert "0% of the limit is left: below 5% the ttl is at least 6h, and prefetch waits" in told["freshness"]
    assert told["now"] == ["a pull is answered from the cache; docker.io is not asked, since its limit runs low"]
    clock.advance(-1800)
    course = await follow(mirror, "other:v1")
    [now] = steps(course)["now"]
    assert course.fails
    assert now.startswith("a pull gets 503 TOOMANYREQUESTS: docker.io limits requests and asked to be left alone")
    assert (await mirror.get("/v2/library/other/manifests/v1")).status == 503
    assert not [record for record in upstream.requests if record.method == "GET"]


@pytest.mark.usefixtures("image")
async def test_what_is_served_unasked_because_little_is_left_is_not_said_to_be_asked_for(
    follow: Follow, start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    upstream.limit = RateLimit(100, clock=clock)
    upstream.limit.use("192.0.2.1", 60)
    mirror = await start(upstream)
    await mirror.pull(REPO, "v1")
    clock.advance(120)
    assert steps(await follow(mirror))["freshness"][-1] == (
        "asked for 2 min ago, fresh until 2026-09-21T14:23:20Z: past the rule's ttl, and kept for longer because "
        "little is left"
    )


@pytest.mark.usefixtures("image")
async def test_those_that_are_set_aside_do_not_make_a_limit_seem_to_have_something_left(
    follow: Follow, start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    upstream.auth = Auth(mode="bearer", users={"eve": "another"})
    upstream.limit = RateLimit(100, clock=clock)
    upstream.limit.use("192.0.2.1", 100)
    both = [{"username": "eve", "password": "canary"}, {"anonymous": True}]
    mirror = await start({"docker.io": {"url": upstream.url, "credentials": both}})
    assert (await mirror.get(TAG)).status == 503
    course = await follow(mirror)
    assert [(one["name"], one["set_aside"] is not None) for one in course.report()["credentials"]] == [
        ("anonymous", False),
        ("eve", True),
    ]
    assert course.fails
    assert course.outcome().startswith("a pull gets 503 TOOMANYREQUESTS: docker.io limits requests")
    assert (await mirror.get(TAG)).code == "TOOMANYREQUESTS"


@pytest.mark.usefixtures("image")
async def test_an_endpoint_that_has_the_manifest_is_a_way_round_the_registrys_limit(
    follow: Follow, start: StartMirror, upstream: FakeRegistry, other: FakeRegistry, clock: Clock
) -> None:
    upstream.limit = RateLimit(100, clock=clock)
    other.add_image(REPO, "v1")
    mirror = await start({"docker.io": {"url": upstream.url, "endpoints": [other.url, "registry"]}})
    upstream.limit.use("192.0.2.1", 100)
    assert (await mirror.get("/v2/library/none/manifests/v1")).status == 404
    course = await follow(mirror)
    assert course.accounts[0].rests
    assert not course.fails
    assert course.outcome() == (
        "docker.io is asked by HEAD what the tag is, which is not counted; the manifest comes from the first of them "
        "that has it, and only a GET of the registry itself counts; if it does not answer, a pull gets 503"
    )
    upstream.forget()
    assert (await mirror.get(TAG)).status == 200
    assert {record.method for record in upstream.requests} == {"HEAD"}


@pytest.mark.usefixtures("image")
async def test_a_rule_that_refuses_is_told_with_the_text_that_a_client_gets(
    follow: Follow, start: StartMirror, upstream: FakeRegistry
) -> None:
    pulls = [{"deny": "docker.io/**", "reason": "ask platform@example"}]
    mirror = await start(upstream, pulls=pulls)
    course = await follow(mirror)
    assert course.fails
    told = steps(course)
    assert told["may be pulled"] == ["no, by rule 1 of pulls, deny: docker.io/**"]
    assert "upstream" not in told
    reply = await mirror.get(TAG)
    assert told["now"] == [f"a pull gets 403 DENIED: {reply.message}"]
    assert "ask platform@example" in reply.message
    course = await follow(mirror, "unknown.test/app:v1")
    assert course.fails
    assert "unknown.test is not mirrored here" in course.outcome()


@pytest.mark.usefixtures("image", "impatient")
async def test_what_upstream_said_last_and_the_trouble_with_a_tag_are_told(
    follow: Follow, start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    mirror = await start(upstream, freshness=[{"match": "**", "ttl": "0s"}])
    await mirror.pull(REPO, "v1")
    upstream.fault(then=Status(500, message="on fire"))
    clock.advance(120)
    assert (await mirror.get(TAG)).headers["Warning"]
    told = steps(await follow(mirror))
    assert "HEAD of a manifest" in told["upstream"][0]
    assert "500" in told["upstream"][0]
    assert "500" in told["trouble"][0]


@pytest.mark.usefixtures("image")
async def test_endpoints_are_told_in_their_order_with_what_is_thought_of_them(
    follow: Follow, start: StartMirror, upstream: FakeRegistry, other: FakeRegistry
) -> None:
    entry: dict[str, Any] = {"url": upstream.url, "endpoints": [other.url, "registry"]}
    mirror = await start({"docker.io": entry})
    other.add_image(REPO, "v1")
    other.fault(then=Status(500))
    for _ in range(3):
        await mirror.pull(REPO, "v1")
    told = steps(await follow(mirror))
    assert [line.partition(" ")[0] for line in told["upstream"]] == ["registry", other.host]
    assert "for content only; left alone until" in told["upstream"][1]


async def test_what_is_held_back_is_told_with_what_is_served_meanwhile(
    follow: Follow, start: StartMirror, upstream: FakeRegistry, image: str, clock: Clock
) -> None:
    waits = [{"allow": "**", "min_age": "3d"}]
    mirror = await start(upstream, pulls=waits, freshness=[{"match": "**", "ttl": "0s"}])
    told = steps(await follow(mirror))
    assert "a digest that is new waits 3d, and a pull gets 403 until then" in told["now"][0]
    reply = await mirror.get(TAG)
    assert reply.status == 403
    told = steps(await follow(mirror))
    assert told["held back"][0].startswith(
        f"{image[:19]}, known since 2026-09-21T14:13:20Z, until 2026-09-24T14:13:20Z"
    )
    clock.advance(3 * 24 * 3600)
    assert (await mirror.pull(REPO, "v1"))[0].status == 200
    upstream.add_image(REPO, "v1", layers=[b"new"])
    assert "what the tag meant before is served until then" in steps(await follow(mirror))["now"][0]
    assert (await mirror.get(TAG)).headers["Docker-Content-Digest"] == image


@pytest.mark.usefixtures("image")
async def test_offline_it_says_what_a_client_gets(follow: Follow, start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream)
    await mirror.pull(REPO, "v1")
    await mirror.stop()
    mirror = await start(upstream, server={"offline": True})
    assert not (await follow(mirror)).fails
    course = await follow(mirror, "other:v1")
    assert course.fails
    assert "offline" in course.outcome()


def test_what_is_no_name_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mirror.yaml"
    file.write_text(json.dumps({"storage": {"path": str(tmp_path / "store")}}))
    done = CliRunner().invoke(app, ["trace", "Not An Image", "--config", str(file)])
    assert done.exit_code == 2
    assert not (tmp_path / "store").exists()
