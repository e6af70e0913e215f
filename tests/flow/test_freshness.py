"""Tags: how long what upstream said holds, who is asked again and how, and what is served when nobody can tell."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from mirror.cache import tags
from mirror.oci.digest import Digest
from tests.fakes.faults import Await, Drop, Hang, Html, Status

if TYPE_CHECKING:
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, Mirror, Reply, StartMirror

REPO = "library/app"
TAG = f"/v2/{REPO}/manifests/v1"
TTL_0: list[dict[str, Any]] = [{"match": "**", "ttl": "0s"}]


def asked(upstream: FakeRegistry, method: str) -> int:
    return upstream.count(kind="manifest", method=method)


def digest_of(reply: Reply) -> str:
    return reply.headers["Docker-Content-Digest"]


@pytest.fixture
async def mirror(start: StartMirror, upstream: FakeRegistry) -> Mirror:
    """With an image that is cached, and fresh for another minute."""
    upstream.add_image(REPO, "v1")
    mirror = await start(upstream)
    await mirror.pull(REPO, "v1")
    upstream.forget()
    return mirror


async def test_twenty_pulls_inside_the_ttl_cost_one_get_and_one_token(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    upstream.auth.mode = "bearer"
    upstream.add_image(REPO, "v1")
    mirror = await start(upstream)
    for _ in range(20):
        assert [reply.status for reply in await mirror.pull(REPO, "v1")] == [200, 200, 200]
    assert (asked(upstream, "GET"), asked(upstream, "HEAD"), len(upstream.tokens)) == (
        2,
        0,
        1,
    )  # the first has no token
    assert upstream.count(kind="blob") == 2


async def test_with_ttl_0_every_pull_costs_one_head_and_nothing_else(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    upstream.auth.mode = "bearer"
    upstream.add_image(REPO, "v1")
    mirror = await start(upstream, freshness=TTL_0)
    await mirror.pull(REPO, "v1")
    upstream.forget()
    for number in range(1, 21):
        replies = await mirror.pull(REPO, "v1")
        assert [reply.status for reply in replies] == [200, 200, 200]
        assert replies[0].cache == "registry-mirror; fwd=stale; fwd-status=200"
        assert (asked(upstream, "HEAD"), len(upstream.requests)) == (number, number)
    assert len(upstream.tokens) == 1


async def test_a_stale_tag_is_asked_for_by_head_and_fetched_only_if_it_moved(
    mirror: Mirror, upstream: FakeRegistry, clock: Clock
) -> None:
    before = digest_of(await mirror.get(TAG))
    assert upstream.requests == []
    clock.advance(61)
    assert digest_of(await mirror.get(TAG)) == before
    assert (asked(upstream, "HEAD"), asked(upstream, "GET")) == (1, 0)
    await mirror.get(TAG)
    assert asked(upstream, "HEAD") == 1  # fresh again from the validation on
    clock.advance(61)
    now = upstream.add_image(REPO, "v1", layers=[b"another"])
    reply = await mirror.get(TAG)
    assert digest_of(reply) == str(now) == str(Digest.of(reply.body))
    assert (asked(upstream, "HEAD"), asked(upstream, "GET")) == (2, 1)
    assert upstream.requests[-1].reference == str(now)


async def test_concurrent_revalidations_are_one(mirror: Mirror, upstream: FakeRegistry, clock: Clock) -> None:
    clock.advance(61)
    gate = asyncio.Event()
    upstream.fault(kind="manifest", then=Await(gate))
    pulls = [asyncio.create_task(mirror.get(TAG)) for _ in range(50)]
    await upstream.seen(kind="manifest")
    gate.set()
    replies = await asyncio.gather(*pulls)
    assert {reply.status for reply in replies} == {200}
    assert len(upstream.requests) == 1


async def test_concurrent_first_pulls_of_one_tag_are_one_get(start: StartMirror, upstream: FakeRegistry) -> None:
    upstream.auth.mode = "bearer"
    upstream.add_image(REPO, "v1")
    mirror = await start(upstream)
    gate = asyncio.Event()
    upstream.fault(kind="token", then=Await(gate))
    pulls = [asyncio.create_task(mirror.get(TAG)) for _ in range(50)]
    await upstream.seen(kind="token")
    gate.set()
    replies = await asyncio.gather(*pulls)
    assert {reply.status for reply in replies} == {200}
    assert sum("collapsed" in reply.cache for reply in replies) >= 1
    assert (asked(upstream, "GET"), len(upstream.tokens)) == (2, 1)


async def test_a_client_that_leaves_does_not_stop_the_revalidation(
    mirror: Mirror, upstream: FakeRegistry, clock: Clock
) -> None:
    clock.advance(61)
    gate = asyncio.Event()
    upstream.fault(kind="manifest", then=Await(gate))
    first = asyncio.create_task(mirror.get(TAG))
    await upstream.seen(kind="manifest")
    second = asyncio.create_task(mirror.get(TAG))
    first.cancel()
    await asyncio.wait([first])
    gate.set()
    assert (await second).status == 200
    assert [(record.method, record.aborted) for record in upstream.requests] == [("HEAD", False)]


async def test_stale_while_revalidate_answers_first_and_asks_after(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    old = upstream.add_image(REPO, "v1")
    mirror = await start(upstream, freshness=[{"match": "**", "ttl": "1m", "stale_while_revalidate": "1h"}])
    await mirror.pull(REPO, "v1")
    upstream.forget()
    clock.advance(600)
    new = upstream.add_image(REPO, "v1", layers=[b"another"])
    gate = asyncio.Event()
    upstream.fault(kind="manifest", then=Await(gate))
    for _ in range(3):
        reply = await mirror.get(TAG)
        assert (digest_of(reply), "Warning" in reply.headers) == (str(old), False)
    gate.set()
    await upstream.seen(kind="manifest", method="GET")
    await asyncio.gather(*mirror.server.cache.tags._revalidations._tasks.values())
    assert digest_of(await mirror.get(TAG)) == str(new)
    assert (asked(upstream, "HEAD"), asked(upstream, "GET")) == (1, 1)


async def test_past_so_many_revalidations_behind_answers_upstream_is_asked_first(
    start: StartMirror, upstream: FakeRegistry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tags, "MAX_BEHIND", 2)
    names = ("v1", "v2", "v3")
    for tag in names:
        upstream.add_image(REPO, tag, layers=[tag.encode()])
    mirror = await start(upstream, freshness=[{"match": "**", "ttl": "1m", "stale_while_revalidate": "1h"}])
    for tag in names:
        await mirror.pull(REPO, tag)
    clock.advance(600)
    gate = asyncio.Event()
    upstream.fault(kind="manifest", then=Await(gate))
    for tag in names[:2]:
        assert (await mirror.get(f"/v2/{REPO}/manifests/{tag}")).cache == "registry-mirror; hit"
    third = asyncio.create_task(mirror.get(f"/v2/{REPO}/manifests/v3"))
    await upstream.seen(3, kind="manifest", method="HEAD")
    assert not third.done()
    gate.set()
    assert (await third).cache == "registry-mirror; fwd=stale; fwd-status=200"


async def test_past_stale_while_revalidate_upstream_is_asked_first(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    upstream.add_image(REPO, "v1")
    mirror = await start(upstream, freshness=[{"match": "**", "ttl": "1m", "stale_while_revalidate": "1h"}])
    await mirror.pull(REPO, "v1")
    clock.advance(3661)
    new = upstream.add_image(REPO, "v1", layers=[b"another"])
    assert digest_of(await mirror.get(TAG)) == str(new)


async def test_an_immutable_tag_is_never_asked_for_again(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    rules = [{"match": "docker.io/library/app", "immutable": True}, {"match": "**", "ttl": "1m"}]
    upstream.add_image(REPO, "v1")
    upstream.add_image("library/other", "v1")
    mirror = await start(upstream, freshness=rules)
    await mirror.pull(REPO, "v1")
    await mirror.pull("library/other", "v1")
    upstream.forget()
    clock.advance(10 * 365 * 24 * 3600)
    assert (await mirror.get(TAG)).cache == "registry-mirror; hit"
    assert upstream.requests == []
    await mirror.get("/v2/library/other/manifests/v1")
    assert asked(upstream, "HEAD") == 1


async def test_a_digest_is_never_asked_for_again(mirror: Mirror, upstream: FakeRegistry, clock: Clock) -> None:
    digest = digest_of(await mirror.get(TAG))
    clock.advance(10 * 365 * 24 * 3600)
    for _ in range(3):
        assert (await mirror.get(f"/v2/{REPO}/manifests/{digest}")).cache == "registry-mirror; hit"
    assert upstream.requests == []


@pytest.mark.usefixtures("impatient")
async def test_stale_if_error_has_an_end(start: StartMirror, upstream: FakeRegistry, clock: Clock) -> None:
    upstream.add_image(REPO, "v1")
    mirror = await start(upstream, freshness=[{"match": "**", "ttl": "1m", "stale_if_error": "1h"}])
    await mirror.pull(REPO, "v1")
    upstream.fault(then=Status(500))
    clock.advance(3600)
    assert (await mirror.get(TAG)).status == 200
    clock.advance(61)
    assert (await mirror.get(TAG)).status == 503


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", [Hang(), Drop(), Status(500), Status(429), Status(401), Status(403), Html()])
async def test_whatever_upstream_does_a_stale_tag_is_served_and_says_so(
    mirror: Mirror, upstream: FakeRegistry, clock: Clock, fault: Any
) -> None:
    clock.advance(3600)
    upstream.fault(then=fault)
    for _ in range(2):
        replies = await mirror.pull(REPO, "v1")
        assert [reply.status for reply in replies] == [200, 200, 200]
        assert replies[0].headers["Warning"].startswith('299 - "stale: docker.io')
        assert replies[0].cache.startswith(("registry-mirror; hit; fwd=stale", "registry-mirror; hit; detail=limited"))


async def test_upstream_gets_three_seconds_where_a_stale_answer_is_at_hand(
    mirror: Mirror, upstream: FakeRegistry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While upstream hangs the answer comes after the short patience, not the long one, and the asking goes on."""
    assert (tags.PATIENCE_WITH_STALE, tags.PATIENCE) == (3.0, 20.0)
    monkeypatch.setattr(tags, "PATIENCE_WITH_STALE", 0.05)
    clock.advance(3600)
    gate = asyncio.Event()
    upstream.fault(kind="manifest", then=Await(gate))
    now = upstream.add_image(REPO, "v1", layers=[b"another"])
    async with asyncio.timeout(5):
        reply = await mirror.get(TAG)
    assert (reply.status, reply.headers["Warning"][:12]) == (200, '299 - "stale')
    gate.set()
    await asyncio.gather(*mirror.server.cache.tags._revalidations._tasks.values())
    assert digest_of(await mirror.get(TAG)) == str(now)


@pytest.mark.usefixtures("impatient")
async def test_a_404_drops_a_tag_and_the_digest_stays(mirror: Mirror, upstream: FakeRegistry, clock: Clock) -> None:
    digest = digest_of(await mirror.get(TAG))
    clock.advance(61)
    upstream.remove_tag(REPO, "v1")
    reply = await mirror.get(TAG)
    assert (reply.status, reply.code) == (404, "MANIFEST_UNKNOWN")
    upstream.fault(then=Status(500))
    assert (await mirror.get(TAG)).status in (404, 503)  # and not the old content
    assert (await mirror.get(f"/v2/{REPO}/manifests/{digest}")).status == 200
    assert "v1" not in (await mirror.get("/v2/_catalog")).json["repositories"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("status", [401, 403])
async def test_a_tag_that_became_private_is_served_stale_and_kept(
    mirror: Mirror, upstream: FakeRegistry, clock: Clock, status: int
) -> None:
    clock.advance(61)
    upstream.fault(then=Status(status), kind="manifest")
    for _ in range(3):
        assert "Warning" in (await mirror.get(TAG)).headers
    upstream.heal()
    assert "Warning" not in (await mirror.get(TAG)).headers


async def test_a_registry_without_head_is_asked_by_get(mirror: Mirror, upstream: FakeRegistry, clock: Clock) -> None:
    clock.advance(61)
    upstream.fault(method="HEAD", then=Status(405))
    now = upstream.add_image(REPO, "v1", layers=[b"another"])
    assert digest_of(await mirror.get(TAG)) == str(now)
    clock.advance(61)
    assert (await mirror.get(TAG)).status == 200
    assert (asked(upstream, "HEAD"), asked(upstream, "GET")) == (2, 2)


async def test_a_clock_that_was_set_back_makes_nothing_fresh_for_ever(
    mirror: Mirror, upstream: FakeRegistry, clock: Clock
) -> None:
    clock.advance(-7 * 24 * 3600)
    await mirror.get(TAG)
    assert asked(upstream, "HEAD") == 1


async def test_a_tag_survives_a_restart_with_its_age(
    mirror: Mirror, start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    clock.advance(50)
    await mirror.stop()
    again = await start(upstream)
    assert (await again.get(TAG)).cache == "registry-mirror; hit"
    assert upstream.requests == []
    clock.advance(11)
    await again.get(TAG)
    assert asked(upstream, "HEAD") == 1
