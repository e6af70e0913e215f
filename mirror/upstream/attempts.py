"""Asking again: within a caller's patience, and not while the upstream has asked to be left alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from mirror.errors import UpstreamError, UpstreamLimited, UpstreamUnavailable
from mirror.upstream.backoff import LONGEST_WAIT, TRIES, Rests, delay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirror.upstream.wire import Wire

_T = TypeVar("_T")


class Attempts:
    """The attempts of one upstream; `away` says whether the last of them failed for want of an answer.

    Before the first one nothing is known, and that counts as away: after a restart without an uplink, an image that
    is not wholly here must not be begun (promise 8).
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._rests = Rests()
        self._down = False
        self._away = True

    @property
    def away(self) -> bool:
        """Whether the last attempt failed, or there has been none."""
        return self._away

    @away.setter
    def away(self, value: bool) -> None:
        self._away = value
        self._wire.tell_away(away=value)

    async def run(
        self, kind: str, method: str, patience: float, attempt: Callable[[asyncio.Timeout], Awaitable[_T]]
    ) -> _T:
        """Return what `attempt` returns, trying again where there was no answer, or a 5xx, or a short `Retry-After`.

        `attempt` is given the timer of the whole: once it has headers it may put the end off to read a body. While the
        upstream is known to be down, because all of that failed last time, one attempt is all.
        """
        rest_key = f"{kind} {method}"
        tries = 1 if self._down else TRIES
        try:
            async with asyncio.timeout(patience) as timer:
                deadline = timer.when() or 0.0
                await self._rest(rest_key, deadline)
                for number in range(tries):
                    timer.reschedule(deadline)
                    try:
                        result = await attempt(timer)
                    except (UpstreamLimited, UpstreamUnavailable) as error:
                        self.away = True
                        wait = self._wait(error, rest_key, number)
                        if number + 1 == tries or wait > LONGEST_WAIT or not _fits(wait, deadline):
                            self._down = isinstance(error, UpstreamUnavailable)
                            raise
                        timer.reschedule(deadline)
                        await asyncio.sleep(wait)
                    except UpstreamError as error:
                        if error.upstream_status is not None:  # it answered, whatever it was
                            self._answered(rest_key)
                        raise
                    else:
                        self._answered(rest_key)
                        return result
        except TimeoutError:
            self.away = self._down = True
            self._wire.count(kind, "timeout")
            raise UpstreamUnavailable(
                f"{self._wire.namespace} did not answer within {patience:.3g} s", namespace=self._wire.namespace
            ) from None
        raise AssertionError("the last attempt either returns or raises")

    def _answered(self, rest_key: str) -> None:
        self.away = self._down = False
        self._rests.answered(rest_key)

    def _wait(self, error: UpstreamError, rest_key: str, number: int) -> float:
        if isinstance(error, UpstreamLimited):
            error.retry_after = self._rests.limited(rest_key, error.retry_after)
            return error.retry_after
        return max(delay(number), error.retry_after or 0.0)

    async def _rest(self, rest_key: str, deadline: float) -> None:
        remaining = self._rests.remaining(rest_key)
        if remaining > LONGEST_WAIT or not _fits(remaining, deadline):
            raise UpstreamLimited(
                f"{self._wire.namespace} limits requests and asked to be left alone for {remaining:.0f} s more",
                namespace=self._wire.namespace,
                upstream_status=429,
                retry_after=remaining,
            )
        if remaining:
            await asyncio.sleep(remaining)


def _fits(wait: float, deadline: float) -> bool:
    return asyncio.get_running_loop().time() + wait < deadline
