"""The scrub: all content is read again and again, so that what the disk has lost is known before a client needs it.

Two ways lead to the same look. The scrub goes through everything, what was looked at longest ago first, in the process
that keeps house. And what was sent whole from the disk is looked at behind the client's back, where that is due: its
pages are still in memory. Small content is verified each time that it is read, and needs neither.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog
from cachetools import TTLCache

from mirror.errors import StoreError

if TYPE_CHECKING:
    from mirror.cache.check import Checker
    from mirror.oci.digest import Digest
    from mirror.store.changes import Checked

log = structlog.get_logger(__name__)

BATCH = 64  # files that are taken on at once, and that are recorded at once
RECORD = 10.0  # seconds until what is right is recorded: a kill costs no more than this, and the file under way
LOOK = 60.0  # seconds between looks whether anything is due
MOST_SENT = 256  # that wait to be looked at; more were sent than anybody can read
AGAIN = 600.0  # seconds in which what was sent again is not asked about again


class Scrub:
    """Reads what was looked at longest ago."""

    name = "scrub"

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._graph = checker.store.graph
        self._passed: set[Digest] = set()  # nobody could say: they are not looked at again in this round
        self._right: list[Checked] = []
        self._recorded = 0.0

    async def run(self) -> None:
        """See `Chore.run`."""
        while True:
            if self._checker.pace.rate == 0 or not await self.some():
                await self._checker.pace.change(LOOK)

    async def some(self) -> bool:
        """Look at what is due, up to a batch; say whether there was anything. What is right is recorded."""
        due = await asyncio.to_thread(self._graph.due, self._checker.before, BATCH + len(self._passed))
        looked = [content.digest for content in due if content.digest not in self._passed][:BATCH]
        if not looked:
            self._passed.clear()
            return False
        self._recorded = time.monotonic()
        try:
            for digest in looked:
                await self._look(digest)
        finally:
            await self._record()
        return True

    async def _look(self, digest: Digest) -> None:
        self._passed.add(digest)
        right = await self._checker.check(digest)  # whatever it raises: the next round begins behind it
        if right is not None:
            self._passed.discard(digest)
            self._right.append(right)
        if time.monotonic() - self._recorded >= RECORD:
            await self._record()

    async def _record(self) -> None:
        right, self._right = self._right, []
        self._recorded = time.monotonic()
        await self._checker.store.index.apply(*right)


class Sent:
    """Looks at what this process sent whole from the disk, unless that was done lately."""

    name = "check of what was sent"

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._waiting: dict[Digest, None] = {}
        self._lately: TTLCache[Digest, None] = TTLCache(16_384, AGAIN)
        self._stirred = asyncio.Event()

    def hear(self, digest: Digest) -> None:
        """Content was sent. Takes a microsecond."""
        if self._checker.pace.rate == 0 or digest in self._lately or len(self._waiting) >= MOST_SENT:
            return
        self._lately[digest] = None
        self._waiting[digest] = None
        self._stirred.set()

    async def run(self) -> None:
        """See `Chore.run`."""
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            while self._waiting:
                digest = next(iter(self._waiting))
                del self._waiting[digest]
                try:
                    await self._look(digest)
                except StoreError as error:  # the scrub comes to it again
                    log.warning("what was sent could not be looked at", digest=str(digest), error=str(error))

    async def _look(self, digest: Digest) -> None:
        store = self._checker.store
        content = await asyncio.to_thread(store.graph.content, digest)
        if content is None or content.checked >= self._checker.before:
            return
        right = await self._checker.check(digest)
        if right is not None:
            await store.index.apply(right)
