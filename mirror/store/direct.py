"""Writing past the page cache (`O_DIRECT`, open(2)): bytes that nobody reads soon go to the disk as they come.

Through the cache a gigabyte costs the kernel more than hashing it, pushes out what clients are being sent, and waits in
memory until everybody else's `fsync` has to wait for it, too.
"""

from __future__ import annotations

import errno
import os
from mmap import mmap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

RUN = 4 * 1024 * 1024  # bytes that are written at once: few enough waits for the disk, little to lose by a kill
_ALIGNED = 4096  # bytes: places in the file, in memory, and lengths are multiples of it; no disk asks for more


def buffer() -> mmap:
    """Return memory for one run, aligned as the kernel wants it. One file at a time may use it."""
    return mmap(-1, RUN)


class DirectFile:
    """One file, written from some place on. Where the file system cannot do it, what is left goes through the cache."""

    def __init__(self, path: Path, plain: int, at: int, memory: mmap) -> None:
        """`plain` is a descriptor of the file at `path`, `at` the place in bytes where writing begins."""
        self._plain = plain
        self._at = at
        self._memory = memoryview(memory)
        self._kept = 0  # bytes of it
        self._fd = -1
        if at % _ALIGNED == 0:
            try:
                self._fd = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise

    def write(self, data: bytes) -> int:
        """Append; return how many bytes went to the disk by that."""
        view = memoryview(data)
        went = 0
        while view:
            count = min(len(view), RUN - self._kept)
            self._memory[self._kept : self._kept + count] = view[:count]
            self._kept += count
            view = view[count:]
            if self._kept == RUN:
                went += self.flush()
        return went

    def flush(self) -> int:
        """Write what is kept; return how many bytes that were."""
        view = self._memory[: self._kept]
        while view:
            whole = len(view) - len(view) % _ALIGNED if self._fd >= 0 and self._at % _ALIGNED == 0 else 0
            try:
                done = os.pwrite(self._fd if whole else self._plain, view[:whole] if whole else view, self._at)
            except OSError as error:
                if not whole or error.errno != errno.EINVAL:
                    raise
                self.close()
                continue
            view = view[done:]
            self._at += done
            if not whole and done >= RUN:  # have the disk begin: else it would idle until the end
                os.posix_fadvise(self._plain, 0, self._at, os.POSIX_FADV_DONTNEED)
        went, self._kept = self._kept, 0
        return went

    def close(self) -> None:
        """Close what was opened here. What is kept is not written."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
