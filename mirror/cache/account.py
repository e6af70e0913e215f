"""What one fill takes of the room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.errors import NoSpace
from mirror.store.room import on_disk

if TYPE_CHECKING:
    from mirror.cache.space import Space
    from mirror.store.part import PartFile
    from mirror.upstream.protocol import Urgency

STEP = 2 * 1024 * 1024  # bytes that content of unknown size takes ahead: each piece of it would be many calls


class Account:
    """The bytes that one unfinished fill holds of the store's room, from before the first one comes until it ends."""

    def __init__(self, space: Space, urgency: Urgency) -> None:
        """What is not urgent does not push out what was used a moment ago."""
        self._space = space
        self._urgency = urgency
        self._held = 0
        self._needed = 0  # of them, by what has come
        self._outstanding = 0  # of them, not known to be allocated on disk
        self._open = False

    def found(self, on_disk: int) -> None:
        """Begin with what an earlier fill has left: `on_disk` bytes, which the room has counted as content."""
        self._space.found(on_disk)
        self._held, self._open = on_disk, True

    async def hold(self, total: int) -> None:
        """Hold at least `total` bytes from now on; raise `NoSpace` where there is no room, see `Space.reserve`."""
        self._needed = max(self._needed, total)
        while total > self._held:
            urgent = self._urgency.urgent
            try:
                await self._take(total - self._held, urgent=urgent)
            except NoSpace:
                if urgent or not self._urgency.urgent:
                    raise  # else a client has come to wait meanwhile

    async def grow(self, count: int) -> None:
        """Hold enough for `count` bytes more, for content whose size nobody has told; raise `NoSpace`."""
        self._needed += count
        if on_disk(self._needed) <= self._held:
            return
        try:
            await self._take(on_disk(self._needed) + STEP - self._held, urgent=False)  # it may not be all needed
        except NoSpace:
            await self.hold(on_disk(self._needed))

    def landed(self, on_disk: int) -> None:
        """Hear that the files take `on_disk` bytes now: the disk's own count of what is free has them."""
        if on_disk >= self._held:
            self._arrive(self._outstanding)

    def wrote(self, count: int) -> None:
        """Hear that `count` bytes went to the disk that were not allocated before."""
        self._arrive(min(count, self._outstanding))

    def replaced(self, on_disk: int) -> None:
        """Hear that what is stored has taken the place of the same content, which another one counted."""
        self._space.freed(on_disk)

    def settle(self, part: PartFile, *, stored: bool, useful: bool) -> None:
        """End: what is `stored` stays on disk, and what is `useful` to go on from; what else was held is given back.

        Once is enough. Raise `StoreError` where the disk does not take back what is of no use.
        """
        if not self._open:
            return
        kept = part.stored() if stored else part.allocated()
        try:
            if not (stored or useful):
                part.discard()
                kept = 0
        finally:
            self._open = False
            self._arrive(self._outstanding)
            self._space.release(self._held - kept)
            self._space.keep(kept)
            self._held = self._needed = 0

    async def _take(self, size: int, *, urgent: bool) -> None:
        await self._space.reserve(size, urgent=urgent)
        self._held += size
        self._outstanding += size

    def _arrive(self, count: int) -> None:
        self._outstanding -= count
        self._space.landed(count)
