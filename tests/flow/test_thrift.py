"""Within an upstream's rate limit: what is cached goes on being pulled, and what is left goes to who has nothing."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from mirror import config
from mirror.errors import UpstreamLimited
from mirror.oci.digest import Digest
from mirror.oci.name import Repository, Tag
from tests.fakes.faults import Status
from tests.fakes.limit import RateLimit
from tests.flow.conftest import document
from tests.flow.prefetching import site

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, Mirror, Reply, StartMirror

REPO = "library/app"
TAG = f"/v2/{REPO}/manifests/v1"
AMD, ARM = "linux/amd64", "linux/arm64"
SITE = "192.0.2.1"
WINDOW = 6 * 3600.0


@pytest.fixture(autouse=True)
def limit(upstream: FakeRegistry, clock: Clock) -> RateLimit:
    """Docker Hub's, for whoever shows no credentials."""
    upstream.limit = RateLimit(clock=clock)
    return upstream.limit


def add(upstream: FakeRegistry, version: str, tag: str = "v1") -> tuple[Digest, Digest]:
    """Have a tag mean an index of two platforms; return it, and its image for amd64."""
    images = [
        (upstream.add_image(REPO, layers=[f"{version} {tag} {platform}".encode()], platform=platform), platform)
        for platform in (ARM, AMD)
    ]
    return upstream.add_index(REPO, tag, manifests=images), images[1][0]


async def pull(mirror: Mirror, tag: str = "v1") -> tuple[str, list[Reply]]:
    """Pull for amd64 as containerd does; return what the tag was, and all answers."""
    head = await mirror.head(f"/v2/{REPO}/manifests/{tag}")
    if head.status != 200:
        return "", [head]
    digest = head.headers["Docker-Content-Digest"]
    index = await mirror.get(f"/v2/{REPO}/manifests/{digest}")
    child = next(one["digest"] for one in index.json["manifests"] if one["platform"]["architecture"] == "amd64")
    return digest, [head, index, *await mirror.pull(REPO, child)]


def right(replies: list[Reply]) -> bool:
    return len(replies) == 5 and {reply.status for reply in replies} == {200}


def asked(upstream: FakeRegistry, method: str) -> int:
    return upstream.count(kind="manifest", method=method)


def leave(limit: RateLimit, remaining: int) -> None:
    """Have others use up all but so many requests."""
    limit.use(SITE, limit.remaining(SITE, 100) - remaining)


async def heard(mirror: Mirror, clock: Clock) -> None:
    """Let the mirror hear what is left: by a HEAD for a tag that is past its ttl."""
    clock.advance(61)
    await mirror.head(TAG)


async def test_a_moved_tag_stays_what_it_was_while_too_little_is_left_for_all_of_what_is_new(
    start: StartMirror, upstream: FakeRegistry, limit: RateLimit, clock: Clock
) -> None:
    """An index and its image are two counted requests: with one left the pull would break off between them."""
    old, _ = add(upstream, "old")
    mirror = await start(upstream)
    await pull(mirror)
    leave(limit, 3)
    new, _ = add(upstream, "new")
    clock.advance(61)
    upstream.forget()
    digest, replies = await pull(mirror)
    assert (digest, right(replies)) == (str(old), True)
    assert "of 100 only 3 are left" in replies[0].headers["Warning"]
    assert (asked(upstream, "HEAD"), asked(upstream, "GET")) == (1, 0)
    clock.advance(WINDOW)
    digest, replies = await pull(mirror)
    assert (digest, right(replies), "Warning" in replies[0].headers) == (str(new), True, False)
    assert asked(upstream, "GET") == 2  # the index, and of its images the one that was here before


async def test_a_limit_that_is_met_between_an_index_and_its_image_breaks_no_pull(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    old, _ = add(upstream, "old")
    mirror = await start(upstream)
    await pull(mirror)
    new, image = add(upstream, "new")
    clock.advance(61)
    upstream.forget()
    upstream.fault(method="GET", digest=image, then=Status(429, retry_after=600))
    digest, replies = await pull(mirror)
    assert (digest, right(replies)) == (str(old), True)
    assert replies[0].headers["Warning"].startswith('299 - "stale: docker.io limits requests')
    upstream.heal()
    clock.advance(601)
    digest, replies = await pull(mirror)
    assert (digest, right(replies)) == (str(new), True)
    assert upstream.count(method="GET", digest=str(new)) == 1  # what came the first time was not thrown away


async def test_clients_at_one_tag_that_moves_while_the_limit_is_met_all_pull_one_whole_image(
    start: StartMirror, upstream: FakeRegistry, limit: RateLimit, clock: Clock
) -> None:
    add(upstream, "old")
    mirror = await start(upstream)
    await pull(mirror)
    for left in (5, 4, 2, 1, 0):
        limit.counted.clear()
        leave(limit, left)
        add(upstream, f"with {left} left")
        clock.advance(WINDOW + 61)
        pulls = await asyncio.gather(*(pull(mirror) for _ in range(8)))
        assert all(right(replies) for _, replies in pulls)
        assert len(limit.refused) == 0


async def test_the_last_requests_are_kept_for_what_is_not_here_at_all(
    start: StartMirror, upstream: FakeRegistry, limit: RateLimit, clock: Clock
) -> None:
    add(upstream, "old")
    mirror = await start(upstream)
    await pull(mirror)
    add(upstream, "new")
    fresh, _ = add(upstream, "first", "v2")
    leave(limit, 3)
    await heard(mirror, clock)
    digest, replies = await pull(mirror, "v2")
    assert (digest, right(replies)) == (str(fresh), True)


async def test_while_requests_rest_moved_tags_are_answered_at_once_and_ask_once_each(
    start: StartMirror, upstream: FakeRegistry, limit: RateLimit, clock: Clock
) -> None:
    tags = [f"v{number}" for number in range(8)]
    for tag in tags:
        add(upstream, "old", tag)
    mirror = await start(upstream)
    for tag in tags:
        await pull(mirror, tag)
    for tag in tags:
        add(upstream, "new", tag)
    clock.advance(WINDOW + 61)  # past what the lowest rule stretches to
    leave(limit, 0)
    upstream.forget()
    began = time.monotonic()
    for _ in range(5):
        pulls = [await pull(mirror, tag) for tag in tags]
        assert all(right(replies) for _, replies in pulls)
        assert all(replies[0].headers["Warning"].startswith('299 - "stale: ') for _, replies in pulls)
    assert time.monotonic() - began < 3
    await asyncio.gather(*mirror.server.cache.tags._revalidations._tasks.values(), return_exceptions=True)
    assert asked(upstream, "GET") == 0
    assert asked(upstream, "HEAD") <= len(tags) + 1  # and one look, behind an answer, whether there is more again
    clock.advance(61)
    await pull(mirror, tags[0])
    await pull(mirror, tags[1])
    await asyncio.gather(*mirror.server.cache.tags._revalidations._tasks.values(), return_exceptions=True)
    assert asked(upstream, "HEAD") <= len(tags) + 2


async def test_who_adds_credentials_to_an_upstream_that_limits_has_moved_tags_at_once(
    *, start: StartMirror, upstream: FakeRegistry, clock: Clock, tmp_path: Path
) -> None:
    """An hour is what upstream said to whom it limited, and to nobody else."""
    add(upstream, "old")
    mirror = await start(upstream)
    await pull(mirror)
    new, _ = add(upstream, "new")
    clock.advance(WINDOW + 61)
    upstream.fault(method="GET", kind="manifest", then=Status(429, retry_after=3600))
    for _ in range(2):
        assert "Warning" in (await mirror.head(TAG)).headers
    upstream.heal()
    clock.advance(61)
    assert "Warning" in (await mirror.head(TAG)).headers
    clock.advance(1)
    known = {"url": upstream.url, "username": "ann", "password": "secret"}
    text = json.dumps(document({"docker.io": known}, tmp_path / "store"))
    await mirror.server.reconfigure(config.parse(text, "mirror.yaml", {}))
    digest, replies = await pull(mirror)
    assert (digest, right(replies), "Warning" in replies[0].headers) == (str(new), True, False)


async def test_a_limit_that_tells_nothing_keeps_nobody_waiting_for_what_is_here(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    """Docker Hub's limit of requests a minute: a bare 429 to whatever is asked, which is tried again behind."""
    upstream.limit = None
    tags = ["v1", "v2", "v3"]
    for tag in tags:
        add(upstream, "old", tag)
    mirror = await start(upstream)
    for tag in tags:
        await pull(mirror, tag)
    clock.advance(61)
    upstream.fault(then=Status(429, body=b"Too Many Requests"))
    upstream.forget()
    for tag in tags:
        began = time.monotonic()
        _, replies = await pull(mirror, tag)
        assert right(replies)
        assert "limits requests" in replies[0].headers["Warning"]
        assert time.monotonic() - began < 0.9
        assert tag == "v1" or replies[0].cache == "registry-mirror; hit; detail=limited"  # they do not even ask
    assert asked(upstream, "HEAD") <= 3


async def test_a_tag_that_is_not_here_is_refused_at_once_with_the_cause_while_requests_rest(
    start: StartMirror, upstream: FakeRegistry, limit: RateLimit
) -> None:
    add(upstream, "old")
    mirror = await start(upstream)
    await pull(mirror)
    add(upstream, "first", "v2")
    leave(limit, 0)
    began = time.monotonic()
    for _ in range(3):
        reply = await mirror.get(f"/v2/{REPO}/manifests/v2")
        assert (reply.status, reply.code) == (503, "TOOMANYREQUESTS")
        assert "docker.io limits requests" in reply.message
        assert int(reply.headers["Retry-After"]) >= 1
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(("left", "ttl"), [(49, 600), (19, 3600), (4, 6 * 3600)])
async def test_the_less_is_left_the_longer_a_tag_is_served_unasked(
    *, start: StartMirror, upstream: FakeRegistry, limit: RateLimit, clock: Clock, left: int, ttl: int
) -> None:
    add(upstream, "old")
    mirror = await start(upstream)
    await pull(mirror)
    leave(limit, left)
    await heard(mirror, clock)
    upstream.forget()
    clock.advance(ttl - 1)
    reply = await mirror.head(TAG)
    assert (reply.status, reply.cache, "Warning" in reply.headers) == (
        200,
        "registry-mirror; hit; detail=saving",
        False,
    )
    assert upstream.requests == []
    clock.advance(1)
    assert (await mirror.head(TAG)).cache == "registry-mirror; fwd=stale; fwd-status=200"
    assert asked(upstream, "HEAD") == 1


async def test_nothing_is_saved_where_no_limit_is_known_or_none_of_it_is_used(
    start: StartMirror, upstream: FakeRegistry, limit: RateLimit, clock: Clock
) -> None:
    add(upstream, "old")
    mirror = await start(upstream)
    await pull(mirror)
    leave(limit, 51)
    for number in range(3):
        clock.advance(61)
        await mirror.head(TAG)
        assert asked(upstream, "HEAD") == number + 1
    upstream.limit = None


async def test_no_rules_save_nothing(
    start: StartMirror, upstream: FakeRegistry, limit: RateLimit, clock: Clock
) -> None:
    add(upstream, "old")
    mirror = await start(upstream, budget=[])
    await pull(mirror)
    leave(limit, 3)
    for number in range(3):
        clock.advance(61)
        await mirror.head(TAG)
        assert asked(upstream, "HEAD") == number + 1


@pytest.mark.parametrize(("left", "asks"), [(21, 1), (19, 0)])
async def test_a_rule_can_end_asking_behind_answers(
    *, start: StartMirror, upstream: FakeRegistry, limit: RateLimit, clock: Clock, left: int, asks: int
) -> None:
    rules: list[dict[str, Any]] = [{"match": "**", "ttl": "1m", "stale_while_revalidate": "7d"}]
    add(upstream, "old")
    mirror = await start(upstream, freshness=rules, budget=[{"below": "20%", "ttl": "1m", "prefetch": False}])
    await pull(mirror)
    leave(limit, left)
    await mirror.server.cache.manifests.said(Repository("docker.io", REPO), Tag("v1"))
    upstream.forget()
    clock.advance(120)
    assert (await mirror.head(TAG)).cache == "registry-mirror; hit" + ("" if asks else "; detail=saving")
    await asyncio.gather(*mirror.server.cache.tags._revalidations._tasks.values())
    assert asked(upstream, "HEAD") == asks


async def test_what_a_tag_was_is_served_where_what_it_is_now_cannot_be_completed(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    """Upstream went away between the new image's manifest and its layers: the one before is wholly here still."""
    upstream.limit = None
    old, _ = add(upstream, "old")
    mirror = await start(upstream)
    await pull(mirror)
    new, _ = add(upstream, "new")
    clock.advance(61)
    assert (await mirror.head(TAG)).headers["Docker-Content-Digest"] == str(new)
    await upstream.stop()
    await mirror.stop()
    again = await start(upstream)
    digest, replies = await pull(again)
    assert (digest, right(replies), "Warning" in replies[0].headers) == (str(old), True, True)


async def test_a_limit_takes_no_tag_back_to_what_it_was_before_while_layers_can_be_had(
    start: StartMirror, upstream: FakeRegistry, limit: RateLimit, clock: Clock
) -> None:
    add(upstream, "old")
    mirror = await start(upstream)
    await pull(mirror)
    new, _ = add(upstream, "new")
    clock.advance(61)
    assert (await mirror.head(TAG)).headers["Docker-Content-Digest"] == str(new)  # and its layers nobody has asked for
    add(upstream, "newer")
    clock.advance(WINDOW + 61)
    leave(limit, 0)
    for _ in range(2):
        digest, replies = await pull(mirror)
        assert (digest, right(replies), "Warning" in replies[0].headers) == (str(new), True, True)


async def test_a_refresh_leaves_to_clients_what_is_left_and_says_so(
    start: StartMirror, upstream: FakeRegistry, limit: RateLimit, clock: Clock
) -> None:
    old, _ = add(upstream, "old")
    mirror = await start(upstream)
    await pull(mirror)
    leave(limit, 19)
    await heard(mirror, clock)
    repository, tag = Repository("docker.io", REPO), Tag("v1")
    before, after = await mirror.server.cache.refresh(repository, tag)  # asking costs nothing
    assert before is not None
    assert (before.digest, after.digest) == (old, old)
    new, _ = add(upstream, "new")
    with pytest.raises(UpstreamLimited, match=f"is {new} now, which is not fetched: less than 20% of the requests"):
        await mirror.server.cache.refresh(repository, tag)
    with pytest.raises(UpstreamLimited, match="v9 is not fetched"):
        await mirror.server.cache.refresh(repository, Tag("v9"))


async def test_an_image_that_becomes_an_index_is_followed_for_its_own_platform(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    upstream.add_image(REPO, "v1", layers=[b"one platform"], platform=AMD)
    mirror = await start(upstream)
    await mirror.pull(REPO, "v1")
    new, image = add(upstream, "new")
    clock.advance(61)
    upstream.forget()
    assert (await mirror.head(TAG)).headers["Docker-Content-Digest"] == str(new)
    asked_for = [one.digest for one in upstream.requests if (one.kind, one.method) == ("manifest", "GET")]
    assert asked_for == [str(new), str(image)]


async def test_platforms_that_a_prefetch_brought_and_nobody_pulls_are_followed_once_and_not_each_hour(
    *, start: StartMirror, upstream: FakeRegistry, limit: RateLimit, clock: Clock, tmp_path: Path
) -> None:
    """A dozen at each move of a tag would use up the limit. What was followed and not pulled is not whole any more."""

    def move(version: int) -> str:
        platforms = [AMD, *(f"linux/other{number}" for number in range(11))]
        images = [
            (upstream.add_image(REPO, layers=[f"{version} {platform}".encode()], platform=platform), platform)
            for platform in platforms
        ]
        return str(upstream.add_index(REPO, "v1", manifests=images))

    move(0)
    async with site(upstream, tmp_path / "store", clock) as here:
        (fetched,) = await here.fetch(f"docker.io/{REPO}:v1")
        assert fetched.failure is None
    mirror = await start(upstream)
    await pull(mirror)
    used = []
    for version in range(1, 6):
        before = limit.remaining(SITE, 100)
        new = move(version)
        clock.advance(3600 - 1)
        digest, replies = await pull(mirror)
        assert (digest, right(replies)) == (new, True)
        used.append(before - limit.remaining(SITE, 100))
    assert used == [13, 2, 2, 2, 2]


async def test_a_platform_that_upstream_lists_and_does_not_have_holds_up_no_other(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    add(upstream, "old")
    mirror = await start(upstream)
    await mirror.pull(REPO, "v1")  # both platforms
    new, image = add(upstream, "new")
    for one in upstream.shelf(REPO).manifests[str(new)].document["manifests"]:
        if one["digest"] != str(image):
            upstream.remove_manifest(REPO, Digest.parse(one["digest"]))
    clock.advance(61)
    digest, replies = await pull(mirror)
    assert (digest, right(replies)) == (str(new), True)


async def test_a_limit_holds_nothing_up_that_another_endpoint_has(
    *, start: StartMirror, upstream: FakeRegistry, other: FakeRegistry, limit: RateLimit, clock: Clock
) -> None:
    for registry in (upstream, other):
        add(registry, "old")
    mirror = await start({"docker.io": {"url": upstream.url, "endpoints": [other.url, "registry"]}})
    await pull(mirror)
    for registry in (upstream, other):
        new, _ = add(registry, "new")
    clock.advance(WINDOW + 61)
    leave(limit, 0)
    digest, replies = await pull(mirror)
    assert (digest, right(replies)) == (str(new), True)


async def test_blobs_are_not_read_ahead_where_they_are_counted_and_little_is_left(
    start: StartMirror, upstream: FakeRegistry, limit: RateLimit
) -> None:
    _, image = add(upstream, "old")
    read = {"url": upstream.url, "read_ahead": True}
    mirror = await start({"quay.io": read, "docker.io": read})
    leave(limit, 4)
    for namespace, blobs in (("quay.io", 0), ("docker.io", 2)):
        await mirror.get(f"/v2/{namespace}/{REPO}/manifests/{image}")
        await mirror.settled()
        assert upstream.count(kind="blob") == blobs


async def test_a_moved_tag_costs_no_more_where_nothing_is_limited(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    """What has to be here before the tag moves is what the client asks for next, and then it is here."""
    upstream.limit = None
    add(upstream, "old")
    mirror = await start(upstream)
    await pull(mirror)
    new, _ = add(upstream, "new")
    clock.advance(61)
    upstream.forget()
    digest, replies = await pull(mirror)
    assert (digest, right(replies)) == (str(new), True)
    assert (asked(upstream, "HEAD"), asked(upstream, "GET")) == (1, 2)
