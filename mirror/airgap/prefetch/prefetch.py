"""Prefetch: images into the cache before anybody asks for them, through the same fills as everybody else's.

It runs beside a mirror on the same store, or without one. Each image is looked into and then fetched, `jobs` of them at
once, so that bytes flow from the start; an upstream whose limit is reached holds up none but its own images.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from mirror.airgap.prefetch.allowance import Allowance
from mirror.airgap.prefetch.anatomy import MOST_MISSING
from mirror.airgap.prefetch.asking import Asking
from mirror.airgap.prefetch.expansion import Expansion
from mirror.airgap.prefetch.image import Image
from mirror.airgap.prefetch.keeping import Keeping
from mirror.airgap.prefetch.outage import Outage
from mirror.airgap.prefetch.outcome import Begun, Ended, Expanded, Fetched, Missing, Planned
from mirror.airgap.prefetch.place import Place
from mirror.airgap.prefetch.timing import Timing
from mirror.airgap.wanted import Wanted
from mirror.errors import MirrorError, StoreError
from mirror.store.packing import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mirror.airgap.prefetch.order import Order
    from mirror.airgap.prefetch.outcome import Event
    from mirror.cache.cache import Cache
    from mirror.oci.digest import Digest
    from mirror.store.store import Store

_TURN = 64  # looks at the disk before others get their turn on the loop

_Outcome = Planned | Fetched


class _FailedFast(Exception):
    """An image has failed, and the others are not wanted any more."""


class Prefetch:
    """One order, planned or carried out. What came stays, however it ends: the next run goes on from there.

    The cache must be attended to (`Cache.attend`) or open, its store counted.
    """

    def __init__(
        self,
        cache: Cache,
        store: Store,
        order: Order,
        hear: Callable[[Event], None],
        *,
        timing: Timing | None = None,
    ) -> None:
        """`hear` is told on the loop what happens, and must not raise."""
        self._cache = cache
        self._store = store
        self._order = order
        self._hear = hear
        self._timing = timing or Timing()
        self._askings: dict[str, Asking] = {}

    async def plan(self, wanted: Sequence[Wanted]) -> list[Planned]:
        """Find out what fetching would take; see `run`. Manifests may be fetched, since they tell; no blob is.

        Tags stay what they are here, unless a registry knows no HEAD: then asking for one is fetching it.
        """
        outcomes = await self._all(wanted, self._keeping(), {}, fetch=False)
        return [outcome for outcome in outcomes if isinstance(outcome, Planned)]

    async def run(self, wanted: Sequence[Wanted]) -> list[Fetched]:
        """Fetch; return what became of each image, in the order of `wanted`, selections expanded, each once.

        An image that fails is an outcome, and raises nothing.
        """
        keeping = self._keeping()
        needs: dict[int, tuple[bytes, ...]] = {}
        try:
            outcomes = await self._all(wanted, keeping, needs, fetch=True)
            fetched = [outcome if isinstance(outcome, Fetched) else _not_fetched(outcome) for outcome in outcomes]
            await self._look_again(fetched, needs)
        finally:
            keeping.close()
        return fetched

    def _keeping(self) -> Keeping:
        return Keeping(self._store, self._cache.space, pin=self._order.pin)

    async def _all(
        self, wanted: Sequence[Wanted], keeping: Keeping, needs: dict[int, tuple[bytes, ...]], *, fetch: bool
    ) -> list[_Outcome]:
        await asyncio.to_thread(keeping.count_pinned)
        singles = await Expansion(self._order, self._ask, self._timing).run(wanted)
        self._hear(Expanded(len(singles)))
        outcomes: list[_Outcome | None] = [None] * len(singles)
        queues: dict[str, deque[tuple[int, Wanted]]] = defaultdict(deque)
        first: str | None = None  # what failed, where that ends it all
        for position, single in enumerate(singles):
            if isinstance(single, Planned):
                outcomes[position] = outcome = single if not fetch else _not_fetched(single)
                self._hear(Ended(outcome))
                first = first or (outcome.reference if self._order.fail_fast else None)
            else:
                queues[single.repository.namespace].append((position, single))
        if first is None:
            if fetch:
                await self._hold(keeping, queues.values())
            try:
                await self._work(queues.values(), outcomes, keeping, needs, fetch=fetch)
            except* _FailedFast as failed:
                first = str(failed.exceptions[0])
        for position, single in enumerate(singles):
            if outcomes[position] is None and isinstance(single, Wanted):
                stopped = Planned(single, failure=f"stopped, since {first} had failed")
                outcomes[position] = outcome = stopped if not fetch else _not_fetched(stopped)
                self._hear(Ended(outcome))
        return [outcome for outcome in outcomes if outcome is not None]

    async def _hold(self, keeping: Keeping, queues: Iterable[Iterable[tuple[int, Wanted]]]) -> None:
        """Keep what is here already of what is wanted: it must not make room for what comes before it."""
        for number, (_, single) in enumerate(chain.from_iterable(queues)):
            if number % _TURN == _TURN - 1:
                await asyncio.sleep(0)
            known = self._store.index.tag(single.repository, single.tag.name) if single.tag is not None else None
            digest = single.digest or (known.digest if known is not None else None)
            if digest is not None:
                with suppress(StoreError):  # what the disk does not give fails its own image, and no other
                    keeping.hold(digest)

    async def _work(
        self,
        queues: Iterable[deque[tuple[int, Wanted]]],
        outcomes: list[_Outcome | None],
        keeping: Keeping,
        needs: dict[int, tuple[bytes, ...]],
        *,
        fetch: bool,
    ) -> None:
        """Work on all, `jobs` at once; raise a group of `_FailedFast`."""
        places = asyncio.Semaphore(self._order.jobs)

        async def work(queue: deque[tuple[int, Wanted]]) -> None:
            while queue:
                position, single = queue.popleft()
                async with Place(places, self._timing) as place:
                    outcome, needed = await self._one(single, place, keeping, fetch=fetch)
                outcomes[position] = outcome
                needs[position] = tuple(map(pack, needed))
                self._hear(Ended(outcome))
                if outcome.failure is not None and self._order.fail_fast:
                    raise _FailedFast(outcome.reference)

        async with asyncio.TaskGroup() as group:
            for queue in queues:  # of each upstream as many as may be: those of others may wait for its limit
                for _ in range(min(self._order.jobs, len(queue))):
                    group.create_task(work(queue))

    async def _one(
        self, single: Wanted, place: Place, keeping: Keeping, *, fetch: bool
    ) -> tuple[_Outcome, Iterable[Digest]]:
        """Work on one image; return what became of it, and all that it needs if it is whole."""
        self._hear(Begun(str(single)))
        try:
            asking = self._ask(single.repository.namespace)
            image = Image(
                single,
                place,
                cache=self._cache,
                store=self._store,
                order=self._order,
                asking=asking,
                keeping=keeping,
                hear=self._hear,
                timing=self._timing,
            )
            planned, anatomy = await image.plan()
        except MirrorError as error:
            planned, anatomy = Planned(single, failure=str(error)), None
        if not fetch:
            return planned, ()
        if anatomy is None:
            return _not_fetched(planned), ()
        return await image.fetch(planned, anatomy), image.needs

    def _ask(self, namespace: str) -> Asking:
        """Return how to ask an upstream; raise `NameUnknown` for one that is not mirrored."""
        if namespace not in self._askings:
            upstream = self._cache.upstream(namespace)
            kept = self._cache.thrift.kept_from_spare()
            allowance = Allowance(upstream, self._order.budget, self._hear, self._timing, kept=kept)
            outage = Outage(namespace, self._hear, self._timing)
            self._askings[namespace] = Asking(self._cache, namespace, allowance, outage, self._timing)
        return self._askings[namespace]

    async def _look_again(self, fetched: list[Fetched], needs: dict[int, tuple[bytes, ...]]) -> None:
        """See that what came is still here: more may have been asked for than fits, or somebody threw it away."""
        looks = 0
        for position, outcome in enumerate(fetched):
            if outcome.failure is not None:
                continue
            lost = []
            for key in needs.get(position, ()):
                looks += 1
                if looks % _TURN == 0:
                    await asyncio.sleep(0)
                try:
                    here = self._cache.obtaining.here(outcome.wanted.repository, unpack(key))
                except StoreError:  # the disk does not let it be seen, nor be served
                    here = False
                if not here:
                    lost.append(unpack(key))
            if lost:
                reason = "it was evicted or purged before the end; raise storage.max_size, or prefetch less at a time"
                missing = tuple(Missing(str(digest), reason, digest) for digest in lost[:MOST_MISSING])
                failure = f"{len(lost)} of its {len(needs[position])} parts are here no longer: {reason}"
                fetched[position] = replace(outcome, failure=failure, missing=missing, lacking=len(lost), pinned=False)
                self._hear(Ended(fetched[position]))


def _not_fetched(planned: Planned) -> Fetched:
    """Return the outcome of an image of which nothing was fetched, since planning it failed."""
    return Fetched(
        planned,
        waited=planned.waited,
        missing=planned.missing,
        lacking=planned.lacking,
        failure=planned.failure,
    )
