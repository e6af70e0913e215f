"""The HTTP connections of all upstreams: how they are made, kept, and which proxy they go through."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from mirror import __version__
from mirror.upstream.address import AddressRefused, is_private_host, public_socket
from mirror.upstream.no_proxy import NoProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mirror.config import Proxies

CONNECT = 10.0  # seconds for one connection, TLS included
STALL = 30.0  # seconds without a byte after which a transfer counts as broken

_LINE = 64 * 1024  # bytes of a header: signed Locations and JWTs pass aiohttp's 8 KiB
_BUFFER = 512 * 1024  # bytes; aiohttp stops reading from the socket at twice that
_KEEPALIVE = 30.0  # seconds; most registries and balancers close idle connections after 60

# `None` asks for the usual trust store.
Trusted = ssl.SSLContext | None


class Sessions:
    """Four pools of connections, made when first needed.

    Blobs have their own, so that they never stand in the way of manifests and tokens. Upstreams that only `"*"` admits
    have their own, which refuse addresses that are not public.
    """

    def __init__(self, proxies: Proxies, *, instance: str, request_id: Callable[[], str | None]) -> None:
        self._proxies = proxies
        self._no_proxy = NoProxy.parse(proxies.no_proxy)
        self._request_id = request_id
        self._headers = {
            "User-Agent": f"registry-mirror/{__version__}",
            "Accept-Encoding": "identity",  # the bytes are what is hashed
            "Via": f"1.1 registry-mirror-{instance}",  # RFC 9110 §7.6.3; a mirror that meets its own name is in a loop
        }
        self._pools: dict[tuple[bool, bool], aiohttp.ClientSession] = {}

    async def request(
        self, method: str, url: URL, headers: Mapping[str, str], *, bulk: bool, guarded: bool, trusted: Trusted
    ) -> aiohttp.ClientResponse:
        """Send one request, following nothing; return the answer as soon as its headers are here.

        Raises `aiohttp.ClientError`, `TimeoutError` or `AddressRefused`. The caller closes the answer.
        """
        proxy = self._proxy(url)
        if guarded and proxy is not None:
            # The proxy looks the name up, so its rules decide on the addresses; what is written out can be judged here.
            if is_private_host(url.host or ""):
                raise AddressRefused
            guarded = False
        sent = {**headers}
        if (request_id := self._request_id()) is not None:
            sent["X-Request-Id"] = request_id
        return await self._pool(bulk=bulk, guarded=guarded).request(
            method,
            url,
            headers=sent,
            allow_redirects=False,
            proxy=proxy,
            ssl=True if trusted is None else trusted,
        )

    async def close(self) -> None:
        """Close every connection."""
        for session in self._pools.values():
            await session.close()
        self._pools.clear()

    def _pool(self, *, bulk: bool, guarded: bool) -> aiohttp.ClientSession:
        session = self._pools.get((bulk, guarded))
        if session is None:
            session = self._pools[bulk, guarded] = self._make(guarded=guarded)
        return session

    def _make(self, *, guarded: bool) -> aiohttp.ClientSession:
        options: dict[str, Any] = {"socket_factory": public_socket} if guarded else {}
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=30, keepalive_timeout=_KEEPALIVE, **options),
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

    def _proxy(self, url: URL) -> URL | None:
        address = self._proxies.https if url.scheme == "https" else self._proxies.http
        return URL(address) if address and not self._no_proxy.covers(url) else None


def trust_store(ca_file: Path | None) -> Trusted:
    """Return the usual trust store and the certificates of `ca_file`; raise `OSError` where they cannot be used."""
    if ca_file is None:
        return None
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=ca_file)
    return context
