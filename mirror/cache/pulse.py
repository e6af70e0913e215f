"""A wake-up for all who wait for something to move."""

from __future__ import annotations

import asyncio


class Pulse:
    """Like a condition without a lock: `beat` wakes whoever waits at that moment, once."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def beat(self) -> None:
        """Wake everybody."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Wait for the next beat. The caller looks again at what it waits for: a beat promises nothing."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
