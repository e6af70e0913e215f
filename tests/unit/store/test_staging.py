"""Content that is carried in: all of it is there at the end, or none, and the room is told of every byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirror.errors import StoreError
from mirror.oci.digest import Digest
from mirror.store.leftovers import Leftovers
from mirror.store.room import Room, on_disk
from mirror.store.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.store.layout import Layout

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
    staged.write(body)
    staging.wrote(len(body))
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


def test_what_is_being_brought_is_nobody_elses_to_take(layout: Layout, room: Room) -> None:
    staging = bring(layout, room)
    assert Leftovers(layout, room).clear(1, before=float("inf")) == 0
    second = Staging(layout, room)
    with pytest.raises(StoreError, match="held by another process"):
        second.open(DIGEST)
    staging.withdraw()
    staging.close()
