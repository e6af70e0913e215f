"""What unfinished work has left in `fills.v1`: nobody fills it now, somebody may go on with it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from mirror.store.locks import naming, seize
from mirror.store.refusal import refusing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.store.layout import Layout
    from mirror.store.room import Room

log = structlog.get_logger(__name__)

_BLOCK = 512  # bytes that st_blocks counts in (stat(2))
_WEEK = 7 * 24 * 3600
_KEPT = {".part": _WEEK, ".map": _WEEK, ".carried": _WEEK, ".put": 3600}  # seconds
_NEW = 10  # seconds in which whoever made it may not have come to hold it
_YOUNG = 3600  # seconds in which whoever was cut off is likely to come back


@dataclass(frozen=True, slots=True)
class _Left:
    path: Path
    taken: int  # bytes on disk, its map included
    age: float  # seconds


class Leftovers:
    """The files that no living process holds; the room counts them as content. The methods block on the disk."""

    def __init__(self, layout: Layout, room: Room) -> None:
        self._layout = layout
        self._room = room

    def sweep(self) -> int:
        """Throw away what nobody has gone on with for long; return how many files that were."""
        with refusing(self._layout.root):
            old = [left for left in self._all() if left.age > _KEPT[left.path.suffix]]
            return sum(self._throw_away(left) is not None for left in old)

    def clear(self, need: int, *, before: float | None = None) -> int:
        """Free up to `need` bytes, oldest first, and return how many bytes were freed.

        Only what nobody has gone on with since `before` (seconds since the epoch); None: what is not young.
        """
        age = _YOUNG if before is None else max(_NEW, time.time() - before)
        freed = 0
        with refusing(self._layout.root):
            for left in sorted(self._all(), key=lambda left: left.age, reverse=True):
                if freed >= need or left.age < age:
                    break
                freed += self._throw_away(left) or 0
        return freed

    def taken(self) -> int:
        """Return the bytes of all of them."""
        with refusing(self._layout.root):
            return sum(left.taken for left in self._all() if not _is_held(left.path))

    def _all(self) -> Iterator[_Left]:
        now = time.time()
        with os.scandir(self._layout.fills) as entries:
            for entry in entries:
                path = Path(entry.path)
                if path.suffix not in _KEPT or (path.suffix == ".map" and path.with_suffix(".part").exists()):
                    continue  # a map goes with its `.part`, under that one's lock
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                taken = status.st_blocks * _BLOCK + (_taken(path.with_suffix(".map")) if path.suffix == ".part" else 0)
                yield _Left(path, taken, now - status.st_mtime)

    def _throw_away(self, left: _Left) -> int | None:
        """Take it off the disk, under its lock; return the bytes, None where somebody holds it or has gone on."""
        try:
            with naming(self._layout), left.path.open("rb") as file:  # nobody compares disk and book meanwhile
                if not seize(file.fileno()) or not os.path.samestat(os.fstat(file.fileno()), left.path.stat()):
                    return None
                marks = left.path.with_suffix(".map")
                taken = _taken(left.path) + (_taken(marks) if marks != left.path else 0)
                log.info("unfinished content is thrown away", path=str(left.path), bytes=taken)
                marks.unlink(missing_ok=True)
                left.path.unlink(missing_ok=True)
                self._room.freed(taken)
                return taken
        except FileNotFoundError:
            return None
        except OSError as error:  # one that is damaged must keep nobody from looking through the disk, or making room
            log.warning("unfinished content cannot be thrown away", path=str(left.path), error=error.strerror)
            return None


def _is_held(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return not seize(file.fileno())
    except FileNotFoundError:
        return True


def _taken(path: Path) -> int:
    try:
        return path.stat().st_blocks * _BLOCK
    except FileNotFoundError:
        return 0
