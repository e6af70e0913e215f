"""Content that is carried in: all of it is there at the end, or none, and the room is told of every byte."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mirror.errors import StoreError
from mirror.oci.digest import Digest
from mirror.store.direct import RUN, DirectFile, buffer
from mirror.store.leftovers import Leftovers
from mirror.store.locks import share
from mirror.store.part import PartFile
from mirror.store.room import Room, on_disk
from mirror.store.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirror.store.layout import Layout

MIB = 1024 * 1024
BODY = b"content " * 4000
DIGEST = Digest.of(BODY)


@pytest.fixture
def room(layout: Layout) -> Iterator[Room]:
    opened = Room(layout, max_size=64 * 1024 * 1024, min_free=0)
    yield opened
    opened.close()


def counted(room: Room) -> tuple[int, int, int]:
    balance = room.balance()
    return balance.content, balance.held, balance.outstanding


def bring(layout: Layout, room: Room, body: bytes = BODY) -> Staging:
    """Reserve for it, and stage it."""
    staging = Staging(layout, room)
    size = max(0, on_disk(len(BODY)) - staging.left(DIGEST))
    room.reserve(size)
    staging.reserved(size)
    staged = staging.open(DIGEST)
    staging.write(staged, body)
    if body == BODY:
        staged.end(DIGEST)
    return staging


def test_what_is_committed_is_content_and_counted_so(layout: Layout, room: Room) -> None:
    staging = bring(layout, room)
    assert not layout.blob(DIGEST).exists()
    taken = staging.commit()
    staging.settle()
    staging.close()
    path = layout.blob(DIGEST)
    assert path.read_bytes() == BODY
    assert path.stat().st_mode & 0o777 == 0o444
    assert taken == {DIGEST: path.stat().st_blocks * 512}
    assert counted(room) == (taken[DIGEST], 0, 0)


@pytest.mark.parametrize("committed", [False, True])
def test_what_is_withdrawn_was_never_there(committed: bool, layout: Layout, room: Room) -> None:
    staging = bring(layout, room)
    if committed:
        staging.commit()
    staging.withdraw()
    staging.close()
    assert not layout.blob(DIGEST).exists()
    assert list(layout.fills.iterdir()) == []
    assert counted(room) == (0, 0, 0)


def test_what_is_left_is_gone_on_from_and_counted_once(layout: Layout, room: Room) -> None:
    staging = bring(layout, room, BODY[:20_000])
    staging.leave()
    staging.close()
    [left] = layout.fills.iterdir()
    inode = left.stat().st_ino
    assert counted(room) == (left.stat().st_blocks * 512, 0, 0)
    assert Leftovers(layout, room).taken() == left.stat().st_blocks * 512

    staging = bring(layout, room)
    taken = staging.commit()
    staging.settle()
    staging.close()
    assert layout.blob(DIGEST).read_bytes() == BODY
    assert layout.blob(DIGEST).stat().st_ino == inode
    assert counted(room) == (taken[DIGEST], 0, 0)


def test_what_was_left_and_is_wrong_is_written_anew(layout: Layout, room: Room) -> None:
    (layout.fills / f"sha256-{DIGEST.hex}.carried").write_bytes(b"x" * (len(BODY) + 5000))
    room.keep(on_disk(len(BODY) + 5000))
    staging = bring(layout, room)
    staging.commit()
    staging.settle()
    staging.close()
    assert layout.blob(DIGEST).read_bytes() == BODY


def test_what_another_one_brought_meanwhile_is_counted_by_that_one(layout: Layout, room: Room) -> None:
    staging = bring(layout, room)
    layout.blob(DIGEST).write_bytes(BODY)
    taken = staging.commit()
    staging.settle()
    staging.close()
    assert taken == {DIGEST: layout.blob(DIGEST).stat().st_blocks * 512}
    assert counted(room) == (0, 0, 0)
    assert list(layout.fills.iterdir()) == []


def test_what_a_fill_puts_in_its_place_stays_and_is_counted_once(layout: Layout, room: Room) -> None:
    staging = bring(layout, room)
    staging.commit()
    part = PartFile(layout, DIGEST)
    assert part.try_lock()
    part.begin(len(BODY))
    room.reserve(part.allocated())
    part.write(BODY, 0, (0, len(BODY)))
    room.freed(part.commit(len(BODY)))
    room.keep(part.stored())
    part.close()
    staging.withdraw()
    staging.close()
    assert layout.blob(DIGEST).read_bytes() == BODY
    content, held, _ = counted(room)
    assert held == on_disk(len(BODY) + 1024) - on_disk(len(BODY))  # of the fill's map
    assert content == layout.blob(DIGEST).stat().st_blocks * 512


def test_what_somebody_has_begun_to_use_is_not_withdrawn(layout: Layout, room: Room) -> None:
    staging = bring(layout, room)
    staging.commit()
    with layout.blob(DIGEST).open("rb") as file:
        assert share(file.fileno())
        staging.withdraw()
    staging.close()
    assert layout.blob(DIGEST).exists()
    assert counted(room) == (layout.blob(DIGEST).stat().st_blocks * 512, 0, 0)


def test_what_nobody_could_go_on_with_is_not_left(layout: Layout, room: Room) -> None:
    room.reserve(on_disk(len(BODY)))
    staging = Staging(layout, room)
    staging.reserved(on_disk(len(BODY)))
    staged = staging.open(None, len(BODY))
    staging.write(staged, BODY)
    staging.leave()
    staging.close()
    assert list(layout.fills.iterdir()) == []
    assert counted(room) == (0, 0, 0)


def test_what_is_compared_with_an_earlier_run_does_not_land_again(layout: Layout, room: Room) -> None:
    staging = bring(layout, room, BODY[:16_384])
    staging.leave()
    staging.close()
    staging = Staging(layout, room)
    room.reserve(16_384)
    staging.reserved(16_384)
    staging.write(staging.open(DIGEST), BODY[:16_384])
    assert counted(room)[2] == 16_384  # the disk has to have it yet
    staging.withdraw()
    staging.close()


@pytest.mark.parametrize("left", [0, 3 * MIB, 3 * MIB + 1])
def test_what_is_large_goes_past_the_page_cache_to_the_same_end(left: int, layout: Layout, room: Room) -> None:
    body = os.urandom(6 * MIB + 12_345)
    digest = Digest.of(body)
    (layout.fills / f"sha256-{digest.hex}.carried").write_bytes(body[:left])
    room.reserve(on_disk(left))
    room.landed(on_disk(left))
    room.keep(on_disk(left))
    staging = Staging(layout, room)
    need = on_disk(len(body)) - staging.left(digest)
    room.reserve(need)
    staging.reserved(need)
    staged = staging.open(digest, len(body))
    for at in range(0, len(body), MIB):
        staging.write(staged, body[at : at + MIB])
    staged.end(digest)
    staging.commit()
    staging.settle()
    staging.close()
    assert layout.blob(digest).read_bytes() == body
    assert counted(room) == (layout.blob(digest).stat().st_blocks * 512, 0, 0)


def test_a_file_system_that_knows_no_other_way_is_written_through_the_page_cache(tmp_path: Path) -> None:
    path = tmp_path / "file"
    body = os.urandom(RUN + 5)
    path.write_bytes(b"x")
    with path.open("r+b") as plain:
        file = DirectFile(path, plain.fileno(), 1, buffer())  # no place where one can write directly
        assert file.write(body) == RUN
        assert file.flush() == 5
        file.close()
    assert path.read_bytes() == b"x" + body


def test_what_is_being_brought_is_nobody_elses_to_take(layout: Layout, room: Room) -> None:
    staging = bring(layout, room)
    assert Leftovers(layout, room).clear(1, before=float("inf")) == 0
    second = Staging(layout, room)
    with pytest.raises(StoreError, match="held by another process"):
        second.open(DIGEST)
    staging.withdraw()
    staging.close()
