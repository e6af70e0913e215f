"""A mirror as the upstream of a mirror: what is left of a limit, how old a tag is, what is stale are passed down."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from mirror.oci.digest import Digest
from tests.fakes.faults import Status
from tests.fakes.limit import RateLimit
from tests.flow.test_thrift import REPO, SITE, TAG, WINDOW, add, asked, leave, pull, right

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, Mirror, StartMirror

    Chain = Callable[..., Awaitable[tuple[Mirror, Mirror]]]


@pytest.fixture
def chain(start: StartMirror, tmp_path: Path, upstream: FakeRegistry) -> Chain:
    """Start a mirror, and one below it whose upstream it is: a region's and a site's."""

    async def begin(**below: Any) -> tuple[Mirror, Mirror]:
        parent = await start(upstream, storage={"path": str(tmp_path / "parent")})
        child = await start({"docker.io": {"url": parent.url}}, storage={"path": str(tmp_path / "child")}, **below)
        return parent, child

    return begin


async def test_what_is_left_of_the_limit_is_known_below(chain: Chain, upstream: FakeRegistry, clock: Clock) -> None:
    limit = upstream.limit = RateLimit(clock=clock)
    add(upstream, "old")
    parent, child = await chain()
    _, replies = await pull(child)
    assert right(replies)
    leave(limit, 12)
    clock.advance(61)
    await child.head(TAG)
    budget = child.server.cache.upstream("docker.io").budget
    assert budget is not None
    assert (budget.limit, budget.remaining, budget.window) == (100, 12, WINDOW)
    # Below 20 % both serve it for an hour unasked, counted from when the registry was asked.
    upstream.forget()
    clock.advance(3598)
    for mirror in (parent, child):
        assert (await mirror.head(TAG)).cache == "registry-mirror; hit; detail=saving"
    clock.advance(2)
    assert (await child.head(TAG)).cache.startswith("registry-mirror; fwd=stale")
    assert asked(upstream, "HEAD") == 1


async def test_what_the_parent_has_is_had_though_nothing_is_left_and_what_it_has_not_is_refused_at_once(
    chain: Chain, upstream: FakeRegistry, clock: Clock
) -> None:
    limit = upstream.limit = RateLimit(clock=clock, retry_after=900)
    add(upstream, "old")
    add(upstream, "old", "v2")
    add(upstream, "old", "v3")
    parent, child = await chain()
    await pull(parent)
    await pull(parent, "v2")
    leave(limit, 0)
    missing = await child.get(f"/v2/{REPO}/manifests/v3")
    assert (missing.status, missing.code) == (503, "TOOMANYREQUESTS")
    assert "docker.io is limited itself" in missing.message
    assert int(missing.headers["Retry-After"]) > 600
    for tag in ("v1", "v2"):
        _, replies = await pull(child, tag)
        assert right(replies)


async def test_a_tag_is_as_old_below_as_the_registry_was_last_asked_for_it(
    chain: Chain, upstream: FakeRegistry, clock: Clock
) -> None:
    add(upstream, "old")
    parent, child = await chain()
    await pull(parent)
    clock.advance(50)
    assert "Age" not in (await parent.head(TAG)).headers  # clients ask nothing of the kind
    await pull(child)
    new, _ = add(upstream, "new")
    clock.advance(11)  # 61 s after the registry was asked, 11 s after the parent was
    digest, replies = await pull(child)
    assert (digest, right(replies)) == (str(new), True)


async def test_a_tag_that_is_stale_above_is_stale_below_and_says_so(
    chain: Chain, upstream: FakeRegistry, clock: Clock
) -> None:
    old, _ = add(upstream, "old")
    parent, child = await chain()
    await pull(child)
    clock.advance(3600)
    upstream.fault(then=Status(429, retry_after=600))
    for _ in range(2):  # the first answer is not taken for a validation
        reply = await child.get(TAG)
        assert reply.headers["Docker-Content-Digest"] == str(old)
        assert reply.headers["Warning"].startswith('299 - "stale: docker.io ')
        assert reply.headers["Warning"].count("stale:") == 1
    await parent.stop()
    assert (await child.get(TAG)).headers["Warning"].startswith('299 - "stale: docker.io')


@pytest.mark.usefixtures("impatient")
async def test_what_was_first_seen_stale_above_is_not_fresh_below(
    chain: Chain, upstream: FakeRegistry, clock: Clock
) -> None:
    add(upstream, "old")
    parent, child = await chain()
    await pull(parent)
    clock.advance(3600)
    upstream.fault(then=Status(500))
    for _ in range(2):
        _, replies = await pull(child)
        assert right(replies)
        assert replies[0].headers["Warning"].startswith('299 - "stale: docker.io')
    upstream.heal()
    new, _ = add(upstream, "new")
    digest, replies = await pull(child)
    assert (digest, "Warning" in replies[0].headers) == (str(new), False)


async def test_a_moved_tag_moves_below_when_all_of_it_is_above(
    chain: Chain, upstream: FakeRegistry, clock: Clock
) -> None:
    limit = upstream.limit = RateLimit(clock=clock)
    old, _ = add(upstream, "old")
    parent, child = await chain()
    await pull(child)
    new, _ = add(upstream, "new")
    leave(limit, 3)
    clock.advance(61)
    for _ in range(2):
        digest, replies = await pull(child)
        assert (digest, right(replies)) == (str(old), True)
    assert limit.refused == []
    limit.counted[SITE].clear()
    clock.advance(WINDOW + 61)
    assert (await pull(parent))[0] == str(new)
    leave(limit, 0)  # which is no matter: the parent has it by now
    assert (await parent.get(f"/v2/{REPO}/manifests/v2")).status == 503
    digest, replies = await pull(child)
    assert (digest, right(replies)) == (str(new), True)


async def test_blobs_tags_and_referrers_are_had_through_two(chain: Chain, upstream: FakeRegistry) -> None:
    image = upstream.add_image(REPO, "v1", layers=[b"layer"])
    for number in range(150):
        upstream.add_image(REPO, f"t{number:03}")
    upstream.add_artifact(REPO, image, b"signed", artifact_type="application/x-signature")
    _, child = await chain()
    layer = f"/v2/{REPO}/blobs/{Digest.of(b'layer')}"
    head = await child.head(layer)  # of a blob that neither has, nor knows to be in that repository
    assert (head.status, head.headers["Content-Length"]) == (200, "5")
    listed: list[str] = []
    path = f"/v2/{REPO}/tags/list"
    while path:
        page = await child.get(path)
        listed += page.json["tags"]
        path = page.headers.get("Link", "").partition("<")[2].partition(">")[0]
    assert listed == sorted([*(f"t{number:03}" for number in range(150)), "v1"])
    referrers = await child.get(f"/v2/{REPO}/referrers/{image}")
    assert [one["artifactType"] for one in referrers.json["manifests"]] == ["application/x-signature"]
    assert {reply.status for reply in await child.pull(REPO, "v1")} == {200}


@pytest.mark.usefixtures("impatient")
async def test_lists_that_are_only_what_is_cached_above_say_so_below(
    chain: Chain, upstream: FakeRegistry, clock: Clock
) -> None:
    image = upstream.add_image(REPO, "v1", layers=[b"layer"])
    upstream.add_artifact(REPO, image, b"signed", artifact_type="application/x-signature")
    parent, child = await chain()
    lists = [f"/v2/{REPO}/tags/list", f"/v2/{REPO}/referrers/{image}"]
    await parent.pull(REPO, "v1")
    for path in lists:
        assert "Warning" not in (await parent.get(path)).headers
    await asyncio.sleep(0)
    await upstream.stop()
    clock.advance(3600)
    for path in lists:
        for _ in range(2):
            assert "Warning" in (await child.get(path)).headers
