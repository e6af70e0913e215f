"""A fill that another process does: this one reads its map, and sends its own clients what is there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mirror.store.part import VERIFIED

if TYPE_CHECKING:
    from mirror.cache.fill import Fill
    from mirror.store.blobs import BlobStore
    from mirror.store.io import DiskThreads
    from mirror.store.part import MapState, PartFile

POLL = 0.02  # seconds between looks at the map


class Following:
    """Goes along with whoever fills, until that one is done, or has gone."""

    def __init__(self, fill: Fill, part: PartFile, blobs: BlobStore, threads: DiskThreads) -> None:
        """`part` is locked by another process."""
        self._fill = fill
        self._part = part
        self._blobs = blobs
        self._threads = threads

    async def run(self) -> None:
        """Return once it has its name in the store, or nobody fills any more."""
        while True:
            state = self._part.read_map()
            if state is not None and (state.size is not None or state.spans.total()):
                self._take_in(state)
            if self._blobs.size(self._fill.digest) is not None:
                await self._threads.run(self._part.share)  # clients of this process are sent bytes from it
                self._fill.adopt()
                return
            if not self._part.try_lock():
                await asyncio.sleep(POLL)
            elif self._blobs.size(self._fill.digest) is None:
                return  # whoever filled has ended; look again from the start

    def demand(self, position: int) -> None:
        """Let whoever fills hear that a client of this process waits for the byte at `position`."""
        if self._fill.size is not None and position < self._fill.size:
            self._part.want(position)

    def _take_in(self, state: MapState) -> None:
        fill = self._fill
        fill.size, fill.spans = state.size, state.spans
        fill.attach(self._part.file, state.generation)
        if state.state == VERIFIED and state.size is not None and state.spans.covers(0, state.size):
            fill.verified = True  # the withheld end goes out; the name follows, and is not waited for
            fill.pulse.beat()
