"""Promise 4: nothing is lost to a cut, of a connection or of a life."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from mirror.config.upstreams import WELL_KNOWN
from tests.fakes.faults import Await, Cut, Gate, NoRange, Truncate
from tests.flow.fills import MIB, REPO, Client, fill_of, path_of, ranges_asked, unfinished, until
from tests.parts.mirror import MirrorProcess

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import StartMirror

SIZE = 3 * MIB + 17


@pytest.mark.parametrize("at", [1, 1000, MIB - 1, MIB, MIB + 1, SIZE - 65536, SIZE - 1])
async def test_a_cut_is_gone_on_from_where_it_was(at: int, start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    gate = asyncio.Event()
    upstream.fault(kind="blob", times=1, then=(Gate(gate, at_byte=at), Cut(at_byte=at)))
    mirror = await start(upstream)
    client = asyncio.create_task(Client(mirror.url).get(digest))
    await (await upstream.seen(kind="blob")).sent(at)
    fill = fill_of(mirror, digest)
    await until(fill, lambda: fill.spans.total() == at)
    gate.set()
    assert await client == (200, upstream.content(REPO, digest), True)
    assert ranges_asked(upstream, digest)[1] == f"bytes={at}-{SIZE - 1}"
    assert upstream.bytes_of(digest) == SIZE


async def test_a_body_without_a_length_that_ends_early_is_gone_on_with(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    image = upstream.add_image(REPO, "v1", layers=[digest])
    mirror = await start(upstream)
    await mirror.get(f"/v2/{REPO}/manifests/{image}")
    upstream.fault(kind="blob", times=1, then=Truncate(at_byte=MIB, chunked=True))
    assert await Client(mirror.url).get(digest) == (200, upstream.content(REPO, digest), True)
    assert upstream.bytes_of(digest) == SIZE


async def test_many_cuts_are_one_pause(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    cuts = [1, 5000, MIB, MIB + 1, 2 * MIB + 3, SIZE - 1]
    for at in cuts:
        upstream.fault(kind="blob", times=1, then=Cut(at_byte=at))
    mirror = await start(upstream)
    assert await Client(mirror.url).get(digest) == (200, upstream.content(REPO, digest), True)
    # What a broken connection still held is lost with it, and no more than that.
    assert upstream.bytes_of(digest) < SIZE + len(cuts) * MIB


async def test_an_upstream_without_ranges_is_listened_to_again(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    upstream.fault(kind="blob", times=1, then=(NoRange(), Cut(at_byte=2 * MIB)))
    upstream.fault(kind="blob", then=NoRange())
    mirror = await start(upstream)
    assert await Client(mirror.url).get(digest) == (200, upstream.content(REPO, digest), True)
    assert upstream.bytes_of(digest) == SIZE + 2 * MIB


async def test_a_fill_that_was_stopped_goes_on_after_the_start(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    upstream.fault(kind="blob", times=1, then=Gate(asyncio.Event(), at_byte=2 * MIB + 5))
    mirror = await start(upstream, server={"shutdown_timeout": "0s"})
    client = asyncio.create_task(Client(mirror.url).get(digest))
    await (await upstream.seen(kind="blob")).sent(2 * MIB + 5)
    fill = fill_of(mirror, digest)
    await until(fill, lambda: fill.spans.total() == 2 * MIB + 5)
    await mirror.stop()
    assert (await client)[2] is False
    again = await start(upstream)
    assert (await again.get(path_of(digest))).body == upstream.content(REPO, digest)
    assert ranges_asked(upstream, digest)[1] == f"bytes={2 * MIB + 5}-{SIZE - 1}"
    assert upstream.bytes_of(digest) == SIZE


async def test_what_was_stopped_before_its_first_byte_leaves_nothing(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path
) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    upstream.fault(kind="blob", then=Await(asyncio.Event()))
    mirror = await start(upstream, server={"shutdown_timeout": "0s"})
    client = asyncio.create_task(Client(mirror.url).get(digest))
    await upstream.seen(kind="blob")
    await mirror.stop()
    await asyncio.gather(client, return_exceptions=True)
    assert unfinished(tmp_path / "store") == []


def _config(upstream: FakeRegistry, store: Path) -> dict[str, Any]:
    told: dict[str, Any] = dict.fromkeys(WELL_KNOWN, False)
    told["docker.io"] = {"url": upstream.url, "read_ahead": False}
    return {"upstreams": told, "storage": {"path": str(store)}, "server": {"shutdown_timeout": "1s"}}


def _process(directory: Path, upstream: FakeRegistry, store: Path) -> MirrorProcess:
    directory.mkdir()
    return MirrorProcess(directory, _config(upstream, store))


@pytest.mark.parametrize("how", ["kill", "terminate"])
async def test_an_end_in_the_middle_costs_no_second_copy(how: str, upstream: FakeRegistry, tmp_path: Path) -> None:
    size = 128 * MIB
    digest = upstream.add_pattern_blob(REPO, size)
    body = upstream.content(REPO, digest)
    gate = asyncio.Event()
    upstream.fault(kind="blob", times=6, then=Gate(gate, at_byte=80 * MIB))
    mirror = _process(tmp_path / "one", upstream, tmp_path / "store")
    await asyncio.to_thread(mirror.start)
    async with aiohttp.ClientSession() as session, session.get(mirror.url + path_of(digest)) as response:
        # What the client has is on disk; what upstream has only sent may lie in the sockets, and is lost with them.
        assert await response.content.readexactly(79 * MIB) == body[: 79 * MIB]
        await asyncio.to_thread(getattr(mirror, how))
        with pytest.raises(aiohttp.ClientError):
            await response.content.read()
    gate.set()
    mirror = _process(tmp_path / "again", upstream, tmp_path / "store")
    await asyncio.to_thread(mirror.start)
    try:
        assert await Client(mirror.url).get(digest) == (200, body, True)
    finally:
        await asyncio.to_thread(mirror.terminate)
    assert upstream.bytes_of(digest) <= 1.1 * size


async def test_two_processes_share_one_copy_and_one_takes_over_from_the_dead(
    upstream: FakeRegistry, tmp_path: Path
) -> None:
    size = 48 * MIB
    digest = upstream.add_pattern_blob(REPO, size)
    body = upstream.content(REPO, digest)
    gate = asyncio.Event()
    upstream.fault(kind="blob", times=8, then=Gate(gate, at_byte=36 * MIB))
    one = _process(tmp_path / "one", upstream, tmp_path / "store")
    two = _process(tmp_path / "two", upstream, tmp_path / "store")
    await asyncio.gather(asyncio.to_thread(one.start), asyncio.to_thread(two.start))
    try:
        first = asyncio.create_task(Client(one.url).get(digest))
        await upstream.seen(kind="blob")
        clients = [asyncio.create_task(Client(two.url).get(digest)) for _ in range(5)]
        await upstream.log.wait(lambda: upstream.bytes_of(digest) >= 36 * MIB)
        assert len(await Client(two.url).leave(digest, 0, 30 * MIB)) >= 30 * MIB, "two streams what one fills"
        one.kill()
        gate.set()
        assert (await first)[2] is False
        assert all(got == (200, body, True) for got in await asyncio.gather(*clients))
    finally:
        await asyncio.to_thread(two.terminate)
    assert upstream.bytes_of(digest) <= 1.1 * size
