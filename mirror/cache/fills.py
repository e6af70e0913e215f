"""The fills of this process: one for a digest, however many want it (promise 1)."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from cachetools import TTLCache

from mirror import metrics
from mirror.cache.fill import Fill
from mirror.cache.origins import Origin
from mirror.errors import Overloaded, UpstreamBroken
from mirror.store import heap
from mirror.upstream.protocol import Urgency

if TYPE_CHECKING:
    from mirror.cache.space import Space
    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository
    from mirror.store.blobs import BlobStore
    from mirror.store.index import Index
    from mirror.store.io import DiskThreads
    from mirror.upstream.protocol import Upstreams

REFUSED_SECONDS = 60  # for how long a digest is refused that was wrong twice (promise 3)
MAX_FILLS = 512  # under way and waiting, two files each; past it a request is refused rather than queued, …
MAX_OF_ONE = MAX_FILLS * 3 // 4  # … and past this where they are all of one upstream: it may be the one that hangs


class Fills:
    """Starts fills, and knows those that run."""

    def __init__(
        self, *, blobs: BlobStore, index: Index, space: Space, threads: DiskThreads, upstreams: Upstreams
    ) -> None:
        self._blobs = blobs
        self._index = index
        self._space = space
        self._threads = threads
        self._upstreams = upstreams
        self._running: dict[Digest, Fill] = {}
        self._of: Counter[str] = Counter()  # how many run, by what their upstream is called
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused: TTLCache[tuple[str, Digest], str] = TTLCache(4096, REFUSED_SECONDS)
        self.counted = asyncio.Event()  # the room knows what is on disk; no fill starts before

    def running(self, digest: Digest) -> Fill | None:
        """Return the fill of `digest`, if one is under way."""
        return self._running.get(digest)

    def under_way(self) -> list[asyncio.Task[None]]:
        """Return the tasks of all fills that run or wait."""
        return list(self._tasks)

    def forgive(self) -> None:
        """Ask anew for what was wrong a moment ago: upstreams are other ones now."""
        self._refused.clear()

    def origin(self, repository: Repository) -> Origin:
        """Return `repository` as a place to fill from. Raise `NameUnknown` for an upstream that is not mirrored."""
        return Origin(repository, self._upstreams.of(repository.namespace))

    def start(
        self, origin: Origin, digest: Digest, *, expected: int | None, urgent: bool = True, first: int = 0
    ) -> Fill:
        """Start a fill; there must be none. Raise `UpstreamBroken` for a digest that was wrong a moment ago.

        `expected` is the size in bytes that a descriptor gives, `first` the offset that the first client begins at.
        """
        namespace = origin.repository.namespace
        if (reason := self._refused.get((namespace, digest))) is not None:
            raise UpstreamBroken(reason, namespace=namespace, retry_after=REFUSED_SECONDS)
        label = origin.upstream.label
        most = MAX_FILLS if urgent else MAX_FILLS // 2  # clients find a place whatever is read ahead
        if len(self._running) >= most or self._of[label] >= min(most, MAX_OF_ONE):
            raise Overloaded(f"{len(self._running)} fills are under way or waiting; ask again in a while")
        fill = Fill(
            digest,
            origin,
            blobs=self._blobs,
            index=self._index,
            space=self._space,
            threads=self._threads,
            urgency=Urgency(urgent=urgent),
            expected=expected,
            first=first,
        )
        self._running[digest] = fill
        self._of[label] += 1
        metrics.FILLS_RUNNING.set(len(self._running))
        task = asyncio.create_task(self._run(fill, label), name=f"fill {digest}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return fill

    async def _run(self, fill: Fill, label: str) -> None:
        try:
            await self.counted.wait()
            await fill.run()
        finally:
            del self._running[fill.digest]
            self._of[label] -= 1
            metrics.FILLS_RUNNING.set(len(self._running))
            if isinstance(fill.error, UpstreamBroken):
                self._refused[fill.namespace, fill.digest] = f"{fill.error} (refused for {REFUSED_SECONDS} s)"
        if not self._running:
            await self._threads.run(heap.give_back)

    async def close(self) -> None:
        """Stop all fills; each leaves on disk what it can be gone on from."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
