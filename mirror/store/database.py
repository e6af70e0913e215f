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
from mirror.store.changes import journaled
from mirror.store.damage import discard, is_damage, marker, probe
from mirror.store.facts import forget, record, recorded
from mirror.store.journal import Journal
from mirror.store.migration import bring_up_to_date
from mirror.store.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from mirror.oci.digest import Digest
    from mirror.store.changes import Change
    from mirror.store.layout import Layout

log = structlog.get_logger(__name__)

_WAIT = 10  # seconds for another process to end its transaction
_CACHE = 4096  # KiB of pages that a connection keeps
# The write-ahead log counts against the cap of the store. It is written back to the index when it has this many pages,
# and cut to this many bytes when a large transaction has made it longer.
_CHECKPOINT = 200
_LOG_LIMIT = 1024 * 1024


def open_database(layout: Layout) -> tuple[sqlite3.Connection, int]:
    """Open the index, making it from the journal where it is missing or damaged. Raise `StoreUnusable`.

    Return a connection, and a descriptor that says, until it is closed, that this process uses the index.
    """
    try:
        with _alone(layout.root):
            claim = os.open(layout.root / "index.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                return _open(layout, sole=_is_sole(claim)), claim
            except BaseException:
                os.close(claim)
                raise
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
        db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
        db.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT}")
    except BaseException:
        db.close()
        raise
    return db


def write(
    db: sqlite3.Connection,
    journal: Journal,
    new: Iterable[Change] | Callable[[], Iterable[Change]],
    younger: set[Digest] | None = None,
) -> bool:
    """Commit changes to the index and the journal, all or none. Raise what SQLite and the system raise.

    A function is called within the transaction to say what they are. Return whether there is something to sync.
    `younger` gets the roots that were used.
    """
    with transaction(db):
        start = position = catch_up(db, journal)
        taken = [change for change in (new() if callable(new) else new) if record(db, change, younger=younger)]
        lines = [change for change in taken if journaled(change)]
        if not lines:  # what is only known of the disk leaves the journal alone
            return False
        try:
            position = journal.append(lines, position)
            db.execute("UPDATE journal SET position = ?", (position,))
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # the lock is still ours, so nobody has written behind us
                journal.cut(start)
            else:
                _take_back(db, journal, start, position)
            raise
    return True


def _take_back(db: sqlite3.Connection, journal: Journal, start: int, end: int) -> None:
    """Cut off what was appended, after SQLite has rolled back by itself and let go of the lock, as on a full disk.

    Else it would become rows later, though it was said to have failed. Where another process has written meanwhile it
    has become rows already, as after a crash.
    """
    with contextlib.suppress(sqlite3.Error):  # who comes next finds the lines, and makes rows of them
        db.execute("BEGIN IMMEDIATE")
        try:
            known, position = db.execute("SELECT name, position FROM journal").fetchone() or (None, 0)
            if position == start and journal.state() == (known, end):
                journal.cut(start)
        finally:
            db.execute("ROLLBACK")


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


def _open(layout: Layout, *, sole: bool) -> sqlite3.Connection:
    if sole and marker(layout).exists():
        discard(layout)
    elif marker(layout).exists():
        log.warning("the index is damaged, and other processes use it; stop them all, then start the mirror again")
    try:
        return _prepare(layout)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        if not sole:  # they would go on with what is thrown away here
            raise StoreUnusable(
                f"{layout.index} is damaged, and other processes use it; stop all that run on {layout.root}, and start "
                "the mirror again: it makes the index again from the journal"
            ) from error
    discard(layout)
    return _prepare(layout)


def _prepare(layout: Layout) -> sqlite3.Connection:
    db = connect(layout)
    try:
        _refuse_newer(db, layout)
        probe(db)
        with transaction(db):
            bring_up_to_date(db)
            catch_up(db, Journal(layout.journal))
    except BaseException:
        db.close()
        raise
    return db


def _refuse_newer(db: sqlite3.Connection, layout: Layout) -> None:
    if db.execute("PRAGMA user_version").fetchone()[0] > SCHEMA_VERSION:
        raise StoreUnusable(f"{layout.index} was written by a newer release; use that release, or another directory")


def _is_sole(claim: int) -> bool:
    """Say whether no other process uses the index; from now on this one does. The lock of `_alone` is held."""
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sole = False
    else:
        sole = True
    fcntl.flock(claim, fcntl.LOCK_SH)
    return sole


def catch_up(db: sqlite3.Connection, journal: Journal) -> int:
    """Make rows of the journal's lines that have none; return where the next line goes. The write lock is held."""
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
            record(db, change, replay=True)
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
