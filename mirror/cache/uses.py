"""What clients asked for, and when: eviction takes what was asked for longest ago."""

from __future__ import annotations

import asyncio
import contextlib
import time
from itertools import islice
from typing import TYPE_CHECKING

import structlog

from mirror.errors import StoreError
from mirror.store.changes import Used

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository
    from mirror.store.index import Index
    from mirror.store.recent import Recent

log = structlog.get_logger(__name__)

EVERY = 5.0  # seconds between two times that the index is told
AT_ONCE = 500  # uses in one transaction: others wait for it, a fill that wants to be stored among them
MOST = 20_000  # uses that wait to be told; past it the index is told at once


class Uses:
    """Remembers uses until the index is told of them, all at once.

    A crash forgets those of the last seconds. What is asked for meanwhile is known to all processes by `Recent`.
    """

    def __init__(self, index: Index, recent: Recent, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives seconds since the epoch."""
        self._index = index
        self._recent = recent
        self._clock = clock
        self._waiting: dict[tuple[Repository, Digest], float] = {}
        self._flushing = asyncio.Lock()
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Tell the index every few seconds from now on, until `close`."""
        self._task = asyncio.create_task(self._run(), name="uses")

    def touch(self, repository: Repository, digest: Digest) -> None:
        """A client asked for `digest` through `repository`. Takes a microsecond or two."""
        now = self._clock()
        self._waiting[repository, digest] = now
        self._recent.touch(digest, now)
        if len(self._waiting) >= MOST:
            self._due.set()
            if len(self._waiting) >= 2 * MOST:  # the disk refuses, or is slow: the oldest word is worth least
                del self._waiting[next(iter(self._waiting))]

    async def flush(self) -> None:
        """Tell the index what it has not heard; raise `StoreError`, and then nothing is forgotten."""
        async with self._flushing:
            told, self._waiting = self._waiting, {}
            try:
                while some := tuple(islice(told.items(), AT_ONCE)):
                    await self._index.apply(*(Used(repository, digest, at) for (repository, digest), at in some))
                    for key, _ in some:
                        del told[key]
            finally:
                if told:  # the disk has refused, or the mirror stops
                    self._waiting = told | self._waiting

    async def close(self) -> None:
        """Tell the rest."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._try()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await self._due.wait()
            self._due.clear()
            await self._try()

    async def _try(self) -> None:
        try:
            await self.flush()
        except StoreError as error:  # a full disk keeps nobody from what is here
            log.warning("uses not recorded", count=len(self._waiting), error=str(error))
