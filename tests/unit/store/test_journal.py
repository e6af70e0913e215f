"""The index and its journal are one: whichever is lost, or cut, is made again from the other."""

from __future__ import annotations

import os
import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest

from mirror.errors import StoreUnusable
from mirror.oci.digest import Digest
from mirror.oci.mediatype import OCI_MANIFEST
from mirror.oci.name import Repository
from mirror.store import changes, compaction, database, schema
from mirror.store.changes import (
    Linked,
    ListingSet,
    Named,
    Pinned,
    Removed,
    Stored,
    TagDropped,
    TagSet,
    Unpinned,
)
from mirror.store.index import SqliteIndex
from mirror.store.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.store.changes import Change
    from mirror.store.layout import Layout

APP, HUB = Repository("quay.io", "org/app"), Repository("docker.io", "library/app")
MANIFEST, LAYER, SIGNATURE = Digest.of(b"manifest"), Digest.of(b"layer"), Digest.of(b"signature", "sha512")
GONE = Digest.of(b"gone")
NAMES = tuple(Named(Digest.of(str(number).encode()), number) for number in range(1200))
HERE = (Stored(MANIFEST, 4096, 0.0, OCI_MANIFEST), Stored(LAYER, 4096, 0.0))
EVERYTHING: tuple[Change, ...] = (
    Linked(APP, MANIFEST, OCI_MANIFEST, public=True, names=(Named(LAYER, 42), Named(SIGNATURE, None))),
    Linked(APP, LAYER),
    Linked(HUB, MANIFEST, OCI_MANIFEST, names=NAMES),
    TagSet(APP, "v1", MANIFEST, 1.25),
    TagSet(APP, "v1", LAYER, 2.5),
    TagSet(HUB, "latest", MANIFEST, 1700000000.123),
    TagSet(HUB, "gone", MANIFEST, 3.0),
    TagDropped(HUB, "gone"),
    ListingSet(APP, MANIFEST, SIGNATURE, 4.0),
    Pinned(APP, "v1", 5.5),
    Pinned(HUB, str(MANIFEST), 6.0),
    Pinned(HUB, "latest", 6.0),
    Unpinned(HUB, "latest"),
    Linked(HUB, GONE),
    Removed((GONE, SIGNATURE)),
    ListingSet(APP, MANIFEST, SIGNATURE, 4.0),
)


def known(index: SqliteIndex) -> list[object]:
    """Everything that was said in `EVERYTHING`, as the index answers it."""
    digests = [MANIFEST, LAYER, SIGNATURE, GONE, *(named.digest for named in NAMES)]
    return [
        *(index.standing(repository, digest) for repository in (APP, HUB) for digest in digests),
        *(index.tag(repository, tag) for repository in (APP, HUB) for tag in ("v1", "latest", "gone")),
        *(index.tags(repository, limit=10) for repository in (APP, HUB)),
        index.repositories(limit=10),
        index.listing(APP, MANIFEST),
        index.listing(HUB, MANIFEST),
        *(index.pinned(APP, None, tag) for tag in ("v1", "latest")),
        *(index.pinned(HUB, MANIFEST, tag) for tag in ("v1", "latest")),
        index.pinned(HUB, LAYER, "latest"),
    ]


async def filled(layout: Layout) -> list[object]:
    index = SqliteIndex(layout)
    await index.apply(*HERE)
    for change in EVERYTHING:
        await index.apply(change)
    answer = known(index)
    index.close()
    return answer


def opened(layout: Layout) -> list[object]:
    index = SqliteIndex(layout)
    answer = known(index)
    index.close()
    return answer


@pytest.mark.parametrize("change", EVERYTHING)
def test_a_line_says_all_of_a_change(change: Change) -> None:
    assert "\n" not in changes.dump(change)
    assert changes.load(changes.dump(change)) == change


async def test_an_index_that_was_deleted_is_made_again_with_nothing_lost(layout: Layout) -> None:
    before = await filled(layout)
    layout.index.unlink()
    assert opened(layout) == before


def garbage(layout: Layout) -> None:
    layout.index.write_bytes(b"garbage " * 4096)


def cut_short(layout: Layout) -> None:
    layout.index.write_bytes(layout.index.read_bytes()[:5000])


def spoiled_inside(layout: Layout) -> None:
    body = bytearray(layout.index.read_bytes())
    for at in range(4096, len(body), 4096):
        body[at : at + 64] = b"\xff" * 64
    layout.index.write_bytes(bytes(body))


def spoiled_out_of_sight(layout: Layout) -> None:
    """Spoil a page that is not read until somebody asks for what it holds."""
    db = sqlite3.connect(layout.index)
    page = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'listing'").fetchone()[0]
    size = db.execute("PRAGMA page_size").fetchone()[0]
    db.close()
    with layout.index.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)


def emptied(layout: Layout) -> None:
    layout.index.write_bytes(b"")


@pytest.mark.parametrize("harm", [garbage, cut_short, spoiled_inside, spoiled_out_of_sight, emptied])
async def test_an_index_that_was_damaged_is_made_again_with_nothing_lost(
    layout: Layout, harm: Callable[[Layout], None]
) -> None:
    before = await filled(layout)
    harm(layout)
    assert opened(layout) == before
    assert opened(layout) == before


@pytest.mark.parametrize("rest", [None, b"", b"garbage\n", b'{"journal":1,"na'])
async def test_a_journal_that_was_lost_is_written_again_from_the_index(layout: Layout, rest: bytes | None) -> None:
    before = await filled(layout)
    layout.journal.unlink()
    if rest is not None:
        layout.journal.write_bytes(rest)
    assert opened(layout) == before
    layout.index.unlink()
    assert opened(layout) == before


async def test_a_journal_that_lost_its_end_is_written_again_from_the_index(layout: Layout) -> None:
    before = await filled(layout)
    layout.journal.write_bytes(layout.journal.read_bytes()[:-100])
    assert opened(layout) == before
    layout.index.unlink()
    assert opened(layout) == before


async def test_a_last_line_that_was_cut_does_no_harm_to_the_next(layout: Layout) -> None:
    before = await filled(layout)
    with layout.journal.open("ab") as file:
        file.write(changes.dump(Linked(APP, MANIFEST, names=NAMES)).encode()[:-20])
    assert opened(layout) == before
    index = SqliteIndex(layout)
    await index.apply(TagSet(APP, "next", MANIFEST, 5.0))
    index.close()
    assert layout.journal.read_bytes().endswith(b"}\n")
    layout.index.unlink()
    again = SqliteIndex(layout)
    assert again.tags(APP, limit=10) == ["next", "v1"]
    again.close()


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"{}",
        b"[]",
        b"null",
        b'{"ns":"a","repo":"b","do":"paint"}',
        b'{"ns":"a","repo":"b","do":"tag","tag":"\\ud800","digest":"sha256:' + b"0" * 64 + b'","at":1}',
        b'{"ns":"a","repo":"b","do":"tag","tag":"x","digest":"md5:0","at":1}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
async def test_a_line_that_cannot_be_read_costs_only_itself(layout: Layout, line: bytes) -> None:
    before = await filled(layout)
    whole = layout.journal.read_bytes().split(b"\n", 2)
    layout.journal.write_bytes(b"\n".join([*whole[:2], line, whole[2]]) + line + b"\n")
    layout.index.unlink()
    assert opened(layout) == before
    assert opened(layout) == before


async def test_lines_that_came_after_the_last_commit_are_caught_up_with(layout: Layout) -> None:
    """A crash between the journal and the commit, or a power cut that took the end of the index alone."""
    await filled(layout)
    with layout.journal.open("ab") as file:
        file.write(changes.dump(TagSet(APP, "late", LAYER, 9.0)).encode() + b"\n")
    index = SqliteIndex(layout)
    assert index.tags(APP, limit=10) == ["late", "v1"]
    index.close()


async def test_an_older_copy_of_the_index_catches_up(layout: Layout) -> None:
    await filled(layout)
    shutil.copy(layout.index, layout.root / "copy")
    index = SqliteIndex(layout)
    await index.apply(TagDropped(APP, "v1"), TagSet(APP, "v2", LAYER, 9.0))
    index.close()
    (layout.root / "copy").rename(layout.index)
    again = SqliteIndex(layout)
    assert again.tags(APP, limit=10) == ["v2"]
    again.close()


async def test_nothing_is_in_the_index_before_it_is_in_the_journal(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can be read can be answered, and must not be lost with the index."""
    db, claim = database.open_database(layout)
    database.write(db, Journal(layout.journal), HERE)
    reader = database.connect(layout)
    seen = []
    append = Journal.append

    def look(journal: Journal, new: tuple[Change, ...], position: int) -> int:
        seen.append(reader.execute("SELECT count(*) FROM tag").fetchone()[0])
        return append(journal, new, position)

    monkeypatch.setattr(Journal, "append", look)
    database.write(db, Journal(layout.journal), [TagSet(APP, "v1", MANIFEST, 1.0)])
    assert seen == [0]
    assert reader.execute("SELECT count(*) FROM tag").fetchone()[0] == 1
    reader.close()
    db.close()
    os.close(claim)


class RollsBack(sqlite3.Connection):
    """A connection whose commits fail as they do on a full disk: SQLite has rolled back by itself by then."""

    full = False

    def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        if sql == "COMMIT" and self.full:
            super().execute("ROLLBACK")
            raise sqlite3.OperationalError("database or disk is full")
        return super().execute(sql, *values)


async def test_what_sqlite_refused_and_rolled_back_by_itself_never_becomes_true(layout: Layout) -> None:
    before = await filled(layout)
    size = layout.journal.stat().st_size
    db = sqlite3.connect(layout.index, isolation_level=None, factory=RollsBack)
    db.full = True
    with pytest.raises(sqlite3.OperationalError, match="full"):
        database.write(db, Journal(layout.journal), [TagSet(APP, "never", LAYER, 9.0)])
    assert not db.in_transaction
    db.close()
    assert layout.journal.stat().st_size == size
    assert opened(layout) == before


async def test_an_index_of_a_newer_release_is_refused_and_left_alone(layout: Layout) -> None:
    await filled(layout)
    db = sqlite3.connect(layout.index)
    db.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}")
    db.close()
    body = layout.index.read_bytes()
    with pytest.raises(StoreUnusable, match="newer release; use that release, or another directory"):
        SqliteIndex(layout)
    assert layout.index.read_bytes() == body


def test_an_index_that_cannot_be_opened_is_refused_and_left_alone(layout: Layout) -> None:
    layout.index.mkdir()
    with pytest.raises(StoreUnusable, match="cannot be opened"):
        SqliteIndex(layout)
    assert layout.index.is_dir()


async def test_a_journal_of_overtaken_lines_is_written_anew_with_nothing_lost(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "GROWTH", 100_000)
    before = await filled(layout)
    index = SqliteIndex(layout)
    size = layout.journal.stat().st_size
    for number in range(100):
        await index.apply(*(TagSet(APP, "v1", MANIFEST, number) for _ in range(50)))
    await index.apply(TagSet(APP, "v1", LAYER, 2.5))
    assert index.compact()
    assert not index.compact()
    index.close()
    assert layout.journal.stat().st_size < 4 * size + 200_000
    assert opened(layout) == before
    layout.index.unlink()
    assert opened(layout) == before


async def test_ids_survive_a_journal_that_is_another(layout: Layout) -> None:
    """Open connections remember ids: one that changed would show one repository what belongs to another."""
    await filled(layout)
    index = SqliteIndex(layout)
    assert index.standing(HUB, MANIFEST).linked
    journal = Journal(layout.journal)
    journal.replace([Linked(Repository("quay.io", "first"), SIGNATURE), Linked(HUB, LAYER)])
    await index.apply(Linked(Repository("quay.io", "second"), SIGNATURE))
    assert not index.standing(HUB, MANIFEST).linked
    assert not index.standing(HUB, SIGNATURE).linked
    assert index.standing(HUB, LAYER).linked
    assert index.repositories(limit=10) == ["docker.io/library/app", "quay.io/first", "quay.io/second"]
    index.close()
