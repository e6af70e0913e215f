"""What clients were given, as they asked for it: `mirror.store.history` remembers it when the content is long gone.

An image counts as served when a client gets its manifest. A HEAD of a tag counts too: containerd and Docker resolve a
tag by HEAD and then fetch the digest, or do not, since the node has the image already; either way somebody uses it. A
HEAD of a digest does not. A GET by digest counts as an image of its own, unless it is a step of the pull of another
one: the digest of a tag that was asked for within the hour, a platform's manifest of such an index, a signature or
another referrer. Those go where their image goes, and so do tags like `sha256-HEX.sig`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

import structlog
from cachetools import LRUCache

from mirror.errors import StoreError
from mirror.oci.digest import Digest
from mirror.store.history import History, Served
from mirror.store.nodes import referred

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.oci.name import Reference, Repository
    from mirror.store.store import Store

    Key = tuple[Repository, Reference, Digest]
    Noted = OrderedDict[tuple[Repository, Reference], tuple[Digest, float]]

log = structlog.get_logger(__name__)

EVERY = 5.0  # seconds between two times that the history is written: a crash forgets as much
HOUR = 3600.0  # seconds; what was written is written again when it is older, and one pull takes no longer
MOST = 20_000  # references that wait to be written; past it the oldest are forgotten
_KNOWN = 50_000  # that are remembered to have been written


class Record:
    """Notes what is served, and writes it behind."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives seconds since the epoch."""
        self._store = store
        self._history = History(store.layout)
        self._clock = clock
        self._waiting: Noted = OrderedDict()
        self._written: LRUCache[Key, float] = LRUCache(_KNOWN)
        self._tagged: LRUCache[tuple[Repository, Digest], float] = LRUCache(_KNOWN)  # what tags were, and when
        self._flushing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Write every few seconds from now on, until `close`."""
        self._task = asyncio.create_task(self._run(), name="history")

    def note(self, repository: Repository, reference: Reference, digest: Digest) -> None:
        """A client was given `digest` for `reference`. Takes a microsecond or two."""
        self._waiting[repository, reference] = digest, self._clock()
        self._trim()

    async def flush(self) -> None:
        """Write what is new; raise `StoreError`, and then nothing is forgotten."""
        async with self._flushing:
            if not self._waiting:
                return
            noted, self._waiting = self._waiting, OrderedDict()
            try:
                written = await self._store.threads.run(self._write, noted)
            except BaseException:  # the disk has refused, or the mirror stops
                self._waiting = noted | self._waiting
                self._trim()
                raise
            self._written.update(written)

    def _trim(self) -> None:
        while len(self._waiting) > MOST:
            self._waiting.popitem(last=False)

    async def close(self) -> None:
        """Write the rest."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._try()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            await self._try()

    async def _try(self) -> None:
        try:
            await self.flush()
        except StoreError as error:  # a full disk keeps nobody from what is here
            log.warning("what was served is not recorded", count=len(self._waiting), error=str(error))

    # --- in a thread, one at a time --------------------------------------------------------------------------------

    def _write(self, noted: Noted) -> dict[Key, float]:
        for (repository, reference), (digest, at) in noted.items():
            if not isinstance(reference, Digest):
                self._tagged[repository, digest] = at
        new = {
            (repository, reference, digest): at
            for (repository, reference), (digest, at) in noted.items()
            if self._is_news(repository, reference, digest, at)
        }
        self._history.add(
            Served(repository, None if isinstance(reference, Digest) else reference, digest, at)
            for (repository, reference, digest), at in new.items()
        )
        return new

    def _is_news(self, repository: Repository, reference: Reference, digest: Digest, at: float) -> bool:
        before = self._written.get((repository, reference, digest))
        if before is not None and abs(at - before) < HOUR:
            return False
        if not isinstance(reference, Digest):
            return referred(reference.name) is None
        tagged = self._tagged.get((repository, digest))
        if tagged is not None and abs(at - tagged) < HOUR:
            return False
        return not self._is_part(repository, digest)

    def _is_part(self, repository: Repository, digest: Digest) -> bool:
        """Say whether it belongs to an image that was asked for lately, of any process."""
        graph, recent = self._store.graph, self._store.recent
        with contextlib.suppress(StoreError):  # rather twice in the history than not at all
            if graph.is_referrer(digest):
                return True
            asked = recent.last(digest)
            return any(abs(asked - recent.last(one.digest)) < HOUR for one in graph.namers(repository, digest))
        return False
