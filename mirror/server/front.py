"""Every request comes in here: it is parsed once, answered by one handler, and leaves one line in the log."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from aiohttp import hdrs, web

from mirror import metrics
from mirror.cache.outcome import LOCAL, NAME, Outcome
from mirror.errors import (
    LoopDetected,
    MirrorError,
    NameUnknown,
    Unsupported,
    UpstreamAway,
    UpstreamError,
)
from mirror.oci.digest import Digest
from mirror.oci.name import parse_reference
from mirror.oci.path import RouteKind
from mirror.server import answers, listings, manifests
from mirror.server.asked import Asked
from mirror.server.blobs import BlobResponse, respond_head

if TYPE_CHECKING:
    from mirror.cache.cache import Cache
    from mirror.oci.name import Repository
    from mirror.oci.namespaces import Namespaces
    from mirror.server.health import Health
    from mirror.store.io import DiskThreads

log = structlog.get_logger(__name__)

_API_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
_CLIENT_CLOSED = 499  # as nginx logs it; nobody is sent this


def _outcome(error: MirrorError) -> Outcome:
    """Say how the cache stood to a request that failed: upstream was asked, or it was not."""
    if isinstance(error, UpstreamError) and not isinstance(error, UpstreamAway):
        return Outcome(forward="uri-miss", status=error.upstream_status)
    return LOCAL


@dataclass(slots=True)
class _Line:
    """What the log will say of a request."""

    status: int = _CLIENT_CLOSED
    outcome: Outcome = LOCAL
    repository: Repository | None = None
    sent: int = 0  # bytes of content
    why: str | None = None


class Front:
    """The handler of the server."""

    def __init__(
        self,
        cache: Cache,
        namespaces: Namespaces,
        health: Health,
        threads: DiskThreads,
        *,
        fallback: bool,
        instance: str,
    ) -> None:
        """`fallback`: clients have another registry to go to. `instance` names this mirror in `Via`."""
        self._cache = cache
        self._namespaces = namespaces
        self._health = health
        self._threads = threads
        self._fallback = fallback
        self._instance = instance

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        own = self._health.respond(request)
        if own is not None:
            return own
        began = time.perf_counter()
        asked = Asked.of(request)
        structlog.contextvars.bind_contextvars(request_id=asked.request_id)
        line = _Line()
        with self._health.busy():
            try:
                return await self._answer(request, asked, line)
            except asyncio.CancelledError:
                line.why = "the mirror is stopping" if self._health.draining else "the client left"
                raise
            finally:
                self._log(request, asked, line, time.perf_counter() - began)
                structlog.contextvars.unbind_contextvars("request_id", "upstream")

    async def _answer(self, request: web.BaseRequest, asked: Asked, line: _Line) -> web.StreamResponse:
        try:
            response, line.outcome = await self._dispatch(request, asked, line)
        except MirrorError as error:
            response = self._render(answers.answer(error, asked.kind, fallback=self._fallback))
            line.outcome = _outcome(error)
            line.why = str(error)
        except Exception as error:
            log.exception("unexpected error", path=request.raw_path)
            text = f"the mirror failed over this request ({type(error).__name__}); its log has the rest"
            response = self._render(answers.ErrorAnswer(500, "UNKNOWN", text, {"Cache-Control": "no-store"}))
            line.why = text
        line.status = response.status
        if not response.prepared:
            if isinstance(response, web.Response) and isinstance(response.body, bytes) and request.method == "GET":
                line.sent = len(response.body)
            response.headers.update(self._headers(asked))
            response.headers.setdefault("Cache-Status", line.outcome.header())
        return response

    def _headers(self, asked: Asked) -> dict[str, str]:
        headers = {**_API_VERSION, "X-Request-Id": asked.request_id}
        if asked.ns is not None and asked.ns.isascii() and asked.ns.isprintable():
            headers["OCI-Namespace"] = asked.ns
        if self._health.draining:
            headers["Connection"] = "close"
        return headers

    @staticmethod
    def _render(error: answers.ErrorAnswer) -> web.Response:
        headers = {"Content-Type": "application/json", **error.headers}
        return web.Response(status=error.status, body=error.body(), headers=headers)

    async def _dispatch(
        self, request: web.BaseRequest, asked: Asked, line: _Line
    ) -> tuple[web.StreamResponse, Outcome]:
        route = asked.route
        if any(self._instance in via for via in request.headers.getall(hdrs.VIA, ())):
            raise LoopDetected(f"this request came from this very mirror ({NAME}): an upstream's url leads back to it")
        if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD) or route.kind is RouteKind.UPLOAD:
            raise Unsupported("this is a mirror: it answers GET and HEAD; push to the registry itself")
        match route.kind:
            case RouteKind.PING:
                headers = {"Content-Type": "application/json"}
                return web.Response(body=b"{}", headers=headers), LOCAL
            case RouteKind.CATALOG:
                return listings.respond_catalog(request, self._cache)
            case RouteKind.OTHER:
                raise NameUnknown(
                    f"{request.raw_path[:160]!r} is not a path of the registry API; those begin with /v2/"
                )
        repository = line.repository = self._namespaces.resolve(route.host, route.name, asked.ns)
        structlog.contextvars.bind_contextvars(upstream=repository.namespace)
        if route.kind is RouteKind.MANIFEST:
            return await manifests.respond(request, self._cache, repository, parse_reference(route.reference))
        if route.kind is RouteKind.TAGS:
            return await listings.respond_tags(request, self._cache, repository, route.name)
        digest = Digest.parse(route.reference)
        if route.kind is RouteKind.REFERRERS:
            return await listings.respond_referrers(request, self._cache, repository, digest)
        return await self._blob(request, asked, repository, digest, line)

    async def _blob(
        self, request: web.BaseRequest, asked: Asked, repository: Repository, digest: Digest, line: _Line
    ) -> tuple[web.StreamResponse, Outcome]:
        if request.method == hdrs.METH_HEAD:
            return await respond_head(request, self._cache, repository, digest)
        blob = BlobResponse(request, self._cache, self._threads, repository, digest)
        try:
            return await blob.respond(self._headers(asked))
        finally:
            line.sent, line.why = blob.sent, blob.broken
            if blob.begun is not None:  # even where the client leaves, as containerd does by design
                line.status, line.outcome = blob.begun

    def _log(self, request: web.BaseRequest, asked: Asked, line: _Line, seconds: float) -> None:
        kind = asked.kind.value
        metrics.REQUESTS.labels(kind, line.outcome.label, str(line.status)).inc()
        metrics.REQUEST_SECONDS.labels(kind).observe(seconds)
        write = log.debug if asked.kind is answers.Kind.PING else log.info
        write(
            "request",
            method=request.method,
            kind=kind,
            image=str(line.repository) if line.repository else None,
            reference=asked.route.reference[:160] or None,
            status=line.status,
            cache=line.outcome.label,
            bytes=line.sent,
            ms=round(seconds * 1000, 1),
            client=request.remote,
            **({"why": line.why} if line.why else {}),
        )
