"""Content that turned out to be wrong, put aside: to be looked at, and to know what remains to be healed."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from mirror.errors import DigestInvalid
from mirror.oci.digest import Digest
from mirror.store.locks import seize, unnaming
from mirror.store.refusal import refusing

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.store.layout import Layout
    from mirror.store.room import Room

log = structlog.get_logger(__name__)

_BLOCK = 512  # bytes that st_blocks counts in (stat(2))
KEPT = 7 * 24 * 3600  # seconds
MOST_FILES = 64  # that keep their bytes
MOST_MARKS = 10_000  # names, emptied files included
_SHARE = 100  # of the cap, one part


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    digest: Digest
    taken: int  # bytes on disk
    at: float  # when it was put aside


class Aside:
    """The directory `aside.v1`. The methods block on the disk and raise `StoreError`.

    A file keeps its bytes while there are few of them; later it is emptied, and only its name says that the content is
    still to be healed. It goes when the content is here again, or after a week.
    """

    def __init__(self, layout: Layout, room: Room) -> None:
        self._layout = layout
        self._room = room

    def take(self, digest: Digest, seen: os.stat_result | None = None) -> bool:
        """Put content aside in the place of what was there of it before; False where it is not here.

        `seen` is what was found to be wrong: what has come in its place since stays. Whoever has it open reads on.
        """
        path, target = self._layout.blob(digest), self._layout.damaged(digest)
        with refusing(self._layout.root), unnaming(self._layout):
            try:
                there = path.stat()
            except FileNotFoundError:
                return False
            if seen is not None and not os.path.samestat(there, seen):
                return False
            before = _taken(target)
            path.rename(target)
            now = time.time()
            os.utime(target, (now, now))
            self._room.freed(before)
            log.warning("damaged content is put aside", digest=str(digest), path=str(target), bytes=there.st_size)
            self._tidy()
        return True

    def waiting(self) -> list[Digest]:
        """Return what was put aside and has not come back, what was put aside last first."""
        with refusing(self._layout.root):
            return [entry.digest for entry in reversed(self._entries()) if not self._healed(entry)]

    def forget(self, digest: Digest) -> None:
        """Throw away what was put aside of `digest`: nobody can heal it."""
        path = self._layout.damaged(digest)
        with refusing(self._layout.root), unnaming(self._layout):
            self._discard(path)

    def tidy(self) -> None:
        """Throw away what is healed, old, or too much."""
        with refusing(self._layout.root), unnaming(self._layout):
            self._tidy()

    def clear(self, need: int) -> int:
        """Free up to `need` bytes, oldest first, and return how many were freed. The names stay."""
        freed = 0
        with refusing(self._layout.root):
            if not any(entry.taken for entry in self._entries()):
                return 0
            with unnaming(self._layout):
                for entry in self._entries():
                    if freed >= need:
                        break
                    try:
                        freed += self._empty(entry)
                    except OSError as error:  # a disk so full, or so damaged, must not keep images from going
                        log.warning("damaged content stays", path=str(entry.path), error=error.strerror)
        return freed

    def taken(self) -> int:
        """Return the bytes that all of it takes on disk."""
        with refusing(self._layout.root):
            return sum(entry.taken for entry in self._entries())

    def _tidy(self) -> None:
        """See `tidy`. The lock on names is held."""
        for mark in self._layout.aside.glob("*.new"):  # whoever made it was killed
            mark.unlink(missing_ok=True)
        oldest = time.time() - KEPT
        files, left = MOST_FILES, self._room.cap // _SHARE
        for number, entry in enumerate(reversed(self._entries())):
            if self._healed(entry) or entry.at < oldest or number >= MOST_MARKS:
                entry.path.unlink(missing_ok=True)
                self._room.freed(entry.taken)
            elif files == 0 or entry.taken > left:
                self._empty(entry)
            elif entry.taken:
                files -= 1
                left -= entry.taken

    def _empty(self, entry: _Entry) -> int:
        """Put an empty file of the same age in its place, unless somebody reads it; return the bytes freed."""
        if not entry.taken:
            return 0
        fd = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not seize(fd):
                return 0
            mark = entry.path.with_name(entry.path.name + ".new")
            mark.touch(mode=0o400)
            os.utime(mark, (entry.at, entry.at))
            mark.rename(entry.path)
        finally:
            os.close(fd)
        self._room.freed(entry.taken)
        return entry.taken

    def _healed(self, entry: _Entry) -> bool:
        return self._layout.blob(entry.digest).exists()

    def _entries(self) -> list[_Entry]:
        """Return what is aside, oldest first; throw away what is nothing of ours."""
        entries = []
        for path in self._layout.aside.iterdir():
            try:
                digest = Digest.parse(path.name.replace("-", ":", 1))
            except DigestInvalid:
                if path.suffix != ".new":  # which somebody else may be about to rename; `_tidy` sees to it
                    self._discard(path)
                continue
            with suppress(FileNotFoundError):  # it went while we looked
                status = path.stat()
                entries.append(_Entry(path, digest, status.st_blocks * _BLOCK, status.st_mtime))
        return sorted(entries, key=lambda entry: (entry.at, entry.path))

    def _discard(self, path: Path) -> None:
        taken = _taken(path)
        path.unlink(missing_ok=True)
        self._room.freed(taken)


def _taken(path: Path) -> int:
    try:
        return path.stat().st_blocks * _BLOCK
    except FileNotFoundError:
        return 0
