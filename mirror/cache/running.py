"""The hash of a blob while it comes."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import TYPE_CHECKING

from mirror.cache.pulse import Pulse
from mirror.errors import StoreError

if TYPE_CHECKING:
    from hashlib import _Hash

    from mirror.oci.digest import Digest
    from mirror.store.io import DiskThreads

STEP = 4 * 1024 * 1024  # bytes hashed in one go from the file
QUEUE = 3  # pieces that wait in memory to be hashed; whoever brings more waits too
_BUFFER = 1024 * 1024

_buffers = threading.local()


class RunningHash:
    """Follows the contiguous front of a file, off the event loop.

    A piece that continues what is hashed, or waits to be, is hashed from memory while the next one is written; what
    came out of order, or was there before, is read from the file. One task calls `step` over and over.
    """

    def __init__(self, digest: Digest, fd: int, threads: DiskThreads) -> None:
        """`fd` is the file's descriptor, which stays open for as long as this is used."""
        self._digest = digest
        self._hasher = digest.hasher()
        self._fd = fd
        self._threads = threads
        self._queue: deque[bytes] = deque()
        self._end = 0  # offset after what is hashed, is being hashed, or waits
        self._stepped = Pulse()
        self._broken = False
        self.done = 0  # bytes hashed

    def feed(self, piece: bytes, offset: int) -> None:
        """Hear that `piece` has been written at `offset`."""
        if offset == self._end:
            self._queue.append(piece)
            self._end += len(piece)

    async def room(self) -> None:
        """Wait while too much waits in memory."""
        while len(self._queue) > QUEUE and not self._broken:
            await self._stepped.wait()

    async def step(self, front: int) -> bool:
        """Hash some of what lies before `front`; say whether there was anything to do. Raise what reading raises."""
        try:
            if self._queue:
                self.done += await self._threads.run(_hash_pieces, self._hasher, self._queue)
                return True
            stop = min(front, self.done + STEP)
            if stop <= self.done:
                return False
            self._end = stop
            await self._threads.run(_hash_range, self._fd, self._hasher, self.done, stop)
            self.done = stop
        except BaseException:
            self._broken = True
            raise
        finally:
            self._stepped.beat()
        return True

    def matches(self) -> bool:
        """Say whether what was hashed is what the digest says."""
        return self._hasher.hexdigest() == self._digest.hex


def _hash_pieces(hasher: _Hash, queue: deque[bytes]) -> int:
    """Hash what waits, and let go of each piece at once; return how many bytes it was."""
    count = 0
    for _ in range(QUEUE):
        if not queue:  # only this thread takes from it
            break
        piece = queue.popleft()
        hasher.update(piece)
        count += len(piece)
    return count


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
