"""How much may still be stored: the cap, and what the disk has free."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mirror import metrics
from mirror.errors import NoSpace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
        self._used = 0
        self._outstanding = 0  # reserved, and not yet on disk

    def count(self) -> None:
        """Count what is on disk. It walks the store: call it off the loop, once, before anything is reserved."""
        self._used = sum(_blocks(path) for path in _files(self._layout.root))
        self.publish()

    @property
    def used(self) -> int:
        """Bytes that the store takes, and those that are reserved."""
        return self._used

    def left(self) -> int:
        """Return how many bytes may still be reserved: what is under the cap, and free on the disk less `min_free`."""
        stat = os.statvfs(self._layout.root)
        free = stat.f_bavail * stat.f_frsize - self._outstanding - self._min_free
        return max(0, min(self._max_size - self._used, free))

    def reserve(self, size: int) -> None:
        """Take `size` bytes of the room, or raise `NoSpace`. Give back with `release` what does not come to be stored."""
        left = self.left()
        if size > left:
            raise NoSpace(
                f"the store {self._layout.root} has room for {left} bytes more and {size} are needed; "
                "raise storage.max_size, lower storage.min_free, or free the disk"
            )
        self._used += size
        self._outstanding += size
        self.publish()

    def landed(self, size: int) -> None:
        """Of what is reserved, `size` bytes are allocated on disk now: the disk's own count of what is free has them."""
        self._outstanding -= size

    def release(self, size: int) -> None:
        """Give back `size` bytes that are not, or no longer, on disk."""
        self._used -= size
        self.publish()

    def publish(self) -> None:
        """Tell the metrics."""
        metrics.STORE_BYTES.set(self._used)
        metrics.STORE_ROOM.set(self.left())


def _files(root: Path) -> Iterator[os.DirEntry[str]]:
    pending = [os.fspath(root)]
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


def _blocks(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_blocks * _BLOCK
    except FileNotFoundError:
        return 0
