"""A disk that is full, a cap that is reached: the fill ends, the account is right, what is cached stays (promise 7)."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING

import pytest

from mirror.cache.keep import keep
from mirror.store.changes import Stored
from mirror.store.part import PartFile
from mirror.store.room import Room
from tests.fakes.faults import Gate, NoLength, NoRange
from tests.flow.fills import MIB, REPO, booked, fill_of, on_disk, path_of, unfinished, until

if TYPE_CHECKING:
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import StartMirror


async def test_what_is_over_the_cap_leaves_no_trace(start: StartMirror, upstream: FakeRegistry) -> None:
    small, large = upstream.add_pattern_blob(REPO, 2 * MIB), upstream.add_pattern_blob(REPO, 20 * MIB, 1)
    mirror = await start(upstream, storage={"max_size": "10MiB"})
    root = mirror.server.store.layout.root
    assert (await mirror.get(path_of(small))).status == 200
    await mirror.settled()
    before = booked(mirror)
    assert "not-kept" in (await mirror.get(path_of(large))).cache
    await mirror.settled()
    assert booked(mirror) == before == (on_disk(root), 0, 0)
    assert unfinished(root) == []
    assert (await mirror.get(path_of(small))).cache.endswith("hit")
    other = upstream.add_pattern_blob(REPO, 3 * MIB, 2)
    assert (await mirror.get(path_of(other))).status == 200, "the room was given back"


async def test_what_grows_over_the_cap_is_broken_off(start: StartMirror, upstream: FakeRegistry) -> None:
    large = upstream.add_pattern_blob(REPO, 20 * MIB, 1)
    upstream.fault(kind="blob", then=(NoLength(), NoRange()))
    mirror = await start(upstream, storage={"max_size": "10MiB"})
    with pytest.raises(Exception, match=r"payload|disconnect|reset"):
        await mirror.get(path_of(large))
    await mirror.settled()
    assert booked(mirror) == (0, 0, 0)
    assert unfinished(mirror.server.store.layout.root) == []


async def test_what_comes_without_a_size_takes_room_in_steps_and_gives_back_the_rest(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = upstream.add_pattern_blob(REPO, 5 * MIB + 17, 1)
    upstream.fault(kind="blob", then=(NoLength(), NoRange()))
    mirror = await start(upstream)
    taken: list[int] = []
    reserve = Room.reserve

    def count(room: Room, size: int) -> None:
        taken.append(size)
        reserve(room, size)

    monkeypatch.setattr(Room, "reserve", count)
    assert len((await mirror.get(path_of(blob))).body) == 5 * MIB + 17
    await mirror.settled()
    assert len(taken) <= 5
    assert sum(taken) >= 5 * MIB + 17
    assert booked(mirror) == (on_disk(mirror.server.store.layout.root), 0, 0)


async def test_what_a_stopped_mirror_has_left_is_counted_once_when_it_goes_on(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    blob = upstream.add_pattern_blob(REPO, 8 * MIB, 1)
    gate = asyncio.Event()
    upstream.fault(kind="blob", then=Gate(gate, 3 * MIB), times=1)
    mirror = await start(upstream)
    root = mirror.server.store.layout.root
    client = asyncio.create_task(mirror.get(path_of(blob)))
    await upstream.seen(kind="blob")
    fill = fill_of(mirror, blob)
    await until(fill, lambda: fill.spans.total() == 3 * MIB)
    assert booked(mirror)[:2] == (0, 8 * MIB + 4096)
    client.cancel()
    await asyncio.gather(client, return_exceptions=True)
    await mirror.stop()
    gate.set()
    mirror = await start(upstream)
    assert booked(mirror) == (on_disk(root), 0, 0)
    assert (await mirror.get(path_of(blob))).status == 200
    await mirror.settled()
    assert booked(mirror) == (on_disk(root), 0, 0) == (8 * MIB, 0, 0)


async def test_what_somebody_had_at_hand_meanwhile_is_counted_once(start: StartMirror, upstream: FakeRegistry) -> None:
    """A mirror heals a small body from its memory, while a command fetches the same one."""
    blob = upstream.add_blob(REPO, b"damaged on the disk, and in somebody's memory" * 400)
    gate = asyncio.Event()
    upstream.fault(kind="blob", then=Gate(gate, 1000), times=1)
    mirror = await start(upstream)
    client = asyncio.create_task(mirror.get(path_of(blob)))
    await upstream.seen(kind="blob")
    fill = fill_of(mirror, blob)
    await until(fill, lambda: fill.begun)
    cache, store = mirror.server.cache, mirror.server.store
    body = upstream.content(REPO, blob)
    taken = await keep(cache.space, store.blobs, blob, body)
    await store.index.apply(Stored(blob, taken, 1.0))
    gate.set()
    assert (await client).body == body
    await mirror.settled()
    assert booked(mirror) == (on_disk(store.layout.root), 0, 0)


async def test_a_disk_that_fills_up_in_the_middle_ends_the_fill_only(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, lost = upstream.add_pattern_blob(REPO, MIB), upstream.add_pattern_blob(REPO, 3 * MIB, 1)
    mirror = await start(upstream)
    assert (await mirror.get(path_of(kept))).status == 200
    await mirror.settled()
    right = os.pwrite
    parts: list[int] = []
    mark = PartFile.try_lock

    def remember(part: PartFile) -> bool:
        parts.append(part.file.fileno())
        return mark(part)

    def full(fd: int, data: bytes, offset: int) -> int:
        if fd in parts and offset >= MIB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return right(fd, data, offset)

    monkeypatch.setattr(PartFile, "try_lock", remember)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(Exception, match=r"payload|disconnect|reset"):
        await mirror.get(path_of(lost))
    await mirror.settled()
    monkeypatch.undo()
    assert booked(mirror) == (on_disk(mirror.server.store.layout.root), 0, 0)
    assert unfinished(mirror.server.store.layout.root) == []
    assert (await mirror.get(path_of(kept))).body == upstream.content(REPO, kept)
    assert (await mirror.get(path_of(lost))).body == upstream.content(REPO, lost)
