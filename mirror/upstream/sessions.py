"""The HTTP connections of all upstreams: how they are made and kept."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import aiohttp
from cachetools import LRUCache

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
SILENCE = 1.0  # seconds without an answer after which a connection that was kept may be dead, …
UNUSUAL = 4.0  # … and so many times what this server mostly takes

_LINE = 64 * 1024  # bytes of a header: signed Locations and JWTs pass aiohttp's 8 KiB
_BUFFER = 512 * 1024  # bytes; aiohttp stops reading from the socket at twice that
_HOSTS = 1024  # servers of which is known how long they take
_KEEPALIVE = 30.0  # seconds; most registries and balancers close idle connections after 60


class Sessions:
    """Pools of connections, made when first needed.

    Blobs have their own, so that they never stand in the way of manifests and tokens. Dials that are guarded
    (`Reach`) have their own, which refuse addresses that are not public. A name's addresses are tried in turn, a
    quarter of a second apart, IPv6 and IPv4 by turns (RFC 8305): the first that answers is taken.

    A connection that was kept may be dead without anybody having said so: what stands between (NAT, a firewall) has
    forgotten it. Where nothing comes over it for too long, the request goes out once more, over a new one.
    """

    def __init__(self, *, instance: str, request_id: Callable[[], str | None]) -> None:
        self.resolver = Resolver()
        self._instance = instance
        self._request_id = request_id
        self._headers = {
            "User-Agent": f"registry-mirror/{__version__}",
            "Accept-Encoding": "identity",  # the bytes are what is hashed
        }
        self._pools: dict[tuple[bool, bool, bool], aiohttp.ClientSession] = {}
        self._usual: LRUCache[tuple[str, str | None], float] = LRUCache(_HOSTS)  # seconds, by method and host

    async def request(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        *,
        body: bytes | None = None,
        bulk: bool,
        guarded: bool,
        again: bool,
        stall: float,
        buffer: int | None = None,
        tls: Context = None,
        proxy: Proxy | None = None,
    ) -> aiohttp.ClientResponse:
        """Send one request, following nothing; return the answer as soon as its headers are here.

        `guarded`: only a public address is dialled. `again`: it costs nothing to ask a second time, where a connection
        that was kept says nothing. `stall`: seconds without a byte, of the headers or the body, after which it counts
        as broken. `buffer`: bytes that are held ready. `tls` None is the usual trust store, `proxy` None no proxy.
        Raises `aiohttp.ClientError`, `TimeoutError` or `AddressRefused`. The caller closes the answer.
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
        options: dict[str, Any] = {
            "headers": sent,
            "data": body,
            "allow_redirects": False,
            "ssl": True if tls is None else tls,
            "timeout": aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=stall),
            "read_bufsize": buffer or _BUFFER,
            **through,
        }
        if not again:
            return await self._pool(bulk=bulk, guarded=guarded).request(method, url, **options)
        response = await self._unless_silent(method, url, options, bulk=bulk, guarded=guarded)
        if response is None:
            began = time.monotonic()
            response = await self._pool(bulk=bulk, guarded=guarded, kept=False).request(method, url, **options)
            self._took(method, url, time.monotonic() - began)
        return response

    async def _unless_silent(
        self, method: str, url: URL, options: dict[str, Any], *, bulk: bool, guarded: bool
    ) -> aiohttp.ClientResponse | None:
        """Send a request; return None where it went over a connection that was kept, and that says nothing."""
        began = time.monotonic()
        silence = max(SILENCE, UNUSUAL * self._usual.get((method, url.host), 0.0))
        try:
            async with asyncio.timeout(None) as timer:
                watch = SimpleNamespace(timer=timer, silence=silence)
                response = await self._pool(bulk=bulk, guarded=guarded).request(
                    method, url, trace_request_ctx=watch, **options
                )
        except TimeoutError:
            if not timer.expired():
                raise
            return None
        self._took(method, url, time.monotonic() - began)
        return response

    def _took(self, method: str, url: URL, seconds: float) -> None:
        usual = self._usual.get((method, url.host), seconds)
        self._usual[method, url.host] = 0.7 * usual + 0.3 * seconds

    async def close(self) -> None:
        """Close every connection."""
        for session in self._pools.values():
            await session.close()
        self._pools.clear()
        await self.resolver.close()

    def _pool(self, *, bulk: bool, guarded: bool, kept: bool = True) -> aiohttp.ClientSession:
        session = self._pools.get((bulk, guarded, kept))
        if session is None:
            session = self._pools[bulk, guarded, kept] = self._make(guarded=guarded, kept=kept)
        return session

    def _make(self, *, guarded: bool, kept: bool) -> aiohttp.ClientSession:
        options: dict[str, Any] = {"keepalive_timeout": _KEEPALIVE} if kept else {"force_close": True}
        if guarded:
            options["socket_factory"] = public_socket
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_reused)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=30, resolver=self.resolver, **options),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            requote_redirect_url=False,
            trust_env=False,
            max_line_size=_LINE,
            max_field_size=_LINE,
            trace_configs=[trace],
        )


async def _reused(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    """Hear that a request goes over a connection that was kept."""
    watch = context.trace_request_ctx
    if watch is not None:
        watch.timer.reschedule(asyncio.get_running_loop().time() + watch.silence)
