"""A blob, or a range of it, on its way from upstream to one client, through a buffer of bounded size.

Nothing of it touches the disk. The whole is hashed as it goes, and its last bytes wait for the verdict; of a range only
the client can tell whether it is right. A break is gone on from with Range.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

import structlog

from mirror.cache.pulse import Pulse
from mirror.errors import (
    MirrorError,
    StoreError,
    UpstreamBroken,
    UpstreamError,
    UpstreamLimited,
    UpstreamUnavailable,
)

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from hashlib import _Hash

    from mirror.cache.senders import Senders
    from mirror.oci.digest import Digest
    from mirror.store.io import DiskThreads
    from mirror.upstream.protocol import BlobBody

log = structlog.get_logger(__name__)

BUFFER = 512 * 1024  # bytes that may wait for the client when the next piece, of at most 1 MiB, is taken from upstream
WITHHELD = 64 * 1024  # bytes at the end of the whole that wait for the verdict
SLOW = 2.0  # seconds for which a client may keep upstream waiting; then the place is given back until it has caught up
BRISK = 0.1  # seconds within which a client that was slow must take what waits for it to be slow no more
ATTEMPTS = 6  # requests in a row that bring no byte, after the first that did
PATIENCE = 20.0  # seconds for each request to upstream after the first, until its headers are here
_INLINE = 128 * 1024  # bytes that are hashed in less time than it takes to ask a thread for it


class Ask(Protocol):
    """Asks upstream for a part of one blob."""

    def __call__(self, start: int, stop: int | None, patience: float) -> AbstractAsyncContextManager[BlobBody]:
        """See `upstream.protocol.Upstream.blob`; (0, None): for the whole, without a Range."""
        ...


class Stream:
    """One task that fetches, and one client that takes. `close` ends it, wherever it is."""

    def __init__(
        self,
        digest: Digest,
        ask: Ask,
        threads: DiskThreads,
        *,
        senders: Senders,
        namespace: str,
        start: int,
        stop: int | None,
        size: int | None,
        patience: float,
    ) -> None:
        """`stop` None stands for the end, wherever it is; `size` is what a descriptor gives; `patience` in seconds.

        What begins at 0 and has no `stop` is the whole, and verified. `senders` are those that `ask` asks.
        """
        self.digest = digest
        self.size = size  # bytes of the whole; what upstream says of it counts more
        self.position = start  # of the next byte that `take` returns
        self.stop = stop  # the end, once it is known
        self._ask = ask
        self._threads = threads
        self._senders = senders
        self.namespace = namespace
        self._patience = patience
        self.told = False  # upstream has said the size
        self._lied = False
        self._start = start
        self._at = start  # of the next byte that comes
        self._pieces: deque[memoryview] = deque()
        self._hasher: _Hash | None = digest.hasher() if start == 0 and stop is None else None
        self._failures = 0
        self._answered = False
        self._slow = False  # asks for no more than there is room for
        self._let_go = 0  # how often upstream was, because the client was slow
        self._rangeless = False  # upstream ignores ranges: what is let go of would come from the beginning again
        self._ended = False
        self._error: MirrorError | None = None
        self._moved = Pulse()
        self.task = asyncio.create_task(self._run(), name=f"stream {digest}")

    # --- for the client ------------------------------------------------------------------------------------------

    @property
    def moving(self) -> bool:
        """Whether any byte has come."""
        return self._at > self._start

    @property
    def front(self) -> int:
        """Up to where bytes may go out now."""
        return self.position + self._free()

    async def begun(self) -> None:
        """Wait until a byte may go out, or all of it is right and at its end. Raise `MirrorError`."""
        while not self._free() and not self._ended:
            if self._error is not None:
                raise self._error
            await self._moved.wait()

    async def take(self, most: int) -> memoryview:
        """Return what comes next, at most `most` bytes; nothing at the end. Raise `MirrorError` where it breaks off."""
        await self.begun()
        count = min(most, self._free())
        if not count:
            return memoryview(b"")
        piece = self._pieces.popleft()
        if len(piece) > count:
            self._pieces.appendleft(piece[count:])
            piece = piece[:count]
        self.position += len(piece)
        self._moved.beat()
        return piece

    def close(self) -> None:
        """End it; the task lets go of upstream in a moment."""
        self.task.cancel()

    def _free(self) -> int:
        """Return how many bytes may go out now."""
        if self._hasher is None or self._ended:
            return self._at - self.position
        end = self._at if self.size is None else min(self._at, self.size)
        limit = (end if self.size is None else self.size) - WITHHELD
        return max(0, min(end, limit) - self.position)

    # --- the task ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while self.stop is None or self._at < self.stop:
                await self._attempt()
            self._verify()
            self._ended = True
        except MirrorError as error:
            self._error = error
        except Exception as error:
            log.exception("stream failed", digest=str(self.digest))
            self._error = StoreError(f"the mirror failed over {self.digest}: {type(error).__name__}; see its log")
        finally:
            self._moved.beat()

    def _verify(self) -> None:
        if self._hasher is None:
            return
        if self._hasher.hexdigest() == self.digest.hex:
            self._senders.right(self._at)
        else:
            self._senders.wrong(verdict=True)
            raise self._broken(f"sent content for {self.digest} that is not what the digest says")

    async def _attempt(self) -> None:
        """Make one request, and take what it brings; bear it where it breaks."""
        if self._slow:
            began = time.monotonic()
            await self._drained(BUFFER // 2)
            if self._let_go == 1 and time.monotonic() - began < BRISK:
                self._slow = False  # once: what is on its way when upstream is let go of comes again
        came = self._at
        try:
            await self._receive()
        except (UpstreamUnavailable, UpstreamLimited) as error:
            if not self._answered:
                raise
            await self._bear(error, came)
        except UpstreamBroken as error:
            if self._at == self._start or self._lied:
                raise
            self._lied = True  # one mad answer does not condemn what has come
            await self._bear(error, came)
        else:
            self._failures = 0

    async def _bear(self, error: UpstreamError, came: int) -> None:
        """After a break: go on at once, then ever later; raise where nothing came for too often."""
        self._failures = 1 if self._at > came else self._failures + 1
        if self._failures >= ATTEMPTS:
            raise error
        if self._failures > 1:
            await asyncio.sleep(max(min(0.1 * 2**self._failures, 5.0), min(error.retry_after or 0.0, 30.0)))

    async def _receive(self) -> None:
        stop = self.stop
        if self._slow and stop is not None:
            stop = min(stop, self._at + BUFFER)  # no more than there is room for: then it waits for nobody
        whole = self._at == 0 and self._hasher is not None
        async with self._ask(self._at, None if whole else stop, self._left()) as body:
            self._answered = True
            self._hear(body)
            if stop is None or not body.ranged:
                stop = self.stop
            began = self._at
            if not await self._take_in(body, stop):
                return
        if stop is None:
            self.stop = self.size = self._at
        elif self._at < stop:  # a body without a length has ended early: a break, or else the size is wrong
            if self._at == began:
                raise self._broken(f"ended a body of {self.digest} before the end of what was asked for")
            raise UpstreamUnavailable(f"{self.namespace} ended {self.digest} early", namespace=self.namespace)

    def _left(self) -> float:
        """Return what the next request may take: all of the patience is for the first."""
        return PATIENCE if self._answered else self._patience

    def _hear(self, body: BlobBody) -> None:
        """Learn the size."""
        if body.size is not None:
            if self.told and body.size != self.size:
                raise self._broken(f"said first that {self.digest} has {self.size} bytes, and then {body.size}")
            if self._hasher is not None:
                self.stop = body.size
            self.size = body.size
            self.told = True
        if self.size is not None:
            self.stop = self.size if self.stop is None else min(self.stop, self.size)
        if self._at and not body.ranged:
            self._rangeless, self._slow = True, False
        self._moved.beat()

    async def _take_in(self, body: BlobBody, stop: int | None) -> bool:
        """Take what comes up to `stop`; False where the client is too slow, and upstream is let go of."""
        at = body.start
        async for piece in body.pieces():
            fresh = memoryview(piece)[max(0, self._at - at) : None if stop is None else max(0, stop - at)]
            at += len(piece)
            if fresh:
                await self._hash(fresh)
                self._pieces.append(fresh)
                self._at += len(fresh)
                self._moved.beat()
            if self._at == stop:
                return True
            if not await self._has_room():
                return False
        return True

    async def _hash(self, piece: memoryview) -> None:
        if self._hasher is None:
            return
        if len(piece) <= _INLINE:
            self._hasher.update(piece)
        else:
            await self._threads.run(self._hasher.update, piece)

    async def _has_room(self) -> bool:
        """Wait until the next piece may come; False where that takes too long to keep upstream, and others, waiting."""
        if self._at - self.position <= BUFFER:
            return True
        if self._rangeless or self.stop is None:
            await self._drained(BUFFER)
            return True
        try:
            async with asyncio.timeout(SLOW):
                await self._drained(BUFFER)
        except TimeoutError:
            self._slow = True
            self._let_go += 1
            return False
        return True

    async def _drained(self, most: int) -> None:
        while self._at - self.position > most:
            await self._moved.wait()

    def _broken(self, what: str) -> UpstreamBroken:
        return UpstreamBroken(f"{self.namespace} {what}", namespace=self.namespace)
