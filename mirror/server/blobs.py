"""GET and HEAD of blobs (distribution specification, end-2), with ranges, whole or while they come."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from mirror.cache.source import ENDLESS
from mirror.errors import MirrorError
from mirror.oci.mediatype import OCTET_STREAM
from mirror.oci.range import content_range, parse_open_range, parse_range
from mirror.server import conditional
from mirror.server.send import Sender

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.cache.blobs import BlobAnswer
    from mirror.cache.cache import Cache
    from mirror.cache.outcome import Outcome
    from mirror.cache.source import BlobSource
    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository
    from mirror.store.io import DiskThreads

log = structlog.get_logger(__name__)

HEADERS_WITHIN = 22.0  # seconds; containerd gives up on a header after 30, and asks the next registry

Ranges = list[tuple[int, int]]


async def respond_head(
    request: web.BaseRequest, cache: Cache, repository: Repository, digest: Digest
) -> tuple[web.StreamResponse, Outcome]:
    """Answer a HEAD without fetching the blob."""
    size, outcome = await cache.blobs.size(repository, digest)
    headers = _headers(digest)
    if conditional.failed(request.headers, digest):
        return web.Response(status=412, headers=headers), outcome
    if conditional.not_modified(request.headers, digest):
        return web.Response(status=304, headers=headers), outcome
    if size is not None:
        headers["Content-Length"] = str(size)
    return web.Response(headers=headers), outcome


class BlobResponse:
    """The answer to one GET of a blob: prepared first, then sent, so that trouble before the first byte has a status."""

    def __init__(
        self, request: web.BaseRequest, cache: Cache, threads: DiskThreads, repository: Repository, digest: Digest
    ) -> None:
        self._request = request
        self._cache = cache
        self._threads = threads
        self._repository = repository
        self._digest = digest
        self._ranged = request.headers.get("Range") if conditional.range_holds(request.headers, digest) else None
        self.sent = 0  # bytes of content
        self.broken: str | None = None  # why the transfer was broken off

    async def respond(self, extra: dict[str, str]) -> tuple[web.StreamResponse, Outcome]:
        """Send the blob, or what is asked of it, with `extra` headers. Raises `MirrorError` only before any header."""
        began = time.monotonic()
        opening = parse_open_range(self._ranged)
        found = await self._cache.blobs.get(self._repository, self._digest, first=opening[0] if opening else 0)
        headers = _headers(self._digest) | {"Cache-Status": found.outcome.header()} | extra
        if found.source is None:
            return self._from_memory(found, headers), found.outcome
        with found.source as source:
            if conditional.failed(self._request.headers, self._digest):
                return web.Response(status=412, headers=headers), found.outcome
            if conditional.not_modified(self._request.headers, self._digest):
                return web.Response(status=304, headers=headers), found.outcome
            ranges = None if source.size is None else parse_range(self._ranged, source.size)
            await self._first_byte(source, ranges, began)
            return await self._send(source, ranges, headers), found.outcome

    def _from_memory(self, found: BlobAnswer, headers: dict[str, str]) -> web.StreamResponse:
        body = found.body or b""
        if conditional.failed(self._request.headers, self._digest):
            return web.Response(status=412, headers=headers)
        if conditional.not_modified(self._request.headers, self._digest):
            return web.Response(status=304, headers=headers)
        ranges = parse_range(self._ranged, len(body))
        if ranges is None:
            self.sent = len(body)
            return web.Response(body=body, headers=headers)
        if len(ranges) == 1:
            start, stop = ranges[0]
            headers["Content-Range"] = content_range(start, stop, len(body))
            self.sent = stop - start
            return web.Response(status=206, body=body[start:stop], headers=headers)
        parts = _Multipart(ranges, len(body))
        headers["Content-Type"] = parts.media_type
        pieces = [head + body[start:stop] for head, start, stop in parts]
        self.sent = sum(stop - start for _, start, stop in parts)
        return web.Response(status=206, body=b"".join(pieces) + parts.tail, headers=headers)

    async def _first_byte(self, source: BlobSource, ranges: Ranges | None, began: float) -> None:
        """Wait until there is something to send, so that until then trouble is an answer and not a broken transfer.

        Small blobs are verified by then. Only a client that has waited too long is sent the headers alone.
        """
        if source.whole:
            return
        start, stop = ranges[0] if ranges else (0, ENDLESS if source.size is None else source.size)
        try:
            await asyncio.wait_for(source.ready(start, stop), max(0.1, HEADERS_WITHIN - (time.monotonic() - began)))
        except TimeoutError:
            log.debug("header sent before the first byte", digest=str(self._digest), start=start)

    async def _send(self, source: BlobSource, ranges: Ranges | None, headers: dict[str, str]) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        parts: list[tuple[bytes, int, int]]
        tail = b""
        if ranges is None:
            parts = [(b"", 0, ENDLESS if source.size is None else source.size)]
            if source.size is not None:
                response.content_length = source.size
        elif len(ranges) == 1:
            parts = [(b"", *ranges[0])]
            response.set_status(206)
            response.headers["Content-Range"] = content_range(*ranges[0], source.size)
            response.content_length = ranges[0][1] - ranges[0][0]
        else:
            assert source.size is not None  # noqa: S101  # ranges are parsed only where there is a size
            multipart = _Multipart(ranges, source.size)
            parts, tail = list(multipart), multipart.tail
            response.set_status(206)
            response.headers["Content-Type"] = multipart.media_type
            response.content_length = multipart.length
        if response.content_length is None:
            response.enable_chunked_encoding()
        await response.prepare(self._request)
        sender = Sender(self._request, response, self._threads, self._repository.namespace)
        try:
            for head, start, stop in parts:
                if head:
                    await response.write(head)
                await sender.send(source, start, stop)
            if source.size == 0:
                await source.ready(0, 0)
            if tail:
                await response.write(tail)
            await response.write_eof()
        except MirrorError as error:
            self._break_off(str(error))
        except ConnectionError:
            self._break_off("the client left")
        finally:
            self.sent = sender.sent
        return response

    def _break_off(self, reason: str) -> None:
        """Never end a short body cleanly: clients take up a broken transfer with a Range, and believe a clean end."""
        self.broken = reason
        if self._request.transport is not None:
            self._request.transport.abort()


class _Multipart:
    """`multipart/byteranges` (RFC 9110 §14.6): what podman's partial pulls of zstd:chunked layers ask for."""

    def __init__(self, ranges: Ranges, size: int) -> None:
        boundary = secrets.token_hex(16)
        self.media_type = f"multipart/byteranges; boundary={boundary}"
        self._parts = [
            (
                f"\r\n--{boundary}\r\nContent-Type: {OCTET_STREAM}\r\n"
                f"Content-Range: {content_range(start, stop, size)}\r\n\r\n".encode(),
                start,
                stop,
            )
            for start, stop in ranges
        ]
        self.tail = f"\r\n--{boundary}--\r\n".encode()
        self.length = sum(len(head) + stop - start for head, start, stop in self._parts) + len(self.tail)

    def __iter__(self) -> Iterator[tuple[bytes, int, int]]:
        return iter(self._parts)


def _headers(digest: Digest) -> dict[str, str]:
    return {
        "Content-Type": OCTET_STREAM,
        "Docker-Content-Digest": str(digest),
        "ETag": conditional.etag(digest),
        "Accept-Ranges": "bytes",
    }
