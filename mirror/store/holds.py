"""What was just put, held until the index knows it: else it could be evicted in between, and then said to be there."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirror.oci.digest import Digest

_LONGEST = 60.0  # seconds after which whoever put it is taken to have given up
_MOST = 256  # at once


class Holds:
    """Descriptors with shared locks, by digest. They are let go once told, or when their time is over. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[Digest, deque[tuple[float, tuple[int, ...]]]] = OrderedDict()  # oldest first, almost
        self._count = 0

    def add(self, digest: Digest, *fds: int) -> None:
        """Hold descriptors, which are owned from now on."""
        now = time.monotonic()
        with self._lock:
            self._held.setdefault(digest, deque()).append((now + _LONGEST, fds))
            self._count += 1
            while self._count and (self._count > _MOST or next(iter(self._held.values()))[0][0] < now):
                self._let_go(next(iter(self._held)))

    def release(self, digest: Digest) -> None:
        """Let go of what was added first, if anything was: the index knows the content."""
        with self._lock:
            if digest in self._held:
                self._let_go(digest)

    def close(self) -> None:
        """Let go of all."""
        with self._lock:
            while self._held:
                self._let_go(next(iter(self._held)))

    def _let_go(self, digest: Digest) -> None:
        waiting = self._held[digest]
        for fd in waiting.popleft()[1]:
            os.close(fd)
        self._count -= 1
        if not waiting:
            del self._held[digest]
