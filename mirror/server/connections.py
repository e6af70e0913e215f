"""The connections of clients: how many there may be, in all and from one address, and how slowly one may ask."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import structlog
from aiohttp import web

from mirror import metrics
from mirror.server.clients import UNIX, peer_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirror.server.policy import Policy

log = structlog.get_logger(__name__)

LINGER = 2.0  # seconds for the rest of a body that nobody wants, so that whoever sends it hears the answer
HEADER_WITHIN = 20.0  # seconds from the first byte of a request's header to its last
REFUSED_WITHIN = 2.0  # seconds that a connection past the limit has to ask for something, and be told so
_MAX_REFUSED = 256  # connections past the limit that are told so at once; others are just closed
_CROWDED = 0.75  # of the most connections: past it none is kept after its answer
_SAID_EVERY = 60.0  # seconds between two lines that say that a limit was reached
_HEALTH = tuple(f"{method} /{path} ".encode() for method in ("GET", "HEAD") for path in ("healthz", "readyz"))
_MAX_HEADER = 256 * 1024  # bytes; each line may be long (`server.run`), and all of them together would be megabytes
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Place:
    """What one connection holds until it ends: a place among those that are served, or among those that are refused.

    `excess` is the key and the value of the limit that it is past. `told`: there is room to tell it so.
    """

    peer: str  # as `clients.peer_of` says
    excess: tuple[str, int] | None
    told: bool


class Connections:
    """Counts the connections that are open, and says which one is too many.

    One counts from when it is accepted, before TLS: a handshake that never ends takes a place, too.
    """

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

    def enter(self, peer: str) -> Place:
        """Count a connection, or see that it is refused. What this returns goes to `leave` when it has ended."""
        excess = self._excess(peer)
        if excess is not None:
            return Place(peer, excess, told=self._refuse(*excess, peer))
        self._open += 1
        self._by_peer[peer] = self._by_peer.get(peer, 0) + 1
        metrics.CONNECTIONS.set(self._open)
        return Place(peer, None, told=False)

    def leave(self, place: Place) -> None:
        """Count it no more."""
        if place.excess is not None:
            self._refused -= place.told
            return
        self._open -= 1
        self._by_peer[place.peer] -= 1
        if not self._by_peer[place.peer]:
            del self._by_peer[place.peer]
        metrics.CONNECTIONS.set(self._open)

    def _excess(self, peer: str) -> tuple[str, int] | None:
        policy = self._policy
        if self._open >= policy.max_connections:
            return "max_connections", policy.max_connections
        most = policy.max_connections_per_client
        if most is None or self._by_peer.get(peer, 0) < most:
            return None
        # Many clients come through one proxy, or through one socket.
        return None if peer == UNIX or policy.clients.trusts(peer) else ("max_connections_per_client", most)

    def _refuse(self, key: str, most: int, peer: str) -> bool:
        """Tell of it; return whether there is room to tell the client, too."""
        metrics.REFUSED.labels(key).inc()
        now = asyncio.get_running_loop().time()
        if now - self._said.get(key, -_SAID_EVERY) >= _SAID_EVERY:
            self._said[key] = now
            log.warning("connections are refused: there are too many", limit=f"server.{key}", most=most, client=peer)
        if self._refused >= _MAX_REFUSED:
            return False
        self._refused += 1
        return True


class HttpServer(web.Server):
    """Makes the protocol of each connection. `options` are aiohttp's."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        connections: Connections,
        **options: Any,
    ) -> None:
        super().__init__(
            handler,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            lingering_time=LINGER,
            **options,
        )
        self.counted = connections
        self.handshakes: set[asyncio.Task[None]] = set()  # of TLS, under way

    def __call__(self, place: Place | None = None) -> Connection:
        """Return the protocol of one more connection; `place` is what it holds already."""
        return Connection(self, place, loop=self._loop, **self._kwargs)

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  # aiohttp's
        """End all connections, those whose handshake is under way at once."""
        for handshake in self.handshakes:
            handshake.cancel()
        await super().shutdown(timeout)


class Connection(web.RequestHandler):
    """HTTP on one connection.

    One past a limit is told so when it asks for something: an answer that comes before the request is no answer to
    Go's clients, which ask again at once. It has cost no parser and no task by then. Probes of the mirror's health are
    answered all the same, or an orchestrator would end a mirror that is only busy.
    """

    __slots__ = ("_connections", "_excess", "_header", "_place", "_timer", "peer")

    def __init__(self, server: HttpServer, place: Place | None, **options: Any) -> None:
        super().__init__(server, **options)
        self._connections = server.counted
        self._place = place
        self._excess: tuple[str, int] | None = None
        self._header = 0  # bytes of a header that has not come to its end
        self._timer: asyncio.TimerHandle | None = None
        self.peer = ""  # as `clients.peer_of` says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection's place, if it has none yet, and see whether it is refused."""
        place = self._place = self._place or self._connections.enter(peer_of(transport))
        self.peer, self._excess = place.peer, place.excess
        if place.excess is None:
            super().connection_made(transport)
            return
        self.transport = cast("asyncio.Transport", transport)
        if place.told:
            self._timer = self._loop.call_later(REFUSED_WITHIN, self.transport.abort)
        else:
            self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give the place back."""
        self._stop_timer()
        if self._place is not None:
            self._connections.leave(self._place)
            self._place = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came. A header that has begun must come to its end in time, and within bounds."""
        if self._excess is not None and self._request_count == 0:
            self._refuse(data)
            return
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._header = 0
            self._stop_timer()
        elif self._idle():
            self._header += len(data)
            if self._header > _MAX_HEADER:
                self._give_up(_TOO_LARGE, "large_header")
            elif self._timer is None:
                self._timer = self._loop.call_later(HEADER_WITHIN, self._too_slow)

    def dismiss(self) -> None:
        """End: at once if nothing is under way (aiohttp's `close` leaves those open), else after the answer."""
        if self._idle():
            self.force_close()
        else:
            self.close()

    def _idle(self) -> bool:
        """Say whether no request is being answered: what comes is a header, then, and no body."""
        # What comes together with the end of a handshake finds nobody who waits for it yet.
        return self._request_count == 0 or (self._waiter is not None and not self._waiter.done())

    def _too_slow(self) -> None:
        self._timer = None
        if self._idle():
            self._give_up(_TOO_SLOW, "slow_header")

    def _give_up(self, answer: bytes, why: str) -> None:
        self._stop_timer()
        if self.transport is not None:
            metrics.REFUSED.labels(why).inc()
            self.transport.write(answer)
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
