"""An index that is damaged: how that is noticed, noted, and put right at the next start from the journal.

Opening looks at a few pages only, for an index of a million blobs is read through in seconds. What is found later, by
a full check or by a query that fails, leaves the mark `index.damaged`.
"""

from __future__ import annotations

import errno
import sqlite3
from typing import TYPE_CHECKING

import structlog

from mirror.errors import NoSpace, StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.store.layout import Layout

log = structlog.get_logger(__name__)


class IndexDamaged(sqlite3.DatabaseError):
    """Pages of it are not what they should be."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def is_damage(error: BaseException) -> bool:
    """Say whether the file is not, or no longer, a database."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code (sqlite.org/rescode.html)
    return isinstance(error, sqlite3.Error) and code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def probe(db: sqlite3.Connection) -> None:
    """Look at both ends of every table. Raise `IndexDamaged`, or what SQLite raises."""
    tables = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
    for table in tables:
        for order in ("1", "1 DESC"):
            db.execute(f'SELECT * FROM "{table}" ORDER BY {order} LIMIT 1').fetchall()  # noqa: S608  # its own names


def check(db: sqlite3.Connection, layout: Layout) -> bool:
    """Read all of the index and compare it with itself: seconds for a large one. Mark it and say False if it is wrong.

    It reads beside those who write.
    """
    try:
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        found = str(error)
    if found == "ok":
        return True
    mark(layout, found)
    return False


def mark(layout: Layout, reason: str) -> None:
    """Note that the index is to be made again when the mirror starts next."""
    path = marker(layout)
    if path.exists():
        return
    log.error(
        "the index is damaged; restart the mirror, and it is made again from the journal: no tag, pin or link is lost. "
        "Have the disk looked at",
        path=str(layout.index),
        reason=reason,
    )
    try:
        path.touch()
    except OSError as error:
        log.error("that cannot be noted; stop the mirror and delete the index instead", error=str(error))  # noqa: TRY400  # the text says it all


def marker(layout: Layout) -> Path:
    """Return the file that says so."""
    return layout.index.with_name("index.damaged")


def discard(layout: Layout) -> None:
    """Throw a damaged index away; it would only take room. Nobody else has it open."""
    log.warning("the index is damaged; it is thrown away and made again from the journal", path=str(layout.index))
    for suffix in ("-wal", "-shm", ""):
        layout.index.with_name(layout.index.name + suffix).unlink(missing_ok=True)
    marker(layout).unlink(missing_ok=True)


def refusal(layout: Layout, error: sqlite3.Error | OSError, doing: str = "written") -> StoreError:
    """Return what a failure of the index is for those above; mark a damaged one."""
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    else:
        full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    if full:
        return NoSpace(f"the disk that holds {layout.root} is full: the index cannot be {doing}; free some of it")
    if is_damage(error):
        mark(layout, str(error))
        return StoreError(
            f"the index {layout.index} is damaged: {error}; restart the mirror, and it is made again from the journal"
        )
    return StoreError(
        f"the index in {layout.root} cannot be {doing}: {error}; see that the disk is there and not read-only"
    )
