"""Looking through the disk: afterwards what is on it and what the index says of it agree.

It goes beside a serving mirror, in a thread, shelf by shelf, and holds a few thousand names at a time. What differs is
looked at once more under the lock on names (`mirror.store.locks`), within the transaction that changes the index, so
that nothing is misjudged that comes or goes meanwhile.

The account book. Every use of the store changes the book and the index by the same bytes. So once the index and the
disk agree they go on agreeing, however long the survey takes, and the book is compared with the index at a moment when
nobody has told the one and not yet the other (`locks.quiet`).
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import structlog

from mirror.errors import StoreError
from mirror.oci.name import Repository
from mirror.store import damage
from mirror.store.changes import Lost, Removed, Stored, TagDropped
from mirror.store.database import connect, transaction, write
from mirror.store.journal import Journal
from mirror.store.locks import naming, quiet, unnaming
from mirror.store.packing import pack, unpack
from mirror.store.recognition import Damaged, recognize, taken_by
from mirror.store.refusal import refusal
from mirror.store.shelves import compare, shelves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mirror.oci.digest import Digest
    from mirror.store.book import Balance
    from mirror.store.changes import Change
    from mirror.store.shelves import Shelf
    from mirror.store.store import Store

T = TypeVar("T")

log = structlog.get_logger(__name__)

_BATCH = 1024  # files, or rows, that one transaction writes of
_PATIENCE = 2.0  # seconds until all have told index and book what they did; nobody can store anything meanwhile
_AHEAD = 60.0  # seconds that a clock may differ
_LONG = 1.0  # seconds

_LOST = "CREATE TEMP TABLE lost (id INTEGER PRIMARY KEY, digest BLOB NOT NULL)"
_HERE = "SELECT 1 FROM node WHERE digest = ? AND taken IS NOT NULL"
_TAKEN = "SELECT taken FROM node WHERE digest = ? AND taken IS NOT NULL"
# Content that is not here, that nothing here needs, and that is not pinned.
_FORGOTTEN = """
SELECT 1 FROM node WHERE digest = ? AND taken IS NULL AND NOT pinned
AND NOT EXISTS (SELECT 1 FROM edge JOIN node AS parent ON parent.id = edge.parent
                WHERE edge.child = node.id AND parent.taken IS NOT NULL)
"""
_EMPTY_TAGS = """
SELECT tag.repository, tag.tag, repository.path, tag.digest FROM tag
JOIN repository ON repository.id = tag.repository LEFT JOIN node ON node.digest = tag.digest
WHERE node.taken IS NULL AND (tag.repository, tag.tag) > (?, ?) ORDER BY tag.repository, tag.tag LIMIT ?
"""


class Interrupted(Exception):
    """Somebody asked it to stop. What it has put right up to then stays so."""


@dataclass(slots=True)
class SurveyResult:
    """What a survey has found and put right."""

    contents: int = 0  # files of content on disk
    taken: int = 0  # bytes that they take there
    found: int = 0  # files that the index did not know
    lost: int = 0  # rows of the index without a file
    damaged: int = 0  # manifests that are not what their digests say: they are aside now
    thrown_away: int = 0  # files that were no content, or empty, or left unfinished long ago
    forgotten: int = 0  # lost content that nothing here needs: its tags and links are gone
    tags_dropped: int = 0  # tags of manifests that are not here
    book_off_by: int = 0  # bytes that the account book said too much (below zero: too little)
    seconds: float = 0.0

    @property
    def remarkable(self) -> bool:
        """Whether anything was put right, or it took long enough to be noticed."""
        fine = replace(self, contents=0, taken=0, seconds=0.0) == SurveyResult()
        return not fine or self.seconds > _LONG


class Survey:
    """One look through one store. `run` blocks for as long as it takes: call it in a thread."""

    def __init__(self, store: Store, *, progress: Callable[[float], None] | None = None, idle: float = 0.0) -> None:
        """`progress` hears how much is done, from 0 to 1; `idle` is its rest after each shelf, in parts of its work."""
        self._store = store
        self._layout = store.layout
        self._progress = progress
        self._idle = idle
        self._stop = threading.Event()
        self._journal = Journal(store.layout.journal)
        self._result = SurveyResult()

    def stop(self) -> None:
        """Ask it to end soon, from any thread; `run` then raises `Interrupted`."""
        self._stop.set()

    def run(self) -> SurveyResult:
        """Make disk, index and account book agree. Raise `StoreError` where the disk refuses, or `Interrupted`."""
        started = time.monotonic()
        try:
            with closing(connect(self._layout)) as db:
                self._run(db)
        except OSError as error:
            raise refusal(self._layout.root, error) from error
        except sqlite3.Error as error:
            raise damage.refusal(self._layout, error) from error
        self._result.seconds = round(time.monotonic() - started, 3)
        return self._result

    def _run(self, db: sqlite3.Connection) -> None:
        begun = self._store.room.balance()
        home = self._layout.blobs.stat()
        db.execute(_LOST)
        self._result.thrown_away += self._store.leftovers.sweep()
        self._store.aside.tidy()
        every = shelves(self._layout, db)
        for number, shelf in enumerate(every):
            start = time.monotonic()
            self._shelf(db, shelf, home)
            if self._progress is not None:
                self._progress((number + 1) / len(every))
            self._rest((time.monotonic() - start) * self._idle)
        self._forget(db)
        self._drop_tags(db)
        self._set_clock(db)
        self._store.graph.mark_surveyed()
        self._balance(db, begun)

    # --- one shelf -----------------------------------------------------------------------------------------------

    def _shelf(self, db: sqlite3.Connection, shelf: Shelf, home: os.stat_result) -> None:
        found = compare(shelf, self._layout, db)
        self._result.contents += found.contents
        self._result.taken += found.taken
        for path in found.strange:
            self._throw_away(Path(path), "it is no content")
        for digest in found.torn:
            self._throw_away(self._layout.blob(digest), "it is empty")
        directory = os.fspath(shelf.path(self._layout))
        for some in _batches(found.unknown):
            self._add(db, directory, some)
        for resized in _batches(found.resized):
            # At no time: it was not used.
            self._write(db, partial(_resized, db, [Stored(digest, taken, 0.0) for digest, taken in resized]))
        for missing in _batches(found.missing):
            self._lose(db, missing, home)

    def _add(self, db: sqlite3.Connection, directory: str, files: list[tuple[Digest, os.stat_result]]) -> None:
        """Tell the index of files that it does not know. The paths are text here: there may be a million."""
        facts = []
        for digest, status in files:
            self._rest()
            try:
                facts.append(recognize(db, digest, f"{directory}/{digest.hex}", status))
            except FileNotFoundError:
                continue
            except Damaged:
                self._result.damaged += self._store.aside.take(digest, status)

        def unknown() -> Iterable[Change]:
            new = (fact for fact in facts if not _here(db, fact.digest))
            return [fact for fact in new if os.path.exists(f"{directory}/{fact.digest.hex}")]  # noqa: PTH110  # see above

        with naming(self._layout):  # whoever evicts has not begun, or is done
            self._result.found += self._write(db, unknown)

    def _lose(self, db: sqlite3.Connection, keys: list[bytes], home: os.stat_result) -> None:
        """Tell the index of what has no file."""
        self._rest()
        with unnaming(self._layout):  # nobody gives it one before the index has it as lost
            if not os.path.samestat(self._layout.blobs.stat(), home):
                raise StoreError(
                    f"the store {self._layout.root} was unmounted or replaced while it was looked through; "
                    "bring the disk back, then restart the mirror"
                )
            gone = [unpack(key) for key in keys if not self._layout.blob(unpack(key)).exists()]
            self._result.lost += self._write(db, lambda: [Lost(digest) for digest in gone if _here(db, digest)])
        db.executemany("INSERT INTO lost (digest) VALUES (?)", [(pack(digest),) for digest in gone])

    def _throw_away(self, path: Path, reason: str) -> None:
        with unnaming(self._layout):
            try:
                status = path.lstat()
                if reason == "it is empty" and status.st_size:
                    return  # it has come back meanwhile
                path.unlink()
            except FileNotFoundError:
                return
            except (IsADirectoryError, PermissionError) as error:
                log.warning("what does not belong into the store stays", path=str(path), error=error.strerror)
                return
            self._store.room.freed(taken_by(status))
        self._result.thrown_away += 1
        log.warning("a file in the store is thrown away", path=str(path), reason=reason, bytes=status.st_size)

    # --- the whole -----------------------------------------------------------------------------------------------

    def _forget(self, db: sqlite3.Connection) -> None:
        """Forget what was lost, what nothing here needs, and what nobody is about to heal."""
        healing = set(self._store.aside.waiting())
        at = 0
        while rows := db.execute("SELECT id, digest FROM lost WHERE id > ? LIMIT ?", (at, _BATCH)).fetchall():
            self._rest()
            at = rows[-1][0]
            keys = [key for _, key in rows if unpack(key) not in healing]
            self._result.forgotten += self._write(db, partial(_forgotten, db, keys))

    def _drop_tags(self, db: sqlite3.Connection) -> None:
        """Drop the tags of manifests that are not here: nobody could be served them."""
        healing = set(self._store.aside.waiting())

        at = (-1, "")
        while rows := db.execute(_EMPTY_TAGS, (*at, _BATCH)).fetchall():
            self._rest()
            self._result.tags_dropped += self._write(db, partial(_empty_tags, db, at, healing))
            at = rows[-1][:2]

    def _set_clock(self, db: sqlite3.Connection) -> None:
        """See that nothing was used in the future: it would be the last to go until then."""
        now = time.time()
        if db.execute("SELECT 1 FROM node WHERE used > ? LIMIT 1", (now + _AHEAD,)).fetchone() is not None:
            with transaction(db):
                db.execute("UPDATE node SET used = ?1 WHERE used > ?1", (now,))

    def _balance(self, db: sqlite3.Connection, begun: Balance) -> None:
        """Make the account book right; see the top of the module."""
        room = self._store.room
        with quiet(self._layout, _PATIENCE) as alone:
            there = db.execute("SELECT taken FROM total").fetchone()[0]
            there += self._store.aside.taken() + self._store.leftovers.taken() - self._untold(db)
            now = room.balance()
            off = now.content - there
            if not alone or now.epoch != begun.epoch:
                # Somebody has yet to tell of what he did, or the dead have left something on a shelf that was passed by
                # then. More is believed, less is not, and the store is to be looked through again.
                off = min(off, 0)
                begun = replace(begun, epoch=-1)
            room.recount(now.content - off, replace(now, epoch=begun.epoch))
        self._result.book_off_by = off

    def _untold(self, db: sqlite3.Connection) -> int:
        """Return the bytes of what was put aside a moment ago, and what the index still takes to be in its place."""
        rows = (db.execute(_TAKEN, (pack(digest),)).fetchone() for digest in self._store.aside.waiting())
        return sum(row[0] for row in rows if row is not None)

    # --- how -----------------------------------------------------------------------------------------------------

    def _write(self, db: sqlite3.Connection, choose: Callable[[], Iterable[Change]]) -> int:
        """Record what `choose` says within the transaction; return how many changes that were."""
        made: list[Change] = []

        def chosen() -> list[Change]:
            made.extend(choose())
            return made

        if write(db, self._journal, chosen):
            self._journal.sync()
        return len(made)

    def _rest(self, seconds: float = 0.0) -> None:
        """Give way to others; raise `Interrupted` once somebody asked to stop."""
        if self._stop.wait(seconds) if seconds else self._stop.is_set():
            raise Interrupted


def _here(db: sqlite3.Connection, digest: Digest) -> bool:
    return db.execute(_HERE, (pack(digest),)).fetchone() is not None


def _resized(db: sqlite3.Connection, facts: list[Stored]) -> list[Change]:
    return [fact for fact in facts if _here(db, fact.digest)]


def _forgotten(db: sqlite3.Connection, keys: list[bytes]) -> list[Change]:
    return [Removed((unpack(key),)) for key in keys if db.execute(_FORGOTTEN, (key,)).fetchone() is not None]


def _empty_tags(db: sqlite3.Connection, after: tuple[int, str], healing: set[Digest]) -> list[Change]:
    return [
        TagDropped(Repository(*path.split("/", 1)), tag)
        for _, tag, path, key in db.execute(_EMPTY_TAGS, (*after, _BATCH))
        if unpack(key) not in healing
    ]


def _batches(items: list[T]) -> Iterator[list[T]]:
    return (items[at : at + _BATCH] for at in range(0, len(items), _BATCH))
