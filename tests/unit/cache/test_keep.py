"""Small bodies take no more of the room than they take on disk."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mirror.cache.keep import keep
from mirror.errors import NoSpace, StoreError
from mirror.oci.digest import Digest
from mirror.store.room import on_disk
from tests.fakes.blobs import FakeBlobs
from tests.unit.cache.stores import MIB, opened, space_of

if TYPE_CHECKING:
    from pathlib import Path

BODY = b"{}" * 3000


async def test_a_body_is_kept_once_and_counted_once(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        before = store.room.balance()
        for _ in range(2):
            assert await keep(space_of(store), store.blobs, Digest.of(BODY), BODY) == on_disk(len(BODY)) == 8192
        after = store.room.balance()
        assert store.blobs.size(Digest.of(BODY)) == len(BODY)
        assert after.content - before.content == 8192
        assert after.held == before.held == 0


async def test_a_body_that_many_keep_at_once_is_counted_once(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as two:  # two tags of an image; each its empty list of referrers
        before = one.room.balance()
        kept = await asyncio.gather(
            *(keep(space_of(store), store.blobs, Digest.of(BODY), BODY) for store in (one, two) * 8)
        )
        after = one.room.balance()
        assert set(kept) == {8192}
        assert after.content - before.content == 8192
        assert after.held == before.held == 0
        assert [path.name for path in one.layout.fills.iterdir()] == []


async def test_what_the_disk_refuses_is_given_back(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        before = store.room.balance()
        blobs = FakeBlobs(store.layout)
        blobs.trouble = StoreError("the disk is full")
        with pytest.raises(StoreError):
            await keep(space_of(store), blobs, Digest.of(BODY), BODY)
        after = store.room.balance()
        assert (after.content, after.held, after.outstanding) == (before.content, 0, 0)


async def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path, max_size=MIB) as store:  # the directories alone take that
        with pytest.raises(NoSpace):
            await keep(space_of(store), store.blobs, Digest.of(BODY), BODY)
        assert store.room.balance().held == 0
