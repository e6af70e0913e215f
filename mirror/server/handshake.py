"""A connection that begins with TLS: it holds a place from its first moment, and becomes HTTP after the handshake.

asyncio's own TLS servers tell a protocol of its connection only after the handshake. Whoever connects and says nothing
would then pass every limit, and each such connection costs a buffer of 256 KiB.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from mirror.server.clients import peer_of
from mirror.server.connections import REFUSED_WITHIN

if TYPE_CHECKING:
    import ssl

    from mirror.server.connections import Connection, HttpServer, Place

HANDSHAKE_WITHIN = 20.0  # seconds; a client that dawdles holds a place
_GOODBYE_WITHIN = 5.0  # seconds that a client gets to answer the end of TLS


class Handshake(asyncio.Protocol):
    """The protocol of a connection until its handshake is over. What comes together with its end is kept for HTTP."""

    def __init__(self, http: HttpServer, context: ssl.SSLContext) -> None:
        self._http = http
        self._context = context
        self._early: list[bytes] = []
        self._lost = False
        self._inner: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, and begin; one that is refused, and for which there is no room to be told so, ends at once."""
        plain = cast("asyncio.Transport", transport)
        place = self._http.counted.enter(peer_of(plain))
        if place.excess is not None and not place.told:
            plain.abort()
            return
        task = asyncio.get_running_loop().create_task(self._begin(plain, place), name="handshake")
        self._http.handshakes.add(task)
        task.add_done_callback(self._http.handshakes.discard)

    def data_received(self, data: bytes) -> None:
        """Keep what came before HTTP begins, which is one turn of the loop away."""
        self._early.append(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Pass it on: this may be told of after HTTP has begun."""
        self._lost = True
        if self._inner is not None:
            self._inner.connection_lost(exc)

    async def _begin(self, plain: asyncio.Transport, place: Place) -> None:
        within = HANDSHAKE_WITHIN if place.excess is None else REFUSED_WITHIN
        secure = None
        try:
            with suppress(OSError):  # what a client does wrong is not worth a line: scanners do it all day
                secure = await asyncio.get_running_loop().start_tls(
                    plain,
                    self,
                    self._context,
                    server_side=True,
                    ssl_handshake_timeout=within,
                    ssl_shutdown_timeout=_GOODBYE_WITHIN,
                )
        finally:
            if secure is None or self._lost:
                self._http.counted.leave(place)
        if secure is None or self._lost:
            return
        connection = self._inner = self._http(place)
        secure.set_protocol(connection)
        connection.connection_made(secure)
        for data in self._early:
            connection.data_received(data)
        self._early.clear()
