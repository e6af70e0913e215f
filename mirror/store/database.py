"""The database behind the index: how it is opened, and how it and the journal are kept one.

Every transaction that writes goes the same way, under SQLite's write lock, which holds between processes: rows first,
then the lines of the journal, then the commit together with the position that the journal has reached. So
- what SQLite refuses never reaches the journal;
- what can be read, and so be answered, is in the journal already. A crash between the two leaves lines behind the
  recorded position, and whoever opens or writes next makes rows of them. The other way round, an index that is lost
  later would be made again without something that had been answered from it;
- both have the same order, whichever process writes, so the last word on a tag is the same in both.
A missing index is one whose position is 0. A missing journal is written anew from the index.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from typing import TYPE_CHECKING

import structlog

from mirror.errors import StoreUnusable
from mirror.store.facts import SCHEMA, SCHEMA_VERSION, forget, record, recorded
from mirror.store.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from mirror.store.changes import Change
    from mirror.store.layout import Layout

log = structlog.get_logger(__name__)

_WAIT = 10  # seconds for another process to end its transaction
_CACHE = 4096  # KiB of pages that a connection keeps
_GROWTH = 16 * 1024 * 1024  # bytes; a journal that is four times what it says, and this, is written anew


def open_database(layout: Layout) -> sqlite3.Connection:
    """Open the index, making it from the journal where it is missing or damaged. Raise `StoreUnusable`."""
    try:
        with _alone(layout.root):  # two processes that find it damaged must not put aside each other's new one
            try:
                return _prepare(layout)
            except sqlite3.DatabaseError as error:
                if not damaged(error):
                    raise
            log.warning("the index is damaged; it is put aside and made again", path=str(layout.index))
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    path = layout.index.with_name(layout.index.name + suffix)
                    path.rename(path.with_name(path.name + ".damaged"))
            return _prepare(layout)
    except (sqlite3.Error, OSError) as error:
        raise StoreUnusable(
            f"{layout.index} cannot be opened: {error}; see who owns it, and whether the disk is full or read-only"
        ) from error


def connect(layout: Layout) -> sqlite3.Connection:
    """Open one more connection to an index that `open_database` has opened. Any thread may use it, one at a time."""
    db = sqlite3.connect(layout.index, timeout=_WAIT, check_same_thread=False, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")  # what a power cut takes from the index, the journal has
        db.execute(f"PRAGMA cache_size = -{_CACHE}")
    except BaseException:
        db.close()
        raise
    return db


def write(db: sqlite3.Connection, journal: Journal, new: Iterable[Change]) -> None:
    """Commit changes to the index and the journal, all or none. Raise what SQLite and the system raise."""
    changes = list(new)
    with transaction(db):
        start = position = _catch_up(db, journal)
        for change in changes:
            record(db, change)
        try:
            position = journal.append(changes, position)
            db.execute("UPDATE journal SET position = ?", (position,))
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # the lock is still ours, so nobody has written behind us
                journal.cut(start)
            raise


def compact(db: sqlite3.Connection, journal: Journal) -> bool:
    """Write the journal anew, if most of its lines have been overtaken by later ones; say whether that was so."""
    position, base = db.execute("SELECT position, base FROM journal").fetchone()
    if position < 4 * base + _GROWTH:
        return False
    with transaction(db):
        _catch_up(db, journal)
        _rewrite(db, journal)
    return True


def damaged(error: sqlite3.Error) -> bool:
    """Say whether the file is not, or no longer, a database."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code (sqlite.org/rescode.html)
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Hold the write lock; commit at the end, unless that was done, and roll back what failed."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        if db.in_transaction:
            db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _prepare(layout: Layout) -> sqlite3.Connection:
    db = connect(layout)
    try:
        _check(db, layout)
        with transaction(db):
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in SCHEMA.strip().split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            _catch_up(db, Journal(layout.journal))
    except BaseException:
        db.close()
        raise
    return db


def _check(db: sqlite3.Connection, layout: Layout) -> None:
    if db.execute("PRAGMA user_version").fetchone()[0] > SCHEMA_VERSION:
        raise StoreUnusable(f"{layout.index} was written by a newer release; use that release, or another directory")
    if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise _Damaged


class _Damaged(sqlite3.DatabaseError):
    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def _catch_up(db: sqlite3.Connection, journal: Journal) -> int:
    """Make rows of the lines that have none yet; return where the next line goes. The write lock is held."""
    known, position = db.execute("SELECT name, position FROM journal").fetchone() or (None, 0)
    name, size = journal.state()
    if known is not None and name == known and size == position:
        return int(position)
    if known is not None and (name is None or (name == known and size < position)):
        log.warning("the journal was lost or cut; it is written again from the index")
        return _rewrite(db, journal)
    if known != name:
        forget(db)  # whatever it holds comes from another journal
        position = 0
    position = _replay(db, journal, position)
    if name is None:  # there was none, or one without its first line
        return _rewrite(db, journal)
    db.execute(
        "INSERT INTO journal VALUES (1, ?1, ?2, ?2) ON CONFLICT DO UPDATE"
        " SET base = CASE WHEN name = ?1 THEN base ELSE ?2 END, name = ?1, position = ?2",
        (name, position),
    )
    return position


def _replay(db: sqlite3.Connection, journal: Journal, position: int) -> int:
    made = 0
    for change, end in journal.after(position):
        position = end
        if change is None:
            continue
        try:
            record(db, change)
        except ValueError as error:
            log.warning("a change in the journal cannot be recorded and is passed over", error=str(error))
        made += 1
    if made:
        log.info("the index has caught up with the journal", changes=made)
    return position


def _rewrite(db: sqlite3.Connection, journal: Journal) -> int:
    # A crash between the rename and the commit leaves a journal whose name the index does not know. Then it is read
    # from its start; it holds everything.
    name, size = journal.replace(recorded(db))
    db.execute("INSERT OR REPLACE INTO journal VALUES (1, ?1, ?2, ?2)", (name, size))
    return size


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
