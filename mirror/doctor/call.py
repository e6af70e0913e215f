"""One request to one address, and, where no answer comes, which of the usual causes it has."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import aiohttp

from mirror.doctor.handshake import speaks_tls

if TYPE_CHECKING:
    import ssl

    from multidict import CIMultiDictProxy
    from yarl import URL

    from mirror.upstream.route import Proxy

_TLS_ENDS = 0.02  # seconds; aiohttp does not wait until TLS has ended (its docs, Graceful Shutdown), and loops end here
_BODY = 256 * 1024  # bytes of an answer that are read; Docker tells much of itself

# X509_V_ERR_… of OpenSSL (x509_vfy.h)
_NOT_YET, _EXPIRED, _WRONG_HOST, _WRONG_ADDRESS = 9, 10, 62, 64


class Cause(Enum):
    """Why there is no answer."""

    NAME = auto()  # the name does not resolve
    REFUSED = auto()  # nobody listens there
    NO_SOCKET = auto()  # there is no such Unix socket
    TIMEOUT = auto()  # nothing comes back
    UNREACHABLE = auto()  # no route, or something forbids it
    PROXY = auto()  # the proxy in between cannot be reached, or refuses
    SPEAKS_TLS = auto()  # https is spoken there, and http was tried
    SPEAKS_PLAIN = auto()  # http is spoken there, and https was tried
    EXPIRED = auto()
    NOT_YET = auto()
    WRONG_NAME = auto()
    UNTRUSTED = auto()
    TLS = auto()  # TLS fails in another way
    NOT_HTTP = auto()  # what comes back is no HTTP


@dataclass(frozen=True, slots=True)
class Trouble:
    """There is no answer. `detail` says it in words, to follow a name and a colon."""

    cause: Cause
    detail: str


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, its body cut."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def mirror(self) -> bool:
        """Whether a mirror of this kind answered (RFC 9211 §2: the name of the cache comes first)."""
        return self.headers.get("Cache-Status", "").startswith("registry-mirror")


async def call(
    url: URL,
    *,
    socket: str | None = None,
    proxy: Proxy | None = None,
    trusted: ssl.SSLContext | None = None,
    patience: float,
) -> Reply | Trouble:
    """GET `url`, following nothing. `trusted` stands in for the usual trust store."""
    found: Reply | Trouble
    try:
        async with asyncio.timeout(patience):
            found = await _get(url, socket, proxy, trusted)
    except TimeoutError:
        return Trouble(Cause.TIMEOUT, f"nothing came back within {patience:.3g} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: a host that cannot even be looked up
        found = _trouble(error)
    if socket is not None or proxy is not None or url.host is None or url.port is None:
        return found
    if url.scheme == "https":
        if isinstance(found, Trouble) and found.cause is Cause.TLS and await _speaks_plain(url, patience):
            return Trouble(Cause.SPEAKS_PLAIN, "http is spoken there, not https")
    # nginx and Go tell the one who speaks http to their TLS port by a 400
    elif (found.status == 400 if isinstance(found, Reply) else found.cause is Cause.NOT_HTTP) and (  # noqa: PLR2004
        await speaks_tls(url.host, url.port, patience)
    ):
        return Trouble(Cause.SPEAKS_TLS, "https is spoken there, not http")
    return found


async def _get(url: URL, socket: str | None, proxy: Proxy | None, trusted: ssl.SSLContext | None) -> Reply:
    # As the mirror's own sessions do it: for CONNECT alone where there is one.
    shown = {"Proxy-Authorization": proxy.authorization} if proxy is not None and proxy.authorization else {}
    through: dict[str, Any] = {"proxy": proxy.url} if proxy is not None else {}
    if shown:
        through["proxy_headers" if url.scheme == "https" else "headers"] = shown
    connector = aiohttp.UnixConnector(socket) if socket else aiohttp.TCPConnector(force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False) as session,
        session.get(url, allow_redirects=False, ssl=True if trusted is None else trusted, **through) as answer,
    ):
        body = bytearray()
        with suppress(aiohttp.ClientPayloadError):  # the head says enough
            while len(body) < _BODY and (piece := await answer.content.readany()):
                body += piece
    if url.scheme == "https":
        await asyncio.sleep(_TLS_ENDS)
    return Reply(answer.status, answer.headers, bytes(body))


async def _speaks_plain(url: URL, patience: float) -> bool:
    try:
        async with asyncio.timeout(patience):
            await _get(url.with_scheme("http").with_port(url.port), None, None, None)
    except (aiohttp.ClientError, OSError):
        return False
    return True


def _trouble(error: Exception) -> Trouble:
    inner = getattr(error, "os_error", None)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _untrusted(error.certificate_error)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return Trouble(Cause.PROXY, f"the proxy answered {error.status}")
    for kind, cause, detail in _CAUSES:
        if isinstance(error, kind) or isinstance(inner, kind):
            return Trouble(cause, detail)
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return Trouble(Cause.TLS, f"TLS fails ({getattr(inner, 'reason', None) or 'handshake'})")
    if isinstance(error, aiohttp.ClientConnectorError):
        return Trouble(Cause.UNREACHABLE, f"no connection ({error.os_error.strerror or type(inner).__name__})")
    return Trouble(Cause.NOT_HTTP, f"what answers makes no sense ({type(error).__name__})")


# The first that fits, of the error itself or of the system's below it.
_CAUSES: tuple[tuple[type[BaseException], Cause, str], ...] = (
    (aiohttp.ClientConnectorDNSError, Cause.NAME, "its name does not resolve"),
    (aiohttp.ClientProxyConnectionError, Cause.PROXY, "the proxy on the way cannot be reached"),
    (ConnectionRefusedError, Cause.REFUSED, "the connection is refused: nobody listens there"),
    (FileNotFoundError, Cause.NO_SOCKET, "there is no such socket"),
    (aiohttp.ClientResponseError, Cause.NOT_HTTP, "what answers does not speak http"),
    (aiohttp.ServerDisconnectedError, Cause.NOT_HTTP, "the connection is closed without an answer"),
    (ConnectionError, Cause.NOT_HTTP, "the connection is broken off without an answer"),
    (UnicodeError, Cause.NAME, "its name is none that could be looked up"),
)


def _untrusted(error: Exception) -> Trouble:
    code = getattr(error, "verify_code", None)
    says = str(getattr(error, "verify_message", "")) or "not trusted"
    if code == _EXPIRED:
        return Trouble(Cause.EXPIRED, "its certificate has expired")
    if code == _NOT_YET:
        return Trouble(Cause.NOT_YET, "its certificate is not valid yet")
    if code in (_WRONG_HOST, _WRONG_ADDRESS):
        return Trouble(Cause.WRONG_NAME, "its certificate is for another name")
    return Trouble(Cause.UNTRUSTED, f"its certificate is not trusted here ({says})")
