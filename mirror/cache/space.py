"""Room for what is to be stored, made where there is none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mirror import metrics
from mirror.errors import NoSpace

if TYPE_CHECKING:
    from mirror.cache.evictor import Evictor
    from mirror.store.room import Room

SPARED = 60.0  # seconds: what was used in that time does not go for what nobody has asked for
_TRIES = 32  # others may take what was freed before this one has it


class Space:
    """The room of the store as the cache uses it: reserving evicts."""

    def __init__(self, room: Room, evictor: Evictor) -> None:
        self._room = room
        self._evictor = evictor
        self.stirred = asyncio.Event()  # something came to stay since it was last cleared

    async def reserve(self, size: int, *, urgent: bool = True) -> None:
        """Take `size` bytes; raise `NoSpace` where they cannot be had.

        At once, and with nothing evicted, where all that may go would not be enough. What is not `urgent`, since no
        client waits for it, does not push out what was used a moment ago.
        """
        for _ in range(_TRIES):
            try:
                self._room.reserve(size)
            except NoSpace as error:
                refusal = error
            else:
                return
            try:
                enough = await self._evictor.free(size, spare=None if urgent else SPARED)
            except NoSpace:
                if urgent:
                    metrics.RESERVE_FAILURES.labels(self._limit(size)).inc()
                raise
            if not enough:
                break
        if urgent:
            metrics.RESERVE_FAILURES.labels("all in use").inc()
        raise NoSpace(f"{refusal} (what may be evicted is in use now)", passing=True) from refusal

    def fits(self, size: int) -> bool:
        """Say whether `size` bytes could be had, as far as that was known a moment ago."""
        return size <= self._evictor.most()

    def capacity(self, *, pinned: bool = False) -> int:
        """Return how many bytes of content can stay, were all that is here to go, as far as that is known now.

        What is not `pinned` stays below the high-water mark: past it some of it goes as soon as somebody looks.
        """
        room = self._room
        balance, used = room.balance(), room.used
        left = min(room.left(), room.cap - used)
        if not pinned:
            left = min(left, room.mark - used)
        return left + balance.content + balance.held

    def landed(self, size: int) -> None:
        """See `Room.landed`."""
        self._room.landed(size)

    def release(self, size: int) -> None:
        """See `Room.release`."""
        self._room.release(size)

    def keep(self, size: int) -> None:
        """See `Room.keep`."""
        self._room.keep(size)
        self.stirred.set()

    def freed(self, size: int) -> None:
        """See `Room.freed`."""
        self._room.freed(size)

    def found(self, size: int) -> None:
        """See `Room.found`."""
        self._room.found(size)

    def _limit(self, size: int) -> str:
        scarce = self._evictor.max_size - self._room.cap  # the disk has so much less than the cap
        return "disk" if size <= self._evictor.most() + scarce else "too large"
