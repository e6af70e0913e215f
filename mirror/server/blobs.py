"""GET and HEAD of blobs (distribution specification, end-2), with ranges: whole, while they come, or passing by."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from aiohttp import HttpVersion11, web

from mirror.cache.passage import Passage
from mirror.cache.source import ENDLESS, StoredBlob
from mirror.errors import ContentBroken, MirrorError, RangeInvalid, StoreError, UpstreamUnavailable
from mirror.oci.mediatype import OCTET_STREAM
from mirror.oci.range import content_range, parse_open_range, parse_range
from mirror.server import conditional
from mirror.server.multipart import Multipart
from mirror.server.send import Sender

if TYPE_CHECKING:
    from mirror.cache.blobs import BlobAnswer
    from mirror.cache.cache import Cache
    from mirror.cache.outcome import Outcome
    from mirror.cache.source import BlobSource
    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository
    from mirror.store.io import DiskThreads

log = structlog.get_logger(__name__)

MOST_PARTS = 16  # ranges that are asked of upstream one by one; of more, the whole is sooner there, and verified
HEADERS_WITHIN = 22.0  # seconds; containerd gives up on a header after 30, and asks the next registry

_OK = 200
Ranges = list[tuple[int, int]]


async def respond_head(
    request: web.BaseRequest, cache: Cache, repository: Repository, digest: Digest
) -> tuple[web.StreamResponse, Outcome]:
    """Answer a HEAD without fetching the blob."""
    size, outcome = await cache.blobs.size(repository, digest)
    headers = _headers(digest)
    if (status := conditional.status(request.headers, digest)) is not None:
        return web.Response(status=status, headers=headers), outcome
    if size is not None:
        headers["Content-Length"] = str(size)
    return web.Response(headers=headers), outcome


class BlobResponse:
    """The answer to one GET of a blob: nothing is sent until there is a byte, so trouble before it has a status."""

    def __init__(
        self,
        request: web.BaseRequest,
        cache: Cache,
        threads: DiskThreads,
        repository: Repository,
        digest: Digest,
        *,
        label: str,
    ) -> None:
        """`label` is what metrics call the upstream."""
        self._request = request
        self._cache = cache
        self._threads = threads
        self._repository = repository
        self._digest = digest
        self._label = label
        self._ranged = request.headers.get("Range") if conditional.range_holds(request.headers, digest) else None
        self._ends_by_closing = False
        self.sent = 0  # bytes of content
        self.broken: str | None = None  # why the transfer was broken off
        self.begun: tuple[int, Outcome] | None = None  # status and outcome, once the header has gone out
        self.first_byte: float | None = None  # when it did; the monotonic clock, seconds

    async def respond(self, extra: dict[str, str], began: float) -> tuple[web.StreamResponse, Outcome]:
        """Send the blob, or what is asked of it, with `extra` headers. Raises `MirrorError` only before any header.

        `began` is when the request came, by the monotonic clock: the client's patience counts from then.
        """
        opening = parse_open_range(self._ranged)
        first = opening[0] if opening else 0
        found = await self._cache.blobs.get(self._repository, self._digest, first=first)
        try:
            return await self._answer(found, extra, began)
        except StoreError as error:
            if self.begun is not None:
                raise
            # A fill that finds no room, or no disk, when its client waits already.
            deadline = began + HEADERS_WITHIN
            found = await self._cache.blobs.stream(
                self._repository, self._digest, error, first=first, deadline=deadline
            )
            return await self._answer(found, extra, began)

    async def _answer(
        self, found: BlobAnswer, extra: dict[str, str], began: float
    ) -> tuple[web.StreamResponse, Outcome]:
        headers = _headers(self._digest) | {"Cache-Status": found.outcome.header()} | extra
        if found.source is None:
            return self._from_memory(found, headers), found.outcome
        with found.source as source:
            if (status := conditional.status(self._request.headers, self._digest)) is not None:
                return web.Response(status=status, headers=headers), found.outcome
            ranges = await self._begin(source, began)
            plan = _plan(ranges, source.size)
            self.begun = plan.status, found.outcome
            return await self._send(source, plan, headers), found.outcome

    def _from_memory(self, found: BlobAnswer, headers: dict[str, str]) -> web.StreamResponse:
        body = found.body or b""
        if (status := conditional.status(self._request.headers, self._digest)) is not None:
            return web.Response(status=status, headers=headers)
        plan = _plan(parse_range(self._ranged, len(body)), len(body))
        pieces = [head + body[start:stop] for head, start, stop in plan.parts]
        self.sent = sum(stop - start for _, start, stop in plan.parts)
        return web.Response(status=plan.status, body=b"".join(pieces) + plan.tail, headers=headers | plan.headers)

    async def _begin(self, source: BlobSource | Passage, began: float) -> Ranges | None:
        """Return what to send, once there is some of it. Raise `RangeInvalid`.

        What comes first may be wrong, and thrown away, and its size be wrong with it.
        """
        while True:
            size = source.size
            try:
                ranges = None if size is None else parse_range(self._ranged, size)
            except RangeInvalid as error:
                if not source.whole:
                    await self._first_byte(source, [(error.size, error.size)], began)
                if source.size == size:
                    raise
                continue
            if isinstance(source, Passage) and ranges is not None and len(ranges) > MOST_PARTS:
                ranges = None  # §14.2 of RFC 9110: a server may ignore a Range
            await self._first_byte(source, ranges, began)
            if source.size == size:
                return ranges

    async def _first_byte(self, source: BlobSource | Passage, ranges: Ranges | None, began: float) -> None:
        """Wait until there is something to send, so that until then trouble is an answer and not a broken transfer.

        Small blobs are verified by then. Only a client that has waited too long for its part of a blob of which
        others are here is sent the headers alone.
        """
        if source.whole:
            return
        start, stop = ranges[0] if ranges else (0, ENDLESS if source.size is None else source.size)
        try:
            await asyncio.wait_for(source.ready(start, stop), max(0.1, HEADERS_WITHIN - (time.monotonic() - began)))
        except TimeoutError:
            if not source.moving:
                where = self._repository.namespace
                raise UpstreamUnavailable(
                    f"{where} sent no byte of {self._digest} within {HEADERS_WITHIN:.0f} s", namespace=where
                ) from None
            log.debug("header sent before the first byte", digest=str(self._digest), start=start)

    async def _send(self, source: BlobSource | Passage, plan: _Plan, headers: dict[str, str]) -> web.StreamResponse:
        response = web.StreamResponse(status=plan.status, headers=headers | plan.headers)
        if plan.length is not None:
            response.content_length = plan.length
        elif self._request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        else:  # HTTP/1.0, nginx's unless it is told otherwise, has no chunks: the body ends with the connection
            self._ends_by_closing = True
        await response.prepare(self._request)
        self.first_byte = time.monotonic()
        sender = Sender(self._request, response, self._threads, self._label)
        try:
            await self._deliver(response, sender, source, plan)
        except ContentBroken as error:
            try:
                if not isinstance(source, Passage):  # and before this client hears of it, and asks again
                    await self._cache.blobs.damaged(self._digest, source.file, str(error))
            finally:
                self._break_off(str(error))
        except MirrorError as error:
            self._break_off(str(error))
        except ConnectionError:
            self._break_off("the client left")
        except Exception as error:  # the header is out: whatever goes wrong, nothing else may be written
            log.exception("transfer failed", digest=str(self._digest))
            self._break_off(f"the mirror failed over it: {type(error).__name__}")
        finally:
            self.sent = sender.sent
        return response

    async def _deliver(
        self, response: web.StreamResponse, sender: Sender, source: BlobSource | Passage, plan: _Plan
    ) -> None:
        for head, start, stop in plan.parts:
            if head:
                await response.write(head)
            await sender.send(source, start, stop)
        if source.size == 0:
            await source.ready(0, 0)
        if plan.tail:
            await response.write(plan.tail)
        await response.write_eof()
        if plan.status == _OK and isinstance(source, StoredBlob):
            self._cache.blobs.sent(self._digest)

    def _break_off(self, reason: str) -> None:
        """Never end a short body cleanly: clients take up a broken transfer with a Range, and believe a clean end."""
        self.broken = reason
        transport = self._request.transport
        if transport is None:
            return
        if self._ends_by_closing:  # only a reset tells this from the end
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


@dataclass(frozen=True, slots=True)
class _Plan:
    """What of a blob goes out, and how: `parts` are (what stands before it, start, stop)."""

    status: int
    headers: dict[str, str]
    parts: list[tuple[bytes, int, int]]
    tail: bytes
    length: int | None  # bytes of the body; None while nobody knows the blob's size


def _plan(ranges: Ranges | None, size: int | None) -> _Plan:
    if ranges is None:
        return _Plan(200, {}, [(b"", 0, ENDLESS if size is None else size)], b"", size)
    if len(ranges) == 1:
        start, stop = ranges[0]
        return _Plan(206, {"Content-Range": content_range(start, stop, size)}, [(b"", start, stop)], b"", stop - start)
    assert size is not None  # noqa: S101  # ranges are parsed only where there is a size
    multipart = Multipart(ranges, size)
    headers = {"Content-Type": multipart.media_type}
    return _Plan(206, headers, list(multipart), multipart.tail, multipart.length)


def _headers(digest: Digest) -> dict[str, str]:
    return {
        "Content-Type": OCTET_STREAM,
        "Docker-Content-Digest": str(digest),
        "ETag": conditional.etag(digest),
        "Accept-Ranges": "bytes",
    }
