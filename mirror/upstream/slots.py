"""The places for blob transfers from one upstream, and who gets the next one."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mirror.upstream.protocol import Urgency


class _Ticket:
    """One transfer, from the moment that it asks for a place until it gives the place back."""

    __slots__ = ("background", "granted", "image", "running")

    def __init__(self, image: str | None, *, background: bool) -> None:
        self.image = image
        self.background = background
        self.running = False
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Slots:
    """`total` places, of which what is not urgent holds at most `background`.

    The urgent overtake whatever waits without urgency; within a class the image that holds fewest places is served
    first, then the first to come. An eighth of the places is for images that hold none, so that one with many layers
    does not keep another from beginning. A transfer whose urgency is raised changes class at once, waiting or running.

    `limit` is how many of the places are used, until `widen` says otherwise. `waited` hears of each transfer how long
    it waited, in seconds, `crowded` that one has to wait, `running` of each place taken (1) or given back (-1).
    """

    def __init__(
        self,
        total: int = 8,
        background: int = 6,
        *,
        limit: int | None = None,
        waited: Callable[[float], None] = lambda _: None,
        crowded: Callable[[], None] = lambda: None,
        running: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._total = total
        self._background = background
        self._limit = limit if limit is not None else total
        self._spare = total // 8
        self._waited = waited
        self._crowded = crowded
        self._tell_running = running
        self._running = 0
        self._running_background = 0
        self._held: Counter[str] = Counter()  # places by image
        self._urgent: deque[_Ticket] = deque()
        self._patient: deque[_Ticket] = deque()

    @property
    def running(self) -> int:
        """How many places are held."""
        return self._running

    @property
    def waiting(self) -> int:
        """How many transfers wait for a place."""
        return len(self._urgent) + len(self._patient)

    def widen(self, limit: int) -> None:
        """Use so many places from now on, at most all; what has one keeps it."""
        if limit != self._limit:
            self._limit = limit
            self._serve()

    @asynccontextmanager
    async def place(
        self, urgency: Urgency, *, deadline: float | None = None, image: str | None = None
    ) -> AsyncIterator[None]:
        """Hold a place for a transfer of `image` (None: of one of its own).

        Raise `TimeoutError` if there is none by `deadline` (the loop's clock, seconds).
        """
        ticket = _Ticket(image, background=not urgency.urgent)
        if ticket.background:
            self._patient.append(ticket)
            urgency.on_raise(lambda: self._promote(ticket))
        else:
            self._urgent.append(ticket)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            self._serve()
            if not ticket.running:
                self._crowded()
            async with asyncio.timeout_at(deadline):
                await ticket.granted
            self._waited(loop.time() - began)
            yield
        finally:
            self._leave(ticket)

    def _serve(self) -> None:
        while (ticket := self._next(self._urgent)) is not None:
            self._urgent.remove(ticket)
            self._grant(ticket)
        background = self._background * self._limit // self._total or 1
        while self._running_background < background and (ticket := self._next(self._patient)) is not None:
            self._patient.remove(ticket)
            self._grant(ticket)

    def _next(self, queue: deque[_Ticket]) -> _Ticket | None:
        """Return whose turn it is, if there is a place for it."""
        used = min(self._limit, self._total - self._spare)
        if not queue or self._running >= min(self._total, used + self._spare):
            return None
        first = min(queue, key=self._holds)
        return first if self._running < used or not self._holds(first) else None

    def _holds(self, ticket: _Ticket) -> int:
        """Return how many places its image holds."""
        return 0 if ticket.image is None else self._held[ticket.image]

    def _grant(self, ticket: _Ticket) -> None:
        ticket.running = True
        self._running += 1
        self._running_background += ticket.background
        if ticket.image is not None:
            self._held[ticket.image] += 1
        self._tell_running(1)
        if not ticket.granted.done():  # done: its owner was cancelled, and gives the place back in a moment
            ticket.granted.set_result(None)

    def _promote(self, ticket: _Ticket) -> None:
        if not ticket.background:
            return
        if ticket.running:
            self._running_background -= 1
        elif ticket in self._patient:
            self._patient.remove(ticket)
            self._urgent.append(ticket)
        ticket.background = False
        self._serve()

    def _leave(self, ticket: _Ticket) -> None:
        if ticket.running:
            ticket.running = False
            self._running -= 1
            self._running_background -= ticket.background
            self._tell_running(-1)
            if ticket.image is not None:
                self._held[ticket.image] -= 1
                if not self._held[ticket.image]:
                    del self._held[ticket.image]
        else:  # cancelled, or out of patience, while it waited
            queue = self._patient if ticket.background else self._urgent
            queue.remove(ticket)
        ticket.background = False  # it is gone: a later raise of the urgency means nothing to it
        self._serve()
