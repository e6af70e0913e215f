"""How late the event loop is: whatever blocks it shows here, and everybody who waits for it feels it."""

from __future__ import annotations

import asyncio

from mirror import metrics

EVERY = 0.5  # seconds between two looks


class LoopLag:
    """Looks at the clock at set times, and tells the metrics how much later than that it was."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + EVERY
        self._handle = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        late = max(0.0, now - self._due)  # the loop calls up to a tick of its clock too early
        metrics.LOOP_LAG.set(late)
        metrics.LOOP_LAGS.observe(late)
        self._due = now + EVERY
        self._handle = self._loop.call_at(self._due, self._look)

    def close(self) -> None:
        """Look no more."""
        self._handle.cancel()
