"""The hash of a blob while it comes."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from mirror.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from hashlib import _Hash

    from mirror.oci.digest import Digest
    from mirror.store.io import DiskThreads

PIECE = 4 * 1024 * 1024  # bytes hashed in one go from the file
_BUFFER = 1024 * 1024

_buffers = threading.local()


class RunningHash:
    """Follows the contiguous front of a file, off the event loop.

    A piece that continues it is hashed from memory right after it is written, by the same thread; what came out of
    order, or was there before, is read from the file.
    """

    def __init__(self, digest: Digest, fd: int, threads: DiskThreads) -> None:
        """`fd` is the file's descriptor, which stays open for as long as this is used."""
        self._digest = digest
        self._hasher = digest.hasher()
        self._fd = fd
        self._threads = threads
        self._busy = False
        self.done = 0  # bytes hashed

    def takes(self, offset: int) -> bool:
        """Say whether a piece at `offset` would be the next."""
        return offset == self.done and not self._busy

    async def write_and_hash(self, write: Callable[[], None], piece: bytes) -> None:
        """Call `write` in a thread, then hash `piece`, which `takes` has admitted."""
        self._busy = True
        try:
            await self._threads.run(_write_and_hash, write, self._hasher, piece)
            self.done += len(piece)
        finally:
            self._busy = False

    async def catch_up(self, front: int) -> bool:
        """Hash some of what lies before `front`; say whether there was anything to do."""
        stop = min(front, self.done + PIECE)
        if self._busy or stop <= self.done:
            return False
        self._busy = True
        try:
            await self._threads.run(_hash_range, self._fd, self._hasher, self.done, stop)
            self.done = stop
        finally:
            self._busy = False
        return True

    def matches(self) -> bool:
        """Say whether what was hashed is what the digest says."""
        return self._hasher.hexdigest() == self._digest.hex


def _write_and_hash(write: Callable[[], None], hasher: _Hash, piece: bytes) -> None:
    write()
    hasher.update(piece)


def _hash_range(fd: int, hasher: _Hash, start: int, stop: int) -> None:
    """Hash bytes of a file, through one buffer a thread."""
    buffer = getattr(_buffers, "buffer", None)
    if buffer is None:
        buffer = _buffers.buffer = memoryview(bytearray(_BUFFER))
    while start < stop:
        count = os.preadv(fd, [buffer[: min(len(buffer), stop - start)]], start)
        if count == 0:
            raise StoreError("a .part file became shorter while it was hashed; something else writes in the store")
        hasher.update(buffer[:count])
        start += count
