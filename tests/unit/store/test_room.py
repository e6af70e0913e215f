from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from mirror import metrics
from mirror.config import StorageConfig
from mirror.config.units import Size
from mirror.errors import NoSpace
from mirror.oci.digest import Digest
from mirror.store.room import Room
from mirror.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.store.io import DiskThreads
    from mirror.store.layout import Layout

MIB = 1024 * 1024


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A disk of 1000 MiB, of which 500 are free."""
    stat = SimpleNamespace(f_bavail=500, f_blocks=1000, f_frsize=MIB)
    monkeypatch.setattr(os, "statvfs", lambda _path: stat)
    return stat


@pytest.mark.usefixtures("disk")
def test_the_cap_is_hard(layout: Layout) -> None:
    room = Room(layout, max_size=100 * MIB, min_free=0)
    room.reserve(60 * MIB)
    assert room.left() == 40 * MIB
    with pytest.raises(NoSpace, match=r"room for 41943040 bytes more and 41943041 are needed; raise storage\.max_size"):
        room.reserve(40 * MIB + 1)
    assert room.used == 60 * MIB
    room.reserve(40 * MIB)
    assert room.left() == 0


def test_what_must_stay_free_stays_free(layout: Layout, disk: SimpleNamespace) -> None:
    room = Room(layout, max_size=10_000 * MIB, min_free=450 * MIB)
    assert room.left() == 50 * MIB
    room.reserve(30 * MIB)
    assert room.left() == 20 * MIB
    room.landed(30 * MIB)  # the disk counts it itself now
    disk.f_bavail -= 30
    assert room.left() == 20 * MIB
    disk.f_bavail = 100  # somebody else has filled the disk
    assert room.left() == 0
    with pytest.raises(NoSpace):
        room.reserve(1)


@pytest.mark.usefixtures("disk")
def test_what_is_released_can_be_reserved_again(layout: Layout) -> None:
    room = Room(layout, max_size=100 * MIB, min_free=0)
    for _ in range(3):
        room.reserve(100 * MIB)
        room.landed(100 * MIB)
        room.release(100 * MIB)
    assert room.used == 0


@pytest.mark.usefixtures("disk")
async def test_counting_finds_blobs_and_unfinished_fills_in_blocks(layout: Layout, threads: DiskThreads) -> None:
    digest = Digest.of(b"x")
    layout.blob(digest).write_bytes(b"x")
    layout.part(digest).write_bytes(bytes(MIB))
    with layout.map(digest).open("wb") as sparse:
        sparse.truncate(100 * MIB)
    (layout.root / "not-ours").write_bytes(bytes(MIB))
    room = Room(layout, max_size=100 * MIB, min_free=0)
    await room.count(threads)
    blocks = (layout.blob(digest).stat().st_blocks + layout.part(digest).stat().st_blocks) * 512
    assert room.used == blocks
    assert blocks >= MIB + 512


@pytest.mark.usefixtures("disk")
async def test_what_was_reserved_while_the_count_went_on_stays_reserved(layout: Layout, threads: DiskThreads) -> None:
    room = Room(layout, max_size=100 * MIB, min_free=0)
    room.reserve(10)
    await room.count(threads)
    assert room.used == 10


@pytest.mark.usefixtures("disk")
def test_the_index_counts_as_it_grows(layout: Layout) -> None:
    room = Room(layout, max_size=100 * MIB, min_free=0)
    assert room.used == 0
    layout.index.write_bytes(bytes(MIB))
    layout.journal.write_bytes(bytes(MIB))
    assert room.used >= 2 * MIB


@pytest.mark.usefixtures("disk")
def test_the_metrics_follow(layout: Layout) -> None:
    room = Room(layout, max_size=100 * MIB, min_free=0)
    room.reserve(30 * MIB)
    assert metrics.STORE_BYTES._value.get() == 30 * MIB
    assert metrics.STORE_ROOM._value.get() == 70 * MIB
    room.release(10 * MIB)
    assert metrics.STORE_BYTES._value.get() == 20 * MIB


async def test_percentages_are_of_the_disk(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    total = disk.f_blocks * disk.f_frsize
    store = Store.open(StorageConfig(tmp_path, Size(percent=100.0), Size(percent=100.0)))
    try:
        assert store.room.left() == 0
    finally:
        store.close()
    store = Store.open(StorageConfig(tmp_path, Size(percent=0.5), Size(bytes=0)))
    try:
        expected = min(int(total * 0.005) - store.room.used, disk.f_bavail * disk.f_frsize)
        assert abs(store.room.left() - expected) < 1024 * MIB
        assert store.room.left() <= int(total * 0.005)
    finally:
        store.close()
