from __future__ import annotations

import os
import shutil
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from mirror.config import StorageConfig
from mirror.config.units import Size
from mirror.errors import NoSpace, StoreError, StoreUnusable
from mirror.oci.digest import Digest
from mirror.store.layout import Layout
from mirror.store.room import Room
from mirror.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1024 * 1024


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A disk of 1000 MiB, of which 500 are free."""
    stat = SimpleNamespace(f_bavail=500, f_blocks=1000, f_frsize=MIB, f_flag=0)
    monkeypatch.setattr(os, "statvfs", lambda _path: stat)
    return stat


@pytest.fixture
def opened(layout: Layout) -> Iterator[Callable[..., Room]]:
    """Open the room of the layout, as each process does."""
    rooms = []

    def one(max_size: int = 1000 * MIB, min_free: int = 0, high: float = 1.0, low: float = 1.0) -> Room:
        rooms.append(Room(layout, max_size=max_size, min_free=min_free, high=high, low=low))
        return rooms[-1]

    yield one
    for room in rooms:
        room.close()


def blocks(top: Path) -> int:
    """Count as `du -s --block-size=1` does."""
    return sum(path.lstat().st_blocks for path in (top, *top.rglob("*"))) * 512


@pytest.mark.usefixtures("disk")
def test_the_cap_is_hard(opened: Callable[..., Room]) -> None:
    room = opened(100 * MIB)
    before, left = room.used, room.left()
    room.reserve(left - 40 * MIB)
    assert room.left() == 40 * MIB
    with pytest.raises(NoSpace, match=r"room for 41943040 bytes more and 41943041 are needed; raise storage\.max_size"):
        room.reserve(40 * MIB + 1)
    assert room.used == before + left - 40 * MIB, "what was refused takes nothing"
    room.reserve(40 * MIB)
    assert room.left() == 0
    assert room.used < room.cap == 100 * MIB


def test_a_new_store_takes_what_du_counts(layout: Layout, opened: Callable[..., Room]) -> None:
    layout.index.write_bytes(bytes(MIB))
    layout.journal.write_bytes(bytes(MIB))
    (layout.root / "index.sqlite.damaged").write_bytes(bytes(MIB))
    room = opened()
    room.recount(0)
    assert room.used == blocks(layout.root)
    assert room.used >= 3 * MIB


@pytest.mark.usefixtures("disk")
def test_the_index_counts_as_it_grows(layout: Layout, opened: Callable[..., Room]) -> None:
    room = opened()
    before, left = room.used, room.left()
    layout.index.write_bytes(bytes(MIB))
    layout.journal.write_bytes(bytes(MIB))
    assert room.used == before + 2 * MIB
    assert room.left() in (left, left - 2 * MIB), "the disk, or the cap, whichever is less"


def test_what_others_make_beside_the_content_is_seen_soon(
    layout: Layout, opened: Callable[..., Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = opened()
    before = room.used
    layout.recent.write_bytes(bytes(MIB))
    for number in range(200):  # enough that the directory grows, where that takes blocks
        layout.part(Digest.of(b"%d" % number)).touch()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1.5)
    assert room.used == blocks(layout.root) >= before + MIB


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize(("cap", "margin"), [(8 * MIB, MIB), (16 * MIB, 2 * MIB), (400 * MIB, 2 * MIB)])
def test_what_may_be_reserved_leaves_the_index_room_to_grow(cap: int, margin: int, opened: Callable[..., Room]) -> None:
    room = opened(cap)
    assert room.left() == cap - room.used - margin


@pytest.mark.usefixtures("disk")
def test_what_must_stay_free_stays_free(opened: Callable[..., Room], disk: SimpleNamespace) -> None:
    room = opened(10_000 * MIB, 450 * MIB)
    assert room.left() == 48 * MIB
    room.reserve(30 * MIB)
    assert room.left() == 18 * MIB
    room.landed(30 * MIB)  # the disk counts it itself now
    disk.f_bavail -= 30
    assert room.left() == 18 * MIB
    disk.f_bavail = 100  # somebody else has filled the disk
    assert room.left() == 0
    with pytest.raises(NoSpace):
        room.reserve(1)


def test_what_another_process_has_reserved_is_not_free(opened: Callable[..., Room], disk: SimpleNamespace) -> None:
    one, other = opened(10_000 * MIB, 450 * MIB), opened(10_000 * MIB, 450 * MIB)
    one.reserve(30 * MIB)
    assert other.left() == 18 * MIB
    with pytest.raises(NoSpace):
        other.reserve(20 * MIB)
    one.landed(30 * MIB)
    disk.f_bavail -= 30
    assert other.left() == 18 * MIB


@pytest.mark.usefixtures("disk")
def test_what_is_released_can_be_reserved_again(opened: Callable[..., Room]) -> None:
    room = opened(100 * MIB)
    before = room.used
    for _ in range(3):
        room.reserve(90 * MIB)
        room.landed(90 * MIB)
        room.release(90 * MIB)
    assert room.used == before
    assert (room.balance().held, room.balance().outstanding, room.balance().content) == (0, 0, 0)


@pytest.mark.usefixtures("disk")
def test_what_is_given_back_before_it_landed_is_not_waited_for(opened: Callable[..., Room]) -> None:
    room = opened(100 * MIB)
    room.reserve(10 * MIB)
    room.release(10 * MIB)
    assert room.balance().outstanding == 0


@pytest.mark.usefixtures("disk")
def test_what_is_kept_outlives_its_process_and_is_found_and_freed_by_others(opened: Callable[..., Room]) -> None:
    room = opened(100 * MIB)
    before = room.used
    room.reserve(30 * MIB)
    room.landed(30 * MIB)
    room.keep(20 * MIB)
    room.release(10 * MIB)
    room.close()
    other = opened(100 * MIB)
    assert other.used == before + 20 * MIB
    other.found(20 * MIB)
    assert (other.balance().content, other.balance().held) == (0, 20 * MIB)
    other.keep(20 * MIB)
    other.freed(20 * MIB)
    assert other.used == before


@pytest.mark.usefixtures("disk")
def test_the_cap_is_what_the_disk_has_where_that_is_less(opened: Callable[..., Room]) -> None:
    room = opened(10_000 * MIB, 100 * MIB)
    before = room.used
    assert room.cap == before + 400 * MIB
    room.reserve(100 * MIB)
    assert room.cap == before + 400 * MIB, "what is reserved comes from what is free"


@pytest.mark.usefixtures("disk")
def test_past_the_high_water_mark_there_is_an_excess_down_to_the_low_one(opened: Callable[..., Room]) -> None:
    room = opened(100 * MIB, high=0.9, low=0.5)
    room.reserve(90 * MIB - room.used)
    assert room.excess() == 0
    room.reserve(1)
    assert room.excess() == 40 * MIB + 1
    room.release(40 * MIB + 1)
    assert room.excess() == 0


@pytest.mark.usefixtures("disk")
def test_an_index_that_has_grown_into_the_margin_is_an_excess(layout: Layout, opened: Callable[..., Room]) -> None:
    room = opened(100 * MIB)
    room.reserve(room.left())
    assert room.excess() == 0
    layout.index.write_bytes(bytes(MIB))
    assert room.excess() == MIB


def test_a_disk_that_others_fill_is_an_excess(opened: Callable[..., Room], disk: SimpleNamespace) -> None:
    room = opened(10_000 * MIB, 100 * MIB)
    room.reserve(200 * MIB)
    room.landed(200 * MIB)
    disk.f_bavail = 90
    assert room.cap == room.used - 10 * MIB
    assert room.excess() == 12 * MIB, "the margin, too"


@pytest.mark.usefixtures("disk")
def test_other_limits_hold_at_once(opened: Callable[..., Room]) -> None:
    room = opened(400 * MIB)
    room.reserve(50 * MIB)
    room.resize(40 * MIB, 0, 0.9, 0.5)
    assert room.cap == 40 * MIB
    assert room.left() == 0
    assert room.excess() == room.used - 20 * MIB
    room.resize(400 * MIB, 0)
    assert room.excess() == 0


@pytest.mark.usefixtures("disk")
def test_a_count_corrects_the_book_though_content_comes_and_goes_meanwhile(opened: Callable[..., Room]) -> None:
    one, other = opened(), opened()
    one.reserve(30 * MIB)
    one.keep(10 * MIB)  # of which nothing is on disk
    since = other.balance()
    one.keep(20 * MIB)
    one.freed(5 * MIB)
    other.recount(1 * MIB, since)
    assert other.balance().content == 16 * MIB
    assert not other.dirty
    other.recount(2 * MIB)
    assert one.balance().content == 2 * MIB


@pytest.mark.usefixtures("disk")
def test_a_room_that_is_closed_says_so(opened: Callable[..., Room]) -> None:
    room = opened()
    room.close()
    room.close()
    with pytest.raises(StoreError, match="the mirror is stopping"):
        room.reserve(1)


def test_a_directory_that_vanishes_is_told_as_such(layout: Layout, opened: Callable[..., Room]) -> None:
    room = opened()
    room.reserve(MIB)
    shutil.rmtree(layout.root)
    for call in (lambda: room.reserve(1), room.left, room.excess, lambda: room.used, lambda: room.dirty):
        with pytest.raises(StoreError, match="was taken away or replaced while the mirror ran: bring the directory"):
            call()
    room.release(MIB)
    Layout(layout.root)
    opened()  # another one in its place is not the one that was counted
    with pytest.raises(StoreError, match="taken away or replaced"):
        room.reserve(1)


def test_a_book_that_cannot_be_written_changes_nothing(
    opened: Callable[..., Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = opened()
    room.reserve(3 * MIB)
    before = room.balance()

    def refuse(*_: object) -> int:
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(os, "pwrite", refuse)
    for call in (room.reserve, room.landed, room.release, room.keep, room.found, room.freed, room.recount):
        with pytest.raises(StoreError, match="Read-only file system; see whether the disk is read-only or broken"):
            call(MIB)
    monkeypatch.undo()
    assert room.balance() == before


def test_a_book_that_may_not_be_opened_is_told_with_what_to_do(layout: Layout, opened: Callable[..., Room]) -> None:
    layout.room.mkdir()
    with pytest.raises(StoreUnusable, match=r"room\.v2 cannot be opened: Is a directory; see who owns it"):
        opened()


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
