"""Turns: of all the processes on one store, one at a time asks upstream for a tag, a manifest, a list.

A turn is a byte of `turns.v2`, locked by fcntl(2) for an open file description (`F_OFD_SETLK`): the file stays empty,
the kernel forgets the lock when its process ends, however that comes, and a lock costs about a microsecond. Nobody is
told when a lock falls, so whoever waits looks again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import struct
from collections import Counter
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

log = structlog.get_logger(__name__)

_FLOCK = "hhqqi4x"  # struct flock: type, whence, start, length, pid, which has to be 0; padded as the C compiler does
_FIRST_LOOK = 0.005  # seconds until it is looked again; each time a little longer …
_LAST_LOOK = 0.020  # … up to this


class Turns:
    """Turns by key, between processes. Within one process there is no exclusion: `cache.shared` sees to that."""

    def __init__(self, path: Path) -> None:
        """Open the file, making it where there is none; raise `OSError`. Not to be shared with a forked child."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._held: Counter[int] = Counter()
        self._failed = False

    @contextlib.asynccontextmanager
    async def take(self, key: str, patience: float | None = None) -> AsyncIterator[bool]:
        """Hold the turn of `key`; yields whether another process had it before.

        Raise `TimeoutError` where that one has not let go after `patience` seconds; None waits as long as it takes.
        """
        place = _place(key)
        waited = not self._try(place)
        if waited:
            async with asyncio.timeout(patience):
                wait = _FIRST_LOOK
                while not self._try(place):
                    await asyncio.sleep(wait)
                    wait = min(wait * 1.5, _LAST_LOOK)
        try:
            yield waited
        finally:
            self._leave(place)

    def close(self) -> None:
        """Let go of all turns."""
        os.close(self._file)

    def _try(self, place: int) -> bool:
        """Take a turn if it is free; this process may have it already, and then has it once more."""
        if self._held[place] == 0 and not self._lock(place, fcntl.F_WRLCK):
            return False
        self._held[place] += 1
        return True

    def _leave(self, place: int) -> None:
        self._held[place] -= 1
        if self._held[place] == 0:
            del self._held[place]
            self._lock(place, fcntl.F_UNLCK)

    def _lock(self, place: int, kind: int) -> bool:
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, place, 1, 0))
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, fcntl(2): another one has it
            return False
        except OSError as error:  # the table of locks is full: upstream asked twice is better than not at all
            if not self._failed:
                self._failed = True
                log.warning("processes ask upstream each on its own: they cannot take turns", error=error.strerror)
        return True


def _place(key: str) -> int:
    """Return the byte that stands for a key: of 2^62, so that two keys never meet."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()) >> 2
