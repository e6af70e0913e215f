"""Healing: what was put aside is fetched again from where it came, until it is here or nobody holds it any more."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import structlog

from mirror import metrics
from mirror.cache.keep import keep
from mirror.errors import (
    MirrorError,
    NameUnknown,
    StoreError,
    UpstreamDenied,
    UpstreamError,
    UpstreamNotFound,
)
from mirror.oci.name import Repository
from mirror.store.changes import Stored
from mirror.store.refusal import refusing
from mirror.store.rejection import repositories_holding

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirror.cache.fills import Fills
    from mirror.cache.manifests import Manifests
    from mirror.cache.memory import Memory
    from mirror.cache.space import Space
    from mirror.oci.digest import Digest
    from mirror.store.store import Store

log = structlog.get_logger(__name__)

LOOK = 5.0  # seconds between looks whether anything was put aside: other processes do that, too
COUNT = 15.0  # seconds between looks whether it has come back by itself, for a client
FIRST, LAST = 60.0, 6 * 3600.0  # seconds until it is tried again: four times as long each time
AWAY = 300.0  # the longest that is waited for an upstream that is away: whoever asks finds out that it is back
AT_ONCE = 4  # fetches


class Healer:
    """Fetches content again that the disk has lost."""

    def __init__(self, store: Store, space: Space, memory: Memory, fills: Fills, manifests: Manifests) -> None:
        self._store = store
        self._space = space
        self._memory = memory
        self._fills = fills
        self._manifests = manifests

    async def heal(self, digest: Digest) -> bool:
        """Bring content back; False where no repository is linked to it any more. Raise `MirrorError`."""
        blobs = self._store.blobs
        if blobs.size(digest) is not None:
            return True
        paths = await asyncio.to_thread(repositories_holding, self._store.layout, digest)
        repositories = [Repository(*path.split("/", 1)) for path in paths]
        if not repositories:
            return False
        standings = [self._store.index.standing(repository, digest) for repository in repositories]
        if any(standing.media_type is not None for standing in standings):
            await self._manifest(digest, repositories)
        elif (body := self._memory.get(digest)) is not None:
            taken = await keep(self._space, blobs, digest, body)
            await self._store.index.apply(Stored(digest, taken, time.time()))
        else:
            sizes = [standing.size for standing in standings if standing.size is not None]
            await self._blob(digest, repositories, sizes[0] if sizes else None)
        if blobs.size(digest) is None:
            raise StoreError(f"{digest} was fetched, and could not be stored; see the log before this")
        return True

    async def _manifest(self, digest: Digest, repositories: Sequence[Repository]) -> None:
        refusal: MirrorError | None = None
        for repository in repositories:
            try:
                await self._manifests.restore(repository, digest)
            except (NameUnknown, UpstreamError) as error:
                refusal = _weightier(refusal, error)
            else:
                return
        assert refusal is not None  # noqa: S101  # there was one repository at least
        raise refusal.with_traceback(None)

    async def _blob(self, digest: Digest, repositories: Sequence[Repository], size: int | None) -> None:
        refusal: MirrorError | None = None
        for _, some in groupby(repositories, lambda repository: repository.namespace):
            try:
                await self._fill(digest, list(some), size)
            except (NameUnknown, UpstreamError) as error:
                refusal = _weightier(refusal, error)
            else:
                return
        assert refusal is not None  # noqa: S101  # there was one repository at least
        raise refusal.with_traceback(None)

    async def _fill(self, digest: Digest, repositories: Sequence[Repository], size: int | None) -> None:
        """Fill it through repositories of one upstream: the first that is not refused."""
        fill = self._fills.running(digest)
        if fill is None:
            first, *others = map(self._fills.origin, repositories)
            fill = self._fills.start(first, digest, expected=size, urgent=False)
            for origin in others:
                fill.origins.join(origin)
        ended = asyncio.Event()
        fill.on_end.add(ended.set)
        await ended.wait()
        if fill.error is not None:
            raise fill.error


def _weightier(one: MirrorError | None, other: MirrorError) -> MirrorError:
    """Return of two refusals the one that may pass."""
    return other if one is None or isinstance(one, NameUnknown | UpstreamNotFound | UpstreamDenied) else one


@dataclass(slots=True)
class _Patient:
    """What waits to be healed. Times are on the monotonic clock."""

    tries: int = 0
    due: float = 0.0
    away: str | None = None  # the upstream that was away when it was last tried


class Heal:
    """Tries at once, and then ever later; at once again when an upstream that was away is back."""

    name = "healing"

    def __init__(
        self, store: Store, healer: Healer, rejected: asyncio.Event, away: Callable[[str], bool], *, offline: bool
    ) -> None:
        """`rejected` is set when this process put something aside; `away` says of a namespace whether upstream is."""
        self._store = store
        self._healer = healer
        self._rejected = rejected
        self._away = away
        self._patients: dict[Digest, _Patient] = {}
        self._running: dict[Digest, asyncio.Task[None]] = {}
        self._asked: dict[str, float] = {}  # when it is next seen whether an upstream that was away is back
        self._stamp = 0
        self._counted = 0.0
        self._offline = offline

    def reconfigure(self, *, offline: bool) -> None:
        """Go by another configuration from now on: what failed before it may succeed now."""
        self._offline = offline
        for patient in self._patients.values():
            patient.due, patient.away = 0.0, None
        self._rejected.set()

    async def run(self) -> None:
        """See `Chore.run`."""
        self._stamp = 0
        try:
            while True:
                await self._look()
                self._begin()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await self._rejected.wait()
                self._rejected.clear()
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _look(self) -> None:
        """See what is aside, and what is back."""
        stamp = await self._store.threads.run(self._changed)
        due = self._patients and time.monotonic() - self._counted > COUNT
        if stamp == self._stamp and not due:
            return
        self._counted = time.monotonic()
        waiting = set(await asyncio.to_thread(self._store.aside.waiting))
        back = [digest for digest in self._patients if digest not in waiting]
        for digest in back:
            del self._patients[digest]
            self._tell(digest)
        if back:
            await asyncio.to_thread(self._store.aside.tidy)
        for digest in waiting - self._patients.keys():
            self._patients[digest] = _Patient()
        self._stamp = stamp

    def _changed(self) -> int:
        with refusing(self._store.layout.root):
            return self._store.layout.aside.stat().st_mtime_ns

    def _tell(self, digest: Digest) -> None:
        if self._store.blobs.size(digest) is not None:
            metrics.SCRUB_RESULTS.labels("healed").inc()
            log.info("damaged content is healed", digest=str(digest))

    def _begin(self) -> None:
        if self._offline:
            return
        now = time.monotonic()
        for digest, patient in self._patients.items():
            if len(self._running) >= AT_ONCE:
                return
            if digest in self._running or not self._is_due(patient, now):
                continue
            if patient.away is not None:
                self._asked[patient.away] = now + FIRST
            task = self._running[digest] = asyncio.create_task(self._try(digest, patient), name=f"heal {digest}")
            task.add_done_callback(partial(self._end, digest))

    def _is_due(self, patient: _Patient, now: float) -> bool:
        if patient.away is None:
            return now >= patient.due
        if not self._away(patient.away):
            return True
        return now >= max(patient.due, self._asked.get(patient.away, 0.0))

    def _end(self, digest: Digest, _: asyncio.Task[None]) -> None:
        self._running.pop(digest, None)
        self._counted = 0.0
        self._rejected.set()  # there may be more to do

    async def _try(self, digest: Digest, patient: _Patient) -> None:
        try:
            if not await self._healer.heal(digest):
                await asyncio.to_thread(self._store.aside.forget, digest)
                log.info("damaged content is forgotten: no repository holds it any more", digest=str(digest))
        except MirrorError as error:
            self._put_off(digest, patient, error)
        except Exception as error:
            log.exception("damaged content could not be healed", digest=str(digest))
            self._put_off(digest, patient, error)

    def _put_off(self, digest: Digest, patient: _Patient, error: Exception) -> None:
        wait = min(FIRST * 4.0**patient.tries, LAST)
        patient.away = None
        if isinstance(error, UpstreamError) and self._away(error.namespace):
            patient.away = error.namespace
            wait = min(wait, AWAY)
        say = log.info if patient.tries else log.warning
        say("damaged content is not healed yet", digest=str(digest), reason=str(error), again_in_seconds=round(wait, 2))
        patient.tries += 1
        patient.due = time.monotonic() + wait
