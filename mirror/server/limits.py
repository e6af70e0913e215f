"""How many requests of one client are answered at once; others wait a while for a place, first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque

from mirror import metrics
from mirror.errors import ClientLimited

# containerd waits 30 s for a header, and upstream may take 20 of them.
PATIENCE = 8.0  # seconds that a request waits for a place
MAX_WAITING = 64  # requests of one client that wait; past it they are refused at once


class _Client:
    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        self.waiting: deque[asyncio.Future[None]] = deque()


class RequestLimit:
    """`most` requests of a client at once; None is without a limit, and counts all the same, for when there is one."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._clients: dict[str, _Client] = {}

    def reconfigure(self, most: int | None) -> None:
        """Set another limit. Who runs runs on; who may run now does."""
        self._most = most
        for client in self._clients.values():
            while client.waiting and self._free(client):
                client.running += self._grant(client)

    def try_enter(self, name: str) -> bool:
        """Take a place if there is one at once."""
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = _Client()
        if client.waiting or not self._free(client):
            return False
        client.running += 1
        return True

    async def enter(self, name: str) -> None:
        """Take a place, or wait for one. Raise `ClientLimited` where none comes free in time."""
        if self.try_enter(name):
            return
        client = self._clients[name]
        if len(client.waiting) >= MAX_WAITING:
            raise self._limited(name, f"and {MAX_WAITING} more wait")
        place = asyncio.get_running_loop().create_future()
        client.waiting.append(place)
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(PATIENCE):
                await place
        except TimeoutError:
            if place.cancelled():
                raise self._limited(name, f"and none ended within {PATIENCE:.0f} s") from None
        except asyncio.CancelledError:  # the client has left
            if not place.cancelled():
                self.leave(name)
            raise
        finally:
            if place in client.waiting:
                client.waiting.remove(place)
            self._forget(name, client)
            metrics.CLIENT_QUEUE_SECONDS.observe(asyncio.get_running_loop().time() - began)

    def leave(self, name: str) -> None:
        """Give a place back: the next who waits gets it."""
        client = self._clients[name]
        client.running -= 1
        while client.waiting and self._free(client):
            client.running += self._grant(client)
        self._forget(name, client)

    def _free(self, client: _Client) -> bool:
        return self._most is None or client.running < self._most

    @staticmethod
    def _grant(client: _Client) -> int:
        """Give the first who waits a place; return 0 if it has left by now."""
        place = client.waiting.popleft()
        if place.done():
            return 0
        place.set_result(None)
        return 1

    def _forget(self, name: str, client: _Client) -> None:
        if client.running == 0 and not client.waiting and self._clients.get(name) is client:
            del self._clients[name]

    def _limited(self, name: str, what: str) -> ClientLimited:
        metrics.REFUSED.labels("max_requests_per_client").inc()
        return ClientLimited(
            f"{name} has {self._most} requests under way {what}; ask again in a while, with fewer at once "
            "(server.max_requests_per_client of the configuration)"
        )
