"""Read-ahead: what a client will ask for next is filled before it does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mirror.cache import fills, readahead
from mirror.errors import Overloaded
from mirror.oci.name import Repository
from tests.fakes.faults import Await
from tests.flow.fills import MIB, REPO, path_of

if TYPE_CHECKING:
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, StartMirror


def _ahead(upstream: FakeRegistry) -> dict[str, object]:
    return {"docker.io": {"url": upstream.url, "read_ahead": True}}


async def test_a_manifest_brings_its_blobs(start: StartMirror, upstream: FakeRegistry) -> None:
    image = upstream.add_image(REPO, "v1", layers=[b"one" * 1000, b"two" * 1000])
    mirror = await start(_ahead(upstream))
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    await mirror.settled()
    assert all(mirror.server.store.blobs.size(blob) for blob in upstream.blobs_of(REPO, image))
    asked = upstream.count(kind="blob")
    assert asked == 3
    await mirror.pull(REPO, "v1")
    assert upstream.count(kind="blob") == asked


async def test_neither_a_head_nor_an_index_brings_anything(start: StartMirror, upstream: FakeRegistry) -> None:
    image = upstream.add_image(REPO, "one", layers=[b"one" * 1000])
    upstream.add_index(REPO, "v1", manifests=[image])
    mirror = await start(_ahead(upstream))
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    await mirror.head(f"/v2/{REPO}/manifests/one")
    await mirror.settled()
    assert upstream.count(kind="blob") == 0


async def test_it_can_be_switched_off(start: StartMirror, upstream: FakeRegistry) -> None:
    upstream.add_image(REPO, "v1", layers=[b"one" * 1000])
    mirror = await start(upstream)
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    await mirror.settled()
    assert upstream.count(kind="blob") == 0


async def test_it_has_a_limit_and_gives_it_back(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readahead, "MOST_WAITING", 3)
    for tag in ("v1", "v2"):
        upstream.add_image(REPO, tag, layers=[f"{tag} {number}".encode() for number in range(8)])
    mirror = await start(_ahead(upstream))
    for most, tag in ((3, "v1"), (6, "v2")):
        await mirror.get(f"/v2/{REPO}/manifests/{tag}")
        await mirror.settled()
        assert upstream.count(kind="blob") == most


async def test_what_a_client_waits_for_overtakes_it(start: StartMirror, upstream: FakeRegistry) -> None:
    """All that is read ahead hangs: were it as urgent as a client, it would hold all places, and not six of eight."""
    layers = [upstream.add_pattern_blob(REPO, MIB, number) for number in range(12)]
    image = upstream.add_image(REPO, "v1", layers=layers)
    gate = asyncio.Event()
    for blob in upstream.blobs_of(REPO, image):
        if blob != layers[-1]:
            upstream.fault(kind="blob", digest=blob, then=Await(gate))
    mirror = await start(_ahead(upstream))
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    await upstream.seen(6, kind="blob")
    reply = await mirror.get(path_of(layers[-1]))
    assert (reply.status, reply.body) == (200, upstream.content(REPO, layers[-1]))
    assert not gate.is_set()
    assert upstream.count(kind="blob") == 7
    gate.set()
    await mirror.settled()
    assert all(upstream.bytes_of(layer) == MIB for layer in layers)


async def test_past_so_many_fills_more_are_refused_rather_than_queued(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fills, "MAX_FILLS", 4)
    image = upstream.add_image(REPO, "v1", layers=[f"layer {number}".encode() for number in range(5)])
    gate = asyncio.Event()
    upstream.fault(kind="blob", then=Await(gate))
    mirror = await start(_ahead(upstream))
    assert (await mirror.get(f"/v2/{REPO}/manifests/v1")).status == 200
    await upstream.seen(2, kind="blob")
    blobs = upstream.blobs_of(REPO, image)
    own = mirror.server.cache.fills
    ahead, others = ([b for b in blobs if (own.running(b) is not None) == runs] for runs in (True, False))
    assert len(ahead) == 2, "the rest is for clients"
    clients = [asyncio.create_task(mirror.get(path_of(blob))) for blob in others[:2]]
    await upstream.seen(4, kind="blob")
    past = others[2]
    with pytest.raises(Overloaded, match="4 fills are under way"):
        own.start(own.origin(Repository("docker.io", REPO)), past, expected=None)
    reply = await mirror.get(path_of(past))
    assert (reply.status, reply.code) == (404, "BLOB_UNKNOWN")
    assert "4 fills are under way" in reply.message
    clients.append(asyncio.create_task(mirror.get(path_of(ahead[0]))))  # that is no further one
    gate.set()
    assert [reply.status for reply in await asyncio.gather(*clients)] == [200] * 3
    await mirror.settled()
    assert upstream.count(kind="blob") == 4
    assert (await mirror.get(path_of(past))).status == 200


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("meanwhile", [False, True], ids=["filled before", "being filled"])
async def test_a_layer_that_is_here_through_another_image_is_known_to_be_this_ones_too(
    meanwhile: bool, start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    """A client that has the layer already never asks for it here; the image must count as whole after all."""
    upstream.auth.mode = "bearer"
    upstream.auth.users["alice"] = "secret"
    shared = upstream.add_pattern_blob(REPO, MIB)
    upstream.add_pattern_blob("org/other", MIB)
    upstream.add_image(REPO, "v1", layers=[shared])
    other = upstream.add_image("org/other", "v1", layers=[shared, b"its own"])
    gate = asyncio.Event()
    upstream.fault(kind="blob", digest=shared, times=1, then=Await(gate))
    private = {"url": upstream.url, "read_ahead": True, "username": "alice", "password": "secret"}
    mirror = await start({"docker.io": private})
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    if not meanwhile:
        gate.set()
        await mirror.settled()
    await mirror.get("/v2/org/other/manifests/v1")
    gate.set()
    await mirror.settled()
    await mirror.confirmed()
    await upstream.stop()
    clock.advance(3600)  # stale: upstream is asked, and found to be away
    assert (await mirror.get("/v2/org/other/manifests/v1")).status == 200
    assert [reply.status for reply in await mirror.pull("org/other", other)] == [200] * 4
    assert sum(record.bytes_sent for record in upstream.requests if record.kind == "blob") < MIB + 4096
