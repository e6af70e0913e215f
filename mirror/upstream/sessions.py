"""The HTTP connections of all upstreams: how they are made and kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp

from mirror import __version__
from mirror.upstream import via
from mirror.upstream.address import AddressRefused, is_private_host, public_socket
from mirror.upstream.resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from yarl import URL

    from mirror.upstream.route import Proxy
    from mirror.upstream.tls import Context

CONNECT = 10.0  # seconds for one connection, TLS included
STALL = 30.0  # seconds without a byte after which a transfer counts as broken

_LINE = 64 * 1024  # bytes of a header: signed Locations and JWTs pass aiohttp's 8 KiB
_BUFFER = 512 * 1024  # bytes; aiohttp stops reading from the socket at twice that
_KEEPALIVE = 30.0  # seconds; most registries and balancers close idle connections after 60


class Sessions:
    """Four pools of connections, made when first needed.

    Blobs have their own, so that they never stand in the way of manifests and tokens. Dials that are guarded
    (`Reach`) have their own, which refuse addresses that are not public.
    """

    def __init__(self, *, instance: str, request_id: Callable[[], str | None]) -> None:
        self.resolver = Resolver()
        self._instance = instance
        self._request_id = request_id
        self._headers = {
            "User-Agent": f"registry-mirror/{__version__}",
            "Accept-Encoding": "identity",  # the bytes are what is hashed
        }
        self._pools: dict[tuple[bool, bool], aiohttp.ClientSession] = {}

    async def request(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        *,
        body: bytes | None = None,
        bulk: bool,
        guarded: bool,
        tls: Context = None,
        proxy: Proxy | None = None,
    ) -> aiohttp.ClientResponse:
        """Send one request, following nothing; return the answer as soon as its headers are here.

        `guarded`: only a public address is dialled. `tls` None is the usual trust store, `proxy` None no proxy. Raises
        `aiohttp.ClientError`, `TimeoutError` or `AddressRefused`. The caller closes the answer.
        """
        if guarded and is_private_host(url.host or ""):
            raise AddressRefused
        if proxy is not None:
            # It looks the name up, so its rules decide on the addresses; only what is written out is judged here.
            guarded = False
        sent = {**headers, "Via": via.value(self._instance)}
        if (request_id := self._request_id()) is not None:
            sent["X-Request-Id"] = request_id
        through: dict[str, Any] = {}
        if proxy is not None:
            through["proxy"] = proxy.url
            if proxy.authorization is not None:
                shown = {"Proxy-Authorization": proxy.authorization}
                if url.scheme == "https":
                    through["proxy_headers"] = shown  # for CONNECT alone
                else:
                    sent |= shown
        return await self._pool(bulk=bulk, guarded=guarded).request(
            method,
            url,
            headers=sent,
            data=body,
            allow_redirects=False,
            ssl=True if tls is None else tls,
            **through,
        )

    async def close(self) -> None:
        """Close every connection."""
        for session in self._pools.values():
            await session.close()
        self._pools.clear()
        await self.resolver.close()

    def _pool(self, *, bulk: bool, guarded: bool) -> aiohttp.ClientSession:
        session = self._pools.get((bulk, guarded))
        if session is None:
            session = self._pools[bulk, guarded] = self._make(guarded=guarded)
        return session

    def _make(self, *, guarded: bool) -> aiohttp.ClientSession:
        options: dict[str, Any] = {"socket_factory": public_socket} if guarded else {}
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ttl_dns_cache=30, keepalive_timeout=_KEEPALIVE, resolver=self.resolver, **options
            ),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=STALL),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            requote_redirect_url=False,
            trust_env=False,
            read_bufsize=_BUFFER,
            max_line_size=_LINE,
            max_field_size=_LINE,
        )
