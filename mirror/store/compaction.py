"""Writing the journal anew, without what later lines have overtaken, while others go on writing to it.

All facts are read from the index, one repository at a time and without the write lock; then, under it, the lines that
came since are put behind them. A fact that changed meanwhile may have been read before or after: the lines behind say
in either case what it is at last. So no reader holds the index back, and no writer waits for more than some lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import structlog

from mirror.store import changes
from mirror.store.database import catch_up, transaction
from mirror.store.facts import recorded_of, repositories

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from mirror.store.journal import Journal

log = structlog.get_logger(__name__)

GROWTH = 16 * 1024 * 1024  # bytes; a journal that is four times what it says, and this, is written anew
_STEP = 1024 * 1024  # bytes that are reserved and written at a time


class Reserving(Protocol):
    """What the new journal's room is taken from."""

    def reserve(self, size: int) -> None:
        """Take `size` bytes, or raise `NoSpace`."""
        ...

    def release(self, size: int) -> None:
        """Give them back."""
        ...


def compact(db: sqlite3.Connection, journal: Journal, room: Reserving | None) -> bool:
    """Write the journal anew if it is worth it; say whether that was so. Raise `NoSpace` where it has no room."""
    name, position, base = db.execute("SELECT name, position, base FROM journal").fetchone()
    if position < 4 * base + GROWTH:
        return False
    reserved = 0
    try:
        with journal.aside() as aside:
            if aside is None:
                return False  # another process is at it
            for data in _pieces(db):
                if room is not None:
                    room.reserve(len(data))
                    reserved += len(data)
                aside.write(data)
            aside.sync()
            with transaction(db):
                end = catch_up(db, journal)
                known = db.execute("SELECT name FROM journal").fetchone()[0]
                if known != name:
                    return False  # it was lost meanwhile, and is new anyway
                aside.copy(position, end)
                aside.sync()
                new, size = aside.put_in_place()
                db.execute("INSERT OR REPLACE INTO journal VALUES (1, ?1, ?2, ?2)", (new, size))
    finally:
        if room is not None and reserved:
            room.release(reserved)  # it is counted as a file of the index
    log.info("the journal was written anew, without what had been overtaken", before=end, after=size)
    return True


def _pieces(db: sqlite3.Connection) -> Iterator[bytes]:
    piece = bytearray()
    for at, repository in repositories(db):
        db.execute("BEGIN")
        try:
            for change in recorded_of(db, at, repository):
                piece += changes.dump(change).encode("utf-8") + b"\n"
                if len(piece) >= _STEP:
                    yield bytes(piece)
                    piece.clear()
        finally:
            db.execute("COMMIT")
    yield bytes(piece)
