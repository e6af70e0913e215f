"""What may still be asked of one upstream: where its rate limit ends, or the share of it that may be used, it waits.

Docker Hub counts GETs of manifests: not HEADs, blobs or lists. Its answers say what remains (`mirror.upstream.budget`),
those to HEADs too, so that looking costs nothing. Others use the same limit, so what it says counts, and not what was
counted here.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mirror.airgap.prefetch.outcome import Resumed, Waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from mirror.airgap.prefetch.outcome import Event
    from mirror.airgap.prefetch.place import Place
    from mirror.airgap.prefetch.timing import Timing
    from mirror.upstream.protocol import Upstream

FIRST_REST, LAST_REST = 30.0, 600.0  # seconds after a 429 that says no time: twice as long each time
FIRST_POLL, LAST_POLL = 60.0, 600.0  # seconds until it is asked what remains now, likewise
LEAST_REST = 1.0  # seconds: a registry that says "0" is not asked without end
_SURE = 32  # more than ever are under way at once: so much cannot be answers that overtook each other


class Allowance:
    """The limits of one upstream, for all images of a prefetch."""

    def __init__(
        self,
        upstream: Upstream,
        share: float,
        hear: Callable[[Event], None],
        timing: Timing,
        *,
        kept: float = 0.0,
    ) -> None:
        """`share` of the limit may be used, by whomever; `kept`, a share too, is left to the clients of the mirror."""
        self._upstream = upstream
        self._share = share
        self._kept = max(kept, 1 - share)
        self._hear = hear
        self._timing = timing
        self._turn = asyncio.Lock()
        self._until = 0.0  # when the rest after a 429 ends
        self._rest = FIRST_REST
        self._told: float | None = None  # until when people were told that is waited
        self._learnt = False
        self._under_way = 0  # counted requests
        self._most = 0  # that ever remained: the limit, as far as is known, of who does not say it
        self._left: int | None = None  # how many more may be made, as far as is known; None: no limit is known

    def limited(self, retry_after: float | None) -> None:
        """Hear of a 429: nothing is asked for a while."""
        now = self._timing.clock()
        if now < self._until:  # it was asked before the rest began
            return
        rest = self._rest if retry_after is None else max(retry_after, LEAST_REST)
        self._rest = min(self._rest * 2, LAST_REST)
        self._until = now + rest

    def answered(self) -> None:
        """Hear that it has answered."""
        if self._timing.clock() >= self._until:
            self._rest = FIRST_REST

    async def rested(self, place: Place) -> None:
        """Wait until it may be asked at all."""
        if self._timing.clock() < self._until:
            async with place.given_up():
                await self._outlast()

    @asynccontextmanager
    async def counted(self, place: Place, learn: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
        """Make a counted request within, once it may be. `learn` makes one that is not counted, and never raises."""
        granted = False
        try:
            self._see()
            if self._turn.locked() or not self._open():
                # In this order: who held the turn while it waits for a place again would keep out whoever has one.
                async with place.given_up(), self._turn:
                    await self._wait(learn)
                    granted = self._grant()
            else:
                granted = self._grant()
            yield
        finally:
            if granted:
                self._under_way -= 1
                self._see()

    def _grant(self) -> bool:
        self._resume()
        self._under_way += 1
        if self._left is not None:
            self._left -= 1
        return True

    def _open(self) -> bool:
        unknown = self._share < 1 and not self._learnt and self._upstream.budget is None
        return not unknown and self._timing.clock() >= self._until and (self._left is None or self._left > 0)

    # --- what remains --------------------------------------------------------------------------------------------

    def _see(self, *, anew: bool = False) -> None:
        """Read what was said last. Answers overtake each other: a little more than before counts only if `anew`."""
        said = self._remaining()
        if said is None:
            self._left = None
            return
        said -= self._under_way
        if anew or self._left is None or said < self._left or said > self._left + _SURE:
            self._left = said

    def _remaining(self) -> int | None:
        """Return how many requests may be made, of what upstream said last; None where it said nothing that holds."""
        budget = self._upstream.budget
        if budget is None or budget.remaining is None or budget.limit == 0:  # a limit of none would not have answered
            return None
        self._most = max(self._most, budget.remaining)
        now = self._timing.clock()
        ends = budget.resets_at if budget.resets_at is not None else budget.at + (budget.window or float("inf"))
        if ends <= now:
            return None
        limit = budget.limit if budget.limit is not None else self._most
        return budget.remaining - round(limit * self._kept)

    # --- waiting -------------------------------------------------------------------------------------------------

    async def _wait(self, learn: Callable[[], Awaitable[object]]) -> None:
        """Wait until one more may be made. At first it is only asked: what was counted here may be too much."""
        poll = 0.0
        while not self._open():
            await self._outlast()
            if poll and self._left is not None and self._left <= 0:
                await self._wait_for_budget(poll)
            poll = min(max(poll * 2, FIRST_POLL), LAST_POLL)
            await learn()
            self._learnt = True
            self._see(anew=True)

    async def _wait_for_budget(self, poll: float) -> None:
        """Wait until there may be more of the limit, as far as upstream says when."""
        budget = self._upstream.budget
        now = self._timing.clock()
        until = now + poll
        reason = f"{self._upstream.namespace} has given all the requests that its limit allows"
        if budget is not None:
            if budget.resets_at is not None:
                until = max(budget.resets_at, now + LEAST_REST)
            if budget.limit is not None and budget.remaining and self._kept:
                mine = self._kept == 1 - self._share
                why = f"no more than {self._share:.0%} of all may be used"
                kept = f"a rule of `budget` keeps {self._kept:.0%} of all for what clients wait for"
                reason = (
                    f"{budget.remaining} of the {budget.limit} requests that {self._upstream.namespace} allows remain, "
                    f"and {why if mine else kept}"
                )
        self._tell(until, reason)
        await self._timing.sleep(min(until - now, LAST_POLL))  # a limit may be lifted sooner, by a login or a plan

    async def _outlast(self) -> None:
        while (left := self._until - self._timing.clock()) > 0:
            self._tell(self._until, f"{self._upstream.namespace} limits requests, and asked to be left alone")
            await self._timing.sleep(left)
        if self._left is None or self._left > 0:
            self._resume()

    def _tell(self, until: float, reason: str) -> None:
        if self._told != until:
            self._told = until
            self._hear(Waiting(self._upstream.namespace, until, reason))

    def _resume(self) -> None:
        if self._told is not None:
            self._told = None
            self._hear(Resumed(self._upstream.namespace))
