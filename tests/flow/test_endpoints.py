"""One upstream at several addresses: what is dead, slow or wrong costs its users little (promises 3 to 5)."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from mirror.oci.name import Repository
from mirror.upstream import endpoint, endpoints
from mirror.upstream.circuit import FIRST_PAUSE, LIED_PAUSE
from tests.fakes.faults import Corrupt, Cut, Fault, Hang, Stall, Status, Truncate, WrongLength
from tests.fakes.registry import FakeRegistry
from tests.flow.fills import REPO, Client, path_of, ranges_asked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mirror.oci.digest import Digest
    from tests.flow.conftest import Clock, Mirror, StartMirror

SIZE = 300_000


@pytest.fixture
async def near() -> AsyncIterator[FakeRegistry]:
    """Another cache: it has what the registry has, if the test puts it there."""
    async with FakeRegistry() as fake:
        yield fake


@pytest.fixture
async def third() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as fake:
        yield fake


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenths of a second where the mirror waits seconds for one that does not answer."""
    monkeypatch.setattr(endpoints, "FIRST_ANSWER", 1.0)
    monkeypatch.setattr(endpoints, "PROBE_PATIENCE", 0.3)
    monkeypatch.setattr(endpoint, "LONG", 0.9)


def told(registry: FakeRegistry, *others: Any, **more: Any) -> dict[str, Any]:
    """Return what the configuration says of docker.io: `others` come before the registry itself."""
    urls = [each.url if isinstance(each, FakeRegistry) else each for each in others]
    return {"docker.io": {"url": registry.url, "endpoints": urls, **more}}


def image(number: int, *registries: FakeRegistry, layers: int = 1) -> list[Digest]:
    """Put an image into all of them; return its layers."""
    for registry in registries:
        digests = [registry.add_pattern_blob(REPO, SIZE, seed=10 * number + layer) for layer in range(layers)]
        registry.add_image(REPO, f"v{number}", layers=digests)
    return digests


async def pull(mirror: Mirror, number: int) -> float:
    """Pull as a client does, which asks again for a blob that broke off; return the seconds."""
    began = time.monotonic()
    manifest = await mirror.get(f"/v2/{REPO}/manifests/v{number}")
    assert manifest.status == 200, manifest.body
    named = [manifest.json["config"], *manifest.json["layers"]]
    await asyncio.gather(*(whole(mirror, entry["digest"], entry["size"]) for entry in named))
    await mirror.settled()
    return time.monotonic() - began


async def whole(mirror: Mirror, digest: str, size: int) -> None:
    for _ in range(5):
        status, got, complete = await Client(mirror.url).get(digest)  # type: ignore[arg-type]
        if status == 200 and complete and len(got) == size:
            return
    pytest.fail(f"{digest} did not come")


def blobs_asked(fake: FakeRegistry) -> int:
    return fake.count(kind="blob", method="GET")


# --- who says what -----------------------------------------------------------------------------------------------


async def test_a_cache_gives_content_and_only_the_registry_says_what_a_tag_is(
    start: StartMirror, upstream: FakeRegistry, near: FakeRegistry
) -> None:
    (layer,) = image(1, upstream, near)
    near.add_image(REPO, "v1", layers=[b"an older one"])  # what that one takes the tag for
    mirror = await start(told(upstream, near))
    right = upstream.digest_of(REPO, "v1")
    got = await mirror.get(f"/v2/{REPO}/manifests/v1")
    assert got.headers["Docker-Content-Digest"] == str(right)
    assert (await mirror.get(path_of(layer))).status == 200
    assert (upstream.count(kind="manifest", method="GET"), blobs_asked(upstream)) == (0, 0), "nothing that is counted"
    assert upstream.count(kind="manifest", method="HEAD") == 1
    assert near.count(kind="manifest", method="HEAD") == near.count(reference="v1") == 0
    await mirror.get(f"/v2/{REPO}/tags/list")
    await mirror.get(f"/v2/{REPO}/referrers/{right}")
    assert near.count(kind="tags") == near.count(kind="referrers") == 0
    await mirror.settled()
    standing = mirror.server.store.index.standing
    mine, others = Repository("docker.io", REPO), Repository("docker.io", "org/other")
    assert standing(mine, layer).linked
    assert not standing(others, layer).visible, "what a cache gave is nobody's word that all may have it"


async def test_one_that_is_said_to_be_authoritative_is_asked_for_tags_too(
    start: StartMirror, upstream: FakeRegistry, near: FakeRegistry
) -> None:
    image(1, near)
    mirror = await start(told(upstream, {"url": near.url, "authoritative": True}))
    await pull(mirror, 1)
    assert upstream.requests == []
    assert (await mirror.get(f"/v2/{REPO}/manifests/v2")).status == 404
    assert upstream.count(kind="manifest") == 1, "what it does not have the registry may have"
    await upstream.stop()
    assert (await mirror.get(f"/v2/{REPO}/manifests/v3")).status == 404, "its word counts where there is no other"


async def test_a_404_of_a_cache_that_cannot_reach_the_registry_either_takes_no_tag_away(
    start: StartMirror, upstream: FakeRegistry, near: FakeRegistry, clock: Clock
) -> None:
    image(1, upstream, near)
    mirror = await start(told(upstream, {"url": near.url, "authoritative": True}))
    await pull(mirror, 1)
    await upstream.stop()
    near.fault(kind="manifest", then=Status(404, "MANIFEST_UNKNOWN"))
    clock.advance(3600)
    stale = await mirror.get(f"/v2/{REPO}/manifests/v1")
    assert (stale.status, stale.headers["Warning"][:3]) == (200, "299")
    await upstream.start()
    upstream.shelf(REPO).tags.clear()
    clock.advance(3600)
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    await upstream.seen(kind="ping")
    await upstream.idle()
    assert (await mirror.get(f"/v2/{REPO}/manifests/v1")).status == 404, "the registry itself says so"


async def test_what_a_cache_does_not_have_or_give_comes_from_the_registry(
    start: StartMirror, upstream: FakeRegistry, near: FakeRegistry, third: FakeRegistry
) -> None:
    image(1, upstream)
    third.fault(then=Status(401, "UNAUTHORIZED"))
    mirror = await start(told(upstream, near, third))
    await pull(mirror, 1)
    missing = await mirror.get(f"/v2/{REPO}/manifests/v9")
    assert (missing.status, missing.code) == (404, "MANIFEST_UNKNOWN")


async def test_whether_a_repository_holds_what_is_here_is_asked_of_the_registry_alone(
    start: StartMirror, upstream: FakeRegistry, near: FakeRegistry
) -> None:
    layer = near.add_pattern_blob(REPO, SIZE)
    upstream.add_pattern_blob("library/other", SIZE)
    near.add_pattern_blob("library/third", SIZE)
    mirror = await start(told(upstream, near))
    assert (await mirror.get(path_of(layer))).status == 200
    await mirror.settled()
    near.forget()
    assert (await mirror.get(path_of(layer, "library/other"))).status == 200
    assert (await mirror.get(path_of(layer, "library/third"))).status == 404
    assert near.requests == []


async def test_ns_and_prefix_go_with_every_question(
    start: StartMirror, upstream: FakeRegistry, near: FakeRegistry
) -> None:
    layer = near.add_pattern_blob(f"hub/{REPO}", SIZE)
    near.add_image(f"hub/{REPO}", "v1", layers=[layer])
    mirror = await start(
        told(upstream, {"url": near.url, "prefix": "hub", "ns": True, "authoritative": True}, read_ahead=False)
    )
    assert (await mirror.get(f"/v2/{REPO}/manifests/v1")).status == 200
    assert (await mirror.get(path_of(layer))).status == 200
    assert (await mirror.get(f"/v2/{REPO}/tags/list?n=1")).json["tags"] == ["v1"]
    asked = {(record.path.split("/")[-2], record.query) for record in near.requests}
    assert {query.replace("n=1&", "").replace("&n=1", "") for _, query in asked} == {"ns=docker.io"}
    assert all(record.path.startswith(f"/v2/hub/{REPO}/") for record in near.requests)


# --- what breaks -------------------------------------------------------------------------------------------------


async def test_a_transfer_that_breaks_goes_on_from_where_it_is_at_the_next_endpoint(
    start: StartMirror, upstream: FakeRegistry, near: FakeRegistry
) -> None:
    (layer,) = image(1, upstream, near)
    near.fault(kind="blob", then=Cut(at_byte=200_000))
    mirror = await start(told(upstream, near))
    reply = await mirror.get(path_of(layer))
    assert (reply.status, reply.body) == (200, upstream.content(REPO, layer))
    assert (near.bytes_of(layer), upstream.bytes_of(layer)) == (200_000, SIZE - 200_000)
    assert ranges_asked(upstream, layer) == ["bytes=200000-299999"]
    assert len(ranges_asked(near, layer)) == 1


async def test_a_transfer_that_stalls_goes_on_at_the_next_endpoint(
    start: StartMirror, upstream: FakeRegistry, near: FakeRegistry
) -> None:
    (layer,) = image(1, upstream, near)
    near.fault(kind="blob", then=Stall(at_byte=100_000))
    mirror = await start(told(upstream, near, stall_timeout="1s"))
    async with asyncio.timeout(5):
        reply = await mirror.get(path_of(layer))
    assert reply.body == upstream.content(REPO, layer)
    assert ranges_asked(upstream, layer) == ["bytes=100000-299999"]
    assert len(ranges_asked(near, layer)) == 1


async def test_what_passes_by_a_full_store_goes_on_at_the_next_endpoint_too(
    start: StartMirror, upstream: FakeRegistry, near: FakeRegistry
) -> None:
    layer = upstream.add_pattern_blob(REPO, 6_000_000)
    near.add_pattern_blob(REPO, 6_000_000)
    near.fault(kind="blob", then=Cut(at_byte=2_000_000))
    mirror = await start(told(upstream, near), storage={"max_size": "4MiB"})
    reply = await mirror.get(path_of(layer))
    assert (reply.status, reply.body) == (200, upstream.content(REPO, layer))
    assert "not-kept" in reply.cache
    assert upstream.bytes_of(layer) == 4_000_000


async def test_one_that_accepts_and_never_answers_holds_up_the_first_pull_alone(
    start: StartMirror, upstream: FakeRegistry, near: FakeRegistry
) -> None:
    for number in range(3):
        image(number, upstream)
    near.fault(then=Hang())
    mirror = await start(told(upstream, near))
    async with asyncio.timeout(5):
        await pull(mirror, 0)
    near.forget()
    asked = len(near.requests)
    for number in (1, 2):
        await pull(mirror, number)
    assert len(near.requests) == asked


async def test_one_that_was_away_is_used_again_once_it_has_been_seen_to_answer(
    start: StartMirror, upstream: FakeRegistry, near: FakeRegistry, clock: Clock
) -> None:
    for number in range(5):
        image(number, upstream, near)
    mirror = await start(told(upstream, near))
    await near.stop()
    await pull(mirror, 0)
    await near.start()
    await pull(mirror, 1)
    assert near.requests == [], "not before its pause is over"
    clock.advance(FIRST_PAUSE * 2)
    await pull(mirror, 2)  # behind this one it is asked whether it is back
    await near.seen(kind="ping")
    await near.idle()
    await pull(mirror, 3)  # one request of it is the trial
    near.forget()
    await pull(mirror, 4)
    assert blobs_asked(near) == 2


@pytest.mark.usefixtures("impatient")
async def test_a_pull_that_no_endpoint_can_complete_is_not_begun_again_while_the_registry_is_away(
    start: StartMirror, upstream: FakeRegistry, near: FakeRegistry
) -> None:
    """Podman goes to its next mirror at a 503 to the manifest, and at nothing after it (promise 8)."""
    layer, other = image(1, upstream)[0], image(2, upstream, near)[0]
    near.add_image(REPO, "v1", layers=[upstream.content(REPO, layer)])
    del near.shelf(REPO).blobs[str(layer)]
    mirror = await start(told(upstream, near))
    for number in (1, 2):
        assert (await mirror.get(f"/v2/{REPO}/manifests/v{number}")).status == 200
    await upstream.stop()
    assert (await mirror.get(path_of(layer))).status == 404, "this is how the mirror learns of it"
    assert (await mirror.get(path_of(other))).status == 200
    await mirror.settled()
    assert (await mirror.get(f"/v2/{REPO}/manifests/v1")).status == 503
    assert (await mirror.get(f"/v2/{REPO}/manifests/v2")).status == 503, "nobody knows whether the rest is there"
    await upstream.start()
    assert [reply.status for reply in await mirror.pull(REPO, "v1")] == [200] * 3


# --- what lies ---------------------------------------------------------------------------------------------------

LIES: dict[str, Fault] = {
    "a wrong byte": Corrupt(at_byte=0),
    "wrong from the middle on": Corrupt(at_byte=SIZE // 2),
    "a wrong length": WrongLength(delta=-10),
    "too short": Truncate(at_byte=SIZE // 2),
}


@pytest.mark.parametrize("lie", ["wrong from the middle on", "a wrong length"])
async def test_one_that_lied_is_left_alone_by_all_fills_and_after_a_restart(
    start: StartMirror, upstream: FakeRegistry, near: FakeRegistry, clock: Clock, lie: str
) -> None:
    layers = [image(number, upstream, near)[0] for number in range(3)]
    near.fault(kind="blob", then=LIES[lie])
    mirror = await start(told(upstream, near))
    await pull(mirror, 0)
    assert len(ranges_asked(near, layers[0])) == 1
    await pull(mirror, 1)
    await mirror.stop()
    mirror = await start(told(upstream, near))
    await pull(mirror, 2)
    assert [ranges_asked(near, layer) for layer in layers[1:]] == [[], []]
    assert all(mirror.server.store.blobs.size(layer) == SIZE for layer in layers)
    clock.advance(LIED_PAUSE * 2)
    image(3, upstream, near)
    await pull(mirror, 3)
    await near.seen(kind="ping")


async def test_a_length_that_a_manifest_contradicts_is_not_believed_for_a_byte(
    start: StartMirror, upstream: FakeRegistry, near: FakeRegistry
) -> None:
    (layer,) = image(1, upstream, near)
    near.fault(kind="blob", then=WrongLength(delta=-10))
    mirror = await start(told(upstream, near))
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    status, got, complete = await Client(mirror.url).get(layer)
    assert (status, complete, got) == (200, True, upstream.content(REPO, layer))


async def test_the_one_that_lied_is_found_out_where_two_have_sent_parts_of_what_is_wrong(
    start: StartMirror, upstream: FakeRegistry, near: FakeRegistry, third: FakeRegistry
) -> None:
    """The first breaks off half way, having lied; the second goes on from there, in good faith."""
    layer, after = image(1, upstream, near, third)[0], image(2, upstream, near, third)[0]
    near.fault(kind="blob", digest=layer, times=1, then=[Corrupt(at_byte=10), Cut(at_byte=SIZE // 2)])
    mirror = await start(told(upstream, near, third))
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    await whole(mirror, str(layer), SIZE)
    await mirror.settled()
    assert mirror.server.store.blobs.size(layer) == SIZE
    await whole(mirror, str(after), SIZE)
    assert len(ranges_asked(near, after)) == 1, "nobody knows that it was this one, so it is asked again"


async def test_where_all_lie_the_digest_is_refused_after_each_was_asked(
    start: StartMirror, upstream: FakeRegistry, near: FakeRegistry, third: FakeRegistry
) -> None:
    (layer,) = image(1, upstream, near, third)
    for fake in (upstream, near, third):
        fake.fault(kind="blob", then=Corrupt(at_byte=3))
    mirror = await start(told(upstream, near, third))
    assert (await Client(mirror.url).get(layer))[2] is False
    await mirror.settled()
    refused = await mirror.get(path_of(layer))
    assert (refused.status, "refused" in refused.message) == (404, True)
    asked = [len(ranges_asked(fake, layer)) for fake in (near, third, upstream)]
    assert (min(asked), sum(asked)) == (1, 4), "each once, and then one of them again: nobody new was left"


@pytest.mark.parametrize(("dead", "lie"), list(zip(["refuses", "says nothing"] * 2, LIES.values(), strict=True)))
async def test_with_one_dead_one_wrong_and_one_slow_every_pull_is_right_and_the_slow_one_sets_the_pace(
    *, start: StartMirror, upstream: FakeRegistry, near: FakeRegistry, third: FakeRegistry, dead: str, lie: Fault
) -> None:
    layers = [image(number, upstream, near, third) for number in range(6)]
    near.fault(kind="blob", then=lie)
    upstream.latency = 0.01
    mirror = await start(told(upstream, third, near))
    if dead == "refuses":
        await third.stop()
    else:
        third.fault(then=Hang())
    await pull(mirror, 0)
    for fake in (near, third):
        fake.forget()
    for number in range(1, 6):
        await pull(mirror, number)
    assert all(mirror.server.store.blobs.size(digest) == SIZE for each in layers for digest in each)
    assert blobs_asked(near) == 0
    assert len(third.requests) - third.count(kind="ping") <= 2  # of those that were under way
