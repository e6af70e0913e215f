"""One request to one server, and what went wrong with it in words for a person."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp

from mirror.errors import UpstreamBroken, UpstreamError, UpstreamUnavailable
from mirror.metrics import (
    UPSTREAM_ANSWERS,
    UPSTREAM_AWAY,
    UPSTREAM_BYTES,
    UPSTREAM_FIRST_BYTE_SECONDS,
    UPSTREAM_STALLS,
)
from mirror.upstream.address import AddressRefused
from mirror.upstream.pacing import Pacing
from mirror.upstream.tls import Tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from yarl import URL

    from mirror.config.credentials import Credentials
    from mirror.upstream.reach import Reach
    from mirror.upstream.route import Route
    from mirror.upstream.sessions import Sessions

_MAX_ERROR_BODY = 64 * 1024  # bytes of an error's body that are read
_MAX_QUOTE = 300  # characters of it that a person is shown
_PIECE = 1024 * 1024  # bytes; what `pieces` yields at most
_NO_LIMIT: contextlib.nullcontext[None] = contextlib.nullcontext()
_QUERY = re.compile(r"\?[^\s\"']+")


@dataclass(slots=True)
class Answer:
    """An answer whose headers are here. `error_body` is set once the body of an error was read."""

    response: aiohttp.ClientResponse
    url: URL  # where it came from, after redirects; perhaps signed: not for showing
    public: bool = True  # no credentials were in play, and no client certificate
    shown: Credentials | None = None  # what was shown to the registry itself
    error_body: bytes | None = None
    rest: float | None = None  # seconds until it may be asked again that limits; None: as `Retry-After` says

    @property
    def status(self) -> int:
        """The status code."""
        return self.response.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, by name in any case."""
        return self.response.headers

    def all(self, name: str) -> list[str]:
        """Return every value of a header that may come several times."""
        return list(self.response.headers.getall(name, []))

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        self.response.close()


class Wire:
    """How one upstream is dialled, its redirect targets and token services included. Metrics call it `label`.

    A body that brings less than `stall_rate` bytes a second for `stall_timeout` seconds is broken off (0: one that
    brings nothing), and an answer is waited for no longer than that. `pacing` is what its blobs may take of the line,
    perhaps together with other wires.
    """

    def __init__(
        self,
        namespace: str,
        sessions: Sessions,
        *,
        reach: Reach,
        route: Route,
        tls: Tls | None = None,
        label: str | None = None,
        stall_timeout: float = 10.0,
        stall_rate: int = 1024,
        pacing: Pacing | None = None,
    ) -> None:
        self.namespace = namespace
        self._sessions = sessions
        self._reach = reach
        self._route = route
        self._tls = tls or Tls()
        self.label = label or namespace
        self.pacing = pacing or Pacing(self.label)
        self._stall_timeout = stall_timeout
        self._earns = 1 / stall_rate if stall_rate else stall_timeout  # seconds of waiting that a byte earns
        self._bytes = UPSTREAM_BYTES.labels(self.label)

    async def send(
        self, method: str, url: URL, headers: Mapping[str, str], *, kind: str, body: bytes | None = None
    ) -> Answer:
        """Send one request, following nothing.

        `kind` is one of manifest, blob, token, tags, referrers, ping, for the metrics. Raise `UpstreamUnavailable`
        where no answer comes, `UpstreamBroken` where it is none of HTTP's or the address must not be dialled.
        """
        began = time.monotonic()
        try:
            response, shown = await self._dial(method, url, headers, kind=kind, body=body)
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: an address that aiohttp cannot send
            self.count(kind, "timeout" if isinstance(error, TimeoutError) else "connect")
            raise self.failure(error, url) from None  # the cause's own text may show the address with its query
        UPSTREAM_FIRST_BYTE_SECONDS.labels(self.label, kind).observe(time.monotonic() - began)
        self.count(kind, str(response.status))
        return Answer(response, url, public=not shown)

    async def _dial(
        self, method: str, url: URL, headers: Mapping[str, str], *, kind: str, body: bytes | None
    ) -> tuple[aiohttp.ClientResponse, bool]:
        proxy = self._route.proxy(url)
        tls, shown = await self._tls.choose(url, kind=kind, proxy=proxy)
        bulk = kind == "blob"
        request = partial(
            self._sessions.request,
            method,
            url,
            headers,
            body=body,
            bulk=bulk,
            again=method == "HEAD" or bulk,
            stall=self._stall_timeout,
            buffer=self.pacing.buffer if bulk else None,
            tls=tls,
            proxy=proxy,
        )
        try:
            return await request(guarded=self._reach.guards(url)), shown
        except (aiohttp.ClientConnectorError, AddressRefused) as error:
            refused = isinstance(getattr(error, "os_error", error), AddressRefused)
            if not (refused and await self._reach.widens()):
                raise
        return await request(guarded=False), shown

    def secrets(self) -> tuple[str, ...]:
        """Return what the proxy on the way is shown."""
        return self._route.secrets()

    def count(self, kind: str, status: str) -> None:
        """Count one answer, or its absence."""
        UPSTREAM_ANSWERS.labels(self.label, kind, status).inc()

    def tell_away(self, *, away: bool) -> None:
        """Tell the metrics whether the last contact failed."""
        UPSTREAM_AWAY.labels(self.label).set(away)

    def failure(self, error: BaseException, url: URL) -> UpstreamError:
        """Return the error that says why there was no answer, or no end of one, from `url`."""
        host = url.host if url.is_default_port() else f"{url.host}:{url.port}"
        inner = getattr(error, "os_error", error)
        if isinstance(inner, AddressRefused):
            return UpstreamBroken(f"{self.namespace}: {host}: {self._reach.refusal}", namespace=self.namespace)
        # aiohttp's errors of certificates are of `ValueError` too, and those may be mended over there.
        senseless = isinstance(error, aiohttp.InvalidURL) or not isinstance(error, aiohttp.ClientError | OSError)
        kind = UpstreamBroken if senseless else UpstreamUnavailable
        return kind(f"{self.namespace}: {host}: {_explain(error)}", namespace=self.namespace)

    async def pieces(self, answer: Answer, *, within: float | None = None) -> AsyncIterator[bytes]:
        """Yield the body as it comes, at most 1 MiB at once; raise `UpstreamUnavailable` where it breaks or stalls.

        `within` makes it less patient with each piece than with a stall, in seconds.
        """
        content = answer.response.content
        if self.pacing.rate is None:
            _widen(answer.response)
        counted = self._bytes.inc
        credit = self._stall_timeout  # seconds of waiting that are left; what comes earns more, up to that
        broken: Exception | None = None
        while broken is None:
            began = time.monotonic()
            try:
                async with _NO_LIMIT if within is None else asyncio.timeout(within):
                    piece = await content.readany()
                if not piece:
                    return
            except (aiohttp.ClientError, OSError) as error:
                broken, piece = error, _left(content)
            counted(len(piece))
            credit = min(credit - (time.monotonic() - began) + len(piece) * self._earns, self._stall_timeout)
            if credit < 0 and broken is None:
                broken = _Stalled()
            if len(piece) > _PIECE:  # rare: aiohttp holds hardly more than this
                for start in range(0, len(piece), _PIECE):
                    yield piece[start : start + _PIECE]
            elif piece:
                yield piece
        if isinstance(broken, TimeoutError) and within is None:
            UPSTREAM_STALLS.labels(self.label).inc()
            broken = _Stalled()
        raise self.failure(broken, answer.url) from None

    async def read(self, answer: Answer, limit: int) -> bytes:
        """Read a small body; raise `UpstreamBroken` where it has more than `limit` bytes, else as `pieces`."""
        announced = answer.response.content_length
        body = bytearray()
        if announced is None or announced <= limit:
            async for piece in self.pieces(answer):
                body += piece
                if len(body) > limit:
                    break
            else:
                return bytes(body)
        answer.close()
        raise UpstreamBroken(
            f"{self.namespace} sent more than {limit // 1024} KiB where less was due",
            namespace=self.namespace,
            upstream_status=answer.status,
        )

    async def read_error(self, answer: Answer) -> bytes:
        """Read the start of an error's body, once; nothing where it does not come. The answer is done with then."""
        if answer.error_body is None:
            answer.error_body = b""
            body = bytearray()
            try:
                async for piece in self.pieces(answer, within=2.0):
                    body += piece
                    if len(body) > _MAX_ERROR_BODY:
                        break
            except UpstreamUnavailable:
                pass  # the status says enough: the body is for the person's ease only
            finally:
                answer.close()
            answer.error_body = bytes(body[:_MAX_ERROR_BODY])
        return answer.error_body


def quote_error(body: bytes, secrets: tuple[str, ...] = ()) -> str:
    """Return what the errors of an OCI error body say, fit to be shown, or nothing.

    It is cut, printable, without the queries of addresses (they may be signed); and nothing if it repeats a secret.
    """
    try:
        errors = json.loads(body).get("errors")
        said = "; ".join(str(e.get("message") or e.get("code") or "") for e in errors[:3])
    except (ValueError, AttributeError, TypeError, RecursionError):
        return ""
    if any(secret in said for secret in secrets if secret):
        return ""
    said = "".join(c if c.isprintable() else " " for c in _QUERY.sub("?…", said))
    return said[:_MAX_QUOTE].strip()


def _certificate(error: Any) -> str:
    return f"its certificate is not trusted ({getattr(error.certificate_error, 'verify_message', 'invalid')})"


def _tls(error: Any) -> str:
    return f"TLS failed ({getattr(error.os_error, 'reason', None) or 'handshake'})"


def _connector(error: Any) -> str:
    return f"no connection ({error.os_error.strerror or type(error.os_error).__name__})"


def _proxy_answered(error: Any) -> str:
    wants = "; it wants a user name and a password, or other ones" if error.status == 407 else ""  # noqa: PLR2004
    return f"the proxy that leads there answered {error.status}{wants}"


class _Stalled(TimeoutError):
    """A body of which too little came for too long."""


# The first that fits; the narrow before the wide.
_CAUSES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str | Callable[[Any], str]], ...] = (
    (aiohttp.ClientConnectorDNSError, "its name does not resolve"),
    (aiohttp.ClientConnectorCertificateError, _certificate),
    (aiohttp.ClientConnectorSSLError, _tls),
    (aiohttp.ClientProxyConnectionError, "the proxy that leads there cannot be reached"),
    (aiohttp.ClientHttpProxyError, _proxy_answered),
    (aiohttp.ConnectionTimeoutError, "no connection in time"),
    (_Stalled, "the transfer stalled"),
    (TimeoutError, "nothing came for too long"),
    (aiohttp.ClientConnectorError, _connector),
    ((aiohttp.ServerDisconnectedError, ConnectionError), "it closed the connection"),
    (aiohttp.ClientPayloadError, "the transfer broke off"),
    (aiohttp.ClientResponseError, "its answer is not HTTP"),
    (ValueError, "an address that cannot be asked for"),
)


def _explain(error: BaseException) -> str:
    for kinds, cause in _CAUSES:
        if isinstance(error, kinds):
            return cause if isinstance(cause, str) else cause(error)
    return f"no answer ({type(error).__name__})"


def _widen(response: aiohttp.ClientResponse) -> None:
    """Let asyncio take up to a MiB from the socket at once: at 256 KiB a fast transfer is bound by the calls."""
    transport = response.connection.transport if response.connection is not None else None
    if transport is not None and hasattr(transport, "max_size"):  # undocumented; without it all is well, but slower
        transport.max_size = _PIECE


def _left(content: aiohttp.StreamReader) -> bytes:
    """Return what had come before a connection broke: aiohttp holds up to a MiB of it, and gives out only the error."""
    return content._read_nowait(-1)  # noqa: SLF001  # there is no public way, and it would be fetched twice
