"""A blob that cannot be kept: streamed from upstream to the one client that asked (promise 7).

Each client has its own, through its own repository: upstream says of each whether it may have it (promise 10), and a
slow one slows nobody. No link is written, since nothing is here that it could lead to.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog
from cachetools import TTLCache

from mirror import metrics
from mirror.cache.senders import Senders
from mirror.cache.stream import Stream
from mirror.errors import MirrorError, NoSpace, Overloaded, UpstreamBroken
from mirror.upstream.protocol import Urgency

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self

    from mirror.errors import StoreError
    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository
    from mirror.store.io import DiskThreads
    from mirror.upstream.protocol import BlobBody, Upstreams

log = structlog.get_logger(__name__)

MOST = 64  # at once in this process, each with a buffer of up to some 2.5 MiB, the connection's own included
WAIT = 20.0  # seconds that the next one waits for one of them to end
REFUSED_SECONDS = 60  # for how long a digest is refused that was wrong twice (promise 3)
UNKEPT_SECONDS = 60  # for how long no fill is tried again of what could not be kept
SAID_SECONDS = 60  # how soon the log has the same digest again
_LEAST = 3.0  # seconds that upstream gets, however much of the client's patience is gone
_WRONG = 2  # times that a body may be wrong
_PIECE = 256 * 1024  # bytes that go out at once


class Passage:
    """One client's view of a blob that goes by; to be used as a context manager. See `source.BlobSource`.

    There is no file: the bytes are taken by `pieces`, range by range. The whole is verified before its last bytes go
    out, a range cannot be: what asked for it has to hash what it puts together, as every client does.
    """

    whole = False

    def __init__(
        self,
        start: Callable[[int, int | None, int | None], Stream],
        *,
        size: int | None,
        first: int,
        reason: str,
        failed: Callable[[MirrorError], None],
        leave: Callable[[], None],
        senders: Senders,
    ) -> None:
        """`start` begins a stream: from where, up to where, and how large the blob is as far as is known.

        `size` is what a descriptor gives, if anything, and `first` the offset at which the client wants to begin.
        `reason` is the metrics' word for why it is not kept. `failed` hears what goes wrong, `leave` of the end;
        `senders` are those that the streams ask.
        """
        self.size = size
        self._start = start
        self._first = first
        self._bytes = metrics.STREAMED_BYTES.labels(reason)
        self._failed = failed
        self._leave = leave
        self._senders = senders
        self._stream: Stream | None = None
        self._told = False  # it was upstream that said the size
        self._given = False  # the client may have been told a size, or sent bytes

    @property
    def moving(self) -> bool:
        """Whether any byte of it has come."""
        return self._stream is not None and self._stream.moving

    async def ready(self, position: int, stop: int) -> int:
        """Wait until the byte at `position` may go out; return up to where bytes may, at most `stop`.

        Raises `MirrorError` where they will not come. As long as the client has been told nothing, `size` may change.
        """
        wrong = 0
        while True:
            if self._told and position >= (self.size or 0) > 0:
                return position
            try:
                stream = await self._begun(position, stop)
            except asyncio.CancelledError:
                self._given = True  # the server waits no longer: it sends the header now
                raise
            except UpstreamBroken as error:
                self._fail(error)
                wrong += 1
                if self._given or wrong >= self._senders.attempts:
                    raise
                self._first = 0  # asked in the plainest way upstream is most often right
                continue
            except MirrorError as error:
                self._fail(error)
                raise
            if not self._given:
                self.size, self._told = stream.size, self._told or stream.told
            return min(max(stream.front, position), stop)

    async def pieces(self, start: int, stop: int) -> AsyncGenerator[memoryview]:
        """Yield the bytes from `start` up to and without `stop`, or the end, as they come.

        Raises `MirrorError` where they will not, or were wrong: then the transfer must be broken off.
        """
        self._given = True
        try:
            stream = self._at(start, stop)
            while start < stop:
                piece = await stream.take(min(_PIECE, stop - start))
                if self.size not in (None, stream.size) or (not piece and self.size is not None):
                    text = f"{stream.namespace} sent {stream.digest} in another size than it had before"
                    raise UpstreamBroken(text, namespace=stream.namespace)
                if not piece:
                    return
                start += len(piece)
                self._bytes.inc(len(piece))
                yield piece
        except MirrorError as error:
            self._fail(error)
            raise

    async def _begun(self, position: int, stop: int) -> Stream:
        """Return a stream of which a byte may go out: the one that is wanted, or one that shows the size."""
        if self.size is None:
            position = self._first
        elif position >= self.size > 0:
            position, stop = 0, 1  # a descriptor says that there is no such byte; upstream knows
        stream = self._at(position, stop)
        await stream.begun()
        if stream.size is None and position > 0:  # a part of nobody knows how much
            self._drop()
            stream = self._at(0, stop)
            await stream.begun()
        return stream

    def _at(self, position: int, stop: int) -> Stream:
        """Return a stream that stands at `position`, and goes to `stop` at least: the one that runs, or a new one."""
        stream, size = self._stream, self.size
        end = stop if size is None else min(stop, size)
        reaches = stream is not None and (size is None or stream.stop is None or stream.stop >= end)
        if stream is not None and stream.position == position and reaches:
            return stream
        self._drop()
        # Only what is asked for from the beginning to the end can be verified, and is asked for without a Range.
        whole = position == 0 and end == size
        self._stream = self._start(position, None if whole or size is None else end, size)
        return self._stream

    def _fail(self, error: MirrorError) -> None:
        self._failed(error)
        self._drop()

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()
        self._leave()


class Passages:
    """Those that are under way, and which digests are not worth the attempt to keep them."""

    def __init__(
        self, upstreams: Upstreams, threads: DiskThreads, note: Callable[[Repository, Digest], None] | None = None
    ) -> None:
        """`note` hears of each blob that goes by: what it belongs to is not whole."""
        self._upstreams = upstreams
        self._threads = threads
        self._note = note
        self._places = asyncio.Semaphore(MOST)
        self._tasks: set[asyncio.Task[None]] = set()
        self._unkept: TTLCache[Digest, StoreError] = TTLCache(4096, UNKEPT_SECONDS)
        self._said: TTLCache[Digest, bool] = TTLCache(4096, SAID_SECONDS)
        self._wrong: TTLCache[tuple[str, Digest], int] = TTLCache(4096, REFUSED_SECONDS)

    def unkept(self, digest: Digest) -> StoreError | None:
        """Return why a fill of `digest` failed a moment ago: the next one would fail, too, and is not begun."""
        error: StoreError | None = self._unkept.get(digest)
        return error

    def remember(self, digest: Digest, error: StoreError) -> None:
        """Hear that `digest` cannot be kept now. Where only use stood in the way, the next one may find room."""
        if not (isinstance(error, NoSpace) and error.passing):
            self._unkept[digest] = error

    def forgive(self) -> None:
        """Try everything anew: there is more room now, or upstreams are other ones."""
        self._unkept.clear()
        self._wrong.clear()

    def under_way(self) -> list[asyncio.Task[None]]:
        """Return the tasks that fetch what passes by."""
        return list(self._tasks)

    async def open(
        self,
        repository: Repository,
        digest: Digest,
        error: StoreError,
        *,
        size: int | None,
        first: int,
        deadline: float,
    ) -> Passage:
        """Return a passage, to be entered at once; `error` says why `digest` is not kept.

        `size` is what a descriptor gives, `first` the offset at which the client wants to begin; bytes. By `deadline`,
        on the monotonic clock, upstream must have begun to answer. Raises `UpstreamBroken` for what was wrong twice a
        moment ago, `Overloaded` where too many are under way.
        """
        namespace = repository.namespace
        if self._wrong.get((namespace, digest), 0) >= _WRONG:
            text = f"{namespace} sent content for {digest} that is not what the digest says (refused for a minute)"
            raise UpstreamBroken(text, namespace=namespace, retry_after=REFUSED_SECONDS)
        try:
            async with asyncio.timeout(min(WAIT, _left(deadline))):
                await self._places.acquire()
        except TimeoutError:
            raise Overloaded(
                f"{MOST} blobs are being streamed that this mirror cannot keep; ask again in a while"
            ) from error
        reason = "no room" if isinstance(error, NoSpace) else "disk"
        metrics.STREAMED.labels(reason).inc()
        self._say(repository, digest, error, size)
        if self._note is not None:
            self._note(repository, digest)

        senders = Senders(digest)

        def ask(start: int, stop: int | None, patience: float) -> AbstractAsyncContextManager[BlobBody]:
            # The stream's own task asks, and counts as a user of these upstreams until it ends (`Generations`).
            upstream = self._upstreams.of(namespace)
            return senders.opened(
                upstream.blob(
                    repository,
                    digest,
                    start=start,
                    stop=stop,
                    urgency=Urgency(urgent=True),
                    patience=patience,
                    avoid=senders.avoid,
                )
            )

        def begin(start: int, stop: int | None, size: int | None) -> Stream:
            stream = Stream(
                digest,
                ask,
                self._threads,
                senders=senders,
                namespace=namespace,
                start=start,
                stop=stop,
                size=size,
                patience=_left(deadline),
            )
            self._tasks.add(stream.task)
            stream.task.add_done_callback(self._tasks.discard)
            return stream

        def failed(why: MirrorError) -> None:
            if isinstance(why, UpstreamBroken):
                self._wrong[namespace, digest] = self._wrong.get((namespace, digest), 0) + 1

        return Passage(
            begin, size=size, first=first, reason=reason, failed=failed, leave=self._places.release, senders=senders
        )

    async def close(self) -> None:
        """End those that are under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _say(self, repository: Repository, digest: Digest, error: StoreError, size: int | None) -> None:
        if digest in self._said:
            return
        self._said[digest] = True
        log.warning(
            "not kept: streamed from upstream to each client that asks",
            repository=str(repository),
            digest=str(digest),
            size=size,
            reason=str(error),
        )


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), _LEAST)
