"""`/healthz`, `/readyz`, `/metrics`, and the count of what is under way, for a graceful end."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from aiohttp import hdrs, web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from mirror import metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

_PATHS = frozenset({"/healthz", "/readyz"})
_METHODS = (hdrs.METH_GET, hdrs.METH_HEAD)
_HEADERS = {"Cache-Control": "no-store", "Cache-Status": "registry-mirror; detail=local"}
_TOO_LATE = b"the metrics of all workers did not come in time; ask again\n"
_OFFLINE = b"ok; offline by configuration: only what is here is served\n"
_TEXT = {**_HEADERS, "Content-Type": "text/plain"}


def _nothing() -> None:
    pass


class Health:
    """Alive from the start, ready while it takes requests. Neither depends on any upstream."""

    def __init__(self, tell: Callable[[], Awaitable[bytes]] | None = None) -> None:
        """`tell` returns the metrics as Prometheus reads them; without it they are those of this process."""
        self._tell = tell
        self.refresh: Callable[[], None] = _nothing  # brings the metrics up to date with what other processes know
        self.trouble: str | None = None  # why the mirror is not healthy although this process is
        self._ready = False
        self._offline = False
        self.draining = False
        self._busy = 0
        self._writing = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()

    def open(self) -> None:
        """Take requests."""
        self._ready = True
        metrics.READY.set(1)

    def dial(self, *, offline: bool) -> None:
        """Hear whether the mirror dials out at all. It is ready in either case."""
        self._offline = offline
        metrics.OFFLINE.set(int(offline))

    def drain(self) -> None:
        """Say that this process will end: balancers look at `/readyz`."""
        self._ready = False
        self.draining = True
        metrics.READY.set(0)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count a request that is under way."""
        self._busy += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._busy -= 1
            if self._busy == 0:
                self._idle.set()

    @property
    def under_way(self) -> int:
        """How many requests are being answered."""
        return self._busy

    async def idle(self, patience: float) -> None:
        """Wait until no request is under way, for at most `patience` seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), patience)

    @staticmethod
    def asks_for_metrics(request: web.BaseRequest) -> bool:
        """Say whether `metrics` answers a request."""
        return request.raw_path == "/metrics" and request.method in _METHODS

    async def metrics(self) -> web.Response:
        """Answer with the metrics. Writing thousands of series takes a tenth of a second: a thread does it, one."""
        async with self._writing:
            self.refresh()
            try:
                body = await (asyncio.to_thread(generate_latest) if self._tell is None else self._tell())
            except TimeoutError:  # what this process alone has counted would look like counters that fell
                return web.Response(status=503, body=_TOO_LATE, headers=_TEXT)
        return web.Response(body=body, headers={**_HEADERS, "Content-Type": CONTENT_TYPE_LATEST})

    def respond(self, request: web.BaseRequest) -> web.Response | None:
        """Answer for the health; None for every other path."""
        if request.raw_path not in _PATHS or request.method not in _METHODS:
            return None
        if request.raw_path == "/readyz" and not self._ready:
            return web.Response(status=503, body=b"not ready\n", headers=_TEXT)
        if self.trouble is not None:
            return web.Response(status=503, body=f"{self.trouble}\n".encode(), headers=_TEXT)
        return web.Response(
            body=_OFFLINE if self._offline and request.raw_path == "/readyz" else b"ok\n", headers=_TEXT
        )
