"""Every request comes in here: it is parsed once, answered by one handler, and entered in the ledger."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, cast

import structlog
from aiohttp import hdrs, web

from mirror import metrics
from mirror.cache.outcome import DENIED, LOCAL, NAME, Outcome
from mirror.errors import (
    ClientDenied,
    LoopDetected,
    MirrorError,
    NameInvalid,
    NameUnknown,
    PullRefused,
    Unsupported,
    UpstreamAway,
    UpstreamError,
)
from mirror.log import scrub_text
from mirror.oci.digest import Digest
from mirror.oci.path import RouteKind
from mirror.server import answers, listings, manifests
from mirror.server.asked import Asked
from mirror.server.blobs import BlobResponse, respond_head
from mirror.server.ledger import Ledger, Line
from mirror.server.limits import RequestLimit
from mirror.server.refusals import Refusals
from mirror.upstream import via

if TYPE_CHECKING:
    from mirror.cache.cache import Cache
    from mirror.oci.name import Repository
    from mirror.server.access import AccessRecord
    from mirror.server.connections import Connection, Connections
    from mirror.server.health import Health
    from mirror.server.policy import Policy
    from mirror.store.io import DiskThreads

log = structlog.get_logger(__name__)

_API_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
_ECHOED = re.compile(r"[A-Za-z0-9.:_\[\]-]{1,300}")  # a namespace as it goes back to whoever named it
_CHEAP = (answers.Kind.PING, answers.Kind.OTHER)  # they stand in no queue


def _outcome(error: MirrorError) -> Outcome:
    """Say how the cache stood to a request that failed: upstream was asked, or it was not."""
    if isinstance(error, UpstreamError) and not isinstance(error, UpstreamAway):
        return Outcome(forward="uri-miss", status=error.upstream_status)
    return LOCAL


class Front:
    """The handler of the server."""

    def __init__(
        self,
        cache: Cache,
        policy: Policy,
        health: Health,
        threads: DiskThreads,
        connections: Connections,
        *,
        instance: str,
        access: AccessRecord | None = None,
        crossings: via.Crossings | None = None,
    ) -> None:
        """`instance` names this mirror in `Via`; `crossings` know what it asks other mirrors for."""
        self._cache = cache
        self._policy = policy
        self._health = health
        self._threads = threads
        self._connections = connections
        self._instance = instance
        self._crossings = crossings or via.Crossings(instance)
        self._limit = RequestLimit(policy.max_requests_per_client)
        self._ledger = Ledger(access)
        self._refusals = Refusals(cache.admission)

    @property
    def access(self) -> AccessRecord | None:
        """The access record that is written."""
        return self._ledger.access

    def reconfigure(self, policy: Policy, access: AccessRecord | None) -> None:
        """Answer by another policy, and write another access record, from the next request on.

        The same access record is opened anew, as those want who move its file away; the one before is ended.
        """
        self._policy = policy
        self._connections.reconfigure(policy)
        self._limit.reconfigure(policy.max_requests_per_client)
        before, self._ledger.access = self._ledger.access, access
        if before is not None and before is access:
            before.reopen()
        elif before is not None:
            before.end()

    async def close(self) -> None:
        """Write what is left of the access record."""
        if self._ledger.access is not None:
            await asyncio.to_thread(self._ledger.access.close)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        policy = self._policy
        client = policy.clients.of(cast("Connection", request.protocol).peer, request.headers)
        refusal = policy.clients.refusal(client)
        # Whom the configuration keeps out may ask for the health, as an orchestrator does from wherever it is.
        own = self._health.respond(request)
        if own is not None:
            return own
        if refusal is None and self._health.asks_for_metrics(request):
            return await self._health.metrics()
        line = Line(client, time.monotonic())
        asked = Asked.of(request)
        structlog.contextvars.bind_contextvars(request_id=asked.request_id)  # of this task, which ends with the request
        with self._health.busy():
            try:
                return await self._answer(request, asked, line, refusal)
            except asyncio.CancelledError:
                line.why = "the mirror is stopping" if self._health.draining else "the client left"
                raise
            finally:
                namespace = line.repository.namespace if line.repository else None
                self._ledger.enter(request, asked, line, policy.label(namespace))

    async def _answer(
        self, request: web.BaseRequest, asked: Asked, line: Line, refusal: str | None
    ) -> web.StreamResponse:
        try:
            response, line.outcome = await self._admit(request, asked, line, refusal)
        except PullRefused as error:
            response = self._refused(request, asked, line, error)
            line.outcome, line.why = DENIED, str(error)
        except MirrorError as error:
            response = self._render(answers.answer(error, asked.kind, fallback=self._policy.fallback))
            line.outcome = _outcome(error)
            line.why = str(error)
        except Exception as error:
            log.exception("unexpected error", path=request.raw_path)
            text = f"the mirror failed over this request ({type(error).__name__}); its log has the rest"
            response = self._render(answers.ErrorAnswer(500, "UNKNOWN", text, {"Cache-Control": "no-store"}))
            line.why = text
        line.status = response.status
        line.digest = response.headers.get("Docker-Content-Digest")
        if not response.prepared:
            if isinstance(response, web.Response) and isinstance(response.body, bytes) and request.method == "GET":
                line.sent = len(response.body)
            response.headers.update(self._headers(asked))
            response.headers.setdefault("Cache-Status", line.outcome.header())
        return response

    async def _admit(
        self, request: web.BaseRequest, asked: Asked, line: Line, refusal: str | None
    ) -> tuple[web.StreamResponse, Outcome]:
        if refusal is not None:
            metrics.REFUSED.labels("denied").inc()
            raise ClientDenied(refusal)
        if asked.kind in _CHEAP:
            return await self._dispatch(request, asked, line)
        if not self._limit.try_enter(line.client):
            await self._limit.enter(line.client)
        try:
            return await self._dispatch(request, asked, line)
        finally:
            self._limit.leave(line.client)

    def _refused(self, request: web.BaseRequest, asked: Asked, line: Line, error: PullRefused) -> web.Response:
        """Answer what a rule of `pulls` refuses."""
        policy, repository = self._policy, line.repository
        if repository is not None:
            self._refusals.count(repository, asked, error, policy.label(repository.namespace))
            if not policy.fallback:
                stands = self._refusals.stand_in(request, repository, asked, error)
                if stands is not None:
                    return stands
        return self._render(answers.answer(error, asked.kind, fallback=policy.fallback))

    def _headers(self, asked: Asked) -> dict[str, str]:
        headers = {**_API_VERSION, "X-Request-Id": asked.request_id}
        if asked.ns is not None and _ECHOED.fullmatch(asked.ns):
            headers["OCI-Namespace"] = asked.ns
        if self._health.draining or self._connections.crowded:
            headers["Connection"] = "close"
        if via.through():
            headers["Via"] = f"1.1 registry-mirror-{self._instance}"
        return headers

    @staticmethod
    def _render(error: answers.ErrorAnswer) -> web.Response:
        headers = {"Content-Type": "application/json", **error.headers}
        return web.Response(status=error.status, body=error.body(), headers=headers)

    async def _dispatch(self, request: web.BaseRequest, asked: Asked, line: Line) -> tuple[web.StreamResponse, Outcome]:
        route = asked.route
        if via.circles(self._instance, request.headers.getall(hdrs.VIA, ())):
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
                path = scrub_text(request.raw_path.partition("?")[0][:160])  # what follows may be a secret
                raise NameUnknown(f"{path!r} is not a path of the registry API; those begin with /v2/")
        if asked.ns is not None and "@" in asked.ns:  # and it is not repeated: there may be a password before the @
            raise NameInvalid("the namespace of this request holds more than a registry; one looks like quay.io")
        repository = line.repository = self._policy.namespaces.resolve(route.host, route.name, asked.ns)
        structlog.contextvars.bind_contextvars(upstream=repository.namespace)
        self._check_crossing(repository, route.reference)
        reference = self._refusals.check(repository, asked)
        if reference is None:
            return await listings.respond_tags(request, self._cache, repository, route.name)
        if route.kind is RouteKind.MANIFEST:
            return await manifests.respond(request, self._cache, repository, reference)
        digest = Digest.parse(route.reference)  # else it would have been refused already
        if route.kind is RouteKind.REFERRERS:
            return await listings.respond_referrers(request, self._cache, repository, digest)
        return await self._blob(request, asked, repository, digest, line)

    def _check_crossing(self, repository: Repository, reference: str) -> None:
        """See that this mirror and another do not wait for one another."""
        if self._crossings.crossed(repository, reference):
            raise LoopDetected(f"this mirror ({NAME}) is asking the one that asks for the same just now")

    async def _blob(
        self, request: web.BaseRequest, asked: Asked, repository: Repository, digest: Digest, line: Line
    ) -> tuple[web.StreamResponse, Outcome]:
        if request.method == hdrs.METH_HEAD:
            return await respond_head(request, self._cache, repository, digest)
        label = self._policy.label(repository.namespace)
        blob = BlobResponse(request, self._cache, self._threads, repository, digest, label=label)
        try:
            return await blob.respond(self._headers(asked), line.began)
        finally:
            line.sent, line.why, line.first_byte = blob.sent, blob.broken, blob.first_byte
            if blob.begun is not None:  # even where the client leaves, as containerd does by design
                line.status, line.outcome = blob.begun
                line.digest = str(digest)
