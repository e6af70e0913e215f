"""How bytes leave: `sendfile` on plain sockets, large reads under TLS, never a disk read on the loop.

What comes past the store, from upstream, is written piece by piece, and no faster than the client takes it.
"""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import aclosing
from typing import TYPE_CHECKING

from mirror import metrics
from mirror.cache.passage import Passage
from mirror.errors import ContentBroken

if TYPE_CHECKING:
    from typing import BinaryIO

    from aiohttp import web

    from mirror.cache.source import BlobSource
    from mirror.store.io import DiskThreads

WINDOW = 4 * 1024 * 1024  # bytes that one call of sendfile may take, and that are looked for in memory before
READ = 512 * 1024  # bytes of a read where sendfile does not go; asyncio's own fallback takes 16 KiB at a time


_SHORT = "its file is shorter than it was"
# What a file system says of a file that it cannot read; a socket never does.
_DAMAGE = (errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA)


class Sender:
    """Sends parts of one source as the body of one response."""

    def __init__(
        self, request: web.BaseRequest, response: web.StreamResponse, threads: DiskThreads, label: str
    ) -> None:
        """`label` is what metrics call the upstream."""
        self._request = request
        self._response = response
        self._threads = threads
        self._bytes = metrics.BYTES_OUT.labels(label)
        self.sent = 0  # bytes of content
        transport = request.transport
        self._plain = transport is not None and transport.get_extra_info("sslcontext") is None

    async def send(self, source: BlobSource | Passage, start: int, stop: int) -> None:
        """Send the bytes from `start` up to and without `stop`, as they come.

        Raises `MirrorError` where they will not come, of them `ContentBroken` where the file cannot be read or is too
        short, and `ConnectionError` where the client has gone.
        """
        if isinstance(source, Passage):
            await self._write(source, start, stop)
            return
        position = start
        while position < stop:
            end = await source.ready(position, stop)
            if end == position:
                return  # the source has ended, and nobody knew before where
            await self._send(source.file, position, end)
            position = end

    async def _write(self, passage: Passage, start: int, stop: int) -> None:
        async with aclosing(passage.pieces(start, stop)) as pieces:
            async for piece in pieces:
                await self._response.write(piece)
                self._bytes.inc(len(piece))
                self.sent += len(piece)

    async def _send(self, file: BinaryIO, start: int, stop: int) -> None:
        while start < stop:
            end = min(stop, start + WINDOW)
            if self._plain and not self._response.chunked:
                await self._see_in_memory(file, start, end)
                await self._sendfile(file, start, end - start)
            else:
                end = min(end, start + READ)
                await self._copy(file, start, end - start)
            self._bytes.inc(end - start)
            self.sent += end - start
            start = end

    async def _sendfile(self, file: BinaryIO, start: int, count: int) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        try:
            sent = await asyncio.get_running_loop().sendfile(transport, file, start, count, fallback=False)
        except asyncio.SendfileNotAvailableError:
            # What asyncio calls every failure of the first call, lost clients and damaged files too.
            await self._copy(file, start, count)
            return
        except OSError as error:
            raise _damage(error) or error from None
        if sent < count:
            raise ContentBroken(_SHORT)

    async def _copy(self, file: BinaryIO, start: int, count: int) -> None:
        stop = start + count
        while start < stop:
            size = min(READ, stop - start)
            # What is in memory is copied in less time than it takes to ask a thread for it.
            piece: bytes | memoryview | None = _in_memory(file.fileno(), size, start)
            if piece is None:
                piece = await self._threads.run(_read, file.fileno(), size, start)
            if not piece:
                raise ContentBroken(_SHORT)
            await self._response.write(piece)
            await asyncio.sleep(0)  # a client that is fast enough never makes `write` wait: others have their turn
            start += len(piece)

    async def _see_in_memory(self, file: BinaryIO, start: int, stop: int) -> None:
        """See that the pages are in memory: sendfile would wait for the disk, and everybody with it."""
        fd = file.fileno()
        if _resident(fd, start) and _resident(fd, stop - 1) and _resident(fd, (start + stop) // 2):
            return
        await self._threads.run(_read_in, fd, start, stop)


def _damage(error: OSError) -> ContentBroken | None:
    return ContentBroken(f"the disk cannot read it: {error.strerror}") if error.errno in _DAMAGE else None


def _read(fd: int, size: int, offset: int) -> bytes:
    try:
        return os.pread(fd, size, offset)
    except OSError as error:
        raise _damage(error) or error from error


def _in_memory(fd: int, size: int, offset: int) -> memoryview | None:
    """Return bytes that are in memory, as many as there are at `offset` of at most `size`; None: the disk is needed."""
    buffer = bytearray(size)
    try:
        count = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    except OSError:  # BlockingIOError: they are not; EOPNOTSUPP: this file system does not say
        return None
    return memoryview(buffer)[:count]


def _resident(fd: int, offset: int) -> bool:
    try:
        os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:  # this file system does not say (EOPNOTSUPP): then it is read, and the disk is fast or not
        return False
    return True


def _read_in(fd: int, start: int, stop: int) -> None:
    os.posix_fadvise(fd, start, stop - start, os.POSIX_FADV_WILLNEED)
    buffer = bytearray(min(READ, stop - start))
    while start < stop:
        try:
            count = os.preadv(fd, [memoryview(buffer)[: stop - start]], start)
        except OSError as error:
            raise _damage(error) or error from error
        if count == 0:
            return
        start += count
