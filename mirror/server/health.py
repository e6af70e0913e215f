"""`/healthz`, `/readyz`, `/metrics`, and the count of what is under way, for a graceful end."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from mirror import metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
_HEADERS = {"Cache-Control": "no-store", "Cache-Status": "registry-mirror; detail=local"}


class Health:
    """Alive from the start, ready while it takes requests. Neither depends on any upstream."""

    def __init__(self) -> None:
        self._ready = False
        self.draining = False
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def open(self) -> None:
        """Take requests."""
        self._ready = True
        metrics.READY.set(1)

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

    def respond(self, request: web.BaseRequest, *, stranger: bool) -> web.Response | None:
        """Answer one of the paths above; None for every other.

        A `stranger`, whom the configuration keeps out, may ask for the health, as an orchestrator does from wherever it
        is, but not for the metrics.
        """
        if request.raw_path not in _PATHS or request.method not in ("GET", "HEAD"):
            return None
        if request.raw_path == "/metrics":
            if stranger:
                return None
            return web.Response(body=generate_latest(), headers={**_HEADERS, "Content-Type": CONTENT_TYPE_LATEST})
        headers = {**_HEADERS, "Content-Type": "text/plain"}
        if request.raw_path == "/readyz" and not self._ready:
            return web.Response(status=503, body=b"not ready\n", headers=headers)
        return web.Response(body=b"ok\n", headers=headers)
