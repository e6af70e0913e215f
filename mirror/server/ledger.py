"""What is told of each request once it has ended: to the metrics, the log, and the access record."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from mirror import metrics
from mirror.cache.outcome import LOCAL
from mirror.server.access import MAX_AGENT, MAX_REFERENCE, AccessEntry
from mirror.server.answers import Kind

if TYPE_CHECKING:
    from aiohttp import web
    from prometheus_client import Counter, Histogram

    from mirror.cache.outcome import Outcome
    from mirror.oci.name import Repository
    from mirror.server.access import AccessRecord
    from mirror.server.asked import Asked

log = structlog.get_logger(__name__)

_CLIENT_CLOSED = 499  # as nginx logs it; nobody is sent this
_ERROR = 400
_NO_CONTENT = (Kind.PING, Kind.OTHER)


@dataclass(slots=True)
class Line:
    """One request, as it went. Times are the monotonic clock's, in seconds."""

    client: str
    began: float
    status: int = _CLIENT_CLOSED
    outcome: Outcome = LOCAL
    repository: Repository | None = None
    digest: str | None = None  # of what was answered with
    sent: int = 0  # bytes of content
    first_byte: float | None = None  # when it went out, where that was not with the last
    why: str | None = None


class Ledger:
    """Tells. Without an access record all goes to the log; with one, the log hears of trouble only."""

    def __init__(self, access: AccessRecord | None) -> None:
        self.access = access
        self._series: dict[tuple[str, Kind, str, int], tuple[Counter, Histogram, Histogram, Counter]] = {}

    def enter(self, request: web.BaseRequest, asked: Asked, line: Line, label: str) -> None:
        """Tell of a request; `label` is what metrics call its upstream."""
        seconds = time.monotonic() - line.began
        self._measure(asked.kind, line, label, seconds)
        access = self.access
        if access is not None and asked.kind not in _NO_CONTENT:
            access.write(_entry(request, asked, line, seconds))
        quiet = line.why is None and (asked.kind is Kind.PING or access is not None)
        level = logging.DEBUG if quiet else logging.INFO
        if not log.is_enabled_for(level):
            return
        log.log(
            level,
            "request",
            method=request.method,
            kind=asked.kind.value,
            image=str(line.repository) if line.repository else None,
            reference=asked.route.reference[:MAX_REFERENCE] or None,
            digest=line.digest,
            status=line.status,
            cache=line.outcome.label,
            bytes=line.sent,
            ms=round(seconds * 1000, 1),
            client=line.client,
            agent=request.headers.get("User-Agent", "")[:MAX_AGENT] or None,
            **({"why": line.why} if line.why else {}),
        )

    def _measure(self, kind: Kind, line: Line, label: str, seconds: float) -> None:
        cache = line.outcome.label
        key = (label, kind, cache, line.status)
        series = self._series.get(key)
        if series is None:  # of these there are few, and looking them up costs more than counting
            names = (label, kind.value, cache)
            series = self._series[key] = (
                metrics.REQUESTS.labels(*names, str(line.status)),
                metrics.REQUEST_SECONDS.labels(*names),
                metrics.FIRST_BYTE_SECONDS.labels(*names),
                metrics.BYTES_OUT.labels(label),
            )
        requests, whole, first, out = series
        requests.inc()
        whole.observe(seconds)
        if line.status < _ERROR:
            first.observe(seconds if line.first_byte is None else line.first_byte - line.began)
            if line.first_byte is None and line.sent:  # what goes out piece by piece has been counted so
                out.inc(line.sent)


def _entry(request: web.BaseRequest, asked: Asked, line: Line, seconds: float) -> AccessEntry:
    repository = line.repository
    return AccessEntry(
        time=time.time() - seconds,
        client=line.client,
        method=request.method,
        namespace=repository.namespace if repository else None,
        repository=repository.name if repository else None,
        reference=asked.route.reference,
        digest=line.digest,
        kind=asked.kind.value,
        status=line.status,
        sent=line.sent,
        cache=line.outcome.label,
        seconds=seconds,
        request_id=asked.request_id,
        agent=request.headers.get("User-Agent", ""),
    )
