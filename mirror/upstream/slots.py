"""The places for blob transfers from one upstream, and who gets the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mirror.upstream.protocol import Urgency


class _Ticket:
    """One transfer, from the moment that it asks for a place until it gives the place back."""

    __slots__ = ("background", "granted", "running")

    def __init__(self, *, background: bool) -> None:
        self.background = background
        self.running = False
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Slots:
    """`total` places, of which what is not urgent holds at most `background`.

    The urgent overtake whatever waits without urgency; within a class the first to come is the first served. A transfer
    whose urgency is raised changes class at once, waiting or running. `waited` hears of each how long that was, in
    seconds.
    """

    def __init__(
        self, total: int = 8, background: int = 6, *, waited: Callable[[float], None] = lambda _: None
    ) -> None:
        self._total = total
        self._background = background
        self._waited = waited
        self._running = 0
        self._running_background = 0
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

    @asynccontextmanager
    async def place(self, urgency: Urgency, *, deadline: float | None = None) -> AsyncIterator[None]:
        """Hold a place. Raise `TimeoutError` if there is none by `deadline` (the loop's clock, seconds)."""
        ticket = _Ticket(background=not urgency.urgent)
        if ticket.background:
            self._patient.append(ticket)
            urgency.on_raise(lambda: self._promote(ticket))
        else:
            self._urgent.append(ticket)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            self._serve()
            async with asyncio.timeout_at(deadline):
                await ticket.granted
            self._waited(loop.time() - began)
            yield
        finally:
            self._leave(ticket)

    def _serve(self) -> None:
        while self._running < self._total and self._urgent:
            self._grant(self._urgent.popleft())
        while self._running < self._total and self._running_background < self._background and self._patient:
            self._grant(self._patient.popleft())

    def _grant(self, ticket: _Ticket) -> None:
        ticket.running = True
        self._running += 1
        self._running_background += ticket.background
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
        else:  # cancelled, or out of patience, while it waited
            queue = self._patient if ticket.background else self._urgent
            queue.remove(ticket)
        ticket.background = False  # it is gone: a later raise of the urgency means nothing to it
        self._serve()
