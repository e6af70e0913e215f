"""How much may still be stored: the cap, and what the disk has free."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mirror import metrics
from mirror.errors import NoSpace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirror.store.io import DiskThreads
    from mirror.store.layout import Layout

_BLOCK = 512  # bytes that st_blocks counts in, whatever the file system's own blocks are (stat(2))


class Room:
    """Keeps count of the bytes on disk, so that nothing is begun that does not fit.

    Space is reserved before the first byte of a fill. `used` counts blocks, unfinished fills and the index included.
    """

    def __init__(self, layout: Layout, *, max_size: int, min_free: int) -> None:
        """`max_size` is the cap of the store, `min_free` what must stay free on its file system; both in bytes."""
        self._layout = layout
        self._max_size = max_size
        self._min_free = min_free
        self._content = 0  # blobs and fills, and what is reserved for them
        self._outstanding = 0  # reserved, and not yet on disk

    def resize(self, max_size: int, min_free: int) -> None:
        """Set other limits, see `__init__`; nothing that is here or under way goes for a smaller one."""
        self._max_size, self._min_free = max_size, min_free
        self.publish()

    async def count(self, threads: DiskThreads) -> None:
        """Add what lies on disk already: once, before the first fill.

        What small content came to be stored while the walk went on may be counted twice, which errs on the safe side.
        """
        self._content += await threads.run(self._walk)
        self.publish()

    @property
    def used(self) -> int:
        """Bytes that the store takes, and those that are reserved."""
        return self._content + sum(_blocks(path) for path in self._layout.facts())

    def left(self) -> int:
        """Return how many bytes may still be reserved: what is under the cap, and free on the disk less `min_free`."""
        stat = os.statvfs(self._layout.root)
        free = stat.f_bavail * stat.f_frsize - self._outstanding - self._min_free
        return max(0, min(self._max_size - self.used, free))

    def reserve(self, size: int) -> None:
        """Take `size` bytes of the room, or raise `NoSpace`. `release` gives back what does not come to be stored."""
        left = self.left()
        if size > left:
            raise NoSpace(
                f"the store {self._layout.root} has room for {left} bytes more and {size} are needed; "
                "raise storage.max_size, lower storage.min_free, or free the disk"
            )
        self._content += size
        self._outstanding += size
        self.publish()

    def landed(self, size: int) -> None:
        """Of what is reserved, `size` bytes are allocated on disk now: the disk's own count of free space has them."""
        self._outstanding -= size

    def release(self, size: int) -> None:
        """Give back `size` bytes that are not, or no longer, on disk."""
        self._content -= size
        self.publish()

    def publish(self) -> None:
        """Tell the metrics."""
        metrics.STORE_BYTES.set(self.used)
        metrics.STORE_ROOM.set(self.left())

    def _walk(self) -> int:
        return sum(_blocks(file) for top in (self._layout.blobs, self._layout.fills) for file in _files(top))


def on_disk(size: int) -> int:
    """Return the bytes that a file of `size` bytes takes, in the blocks in which most file systems give out space."""
    return -(-size // 4096) * 4096


def _files(top: Path) -> Iterator[os.DirEntry[str]]:
    pending = [os.fspath(top)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        yield entry
        except FileNotFoundError:  # it went while we looked: then it takes no room
            continue


def _blocks(file: os.DirEntry[str] | Path) -> int:
    try:
        return file.stat(follow_symlinks=False).st_blocks * _BLOCK
    except FileNotFoundError:
        return 0
