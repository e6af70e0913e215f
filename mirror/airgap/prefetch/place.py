"""The places of the images that are worked on at once. One that waits for a limit has given up its own."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator
    from types import TracebackType

    from mirror.airgap.prefetch.timing import Timing


class Place:
    """The place of one image, of which several parts may be asked for at once: a context manager."""

    def __init__(self, places: asyncio.Semaphore, timing: Timing) -> None:
        self._places = places
        self._timing = timing
        self._held = self._returning = False
        self._waits = 0
        self._since = 0.0
        self.waited = 0.0  # seconds without it, in all

    async def __aenter__(self) -> Self:
        await self._places.acquire()
        self._held = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._held:
            self._held = False
            self._places.release()

    @asynccontextmanager
    async def given_up(self) -> AsyncIterator[None]:
        """Let another image have it meanwhile. Who is cancelled in here does not come back."""
        self._waits += 1
        if self._waits == 1:
            self._since = self._timing.clock()
            if self._held:
                self._held = False
                self._places.release()
        try:
            yield
        finally:
            self._waits -= 1
            if self._waits == 0:
                self.waited += self._timing.clock() - self._since
        if self._waits == 0 and not self._held and not self._returning:
            self._returning = True
            try:
                await self._places.acquire()
            finally:
                self._returning = False
            self._held = True
