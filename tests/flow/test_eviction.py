"""The least recently used images go, whole, under a hard cap; and nothing that is pinned or in use (promise 7)."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aiohttp
import pytest

from mirror.cache.fill import Fill
from mirror.oci.name import Repository
from mirror.store.changes import Pinned
from mirror.store.locks import seize
from tests.fakes.faults import Gate
from tests.flow.evictions import NO_MARKS, here, image, pull, sampled, taken, whole
from tests.flow.fills import MIB, REPO, booked, fill_of, on_disk, path_of, until

if TYPE_CHECKING:
    from mirror.oci.digest import Digest
    from mirror.store.part import PartFile
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Mirror, StartMirror

CAP = {"max_size": "20MiB", **NO_MARKS}  # three images of 5 MiB, and what the store itself takes


async def pin(mirror: Mirror, reference: str) -> None:
    await mirror.server.store.index.apply(Pinned(Repository("docker.io", REPO), reference, 1.0))


async def test_the_image_used_longest_ago_goes_whole_and_the_others_stay_whole(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    digests = {tag: image(upstream, tag, 2, 3) for tag in "abcd"}
    mirror = await start(upstream, storage=CAP)
    await pull(mirror, "a", "b", "c", "a", "d")
    gone = [digests["b"], *upstream.blobs_of(REPO, digests["b"])]
    assert [digest for digest in gone if here(mirror, digest)] == []
    await upstream.stop()
    assert await whole(mirror, *"abcd") == ["a", "c", "d"]


async def test_a_shared_base_layer_stays_with_the_image_that_still_needs_it(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    base = upstream.add_pattern_blob(REPO, 4 * MIB, 77)
    for tag in "ab":
        image(upstream, tag, 4, shared=(base,))
    image(upstream, "c", 7)
    mirror = await start(upstream, storage=CAP)
    await pull(mirror, "a", "b", "c")
    assert here(mirror, base)
    await upstream.stop()
    assert await whole(mirror, *"abc") == ["b", "c"]


async def test_a_pull_of_a_shared_layer_does_not_make_every_image_young(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    base = upstream.add_pattern_blob(REPO, 2 * MIB, 78)
    upstream.add_pattern_blob("library/old", 2 * MIB, 78)
    image(upstream, "old", 4, shared=(base,), repo="library/old")
    image(upstream, "between", 4)
    image(upstream, "new", 4, shared=(base,))
    image(upstream, "next", 5)
    mirror = await start(upstream, storage=CAP)
    await pull(mirror, "old", repo="library/old")
    await pull(mirror, "between", "new", "next")
    await upstream.stop()
    assert await whole(mirror, "old", repo="library/old") == []
    assert await whole(mirror, "between", "new", "next") == ["between", "new", "next"]


async def test_a_signature_goes_and_stays_with_its_image(start: StartMirror, upstream: FakeRegistry) -> None:
    signed = {tag: image(upstream, tag, 5) for tag in "ab"}
    tags = {tag: f"{digest.algorithm}-{digest.hex}.sig" for tag, digest in signed.items()}
    payloads = {tag: tag.encode() * MIB for tag in signed}
    signatures = {
        tag: upstream.add_artifact(REPO, None, payloads[tag], artifact_type="application/x", tag=tags[tag])
        for tag in signed
    }
    image(upstream, "c", 6)
    mirror = await start(upstream, storage=CAP)
    for tag in "ab":
        await pull(mirror, tag, tags[tag])
    await pull(mirror, "b", "c")  # the signature of `a` was asked for after `a`, and is younger than it
    assert [tag for tag in "ab" if here(mirror, signed[tag])] == ["b"]
    assert [tag for tag in "ab" if here(mirror, signatures[tag])] == ["b"]
    await upstream.stop()
    assert await whole(mirror, "b", tags["b"]) == ["b", tags["b"]]


async def test_an_index_goes_with_the_one_platform_that_is_here(start: StartMirror, upstream: FakeRegistry) -> None:
    for tag in "abcd":
        children = []
        for number, platform in enumerate(("linux/amd64", "linux/arm64")):
            layer = upstream.add_pattern_blob(REPO, 5 * MIB, ord(tag) * 10 + number)
            children.append(upstream.add_image(REPO, layers=[layer], platform=platform))
        upstream.add_index(REPO, tag, manifests=children)
    mirror = await start(upstream, storage=CAP)
    for tag in "abcd":
        index = await mirror.get(f"/v2/{REPO}/manifests/{tag}")
        await pull(mirror, index.json["manifests"][0]["digest"])
    await upstream.stop()
    served = [tag for tag in "abcd" if (await mirror.get(f"/v2/{REPO}/manifests/{tag}")).status == 200]
    assert served == ["b", "c", "d"]
    for tag in served:
        index = await mirror.get(f"/v2/{REPO}/manifests/{tag}")
        await pull(mirror, index.json["manifests"][0]["digest"])


async def test_a_pin_keeps_an_image_however_old_it_is(start: StartMirror, upstream: FakeRegistry) -> None:
    for tag in "abcd":
        image(upstream, tag, 5)
    mirror = await start(upstream, storage=CAP)
    await pull(mirror, "a")
    await pin(mirror, "a")
    await pull(mirror, "b", "c", "d")
    await upstream.stop()
    assert await whole(mirror, *"abcd") == ["a", "c", "d"]


async def test_where_all_is_pinned_the_rest_is_streamed_and_not_kept(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    for tag in "abcd":
        image(upstream, tag, 5)
    mirror = await start(upstream, storage=CAP)
    for tag in "abc":
        await pull(mirror, tag)
        await pin(mirror, tag)
    replies = await mirror.pull(REPO, "d")
    assert [reply.status for reply in replies] == [200] * len(replies)
    assert "not-kept" in replies[-1].cache
    await upstream.stop()
    assert await whole(mirror, *"abcd") == ["a", "b", "c"]


async def test_an_image_that_is_not_kept_whole_is_never_fresh(start: StartMirror, upstream: FakeRegistry) -> None:
    image(upstream, "large", 12)
    mirror = await start(upstream, storage={"max_size": "10MiB"}, freshness=[{"match": "**", "ttl": "1h"}])
    await pull(mirror, "large")
    await mirror.settled()
    for _ in range(2):  # upstream confirms the tag; what is not kept is no more here than before
        assert (await mirror.get(f"/v2/{REPO}/manifests/large")).status == 200
    await upstream.stop()
    assert (await mirror.get(f"/v2/{REPO}/manifests/large")).status == 503, "its layer could not be had"


async def test_a_blob_larger_than_the_cap_evicts_nothing(start: StartMirror, upstream: FakeRegistry) -> None:
    for tag in "abc":
        image(upstream, tag, 5)
    image(upstream, "huge", 21)
    mirror = await start(upstream, storage=CAP)
    await pull(mirror, "a", "b", "c", "huge")
    await upstream.stop()
    assert await whole(mirror, "a", "b", "c", "huge") == ["a", "b", "c"]


async def test_what_a_slow_client_is_sent_stays_until_it_has_it(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = image(upstream, "a", 8)
    layer = upstream.blobs_of(REPO, digest)[-1]
    for tag in "bc":
        image(upstream, tag, 6)
    mirror = await start(upstream, storage=CAP)
    await pull(mirror, "a")
    async with (
        aiohttp.ClientSession(read_bufsize=2**16) as session,
        session.get(mirror.url + path_of(layer)) as response,
    ):
        await response.content.readexactly(1000)
        await pull(mirror, "b", "c")
        assert here(mirror, layer)
        assert len(await response.content.read()) == 8 * MIB - 1000
    await upstream.stop()
    assert await whole(mirror, *"abc") == ["a", "c"]


async def test_an_image_whose_layer_is_still_coming_is_not_taken_apart(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = image(upstream, "a", 4, 4)
    first, second = upstream.blobs_of(REPO, digest)[-2:]
    for tag in "bc":
        image(upstream, tag, 6)
    mirror = await start(upstream, storage=CAP)
    assert (await mirror.get(f"/v2/{REPO}/manifests/a")).status == 200
    assert (await mirror.get(path_of(first))).status == 200
    gate = asyncio.Event()
    upstream.fault(digest=second, then=Gate(gate, MIB))
    slow = asyncio.create_task(mirror.get(path_of(second)))
    await upstream.seen(digest=str(second))
    await until(fill_of(mirror, second), lambda: fill_of(mirror, second).spans.total() == MIB)
    for tag in "bc":  # not by `pull`, which waits for all fills
        manifest = await mirror.get(f"/v2/{REPO}/manifests/{tag}")
        for entry in manifest.json["layers"]:
            assert (await mirror.get(path_of(entry["digest"]))).status == 200
    assert here(mirror, first)
    assert here(mirror, digest)
    gate.set()
    assert len((await slow).body) == 4 * MIB


async def test_what_is_evicted_before_a_client_had_its_turn_is_streamed_to_it(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = upstream.add_pattern_blob(REPO, MIB, 5)
    mirror = await start(upstream, storage=CAP)
    monkeypatch.setattr(Fill, "readable", property(lambda _: False))  # the loop was busy with others
    gate = asyncio.Event()
    upstream.fault(digest=layer, then=Gate(gate, 1000))
    client = asyncio.create_task(mirror.get(path_of(layer)))
    await upstream.seen(digest=str(layer))
    fill_of(mirror, layer).on_end.add(lambda: mirror.server.store.layout.blob(layer).unlink())
    gate.set()
    reply = await client
    assert (reply.status, len(reply.body)) == (200, MIB)
    assert "not-kept" in reply.cache


async def test_a_fill_waits_while_what_it_wants_is_being_taken_away(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = upstream.add_pattern_blob(REPO, MIB, 6)
    mirror = await start(upstream, storage=CAP)
    assert (await mirror.get(path_of(layer))).status == 200
    await mirror.settled()
    blobs, looks = mirror.server.store.blobs, []
    part = blobs.part

    async def counted(digest: Digest) -> PartFile:
        looks.append(time.monotonic())
        return await part(digest)

    monkeypatch.setattr(blobs, "part", counted)
    path = mirror.server.store.layout.blob(layer)
    with path.open("rb") as evictor:
        assert seize(evictor.fileno())
        client = asyncio.create_task(mirror.get(path_of(layer)))
        async with asyncio.timeout(10):
            while len(looks) < 5:  # noqa: ASYNC110  # nobody is told
                await asyncio.sleep(0.001)
        path.unlink()
    assert (await client).status == 200
    assert looks[4] - looks[0] > 0.06, "not as fast as it can"


async def test_what_is_read_ahead_does_not_push_out_what_was_used_a_moment_ago(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    for tag in "abc":
        image(upstream, tag, 5)
    digest = image(upstream, "d", 5)
    mirror = await start({"docker.io": {"url": upstream.url, "read_ahead": True}}, storage=CAP)
    await pull(mirror, "a", "b", "c")
    assert (await mirror.get(f"/v2/{REPO}/manifests/d")).status == 200
    await mirror.settled()
    assert not here(mirror, upstream.blobs_of(REPO, digest)[-1])
    await upstream.stop()
    assert await whole(mirror, *"abc") == ["a", "b", "c"]


async def test_past_the_high_water_mark_images_go_until_the_low_one(start: StartMirror, upstream: FakeRegistry) -> None:
    for tag in "abc":
        image(upstream, tag, 4)
    mirror = await start(upstream, storage={"max_size": "20MiB", "high_water": "65%", "low_water": "50%"})
    room = mirror.server.store.room
    await pull(mirror, *"abc")
    async with asyncio.timeout(10):
        while room.used > 10 * MIB:  # noqa: ASYNC110  # the room of all processes has nobody to tell
            await asyncio.sleep(0.02)
    await upstream.stop()
    assert await whole(mirror, *"abc") == ["c"]


@pytest.mark.slow
async def test_the_cap_is_never_passed_and_what_is_served_afterwards_is_whole(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    tags = [f"v{number}" for number in range(60)]
    for tag in ("always", *tags):
        image(upstream, tag, 2)
    mirror = await start(upstream, storage={"max_size": "40MiB"})
    root = mirror.server.store.layout.root
    await pull(mirror, "always")
    with sampled(root) as samples:
        for tag in tags:
            await pull(mirror, tag, "always")
    assert len(samples) > 20
    assert max(samples) <= 40 * MIB
    assert max(samples) > 30 * MIB, "the room is used"
    mirror.server.store.dealings.flush()
    mirror.server.store.room._look_beside = 0.0  # else what lies beside the content is looked at from time to time
    assert mirror.server.store.room.used >= taken(root)
    await upstream.stop()
    served = await whole(mirror, "always", *tags)
    assert "always" in served
    assert served[1:] == tags[-len(served) + 1 :]
    assert len(served) > 10


async def test_a_crowd_that_does_not_fit_at_once_leaves_nothing_half_behind(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    tags = [f"v{number}" for number in range(40)]
    for tag in tags:
        image(upstream, tag, 2)
    mirror = await start(upstream, storage={"max_size": "20MiB"})
    root = mirror.server.store.layout.root
    with sampled(root) as samples:
        await asyncio.gather(*(pull(mirror, tag) for tag in tags))
    assert max(samples) <= 20 * MIB
    await upstream.stop()
    assert len(await whole(mirror, *tags)) >= 4, "each that is served is whole"
    await mirror.settled()
    assert booked(mirror) == (on_disk(root), 0, 0)
