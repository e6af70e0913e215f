"""One store, opened: its blobs, its index, its room, its threads."""

from __future__ import annotations

import fcntl
import math
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import structlog

from mirror.store.blobs import DiskBlobs
from mirror.store.index import SqliteIndex
from mirror.store.io import DiskThreads
from mirror.store.layout import Layout
from mirror.store.room import Room

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.config import StorageConfig
    from mirror.store.blobs import BlobStore
    from mirror.store.index import Index

log = structlog.get_logger(__name__)

_WEEK = 7 * 24 * 3600
_KEPT = {".part": _WEEK, ".map": _WEEK, ".put": 3600}  # seconds that unfinished content is kept


class Store:
    """Everything that `storage.path` holds."""

    def __init__(self, layout: Layout, room: Room) -> None:
        self.layout = layout
        self.room = room
        self._index = SqliteIndex(layout)
        self.index: Index = self._index
        self.threads = DiskThreads()
        self.blobs: BlobStore = DiskBlobs(layout, self.threads)

    @classmethod
    def open(cls, config: StorageConfig) -> Self:
        """Open the store, making it where there is none. Raise `StoreUnusable`."""
        layout = Layout(config.path)
        max_size, min_free = _limits(layout, config)
        return cls(layout, Room(layout, max_size=max_size, min_free=min_free))

    def limits(self, config: StorageConfig) -> tuple[int, int]:
        """Return `max_size` and `min_free` of a configuration in bytes, for `room.resize`. May raise `OSError`."""
        return _limits(self.layout, config)

    async def count(self) -> None:
        """Throw away what was left unfinished long ago, and count the rest: before anything is stored."""
        await self.threads.run(self._sweep)
        await self.room.count(self.threads)

    def close(self) -> None:
        """Write what is still to be written, and close."""
        self._index.close()
        self.threads.close()

    def _sweep(self) -> None:
        now = time.time()
        for path in self.layout.fills.iterdir():
            with suppress(FileNotFoundError):
                if now - path.stat().st_mtime <= _KEPT.get(path.suffix, math.inf):
                    continue
                if path.suffix == ".part":
                    _abandon(path)
                elif not path.with_suffix(".part").exists():  # a map goes with its `.part`, under that one's lock
                    path.unlink()


def _limits(layout: Layout, config: StorageConfig) -> tuple[int, int]:
    """Return `max_size` and `min_free` in bytes."""
    disk = os.statvfs(layout.root)
    total = disk.f_blocks * disk.f_frsize
    return config.max_size.of(total), config.min_free.of(total)


def _abandon(part: Path) -> None:
    """Throw away a `.part` and its map, under the lock, unless somebody fills it."""
    with part.open("rb") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        if os.path.samestat(os.fstat(file.fileno()), part.stat()):  # else it was committed before the lock was ours
            log.info("unfinished content is thrown away", path=str(part))
            part.with_suffix(".map").unlink(missing_ok=True)
            part.unlink()
