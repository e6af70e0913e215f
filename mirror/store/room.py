"""How much may still be stored: the cap, and what the disk has free; one count for all processes on the store."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from mirror.errors import NoSpace, StoreError
from mirror.store.book import Book

if TYPE_CHECKING:
    from mirror.store.layout import Layout
    from mirror.store.page import Balance
    from mirror.store.processes import Process

_BLOCK = 512  # bytes that st_blocks counts in, whatever the file system's own blocks are (stat(2))
# What may be reserved stays below the cap by this much: the index, its log and the directories grow unreserved. They
# count as soon as they have grown, so this is for what they grow by between two reservations.
_MARGIN = 2 * 1024 * 1024  # bytes; of a small store an eighth
_BESIDE_EVERY, _SHELVES_EVERY = 1.0, 60.0  # seconds, after which what hardly changes is looked at again


class Room:
    """Keeps count of the bytes on disk, so that nothing is begun that does not fit.

    What counts is what `du` counts: the blocks of content, of unfinished fills, of the index and its logs, of
    directories. Space is reserved before the first byte of a fill; what is reserved counts as used. Methods take some
    microseconds and may be called on the loop, and from any thread; all may raise `StoreError`.
    """

    def __init__(self, layout: Layout, *, max_size: int, min_free: int, high: float = 0.95, low: float = 0.90) -> None:
        """Open the account of the store; raise `StoreUnusable`. The limits are as `resize` has them."""
        self._root = os.fspath(layout.root)
        self._growing = [os.fspath(path) for path in layout.growing()]
        self._shelves = [os.fspath(path) for path in layout.shelves()]
        self._max_size, self._min_free, self._high, self._low = max_size, min_free, high, low
        self._book = Book(layout.room)
        self._beside = self._shelved = 0  # bytes
        self._look_beside = self._look_at_shelves = 0.0  # when, on the monotonic clock

    def resize(self, max_size: int, min_free: int, high: float | None = None, low: float | None = None) -> None:
        """Set other limits: the cap of the store, and what must stay free on its file system, in bytes.

        Past the fraction `high` of what counts `excess` asks for eviction, down to the fraction `low`. Nothing that is
        here or under way goes at once.
        """
        self._max_size, self._min_free = max_size, min_free
        self._high = self._high if high is None else high
        self._low = self._low if low is None else low

    # --- how much there is ---------------------------------------------------------------------------------------

    @property
    def used(self) -> int:
        """Bytes that the store takes, and those that are reserved."""
        return self._used(self._book.read())

    @property
    def cap(self) -> int:
        """Bytes that the store may take: `max_size`, or less where the disk has less."""
        balance = self._book.read()
        return self._cap(balance, self._used(balance))

    @property
    def dirty(self) -> bool:
        """Whether the book may say more than there is: a process was killed, or the machine was. A count is due."""
        return self._book.read().dirty

    def left(self) -> int:
        """Return how many bytes may still be reserved: what is under the cap, and free on the disk less `min_free`."""
        return self._left(self._book.read())

    @property
    def mark(self) -> int:
        """Bytes up to which the store may fill: past them `excess` asks for eviction."""
        return int(min(self._high * self.cap, self.cap - self._margin()))

    def excess(self) -> int:
        """Return how many bytes to free now: 0, or what brings a store that is too full down to the low-water mark.

        Bury, too, what processes held that have died. Call it about every second, in one process.
        """
        self._book.reap()
        balance = self._book.read()
        used = self._used(balance)
        cap = self._cap(balance, used)
        full = cap - self._margin()
        if used <= min(self._high * cap, full):
            return 0
        return max(0, used - int(min(self._low * cap, full)))

    def balance(self) -> Balance:
        """Return what the book says: before a count of the disk, for `recount`."""
        return self._book.read()

    def others(self) -> list[Process]:
        """Return the other processes that have the store open, command-line tools among them."""
        return self._book.others()

    # --- what happens to it --------------------------------------------------------------------------------------

    def reserve(self, size: int) -> None:
        """Take `size` bytes of the room for this process, or raise `NoSpace`."""
        if size <= 0:
            return

        def check(balance: Balance) -> None:
            left = self._left(balance)
            if size > left:
                raise NoSpace(
                    f"the store {self._root} has room for {left} bytes more and {size} are needed; "
                    "raise storage.max_size, lower storage.min_free, or free the disk"
                )

        self._book.change(held=size, outstanding=size, check=check)

    def landed(self, size: int) -> None:
        """Of what is reserved, `size` bytes are allocated on disk now: the disk's own count of free space has them."""
        if size:
            self._book.change(outstanding=-size)

    def release(self, size: int) -> None:
        """Give back `size` bytes of this process's that are not, or no longer, on disk; they have landed before."""
        if size:
            self._book.change(held=-size)

    def keep(self, size: int) -> None:
        """Let `size` bytes of this process's be content, or a left-behind fill: they are on disk and outlive it."""
        if size:
            self._book.change(held=-size, content=size)

    def found(self, size: int) -> None:
        """Let `size` bytes that were content, a left-behind fill, be this process's."""
        if size:
            self._book.change(held=size, content=-size)

    def freed(self, size: int) -> None:
        """Count no longer `size` bytes of content: they are unlinked."""
        if size:
            self._book.change(content=-size)

    def recount(self, content: int, since: Balance | None = None) -> None:
        """Correct the book: so many bytes do the files in `blobs.v1`, `fills.v1` and `aside.v1` take on disk really.

        Without those that living processes hold. That was so when `balance` gave `since`; what became content, or was
        freed, between then and now is seen to. A count stays due where a process was killed meanwhile.
        """
        self._book.recount(content, since)

    def serve(self, mirror: int) -> None:
        """Tell the other processes that this one serves clients; `mirror` is its pid, or that of its supervisor."""
        self._book.serve(mirror)

    def close(self) -> None:
        """Leave the account; what this process holds still counts on."""
        self._book.close()

    # --- the sums ------------------------------------------------------------------------------------------------

    def _used(self, balance: Balance) -> int:
        try:
            self._stand()
            growing = sum(map(_blocks, self._growing))
        except OSError as error:
            raise self._absent(error) from error
        return balance.content + balance.held + growing + self._beside + self._shelved

    def _free(self, balance: Balance) -> int:
        """Return what the disk has for this store: whoever has reserved but not written yet will need it, too."""
        try:
            disk = os.statvfs(self._root)
        except OSError as error:
            raise self._absent(error) from error
        return disk.f_bavail * disk.f_frsize - balance.outstanding - self._min_free

    def _left(self, balance: Balance) -> int:
        free = min(self._max_size - self._used(balance), self._free(balance))
        return max(0, free - self._margin())

    def _cap(self, balance: Balance, used: int) -> int:
        return max(0, min(self._max_size, used + self._free(balance)))

    def _margin(self) -> int:
        return min(_MARGIN, self._max_size // 8)

    def _stand(self) -> None:
        """Look at what hardly changes, from time to time: what lies beside the content, and the directories."""
        now = time.monotonic()
        if now >= self._look_at_shelves:
            self._shelved = sum(map(_blocks, self._shelves))
            self._look_at_shelves = now + _SHELVES_EVERY
        if now >= self._look_beside:
            with os.scandir(self._root) as entries:
                beside = [entry.path for entry in entries if entry.path not in self._growing]
            self._beside = _blocks(self._root) + sum(map(_blocks, beside))
            self._look_beside = now + _BESIDE_EVERY

    def _absent(self, error: OSError) -> StoreError:
        return StoreError(
            f"storage.path {self._root} cannot be looked at: {error.strerror or error}; is its volume mounted?"
        )


def on_disk(size: int) -> int:
    """Return the bytes that a file of `size` bytes takes, in the blocks in which most file systems give out space."""
    return -(-size // 4096) * 4096


def _blocks(path: str) -> int:
    try:
        return os.lstat(path).st_blocks * _BLOCK
    except FileNotFoundError:
        return 0
