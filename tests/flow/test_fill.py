"""Promises 1 and 2: one fill, which belongs to the cache."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import aiohttp
import pytest

from mirror.cache import transfer
from tests.fakes.faults import Await, Gate, Status
from tests.flow.fills import (
    MIB,
    REPO,
    Client,
    booked,
    descriptors,
    fill_of,
    on_disk,
    path_of,
    ranged,
    ranges_asked,
    unfinished,
    until,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import StartMirror


async def test_a_hundred_clients_at_any_offset_cost_one_copy(start: StartMirror, upstream: FakeRegistry) -> None:
    size = 40 * MIB + 12345
    digest = upstream.add_pattern_blob(REPO, size, 1)
    body = upstream.content(REPO, digest)
    mirror = await start(upstream)
    choose = random.Random(4)  # noqa: S311  # a sequence that can be repeated
    before = asyncio.all_tasks()
    gate = asyncio.Event()
    upstream.fault(kind="blob", then=Await(gate), times=1)

    async def one(client: Client) -> None:
        offset = choose.choice([0, 0, choose.randrange(size), size - choose.randrange(1, 70000)])
        if choose.random() < 0.4:
            count = choose.randrange(1, 4 * MIB)
            assert body.startswith(await client.leave(digest, offset, count), offset)
            return
        stop = min(size, offset + choose.randrange(1, 6 * MIB)) if choose.random() < 0.8 else None
        status, got, complete = await client.get(digest, offset, stop)
        assert (status, complete) == (206, True)
        assert got == body[offset:stop]

    async with asyncio.TaskGroup() as group:
        for _ in range(100):
            group.create_task(one(Client(mirror.url)))
        await upstream.seen(kind="blob")
        gate.set()
    await mirror.settled()
    await upstream.idle()
    assert upstream.bytes_of(digest) == size
    assert upstream.connections_peak <= 8
    assert descriptors() == set()
    assert unfinished(mirror.server.store.layout.root) == []
    assert booked(mirror) == (on_disk(mirror.server.store.layout.root), 0, 0)
    assert {task for task in asyncio.all_tasks() - before if "fill" in task.get_name()} == set()


async def test_a_client_that_leaves_does_not_stop_the_fill(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, 3 * MIB)
    gate = asyncio.Event()
    upstream.fault(kind="blob", then=Gate(gate, at_byte=2 * MIB))
    mirror = await start(upstream)
    await Client(mirror.url).leave(digest, 0, 100)
    gate.set()
    await mirror.settled()
    assert mirror.server.store.blobs.size(digest) == 3 * MIB
    assert upstream.bytes_of(digest) == 3 * MIB


async def test_a_client_that_leaves_before_any_byte_does_not_stop_the_fill(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = upstream.add_pattern_blob(REPO, MIB)
    gate = asyncio.Event()
    upstream.fault(kind="blob", then=Await(gate))
    mirror = await start(upstream)
    client = asyncio.create_task(mirror.get(path_of(digest)))
    await upstream.seen(kind="blob")
    client.cancel()
    await asyncio.gather(client, return_exceptions=True)
    gate.set()
    await mirror.settled()
    assert mirror.server.store.blobs.size(digest) == MIB


async def test_a_slow_reader_does_not_slow_the_fill(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, 24 * MIB)
    mirror = await start(upstream)
    async with aiohttp.ClientSession(read_bufsize=1024) as session, session.get(mirror.url + path_of(digest)) as slow:
        await mirror.settled()  # not a byte of the body has been taken from its connection
        assert mirror.server.store.blobs.size(digest) == 24 * MIB
        assert await slow.read() == upstream.content(REPO, digest)
    assert upstream.bytes_of(digest) == 24 * MIB


async def test_bytes_go_out_as_they_come(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, 2 * MIB)
    gate = asyncio.Event()
    upstream.fault(kind="blob", then=Gate(gate, at_byte=MIB))
    mirror = await start(upstream)
    async with mirror.session.get(mirror.url + path_of(digest)) as response:
        assert len(await response.content.readexactly(MIB)) == MIB
        gate.set()
        assert len(await response.content.read()) == MIB


async def test_a_second_cache_on_the_same_store_shares_the_fill(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, 2 * MIB + 7)
    body = upstream.content(REPO, digest)
    gate = asyncio.Event()
    upstream.fault(kind="blob", times=1, then=Gate(gate, at_byte=MIB))
    first, second = await start(upstream), await start(upstream)
    one = asyncio.create_task(Client(first.url).get(digest))
    await (await upstream.seen(kind="blob")).sent(MIB)
    async with second.session.get(second.url + path_of(digest)) as response:
        assert await response.content.readexactly(MIB - 65536) == body[: MIB - 65536]
        gate.set()
        assert await response.content.read() == body[MIB - 65536 :]
    assert await one == (200, body, True)
    await first.settled()
    await second.settled()
    # The other process has upstream say, by one byte, that its client may have it too.
    assert upstream.bytes_of(digest) == len(body) + 1
    assert upstream.count(kind="blob") == 2
    assert descriptors() == set()


async def test_a_far_range_that_another_process_wants_comes_first(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, 48 * MIB)
    body = upstream.content(REPO, digest)
    gate = asyncio.Event()
    upstream.fault(kind="blob", times=1, then=Gate(gate, at_byte=MIB))
    first, second = await start(upstream), await start(upstream)
    one = asyncio.create_task(Client(first.url).get(digest))
    await (await upstream.seen(kind="blob")).sent(MIB)
    assert await Client(second.url).get(digest, 40 * MIB, 40 * MIB + 10) == (206, body[40 * MIB : 40 * MIB + 10], True)
    assert not one.done()
    gate.set()
    assert await one == (200, body, True)
    await second.settled()
    await first.settled()
    assert upstream.bytes_of(digest) == len(body) + 1  # the second was asked whether its client may have it


async def test_one_that_stops_leaves_the_fill_to_the_other(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, 3 * MIB)
    body = upstream.content(REPO, digest)
    upstream.fault(kind="blob", times=1, then=Gate(asyncio.Event(), at_byte=2 * MIB))
    first = await start(upstream, server={"shutdown_timeout": "0s"})
    second = await start(upstream)
    one = asyncio.create_task(Client(first.url).get(digest))
    await (await upstream.seen(kind="blob")).sent(2 * MIB)
    other = asyncio.create_task(Client(second.url).get(digest))
    while second.server.cache.fills.running(digest) is None:  # noqa: ASYNC110  # no event says that a request came
        await asyncio.sleep(0)
    await until(fill_of(second, digest), lambda: fill_of(second, digest).spans.total() >= 2 * MIB)
    await first.stop()
    assert (await one)[2] is False
    assert await other == (200, body, True)
    assert ranges_asked(upstream, digest) == ["bytes=0-33554431", "bytes=0-0", f"bytes={2 * MIB}-{3 * MIB - 1}"]
    assert upstream.bytes_of(digest) == len(body) + 1


async def test_a_far_range_of_a_cold_blob_is_answered_first(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, 64 * MIB)
    body = upstream.content(REPO, digest)
    image = upstream.add_image(REPO, "v1", layers=[digest])
    gate = asyncio.Event()
    mirror = await start(upstream)
    await mirror.get(f"/v2/{REPO}/manifests/{image}")  # it names the size
    upstream.fault(kind="blob", after=1, then=Await(gate))
    assert await Client(mirror.url).get(digest, 50 * MIB, 50 * MIB + 99) == (
        206,
        body[50 * MIB : 50 * MIB + 99],
        True,
    )
    assert ranges_asked(upstream, digest)[0] == f"bytes={50 * MIB}-{58 * MIB - 1}"
    gate.set()
    await mirror.settled()
    await upstream.idle()
    assert upstream.bytes_of(digest) == len(body)


async def test_open_ended_ranges_that_are_hung_up_on_cost_one_copy(start: StartMirror, upstream: FakeRegistry) -> None:
    """As containerd 2.1 fetches a layer (facts: concurrent_layer_fetch_buffer)."""
    digest = upstream.add_pattern_blob(REPO, 44 * MIB)
    body = upstream.content(REPO, digest)
    mirror = await start(upstream)
    offsets = range(0, 44 * MIB, 8 * MIB)
    pieces = await asyncio.gather(*(Client(mirror.url).leave(digest, offset, 8 * MIB) for offset in offsets))
    assert b"".join(piece[: 8 * MIB] for piece in pieces) == body
    await mirror.settled()
    await upstream.idle()
    assert upstream.bytes_of(digest) == len(body)
    assert upstream.connections_peak <= 8


@pytest.mark.parametrize(
    "size", [0, 1, 65535, 65536, 65537, MIB - 1, MIB, MIB + 1, 32 * MIB - 1, 32 * MIB, 32 * MIB + 1]
)
@pytest.mark.parametrize("named", [True, False])
async def test_blobs_of_every_size_that_is_a_boundary_come_whole(
    size: int, named: bool, start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = upstream.add_pattern_blob(REPO, size)
    body = upstream.content(REPO, digest)
    image = upstream.add_image(REPO, "v1", layers=[digest])
    mirror = await start(upstream)
    if named:
        await mirror.get(f"/v2/{REPO}/manifests/{image}")
    cold = await mirror.get(path_of(digest))
    assert (cold.status, cold.headers.get("Content-Length")) == (200, str(size))
    assert cold.body == body
    await mirror.settled()
    warm = await mirror.get(path_of(digest))
    assert warm.body == body
    assert upstream.bytes_of(digest) == size or not size  # no range of nothing can be satisfied: 416 has a body
    if size:
        last = await mirror.get(path_of(digest), **ranged(size - 1))
        assert (last.status, last.body) == (206, body[-1:])
    assert (await mirror.get(path_of(digest), **ranged(size))).status == (416 if size else 200)


async def test_a_range_beyond_the_end_of_a_cold_blob_is_416(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, MIB)
    mirror = await start(upstream)
    reply = await mirror.get(path_of(digest), **ranged(MIB + 5))
    assert (reply.status, reply.headers["Content-Range"]) == (416, f"bytes */{MIB}")


async def test_a_refusal_of_one_repository_is_not_the_answer_to_another(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = upstream.add_pattern_blob("library/open", MIB)
    gate = asyncio.Event()
    upstream.fault(kind="blob", repo="library/closed", then=(Await(gate), Status(403, "DENIED")))
    mirror = await start(upstream)
    closed = asyncio.create_task(mirror.get(path_of(digest, "library/closed")))
    await upstream.seen(kind="blob", repo="library/closed")
    opened = asyncio.create_task(mirror.get(path_of(digest, "library/open")))
    gate.set()
    assert (await closed).status == 404
    assert (await opened).body == upstream.content("library/open", digest)
    assert (await mirror.get(path_of(digest, "library/closed"))).status == 404
    assert sum(record.bytes_sent for record in upstream.requests if record.repo == "library/open") == MIB


async def test_what_another_repository_fills_is_confirmed_through_this_one(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    """Promise 10: the bytes come from the one fill, the right to them from upstream."""
    digest = upstream.add_pattern_blob("library/one", 2 * MIB)
    upstream.add_pattern_blob("library/two", 2 * MIB)
    gate = asyncio.Event()
    upstream.fault(kind="blob", repo="library/one", then=Gate(gate, at_byte=MIB))
    mirror = await start(upstream)
    one = asyncio.create_task(mirror.get(path_of(digest, "library/one")))
    await (await upstream.seen(kind="blob", repo="library/one")).sent(MIB)
    two = asyncio.create_task(mirror.get(path_of(digest, "library/two")))
    await upstream.seen(kind="blob", repo="library/two")
    three = await mirror.get(path_of(digest, "library/three"))
    assert three.status == 404
    gate.set()
    assert (await one).body == (await two).body
    assert [record.range for record in upstream.requests if record.repo == "library/two"] == ["bytes=0-0"]


async def test_a_small_blob_is_one_request_without_a_range(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, 3 * MIB)
    image = upstream.add_image(REPO, "v1", layers=[digest])
    mirror = await start(upstream)
    await mirror.get(f"/v2/{REPO}/manifests/{image}")
    await mirror.get(path_of(digest), **ranged(2 * MIB, 2 * MIB + 5))
    await mirror.settled()
    assert ranges_asked(upstream, digest) == [None]


async def test_each_further_connection_brings_new_bytes_only(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "TICK", 0.01)
    upstream.rate_per_connection = 40 * MIB
    digest = upstream.add_pattern_blob(REPO, 64 * MIB)
    mirror = await start(upstream)
    reply = await mirror.get(path_of(digest))
    assert reply.body == upstream.content(REPO, digest)
    await upstream.idle()
    assert upstream.bytes_of(digest) == 64 * MIB
    assert 2 <= upstream.connections_peak <= 4


async def test_a_store_that_is_written_to_leaves_no_file_behind(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path
) -> None:
    mirror = await start(upstream)
    missing = await mirror.get(path_of(upstream.add_blob("library/elsewhere", b"not here")))
    assert missing.status == 404
    await mirror.settled()
    assert unfinished(tmp_path / "store") == []
