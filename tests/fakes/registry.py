"""A declarative fake upstream: a registry on 127.0.0.1, in the test's own loop or in a process of its own.

    async with FakeRegistry() as up:
        digest = up.add_image("library/app", "v1", layers=[b"one", b"two"])
        up.fault(kind="blob", times=1, then=Cut(at_byte=2))
        ...
        assert up.count(kind="manifest", method="GET") == 1

`python -m tests.fakes.registry --config spec.json` runs it as a process, see `tests.fakes.process`.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote
from weakref import WeakKeyDictionary

from aiohttp import web

from mirror.oci.digest import Digest
from tests.fakes import faults
from tests.fakes.answer import Answer, send
from tests.fakes.endpoints import Endpoints, error_, whole
from tests.fakes.records import Log, Record
from tests.fakes.shaping import Pace

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from tests.fakes.auth import Token


class FakeRegistry(Endpoints):
    """The fake: what it holds and answers (`Endpoints`, `Library`), who may ask (`auth`), how often (`limit`), how fast
    it is, what goes wrong (`fault`), and what it was asked.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self.latency = 0.0  # seconds before each answer
        self.rate_per_connection: float | None = None  # bytes per second
        self.rate_total: float | None = None  # bytes per second, over all connections
        self.fast = False  # large bodies leave by sendfile where nothing limits or breaks them
        self.headers: dict[str, str] = {}  # sent with every answer of the registry
        self.log = Log()
        self.connections_peak = 0  # most bodies of blobs that were under way at once
        self._bodies = 0
        self._rules: list[faults.Rule] = []
        self._tls = tls
        self._origins: list[tuple[web.Server, web.ServerRunner]] = []
        self._ports = [0, 0]
        self._total: Pace | None = None
        self._paces: WeakKeyDictionary[asyncio.BaseTransport, Pace] = WeakKeyDictionary()
        self._broken: list[BaseException] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        if self._broken:
            raise self._broken[0]  # a fault of the fake itself must not look like one that was asked for

    def serve_tls(self, context: ssl.SSLContext) -> None:
        """Speak TLS from the next start on."""
        self._tls = context

    async def start(self) -> None:
        """Listen: on free ports the first time, on the same ones after a `stop`."""
        for number, handler in enumerate((self._registry, self._storage)):
            server = web.Server(handler, handler_cancellation=True, access_log=None, lingering_time=0)
            runner = web.ServerRunner(server, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(
                runner, "127.0.0.1", self._ports[number], ssl_context=self._tls, reuse_address=True, backlog=512
            )
            await site.start()
            self._ports[number] = runner.addresses[0][1]
            self._origins.append((server, runner))

    async def stop(self) -> None:
        """End every connection at once and stop listening."""
        for server, runner in self._origins:
            for site in list(runner.sites):
                await site.stop()
            for transport in list(server._connections.values()):
                transport.abort()
            await runner.cleanup()
        self._origins.clear()

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"127.0.0.1:{self._ports[0]}"

    @property
    def ports(self) -> tuple[int, int]:
        """Where the registry and the second origin listen."""
        return self._ports[0], self._ports[1]

    @property
    def url(self) -> str:
        """Base URL of the registry."""
        return f"{'https' if self._tls else 'http'}://{self.name or self.host}{self.prefix}"

    @property
    def storage_url(self) -> str:
        """Base URL of the second origin."""
        return f"{'https' if self._tls else 'http'}://{self.storage_name or f'127.0.0.1:{self._ports[1]}'}"

    def fault(self, *, then: faults.Fault | Sequence[faults.Fault], **match: Any) -> faults.Rule:
        """Declare a rule (`faults.Rule`). With `redirect_blobs` the bodies of blobs have the kind "storage"."""
        if isinstance(match.get("digest"), Digest):
            match["digest"] = str(match["digest"])
        rule = faults.Rule(then=(then,) if isinstance(then, faults.Fault) else tuple(then), **match)
        self._rules.append(rule)
        return rule

    def heal(self) -> None:
        """Forget every rule."""
        self._rules.clear()

    @property
    def requests(self) -> list[Record]:
        """Every request, oldest first."""
        return self.log.records

    @property
    def tokens(self) -> list[Token]:
        """Every token that was issued, oldest first."""
        return self.auth.tokens

    def count(self, **fields: Any) -> int:
        """Count the requests whose fields have these values."""
        return len(self.log.matching(**fields))

    def bytes_of(self, digest: Digest) -> int:
        """Count the bytes of a content that went out."""
        return sum(record.bytes_sent for record in self.log.matching(digest=str(digest)))

    async def seen(self, n: int = 1, **fields: Any) -> Record:
        """Wait until `n` requests with these fields came; return the last of them."""
        await self.log.wait(lambda: self.count(**fields) >= n)
        return self.log.matching(**fields)[n - 1]

    async def idle(self) -> None:
        """Wait until no request is under way."""
        await self.log.wait(lambda: all(record.done for record in self.requests))

    def forget(self) -> None:
        """Start the records anew."""
        self.log.records = [record for record in self.log.records if not record.done]
        self.auth.tokens = list(self.auth.tokens)

    # The registry itself.

    async def _registry(self, request: web.BaseRequest) -> web.StreamResponse:
        record = self._record(request)
        self._classify(record)
        if record.path == "/_stats":
            return await self._stats(request, record)
        if record.kind == "token" and record.method == "POST":
            record.form = (await request.read()).decode()
        if record.kind == "manifest" and record.repo and record.reference:
            record.digest = self.digest_of(record.repo, record.reference)
        return await self._guarded(request, record, self.answer)

    async def _stats(self, request: web.BaseRequest, record: Record) -> web.StreamResponse:
        self.log.records.remove(record)
        stats = {**self.log.stats(), "connections_peak": self.connections_peak, "tokens": len(self.tokens)}
        if "reset" in record.query:
            self.forget()
            self.connections_peak = self._bodies
        return await send(
            request, whole(200, json.dumps(stats).encode(), "application/json"), record, (), (), fast=False
        )

    def _classify(self, record: Record) -> None:
        """Say what is asked for; `nowhere` where this host has no such thing."""
        of_tokens = self.token_name is not None and record.host == self.token_name
        if record.path == self.auth.token_path and (of_tokens or self.token_name is None):
            record.kind = "token"
        elif of_tokens or not record.path.startswith(f"{self.prefix}/"):
            record.kind = "nowhere"
        else:
            _classify(record, record.path.removeprefix(self.prefix))

    # The second origin, where blobs may lie.

    async def _storage(self, request: web.BaseRequest) -> web.StreamResponse:
        record = self._record(request)
        record.kind = "storage"
        _, record.repo, record.digest = self.signed.get(f"{record.path}?{record.query}", (0.0, None, None))
        return await self._guarded(request, record, self.answer_storage)

    # What both have in common.

    def _record(self, request: web.BaseRequest) -> Record:
        path, _, query = request.raw_path.partition("?")
        record = Record(self.log, request.method, path, query, request.headers, asyncio.get_running_loop().time())
        record.range = request.headers.get("Range")
        self.log.records.append(record)
        self.log.changed()
        return record

    async def _guarded(
        self, request: web.BaseRequest, record: Record, answer_of: Callable[[Record], Answer]
    ) -> web.StreamResponse:
        self.log.changed()
        try:
            response = await self._under_faults(request, record, answer_of)
        except (asyncio.CancelledError, ConnectionError):
            record.aborted = True
            raise
        except Exception as error:
            record.aborted = True
            self._broken.append(error)
            raise
        finally:
            record.done = True
            record.ended = asyncio.get_running_loop().time()
            self.log.changed()
        return response

    async def _under_faults(
        self, request: web.BaseRequest, record: Record, answer_of: Callable[[Record], Answer]
    ) -> web.StreamResponse:
        rule = next((rule for rule in self._rules if rule.hits(record)), None)
        troubles = rule.then if rule is not None else ()
        if self.latency:
            await asyncio.sleep(self.latency)
        for trouble in troubles:
            await _suffer(trouble, request)
        answer = next(filter(None, map(_instead, troubles)), None) or self._answer_asked(record, troubles, answer_of)
        for name, value in self.headers.items():
            answer.headers[name] = value
        return await self._send(request, record, answer, troubles)

    def _answer_asked(
        self, record: Record, troubles: Sequence[faults.Fault], answer_of: Callable[[Record], Answer]
    ) -> Answer:
        asked = record.range
        if any(isinstance(trouble, faults.NoRange) for trouble in troubles):
            record.range = None
        answer = answer_of(record)
        record.range = asked
        for trouble in troubles:
            if isinstance(trouble, faults.WrongRange) and answer.status == 206 and answer.content is not None:
                start, stop, size = answer.start + trouble.delta, answer.stop + trouble.delta, answer.content.size
                answer.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return answer

    async def _send(
        self, request: web.BaseRequest, record: Record, answer: Answer, troubles: Sequence[faults.Fault]
    ) -> web.StreamResponse:
        body = record.kind in ("blob", "storage") and answer.status in (200, 206) and record.method == "GET"
        self._bodies += body
        self.connections_peak = max(self.connections_peak, self._bodies)
        try:
            return await send(request, answer, record, troubles, self._pace(request), fast=self.fast)
        finally:
            self._bodies -= body

    def _pace(self, request: web.BaseRequest) -> list[Pace]:
        paces = []
        if self.rate_per_connection is not None and request.transport is not None:
            pace = self._paces.setdefault(request.transport, Pace(self.rate_per_connection))
            pace.rate = self.rate_per_connection
            paces.append(pace)
        if self.rate_total is not None:
            if self._total is None or self._total.rate != self.rate_total:
                self._total = Pace(self.rate_total)
            paces.append(self._total)
        return paces


def _classify(record: Record, path: str) -> None:
    if path in ("/v2", "/v2/"):
        record.kind = "ping"
    elif path == "/v2/_catalog":
        record.kind = "catalog"
    elif path.startswith("/v2/"):
        parts = path.removeprefix("/v2/").split("/")
        if parts[-2:] == ["tags", "list"]:
            record.kind, record.repo = "tags", "/".join(parts[:-2])
        elif "uploads" in parts:
            record.kind = "upload"
        elif len(parts) > 2 and parts[-2] in ("manifests", "blobs", "referrers"):
            record.kind = parts[-2].removesuffix("s") if parts[-2] != "referrers" else "referrers"
            record.repo, record.reference = "/".join(parts[:-2]), unquote(parts[-1])
            if record.kind == "blob":
                record.digest = record.reference


async def _suffer(trouble: faults.Fault, request: web.BaseRequest) -> None:
    """Let happen what comes before any answer."""
    match trouble:
        case faults.Delay(seconds):
            await asyncio.sleep(seconds)
        case faults.Await(event):
            await event.wait()
        case faults.Hang():
            await asyncio.Event().wait()  # until the client leaves, or the fake ends
        case faults.Drop():
            assert request.transport is not None
            request.transport.close()
            raise ConnectionResetError("the fake upstream dropped the connection")


def _instead(trouble: faults.Fault) -> Answer | None:
    match trouble:
        case faults.Status(status, code, message, retry_after, headers, body):
            answer = error_(status, code, message) if body is None else whole(status, body, "text/plain; charset=utf-8")
            if retry_after is not None:
                answer.headers["Retry-After"] = str(retry_after)
            answer.headers.update(headers)
            return answer
        case faults.Html(status):
            return whole(status, b"<!DOCTYPE html><html><body>Please sign in.</body></html>", "text/html")
        case faults.Redirect(location, status):
            answer = whole(status, b"", "text/html")
            answer.headers["Location"] = location
            return answer
    return None


if __name__ == "__main__":
    from tests.fakes.process import main

    main()
