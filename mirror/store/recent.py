"""When content was last asked for, exactly and for all processes at once: a hint that eviction looks at last.

`recent.v2` is a table of 65,536 cells of 8 bytes, mapped by every process. A digest has one cell; where two share it
the later use overwrites the earlier, so what is not found here was not used lately, or lost its cell to what was. The
index has every use, some seconds later. A cell is written at once, and a torn one would be no worse than a lost one.
The times outlive the process, and the machine's reboot as far as the kernel has written them by then.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import time
from typing import TYPE_CHECKING

import structlog

from mirror.store.layout import file_system

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mirror.oci.digest import Digest
    from mirror.store.layout import Layout

log = structlog.get_logger(__name__)

_CELLS = 1 << 16
SIZE = 8 * _CELLS  # bytes: 512 KiB
# A cell: 42 bits of milliseconds since the epoch, which end in 2109, below 22 bits of the digest that tell whose it is.
_TIME = 42
_TIMES, _MARKS = (1 << _TIME) - 1, (1 << 22) - 1
_DIGITS = 10  # hexadecimal digits of the digest that find its cell (16 bits) and tell it from others there (22 bits)
_AHEAD = 60.0  # seconds that clocks may differ by; a time that is further ahead was written by a clock that was wrong
# Where a block that is written again stays where it is. Elsewhere each write needs new room, and where there is none a
# process that writes through a map is killed (SIGBUS); network and FUSE file systems may fail at any page.
_IN_PLACE = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs"})


class Recent:
    """The table, opened by one process. Where it cannot be shared, the process remembers its own uses only."""

    def __init__(self, layout: Layout, *, clock: Callable[[], float] = time.time) -> None:
        """Open it, making it where there is none. `clock` gives seconds since the epoch."""
        self._clock = clock
        self._map: mmap.mmap | None = None
        try:
            self._map = _open(layout.recent)
        except OSError as error:
            log.info(
                "each process remembers alone what was asked for last; eviction is a few seconds behind",
                path=str(layout.recent),
                error=error.strerror or str(error),
            )
        self._view = memoryview(self._map if self._map is not None else bytearray(SIZE))
        self._cells = self._view.cast("Q")

    @property
    def shared(self) -> bool:
        """Whether other processes see what is touched here."""
        return self._map is not None

    def touch(self, digest: Digest, at: float) -> None:
        """Remember that `digest` was asked for at `at` (seconds since the epoch). No system call: call it anywhere."""
        key = int(digest.hex[:_DIGITS], 16)
        self._cells[key & 0xFFFF] = (key >> 16 & _MARKS) << _TIME | (int(at * 1000) & _TIMES)

    def last(self, digest: Digest) -> float:
        """Return when `digest` was last asked for, in seconds since the epoch; 0.0 where that is not known here."""
        key = int(digest.hex[:_DIGITS], 16)
        cell = self._cells[key & 0xFFFF]
        if cell >> _TIME != key >> 16 & _MARKS:
            return 0.0
        at = (cell & _TIMES) / 1000
        return at if at <= self._clock() + _AHEAD else 0.0

    def close(self) -> None:
        """Let go of the file. Once is enough."""
        self._cells.release()
        self._view.release()
        if self._map is not None:
            self._map.close()
            self._map = None


def _open(path: Path) -> mmap.mmap:
    kind = file_system(path.parent)
    if kind not in _IN_PLACE:
        raise OSError(errno.EOPNOTSUPP, f"{kind or 'an unknown file system'} does not write in place")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _fill(fd)
        fcntl.flock(fd, fcntl.LOCK_UN)  # a mapping keeps a duplicate of the descriptor, and so would keep the lock
        return mmap.mmap(fd, SIZE)
    finally:
        os.close(fd)


def _fill(fd: int) -> None:
    """See that every block is there before it is mapped. Never make the file smaller: others may have it mapped."""
    fcntl.flock(fd, fcntl.LOCK_EX)  # its caller lets go of it
    found = os.fstat(fd)
    if found.st_size >= SIZE and found.st_blocks * 512 >= SIZE:
        return
    table = os.pread(fd, SIZE, 0).ljust(SIZE, b"\0")
    at = 0
    while at < SIZE:
        at += os.pwrite(fd, table[at:], at)
    os.fsync(fd)
