"""Making room: the images that were used longest ago go, whole, until there is enough (promise 7)."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

import structlog
from cachetools import TTLCache

from mirror import metrics
from mirror.cache.candidates import Candidates
from mirror.config.units import show_bytes
from mirror.errors import NoSpace, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirror.cache.uses import Uses
    from mirror.oci.digest import Digest
    from mirror.store.graph import Removal, Totals
    from mirror.store.store import Store

log = structlog.get_logger(__name__)

FULL, HIGH_WATER, MIN_FREE = "full", "high-water", "min-free"  # why something was evicted
TURN = 0.1  # seconds that background eviction goes on before others get their turn
POLL = 0.01  # seconds between looks whether another process has done evicting
_REFUSALS = 8  # of the disk, after which eviction ends with an error: it is not one image that cannot go
_PASSED_OVER = 600.0  # seconds until it is tried again to evict what the disk did not let go
_SHARE = 50.0  # totals are counted again after so many times what counting them took: 2 % of a thread


class Evictor:
    """Evicts for this process. Of all processes one does at a time: the next looks again at what there is by then."""

    def __init__(self, store: Store, uses: Uses, *, max_size: int, clock: Callable[[], float] = time.time) -> None:
        """`max_size` is the configured cap in bytes, `clock` gives seconds since the epoch."""
        self._store = store
        self._uses = uses
        self._clock = clock
        self._turn = asyncio.Lock()
        self._closed = False
        self._counted: Totals | None = None
        self._count_again = 0.0
        self._refused: TTLCache[Digest, bool] = TTLCache(4096, _PASSED_OVER)  # what the disk does not let go
        self.max_size = max_size
        self.ready = asyncio.Event()  # the index knows what is on disk; before that nothing may go

    def close(self) -> None:
        """Stop after the image that is under way."""
        self._closed = True

    def totals(self) -> Totals:
        """Return what is in the store, counted a moment ago. Reads the disk: call it in a thread."""
        now = time.monotonic()
        if self._counted is None or now >= self._count_again:
            self._counted = self._store.graph.totals()
            self._count_again = now + _SHARE * (time.monotonic() - now)
        return self._counted

    async def free(self, size: int, *, spare: float | None = None) -> bool:
        """Evict until `size` bytes can be reserved; say whether that was reached, though others may take them.

        Nothing goes where all that could go would not be enough; raise `NoSpace` where that will not change by waiting.
        `spare` keeps what was used in the last so many seconds.
        """
        room = self._store.room
        if not self.ready.is_set():
            return False
        async with self._turn:
            await self._told()
            return await self._store.threads.run(self._free, lambda: room.left() >= size, size, spare)

    async def relieve(self) -> int:
        """Where the high-water mark has been passed, evict down to the low one; return how many bytes were freed.

        It goes in short turns: whoever waits for room gets his own in between.
        """
        room = self._store.room
        excess = room.excess()
        if not self.ready.is_set() or excess <= 0:
            return 0
        target = room.used - excess
        reason = HIGH_WATER if room.cap >= self.max_size else MIN_FREE
        total = 0
        while room.used > target and not self._closed:
            async with self._turn:
                await self._told()
                freed = await self._store.threads.run(self._relieve, target, reason)
            if not freed:
                break
            total += freed
        return total

    async def _told(self) -> None:
        """Tell the index what was used up to now. A full disk may refuse that: then it goes by what it knows."""
        with contextlib.suppress(StoreError):
            await self._uses.flush()

    def _free(self, enough: Callable[[], bool], size: int, spare: float | None) -> bool:
        with self._alone():
            if enough():
                return True
            self._clear(size)
            if not enough() and self._possible(size):
                self._evict(enough, FULL, spare)
            return enough()

    def _relieve(self, target: int, reason: str) -> int:
        room = self._store.room
        with self._alone():
            if room.used <= target:
                return 0
            freed = self._clear(room.used - target)
            until = time.monotonic() + TURN
            return freed + self._evict(lambda: room.used <= target, reason, None, until)

    def _clear(self, need: int) -> int:
        """Throw away what is of no use to any client: what is damaged, what nobody goes on with; return the bytes."""
        freed = self._store.aside.clear(need)
        return freed + (self._store.leftovers.clear(need - freed) if freed < need else 0)

    def _evict(self, enough: Callable[[], bool], reason: str, spare: float | None, until: float = float("inf")) -> int:
        """Evict until it is enough, or, once something went, until that time; return how many bytes were freed."""
        freed = 0
        totals = self.totals()
        candidates = Candidates(self._store.graph, self._store.recent, once=totals.once, again=totals.again)
        refused: list[Digest] = []
        for unit, used in candidates:
            if spare is not None and used > self._clock() - spare:
                candidates.spared()
                continue
            freed += self._clear_older(enough, used)
            if enough() or self._closed or (freed and time.monotonic() > until):
                break
            removal = self._remove(unit.digest, used, refused)
            if removal is not None:
                candidates.went()
                freed += self._tell(removal, reason, used)
        else:
            freed += self._clear_older(enough, self._clock() - (spare or 0.0))
        return freed

    def _clear_older(self, enough: Callable[[], bool], before: float) -> int:
        """Throw away what nobody has gone on with since that time, until it is enough; return how many bytes."""
        freed = 0
        while not enough() and (cleared := self._store.leftovers.clear(1, before=before)):
            freed += cleared
        return freed

    def _remove(self, digest: Digest, used: float, refused: list[Digest]) -> Removal | None:
        """Remove an image. One that the disk does not let go keeps no other from going, and is tried again later."""
        if digest in self._refused:
            return None
        try:
            return self._store.remover.remove(digest, used=used)
        except NoSpace:  # for the index: so it is for all of them
            raise
        except StoreError as error:
            self._refused[digest] = True
            refused.append(digest)
            log.warning("an image cannot be evicted; others go in its place", digest=str(digest), error=str(error))
            if len(refused) >= _REFUSALS:
                raise
            return None

    def most(self) -> int:
        """Return how many bytes could be had at most, as far as that is known without reading the index.

        All content counts as if it could go, but what was pinned when that was last counted.
        """
        pinned = 0 if self._counted is None else self._counted.pinned_taken
        return self._unused() + self._store.room.balance().content - pinned

    def _unused(self) -> int:
        room = self._store.room
        return min(room.left(), room.cap - room.used)  # below 0 where the cap became smaller

    def _possible(self, size: int) -> bool:
        """Say whether `size` bytes can be had now, without what fills hold; raise `NoSpace` where never."""
        room, totals, most = self._store.room, self.totals(), self.most()
        if size > most + room.balance().held:
            raise NoSpace(
                f"{show_bytes(size)} do not fit in the store {self._store.layout.root.absolute()}: it may take "
                f"{show_bytes(room.cap)}, of which {show_bytes(totals.pinned_taken)} are pinned; raise "
                "storage.max_size, lower storage.min_free, free the disk, or unpin images (mirror pin --list)"
            )
        return size <= most

    def _tell(self, removal: Removal, reason: str, used: float) -> int:
        freed = sum(content.taken for content in removal.gone)
        metrics.EVICTIONS.labels(reason).inc()
        metrics.EVICTED_BYTES.labels(reason).inc(freed)
        log.info(
            "evicted",
            images=list(removal.names),
            digest=str(removal.unit.digest),
            freed=freed,
            files=len(removal.gone),
            reason=reason,
            unused_seconds=round(max(0.0, self._clock() - used)),
        )
        return freed

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from evicting meanwhile: by the lock of the directory of all content."""
        try:
            fd = os.open(self._store.layout.blobs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(
                f"the store {self._store.layout.root} cannot be used: {error}; see that it is there"
            ) from error
        try:
            while not self._closed:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(POLL)
            yield
        finally:
            os.close(fd)
