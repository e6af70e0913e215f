"""What is done for the store as a whole, again and again, by the process that keeps house."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from functools import partial
from typing import TYPE_CHECKING

import structlog

from mirror import metrics
from mirror.errors import NoSpace
from mirror.store.history import History

if TYPE_CHECKING:
    from mirror.cache.evictor import Evictor
    from mirror.cache.space import Space
    from mirror.store.graph import Totals
    from mirror.store.store import Store

log = structlog.get_logger(__name__)

LOOK = 1.0  # seconds between looks at the high-water mark; a fill that ends has it looked at, too
IN_VAIN = 30.0  # seconds until it is tried again where nothing could go
TIDY = 60.0  # seconds between looks at how much of the journal is overtaken, and at what nobody goes on with
SURVEY_LOOK = 5.0  # seconds between looks whether a survey is due
FIGURES = 15.0  # seconds between counts for the metrics
CROWDED = 0.8  # of what the store may take: where pins take more, little is left for all else


class Relief:
    """Background eviction: from the high-water mark down to the low one, before anybody has to wait for it."""

    name = "eviction"

    def __init__(self, store: Store, space: Space, evictor: Evictor) -> None:
        self._room = store.room
        self._space = space
        self._evictor = evictor
        self._said = False

    async def run(self) -> None:
        """See `Chore.run`."""
        await self._evictor.ready.wait()
        while True:
            freed = await self._evictor.relieve()
            if self._room.excess() > 0 and not freed:
                self._say()
                await asyncio.sleep(IN_VAIN)
            else:
                self._said = self._said and not freed
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await self._space.stirred.wait()
            self._space.stirred.clear()

    def _say(self) -> None:
        if not self._said:
            self._said = True
            log.warning(
                "the store is past its high-water mark, and nothing may go: what is there is pinned or in use; "
                "unpin images (mirror pin --list), or raise storage.max_size",
                used=self._room.used,
                cap=self._room.cap,
            )


class Surveys:
    """Looks through the whole disk where the book or the index may not have it right: after a crash, mostly."""

    name = "survey"

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read = False

    async def run(self) -> None:
        """See `Chore.run`. After the first crash that is seen all of the index is read, too, and marked if damaged."""
        while True:
            if not await asyncio.to_thread(lambda: self._store.counted):
                if not self._read:
                    self._read = True
                    await asyncio.to_thread(self._store.index.check)
                await self.see()
            await asyncio.sleep(SURVEY_LOOK)

    async def see(self) -> None:
        """Look through it if there is need, and say how long that took."""
        if await asyncio.to_thread(lambda: self._store.counted):
            return
        with metrics.SURVEY_SECONDS.time():
            await self._store.count()


class Tidying:
    """Writes journal and history anew once most of what they say has been overtaken; throws away what is too old."""

    name = "tidying"

    def __init__(self, store: Store) -> None:
        self._store = store
        self._history = History(store.layout)

    async def run(self) -> None:
        """See `Chore.run`."""
        while True:
            await asyncio.sleep(TIDY)
            with contextlib.suppress(NoSpace):  # there may be room later; it can stay as it is until then
                await self._store.threads.run(self._store.index.compact, self)
                await self._store.threads.run(partial(self._history.tidy, self, now=time.time()))
            await self._store.threads.run(self._store.leftovers.sweep)
            await self._store.threads.run(self._store.aside.tidy)

    def reserve(self, size: int) -> None:
        """See `Reserving.reserve`."""
        self._store.room.reserve(size)

    def release(self, size: int) -> None:
        """See `Reserving.release`."""
        self._store.room.landed(size)
        self._store.room.release(size)


class Neighbours:
    """Says once of each other mirror that it shares the directory: meant while one takes over from the other.

    Both say so, each by one of its processes.
    """

    name = "neighbours"

    def __init__(self, store: Store, mirror: int) -> None:
        """`mirror` is the pid of this process, or of its supervisor."""
        self._store = store
        self._mirror = mirror
        self._known = {0, mirror}  # 0: command-line tools

    async def run(self) -> None:
        """See `Chore.run`."""
        while True:
            others = self._store.room.others()
            strange = {other.mirror for other in others} - self._known
            self._known |= strange
            if not any(other.mirror == self._mirror and other.pid < os.getpid() for other in others):
                for pid in sorted(strange):
                    log.warning(
                        "another mirror works on the same storage.path; that is safe, and they have one cap together, "
                        "but both should have the same storage settings",
                        pid=pid,
                        path=str(self._store.layout.root),
                    )
            await asyncio.sleep(FIGURES)


class Figures:
    """What is in the store, for the metrics."""

    name = "figures"

    def __init__(self, store: Store, evictor: Evictor) -> None:
        self._store = store
        self._evictor = evictor
        self._crowded = False

    async def run(self) -> None:
        """See `Chore.run`."""
        while True:
            self._tell(await asyncio.to_thread(self._evictor.totals))
            await asyncio.sleep(FIGURES)

    def _tell(self, totals: Totals) -> None:
        cap = self._store.room.cap
        metrics.STORE_IMAGES.set(totals.images)
        metrics.STORE_CONTENTS.set(totals.contents)
        metrics.STORE_PINNED.set(totals.pinned_taken)
        metrics.STORE_CAPACITY.set(cap)
        metrics.STORE_OLDEST_USE.set(totals.oldest or 0.0)
        metrics.STORE_BYTES.set(self._store.room.used)
        metrics.STORE_ROOM.set(self._store.room.left())
        crowded = totals.pinned_taken > CROWDED * cap
        if crowded and not self._crowded:
            log.warning(
                "pinned images take most of the store: everything else is soon evicted again, or not kept; "
                "unpin some (mirror pin --list), or raise storage.max_size",
                pinned=totals.pinned_taken,
                cap=cap,
            )
        self._crowded = crowded
