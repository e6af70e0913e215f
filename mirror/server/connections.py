"""The connections of clients: how many there may be, in all and from one address, and how slowly one may ask."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, cast

import structlog
from aiohttp import web

from mirror import metrics
from mirror.server.clients import UNIX, peer_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirror.server.policy import Policy

log = structlog.get_logger(__name__)

HEADER_WITHIN = 20.0  # seconds from the first byte of a request's header to its last
_REFUSED_WITHIN = 2.0  # seconds that a connection past the limit has to ask for something, and be told so
_MAX_REFUSED = 256  # connections past the limit that are told so at once; others are just closed
_CROWDED = 0.75  # of the most connections: past it none is kept after its answer
_SAID_EVERY = 60.0  # seconds between two lines that say that a limit was reached
_HEALTH = tuple(f"{method} /{path} ".encode() for method in ("GET", "HEAD") for path in ("healthz", "readyz"))
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Connections:
    """Counts the connections that are open, and says which one is too many."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._open = 0
        self._by_peer: dict[str, int] = {}
        self._refused = 0
        self._said: dict[str, float] = {}

    def reconfigure(self, policy: Policy) -> None:
        """Go by other limits from now on; connections that are open stay."""
        self._policy = policy

    @property
    def crowded(self) -> bool:
        """Whether so many are open that none should be kept for later."""
        return self._open > self._policy.max_connections * _CROWDED

    def excess(self, peer: str) -> tuple[str, int] | None:
        """Return the key and the value of the limit that one more connection from `peer` would break, or None."""
        policy = self._policy
        if self._open >= policy.max_connections:
            return "max_connections", policy.max_connections
        most = policy.max_connections_per_client
        if most is None or self._by_peer.get(peer, 0) < most:
            return None
        # Many clients come through one proxy, or through one socket.
        return None if peer == UNIX or policy.clients.trusts(peer) else ("max_connections_per_client", most)

    def opened(self, peer: str) -> None:
        """Count a connection."""
        self._open += 1
        self._by_peer[peer] = self._by_peer.get(peer, 0) + 1
        metrics.CONNECTIONS.set(self._open)

    def closed(self, peer: str) -> None:
        """Count it no more."""
        self._open -= 1
        self._by_peer[peer] -= 1
        if not self._by_peer[peer]:
            del self._by_peer[peer]
        metrics.CONNECTIONS.set(self._open)

    def refuse(self, key: str, most: int, peer: str) -> bool:
        """Hear that a connection is refused; return whether there is room to tell it so, and then hear `told`."""
        metrics.REFUSED.labels(key).inc()
        now = asyncio.get_running_loop().time()
        if now - self._said.get(key, -_SAID_EVERY) >= _SAID_EVERY:
            self._said[key] = now
            log.warning("connections are refused: there are too many", limit=f"server.{key}", most=most, client=peer)
        if self._refused >= _MAX_REFUSED:
            return False
        self._refused += 1
        return True

    def told(self) -> None:
        """Hear that a refused connection has ended."""
        self._refused -= 1


class HttpServer(web.Server):
    """Makes the protocol of each connection. `options` are aiohttp's."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        connections: Connections,
        **options: Any,
    ) -> None:
        super().__init__(handler, handler_cancellation=True, access_log=None, auto_decompress=False, **options)
        self._counted = connections

    def __call__(self) -> Connection:
        """Return the protocol of one more connection."""
        return Connection(self, self._counted, loop=self._loop, **self._kwargs)


class Connection(web.RequestHandler):
    """HTTP on one connection.

    One past a limit is told so when it asks for something: an answer that comes before the request is no answer to
    Go's clients, which ask again at once. It has cost no parser and no task by then. Probes of the mirror's health are
    answered all the same, or an orchestrator would end a mirror that is only busy.
    """

    __slots__ = ("_connections", "_excess", "_held", "_timer", "peer")

    def __init__(self, server: HttpServer, connections: Connections, **options: Any) -> None:
        super().__init__(server, **options)
        self._connections = connections
        self._excess: tuple[str, int] | None = None
        self._held = False  # it is one of the refused that are told so
        self._timer: asyncio.TimerHandle | None = None
        self.peer = ""  # as `clients.peer_of` says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, or see that it is refused."""
        self.peer = peer_of(transport)
        self._excess = self._connections.excess(self.peer)
        if self._excess is None:
            self._connections.opened(self.peer)
            super().connection_made(transport)
            return
        self.transport = cast("asyncio.Transport", transport)
        self._held = self._connections.refuse(*self._excess, self.peer)
        if self._held:
            self._timer = self._loop.call_later(_REFUSED_WITHIN, self.transport.abort)
        else:
            self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count it no more."""
        self._stop_timer()
        if self._excess is None:
            self._connections.closed(self.peer)
        elif self._held:
            self._connections.told()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came. A header that has begun must come to its end in time."""
        if self._excess is not None and self._request_count == 0:
            self._refuse(data)
            return
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._stop_timer()
        elif self._timer is None and self._idle():
            self._timer = self._loop.call_later(HEADER_WITHIN, self._too_slow)

    def dismiss(self) -> None:
        """End: at once if nothing is under way (aiohttp's `close` leaves those open), else after the answer."""
        if self._idle():
            self.force_close()
        else:
            self.close()

    def _idle(self) -> bool:
        """Say whether no request is being answered: what comes is a header, then, and no body."""
        return self._waiter is not None and not self._waiter.done()

    def _too_slow(self) -> None:
        self._timer = None
        if self.transport is not None and self._idle():
            metrics.REFUSED.labels("slow_header").inc()
            self.transport.write(_TOO_SLOW)
            self.force_close()

    def _refuse(self, data: bytes) -> None:
        transport = self.transport
        if transport is None or self._excess is None or transport.is_closing():
            return
        if data.startswith(_HEALTH) and data.endswith(b"\r\n\r\n"):
            super().connection_made(transport)
            super().data_received(data)
            self.close()  # after the answer
            return
        transport.write(_too_many(*self._excess))
        transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _too_many(key: str, most: int) -> bytes:
    whose = "the mirror has" if key == "max_connections" else "this client has"
    message = f"{whose} {most} connections open, and may not have more (server.{key}); ask again in a while"
    body = json.dumps({"errors": [{"code": "TOOMANYREQUESTS", "message": message, "detail": None}]}).encode()
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
        b"Cache-Status: registry-mirror; detail=local\r\nRetry-After: 5\r\nConnection: close\r\n"
        b"Docker-Distribution-Api-Version: registry/2.0\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
