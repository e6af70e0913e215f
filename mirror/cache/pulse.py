"""A wake-up for all who wait for something to move."""

from __future__ import annotations

import asyncio


class Pulse:
    """Like a condition without a lock: `beat` wakes whoever waits at that moment, once."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: dict[asyncio.Future[None], int | None] = {}

    def beat(self, start: int | None = None, stop: int = 0) -> None:
        """Wake everybody; or all but those who wait for an offset outside of `start` to `stop`."""
        if start is None:
            waking, self._waiters = list(self._waiters), {}
        else:
            waking = [waiter for waiter, at in self._waiters.items() if at is None or start <= at < stop]
            for waiter in waking:
                del self._waiters[waiter]
        for waiter in waking:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, offset: int | None = None) -> None:
        """Wait for the next beat that concerns `offset`, or for any. The caller looks again: it promises nothing."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = offset
        try:
            await waiter
        finally:
            self._waiters.pop(waiter, None)
