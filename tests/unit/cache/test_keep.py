"""Small bodies take no more of the room than they take on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirror.cache.keep import keep
from mirror.errors import NoSpace, StoreError
from mirror.oci.digest import Digest
from mirror.store.layout import Layout
from mirror.store.room import Room, on_disk
from tests.fakes.blobs import FakeBlobs

if TYPE_CHECKING:
    from pathlib import Path

BODY = b"{}" * 3000


async def test_a_body_is_kept_once_and_counted_once(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    room, blobs = Room(layout, max_size=10**9, min_free=0), FakeBlobs(layout)
    for _ in range(2):
        await keep(blobs, room, Digest.of(BODY), BODY)
    assert blobs.size(Digest.of(BODY)) == len(BODY)
    assert room.used == on_disk(len(BODY)) == 8192


async def test_what_the_disk_refuses_is_given_back(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    room, blobs = Room(layout, max_size=10**9, min_free=0), FakeBlobs(layout)
    before = room.left()
    blobs.trouble = StoreError("the disk is full")
    with pytest.raises(StoreError):
        await keep(blobs, room, Digest.of(BODY), BODY)
    assert room.used == 0
    assert abs(room.left() - before) < 10**7  # nothing stays reserved; the disk is shared with others


async def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    room = Room(layout, max_size=5000, min_free=0)
    with pytest.raises(NoSpace):
        await keep(FakeBlobs(layout), room, Digest.of(BODY), BODY)
    assert room.used == 0
