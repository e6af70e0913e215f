"""Writing the journal anew takes nobody's time, room that is there, and nothing from what it says."""

from __future__ import annotations

import asyncio
import fcntl
from typing import TYPE_CHECKING

import pytest

from mirror.errors import NoSpace
from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from mirror.store import compaction
from mirror.store.changes import Linked, Pinned, Removed, Stored, TagDropped, TagSet, Used
from mirror.store.index import SqliteIndex
from mirror.store.journal import Journal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mirror.store.layout import Layout

APP, OTHER = Repository("quay.io", "org/app"), Repository("quay.io", "org/other")
DIGEST, GONE = Digest.of(b"x"), Digest.of(b"gone")


class Room:
    def __init__(self, size: int) -> None:
        self.size = size

    def reserve(self, size: int) -> None:
        if size > self.size:
            raise NoSpace("no room")
        self.size -= size

    def release(self, size: int) -> None:
        self.size += size


@pytest.fixture
async def index(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqliteIndex]:
    monkeypatch.setattr(compaction, "GROWTH", 1000)
    opened = SqliteIndex(layout)
    await opened.apply(Stored(DIGEST, 1, 1.0), Stored(GONE, 1, 1.0), Linked(APP, DIGEST))
    for number in range(20):
        await opened.apply(TagSet(APP, "v1", DIGEST, number), TagSet(OTHER, "v1", DIGEST, number))
    yield opened
    opened.close()


def told(index: SqliteIndex) -> list[object]:
    return [
        *((index.tags(where, limit=100), index.tag(where, "v1")) for where in (APP, OTHER)),
        *(index.standing(APP, digest) for digest in (DIGEST, GONE)),
        index.pinned(APP, None, "v1"),
    ]


async def test_what_is_written_meanwhile_is_in_the_new_journal_too(
    index: SqliteIndex, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what overtakes a fact that was read already, or that is still to be read."""
    recorded, loop = compaction.recorded_of, asyncio.get_running_loop()
    meanwhile = [
        (TagDropped(APP, "v1"), TagSet(OTHER, "v1", DIGEST, 99.0), TagSet(OTHER, "new", GONE, 1.0), Linked(APP, GONE)),
        (TagSet(APP, "late", DIGEST, 99.0), Pinned(APP, "v1", 1.0), Removed((GONE,)), TagDropped(OTHER, "v1")),
    ]

    def slowly(*what: object) -> object:
        yield from recorded(*what)
        if meanwhile:
            asyncio.run_coroutine_threadsafe(index.apply(*meanwhile.pop(0)), loop).result()

    monkeypatch.setattr(compaction, "recorded_of", slowly)
    before = layout.journal.stat().st_size
    assert await asyncio.to_thread(index.compact)
    assert not meanwhile
    assert layout.journal.stat().st_size < before / 2
    await index.apply(TagSet(APP, "after", DIGEST, 1.0))
    known = told(index)
    index.close()
    layout.index.unlink()
    again = SqliteIndex(layout)
    assert told(again) == known
    assert again.tags(APP, limit=9) == ["after", "late"]
    again.close()


async def test_a_store_that_is_full_keeps_the_old_journal_until_later(index: SqliteIndex, layout: Layout) -> None:
    before, room = layout.journal.read_bytes(), Room(10)
    with pytest.raises(NoSpace):
        index.compact(room)
    assert room.size == 10
    assert layout.journal.read_bytes() == before
    assert not layout.journal.with_name("journal.v1.new").exists()
    room = Room(10_000)
    assert index.compact(room)
    assert room.size == 10_000


async def test_two_processes_do_not_write_the_same_new_journal(index: SqliteIndex, layout: Layout) -> None:
    aside = layout.journal.with_name("journal.v1.new")
    with aside.open("wb") as file:
        file.write(b"half of a line")
        file.flush()
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        assert not index.compact()
        assert aside.read_bytes() == b"half of a line"
        assert told(index)[0][0] == ["v1"]  # type: ignore[index]
    assert index.compact()  # a crash left it behind
    assert not aside.exists()
    assert not index.compact()


async def test_a_journal_that_was_lost_meanwhile_is_not_brought_back(
    index: SqliteIndex, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, loop = compaction.recorded_of, asyncio.get_running_loop()

    def lose(*what: object) -> object:
        yield from recorded(*what)
        layout.journal.unlink(missing_ok=True)
        asyncio.run_coroutine_threadsafe(index.apply(TagDropped(OTHER, "v1")), loop).result()

    monkeypatch.setattr(compaction, "recorded_of", lose)
    assert not await asyncio.to_thread(index.compact)
    index.close()
    layout.index.unlink()
    again = SqliteIndex(layout)
    assert again.tags(APP, limit=9) == ["v1"]
    assert again.tags(OTHER, limit=9) == []
    again.close()


async def test_facts_of_the_disk_cost_the_journal_nothing(
    index: SqliteIndex, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.close()  # it syncs what was written
    synced: list[Journal] = []

    def sync(journal: Journal) -> None:
        synced.append(journal)

    monkeypatch.setattr(Journal, "sync", sync)
    before = layout.journal.stat()
    again = SqliteIndex(layout)
    await again.apply(Used(APP, DIGEST, 50.0), Stored(DIGEST, 1, 1.0))
    again.close()
    after = layout.journal.stat()
    assert (after.st_size, after.st_mtime_ns, synced) == (before.st_size, before.st_mtime_ns, [])


async def test_the_log_of_the_index_stays_small(index: SqliteIndex, layout: Layout) -> None:
    wal = layout.index.with_name("index.sqlite-wal")
    largest = 0
    for number in range(400):
        digests = [Digest.of(f"{number} {part}".encode()) for part in range(3)]
        await index.apply(*(Stored(digest, 1, 1.0) for digest in digests), *(Linked(APP, one) for one in digests))
        largest = max(largest, wal.stat().st_size)
    assert 0 < largest <= 1024 * 1024 + 64 * 1024
