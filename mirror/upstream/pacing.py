"""How much of the line one upstream's blobs may take: connections at once, and bytes a second."""

from __future__ import annotations

import asyncio
import heapq
import time
from typing import TYPE_CHECKING

from mirror.metrics import UPSTREAM_CONNECTIONS, UPSTREAM_PACED_SECONDS, UPSTREAM_QUEUE_SECONDS
from mirror.upstream.governor import Governor
from mirror.upstream.slots import Slots

if TYPE_CHECKING:
    from mirror.upstream.protocol import Urgency

CONNECTIONS = 16  # at once, where nothing is configured
TICK = 0.25  # seconds between two looks at the speed, while transfers wait for a place
_BURST = 0.1  # seconds for which the line may have lain idle and still be made up for
_WEIGHT = 8  # how much more of a full line goes to what a client waits for than to what is read ahead
_LEAST, _MOST = 16 * 1024, 512 * 1024  # bytes that a connection may bring before they are asked for


class Pacing:
    """The blobs of one upstream, of all its endpoints together. `label` is what metrics call it.

    `slots` are their places. `max_rate` is in bytes a second; None: as fast as they come.
    """

    def __init__(self, label: str, *, max_connections: int = CONNECTIONS, max_rate: int | None = None) -> None:
        self.rate = max_rate
        self._governor = Governor(max_connections)
        self.slots = Slots(
            max_connections,
            max(1, max_connections * 3 // 4),
            waited=UPSTREAM_QUEUE_SECONDS.labels(label).observe,
            limit=self._governor.limit,
            crowded=self._watch,
            running=UPSTREAM_CONNECTIONS.labels(label).inc,
        )
        self._moved = 0  # bytes
        self._watching = False
        self._line = None if max_rate is None else _Line(max_rate)
        self._paced = UPSTREAM_PACED_SECONDS.labels(label).inc

    @property
    def buffer(self) -> int:
        """How many bytes a connection may hold ready: under `max_rate` little, since what was sent was sent."""
        return _MOST if self.rate is None else max(_LEAST, min(self.rate // 64, _MOST))

    async def came(self, count: int, image: str, urgency: Urgency) -> None:
        """Hear that `count` bytes of `image` came; return once the next may be taken."""
        self._moved += count
        if self._line is not None and (seconds := await self._line.pass_(count, image, urgent=urgency.urgent)):
            self._paced(seconds)

    def _watch(self) -> None:
        """Look from now on whether more places would help, as long as transfers wait for one."""
        if not self._watching:
            self._watching = True
            self._governor.begin(time.monotonic())
            asyncio.get_running_loop().call_later(TICK, self._look)

    def _look(self) -> None:
        slots = self.slots
        if not slots.waiting and not self._governor.trying:
            self._watching = False
            return
        self._governor.look(time.monotonic(), self._moved, running=slots.running, most=self.rate)
        slots.widen(self._governor.limit)
        asyncio.get_running_loop().call_later(TICK, self._look)


class _Line:
    """A line of `rate` bytes a second, shared by images: each has its turn, over however many connections it comes.

    Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): who goes next is who has had least so far. What is
    read ahead counts for more than it is, so that what a client waits for goes before it, without ever stopping it
    wholly: connections from which nothing is taken are closed over there.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._tokens = rate * _BURST  # bytes that may go now; below nothing where more went
        self._at = time.monotonic()
        self._now = 0.0  # how much those have had, in bytes, whose turn it is
        self._had: dict[tuple[str, bool], float] = {}
        self._waiting: list[tuple[float, int, int, asyncio.Future[None]]] = []
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None

    async def pass_(self, count: int, image: str, *, urgent: bool) -> float:
        """Wait for the turn of `count` bytes; return for how many seconds."""
        self._accrue()
        if not self._waiting and self._tokens > 0:
            if self._tokens >= self._rate * _BURST:  # nobody has gone short of late
                self._had.clear()
            self._count(image, count, urgent=urgent)
            self._tokens -= count
            return 0.0
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._number += 1
        heapq.heappush(self._waiting, (self._count(image, count, urgent=urgent), self._number, count, turn))
        began = time.monotonic()
        self._serve()
        await turn
        return time.monotonic() - began

    def _count(self, image: str, count: int, *, urgent: bool) -> float:
        """Return where in the order the bytes stand."""
        # Who was away for a moment, to store what it had, makes up for it; who was away for longer does not.
        start = max(self._now - self._rate * _BURST, self._had.get((image, urgent), 0.0))
        self._had[image, urgent] = start + (count if urgent else count * _WEIGHT)
        return start

    def _accrue(self) -> None:
        now = time.monotonic()
        self._tokens = min(self._tokens + (now - self._at) * self._rate, self._rate * _BURST)
        self._at = now

    def _serve(self) -> None:
        if self._timer is not None:
            return
        self._accrue()
        while self._waiting and self._waiting[0][3].done():  # its transfer was broken off
            heapq.heappop(self._waiting)
        if self._waiting and self._tokens > 0:
            start, _, count, turn = heapq.heappop(self._waiting)
            self._now = max(self._now, start)
            self._tokens -= count
            turn.set_result(None)
        if self._waiting:  # one at a time: whoever was served may be the next to be
            wait = max(-self._tokens / self._rate, 0.0)
            self._timer = asyncio.get_running_loop().call_later(wait, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._serve()
