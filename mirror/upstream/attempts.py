"""Asking again: within a caller's patience, and not while the upstream has asked to be left alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from mirror.errors import UpstreamError, UpstreamLimited, UpstreamUnavailable
from mirror.upstream.backoff import LONGEST_WAIT, TRIES, delay
from mirror.upstream.logins import NoCredentials
from mirror.upstream.turns import Resting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirror.upstream.wire import Wire

_T = TypeVar("_T")

_FOR_A_REST = 0.1  # of a caller's patience; who has little of it has something else to answer with


class Attempts:
    """The attempts of one upstream; `away` says whether the last of them failed for want of an answer.

    Before the first one nothing is known, and that counts as away: after a restart without an uplink, an image that
    is not wholly here must not be begun (promise 8).
    """

    def __init__(self, wire: Wire, *, once: bool = False) -> None:
        """`once`: nothing is tried again here, nor told, since whoever asks does so, or asks elsewhere."""
        self._wire = wire
        self._once = once
        self._down = False
        self._away = True
        self.contacted = False  # there has been an attempt

    @property
    def away(self) -> bool:
        """Whether the last attempt failed, or there has been none."""
        return self._away

    @away.setter
    def away(self, value: bool) -> None:
        self._away, self.contacted = value, True
        self.show()

    def show(self) -> None:
        """Tell the metrics, unless whoever asks does."""
        if self.contacted and not self._once:
            self._wire.tell_away(away=self._away)

    async def run(self, kind: str, patience: float, attempt: Callable[[asyncio.Timeout], Awaitable[_T]]) -> _T:
        """Return what `attempt` returns, trying again where there was no answer, or a 5xx, or a short `Retry-After`.

        The end of a rest (a 429) is waited for only where it is near: `LONGEST_WAIT` and a tenth of `patience` at most.
        `attempt` is given the timer of the whole: once it has headers it may put the end off to read a body. While the
        upstream is known to be down, because all of that failed last time, one attempt is all.
        """
        tries = 1 if self._down or self._once else TRIES
        longest = min(LONGEST_WAIT, patience * _FOR_A_REST)
        try:
            async with asyncio.timeout(patience) as timer:
                deadline = timer.when() or 0.0
                for number in range(tries):
                    timer.reschedule(deadline)
                    try:
                        result = await self._attempt(attempt, timer, deadline, longest)
                    except Resting:
                        raise  # nothing was asked, so nothing is known of where it is
                    except NoCredentials:
                        self.away = True
                        raise  # a program that fails is not run again so soon
                    except (UpstreamLimited, UpstreamUnavailable) as error:
                        self.away = True
                        wait = _wait(error, number)
                        most = longest if isinstance(error, UpstreamLimited) else LONGEST_WAIT
                        if number + 1 == tries or wait > most or not _fits(wait, deadline):
                            self._down = isinstance(error, UpstreamUnavailable)
                            raise
                        timer.reschedule(deadline)
                        await asyncio.sleep(wait)
                    except UpstreamError as error:
                        if error.upstream_status is not None:  # it answered, whatever it was
                            self.away = self._down = False
                        raise
                    else:
                        self.away = self._down = False
                        return result
        except TimeoutError:
            self.away = self._down = True
            self._wire.count(kind, "timeout")
            raise UpstreamUnavailable(
                f"{self._wire.namespace} did not answer within {max(patience, 0.0):.3g} s",
                namespace=self._wire.namespace,
            ) from None
        raise AssertionError("the last attempt either returns or raises")

    async def _attempt(
        self,
        attempt: Callable[[asyncio.Timeout], Awaitable[_T]],
        timer: asyncio.Timeout,
        deadline: float,
        longest: float,
    ) -> _T:
        """Make one attempt; where a rest is nearly over, wait for its end first."""
        try:
            return await attempt(timer)
        except Resting as rest:
            wait = rest.retry_after or 0.0
            if self._once or wait > longest or not _fits(wait, deadline):
                raise
            timer.reschedule(deadline)
            await asyncio.sleep(wait)
            return await attempt(timer)


def _wait(error: UpstreamError, number: int) -> float:
    """Return the seconds until the next attempt after number `number` (0 is the first)."""
    if isinstance(error, UpstreamLimited) and error.retry_after is not None:
        return error.retry_after
    return max(delay(number), error.retry_after or 0.0)


def _fits(wait: float, deadline: float) -> bool:
    return asyncio.get_running_loop().time() + wait < deadline
