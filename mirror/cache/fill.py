"""The fill: one download from upstream into the store, shared by everyone who wants that digest.

It runs in a task of its own: a client that leaves, or reads slowly, neither stops nor slows it (promise 2). Its bytes are
hashed in order as they come; the last ones are withheld until the whole is verified, so a wrong body always shows as a
broken transfer (promise 3). What it has is on disk and in the map, so that it goes on from there after a break, a crash, or
in another process (promise 4).
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, BinaryIO

import structlog

from mirror import metrics
from mirror.cache.pulse import Pulse
from mirror.cache.source import ENDLESS
from mirror.cache.transfer import Transfer
from mirror.errors import MirrorError, StoreError, UpstreamBroken, UpstreamDenied, UpstreamNotFound, UpstreamUnavailable
from mirror.store.changes import Linked
from mirror.store.part import VERIFIED
from mirror.store.spans import Spans

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from hashlib import _Hash
    from types import TracebackType
    from typing import Self

    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository
    from mirror.store.blobs import BlobStore
    from mirror.store.index import Index
    from mirror.store.io import DiskThreads
    from mirror.store.part import PartFile
    from mirror.store.room import Room
    from mirror.upstream.protocol import BlobBody, Upstream, Urgency

log = structlog.get_logger(__name__)

WITHHELD = 64 * 1024  # bytes at the end that wait for the verdict
PATIENCE = 20.0  # seconds for each request to upstream, until its headers are here
FOLLOW_POLL = 0.02  # seconds between looks at the map of another process's fill
HASH_PIECE = 4 * 1024 * 1024  # bytes hashed in one go off the loop
ATTEMPTS = 2  # a wrong body is thrown away and fetched again once


class Source:
    """A repository through which the content may be had, and whether upstream has served it there."""

    def __init__(self, repository: Repository, upstream: Upstream) -> None:
        self.repository = repository
        self.upstream = upstream
        self.served = False
        self.refused: MirrorError | None = None


class Fill:
    """One digest on its way from upstream."""

    def __init__(
        self,
        digest: Digest,
        source: Source,
        *,
        blobs: BlobStore,
        index: Index,
        room: Room,
        threads: DiskThreads,
        urgency: Urgency,
        expected: int | None,
        first: int,
    ) -> None:
        """`expected` is the size that a descriptor gives, bytes; `first` the offset at which the first client begins."""
        self.digest = digest
        self.sources = [source]
        self.urgency = urgency
        self.size: int | None = None
        self.spans = Spans()
        self.begun = False  # there is a file, and bytes that a client may wait for
        self.verified = False
        self.error: MirrorError | None = None
        self.generation = 0  # how often what was here has been thrown away
        self.pulse = Pulse()
        self._on_end: list[Callable[[], None]] = []
        self._expected = expected
        self._first = first
        self._blobs = blobs
        self._index = index
        self._room = room
        self._threads = threads
        self._part: PartFile | None = None
        self._file: BinaryIO | None = None
        self._version: tuple[int, int] | None = None  # inode of the file, and the generation of its map
        self._transfer: Transfer | None = None
        self._demands: dict[object, tuple[int, int]] = {}
        self._reserved = 0  # bytes taken from the room for the `.part` file
        self._landing = 0  # of them, not known to be allocated on disk
        self._ranges = True
        self._following = False

    # --- for those who wait --------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.verified or self.error is not None

    def reader(self) -> FillReader:
        """Return a source for one client."""
        assert self._file is not None  # noqa: S101  # the callers see that it is `readable`
        return FillReader(self, os.fdopen(os.dup(self._file.fileno()), "rb", buffering=0))

    @property
    def readable(self) -> bool:
        """Whether `reader` may be called."""
        return self.begun and self._file is not None

    def limit(self) -> int:
        """Return up to where bytes may go out once they are here."""
        if self.verified:
            return self.size if self.size is not None else ENDLESS
        end = self.size if self.size is not None else self.spans.end_of(0)
        return max(0, end - WITHHELD)

    def demand(self, reader: object, position: int, stop: int) -> None:
        """Hear that a client waits for the bytes from `position`: they are fetched first."""
        self._demands[reader] = (position, stop)
        if self._transfer is not None:
            self._transfer.demand(reader, position, stop)
        elif self._following and self._part is not None and self.size is not None and position < self.size:
            self._part.want(position)

    def leave(self, reader: object) -> None:
        """Hear that a client has what it wanted, or has gone."""
        self._demands.pop(reader, None)
        if self._transfer is not None:
            self._transfer.leave(reader)

    def join(self, source: Source) -> Source:
        """Add a repository through which the content may be had too; return the one that stands for it."""
        for known in self.sources:
            if known.repository == source.repository:
                return known
        self.sources.append(source)
        return source

    # --- the task ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Fill. Never raises but when cancelled: `error` says what went wrong."""
        outcome = "stopped"
        try:
            while not self.verified:
                await self._turn()
            outcome = "stored"
        except MirrorError as error:
            await self._give_up(error)
            outcome = "failed"
            log.warning("fill failed", digest=str(self.digest), sources=self._names(), error=str(error))
        except Exception as error:
            log.exception("fill failed", digest=str(self.digest), sources=self._names())
            self.error = StoreError(f"the mirror failed over {self.digest}: {type(error).__name__}; see its log")
            outcome = "failed"
        finally:
            if not self.ended:
                where = self.sources[0].repository.namespace
                self.error = UpstreamUnavailable("the mirror is stopping; ask again", namespace=where)
            metrics.FILLS.labels(self.sources[0].repository.namespace, outcome).inc()
            self._close()
            self.pulse.beat()
            for hear in self._on_end:
                hear()

    def on_end(self, hear: Callable[[], None]) -> None:
        """Call `hear` when the fill has ended, one way or another."""
        self._on_end.append(hear)

    async def _turn(self) -> None:
        """Fill, or follow the process that does; come back when that has come to an end."""
        self._close()
        part = self._part = await self._blobs.part(self.digest)
        if not part.try_lock():
            await self._follow(part)
            return
        current = part.current()
        if self._blobs.size(self.digest) is not None:
            if current:
                await self._threads.run(part.discard)
            self._adopt()
        elif current:
            await self._own(part)

    def _adopt(self) -> None:
        """Take the content that another process has made whole."""
        opened = self._blobs.open(self.digest)
        if opened is None:
            return
        file, self.size = opened
        self.spans = Spans()
        self.spans.add(0, self.size)
        self._attach(file, self._version[1] if self._version else 0)
        self.verified = True
        self.pulse.beat()

    def _attach(self, file: BinaryIO, generation: int) -> None:
        """Go on in `file`. Those who were sent bytes of another file, or another generation of it, break off."""
        version = (os.fstat(file.fileno()).st_ino, generation)
        if self._version not in (None, version):
            self.generation += 1
        self._version = version
        if self._file is not None and self._file is not file:
            self._file.close()
        self._file, self.begun = file, True
        self.pulse.beat()

    async def _own(self, part: PartFile) -> None:
        """Fetch, verify, commit; a wrong body is thrown away and fetched again once."""
        await self._resume(part)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._fetch(part)
                break
            except UpstreamBroken as error:
                await self._throw_away(part)
                if attempt == ATTEMPTS:
                    raise
                log.warning("wrong content is fetched again", digest=str(self.digest), error=str(error))
        assert self.size is not None  # noqa: S101  # what is verified has a size
        self.verified = True
        self.pulse.beat()
        await self._threads.run(part.verified)
        await self._threads.run(part.commit, self.size)
        self._settle(self.size)

    async def _resume(self, part: PartFile) -> None:
        """Go on from what is on disk, if there is anything to go on from."""
        before = part.allocated()
        state = await self._threads.run(part.resume)
        if state is None or state.size is None:
            return
        self._reserve(state.size, before)
        self._allocated(part)
        self.size, self.spans = state.size, state.spans
        self._attach(part.file, state.generation)
        log.info("fill goes on", digest=str(self.digest), here=self.spans.total(), size=self.size)

    async def _fetch(self, part: PartFile) -> None:
        """Fetch what is missing and hash it all; raise `UpstreamBroken` where the hash is not the digest."""
        self._transfer = Transfer(self, self.urgency, expected=self._expected, first=self._first, ranges=self._ranges)
        for reader, (position, stop) in self._demands.items():
            self._transfer.demand(reader, position, stop)
        hashing = asyncio.create_task(self._hash(part))
        try:
            await self._transfer.run()
            if self.size is None:
                self.size = self.spans.end_of(0)
            self.pulse.beat()
            matches = await hashing
        finally:
            self._transfer = None
            hashing.cancel()
            await asyncio.gather(hashing, return_exceptions=True)
        if not matches:
            where = self.sources[0].repository
            raise UpstreamBroken(
                f"{where.namespace} sent content for {self.digest} that is not what the digest says",
                namespace=where.namespace,
            )

    async def _hash(self, part: PartFile) -> bool:
        hasher = self.digest.hasher()
        done = 0
        while self.size is None or done < self.size:
            front = min(self.spans.end_of(0), done + HASH_PIECE)
            if front > done:
                await self._threads.run(_hash_range, part.file.fileno(), hasher, done, front)
                done = front
            else:
                await self.pulse.wait()
        return hasher.hexdigest() == self.digest.hex

    async def _throw_away(self, part: PartFile) -> None:
        """Forget all that came, and ask in the plainest way next: that is most often answered right."""
        self.generation += 1
        self.begun = False
        self.size = None
        self._version = None
        self._expected = None  # it may have been what was wrong
        self._ranges = False
        self.spans.clear()
        self.pulse.beat()
        await self._threads.run(part.clear)
        self._settle(0)

    async def _give_up(self, error: MirrorError) -> None:
        """Keep what can be gone on from; a disk that is full gets its room back."""
        self.error = error
        part = self._part
        if part is not None and part.locked and (isinstance(error, StoreError) or not self.spans.total()):
            await self._threads.run(part.discard)
            self._settle(0)

    async def _follow(self, part: PartFile) -> None:
        """Another process fills: read its map until it is done, or has gone."""
        self._following = True
        try:
            while True:
                state = part.read_map()
                if state is not None and (state.size is not None or state.spans.total()):
                    self._take_in(part, state.size, state.generation, state.spans, whole=state.state == VERIFIED)
                if self._blobs.size(self.digest) is not None:
                    self._adopt()
                    return
                if part.try_lock():
                    return  # whoever filled has ended; look again from the start
                await asyncio.sleep(FOLLOW_POLL)
        finally:
            self._following = False

    def _take_in(self, part: PartFile, size: int | None, generation: int, spans: Spans, *, whole: bool) -> None:
        self.size, self.spans = size, spans
        part.size, part.generation = size, generation
        self._attach(part.file, generation)
        if whole and size is not None and spans.covers(0, size):
            self.verified = True  # the withheld end goes out; the name follows, and is not waited for
            self.pulse.beat()

    # --- what the transfer works with ------------------------------------------------------------------------------

    @asynccontextmanager
    async def open(self, start: int, stop: int | None, urgency: Urgency) -> AsyncIterator[BlobBody]:
        """See `transfer.Target.open`: through the first repository that upstream does not refuse."""
        async with AsyncExitStack() as stack:
            while True:
                source = self.sources[0]
                opening = source.upstream.blob(
                    source.repository, self.digest, start=start, stop=stop, urgency=urgency, patience=PATIENCE
                )
                try:
                    body = await stack.enter_async_context(opening)
                    break
                except (UpstreamNotFound, UpstreamDenied) as error:
                    source.refused = error
                    if len(self.sources) == 1:
                        raise
                    self.sources.remove(source)
                    self.pulse.beat()
            await self._serve_through(source, public=body.public)
            yield body

    async def _serve_through(self, source: Source, *, public: bool) -> None:
        if not source.served:
            await self._index.apply(Linked(source.repository, self.digest, public=public))
            source.served = True
            self.pulse.beat()

    async def begin(self, size: int | None) -> None:
        """See `transfer.Target.begin`: reserve the space, make the file."""
        assert self._part is not None  # noqa: S101  # a transfer runs only while there is one
        size = size if size is not None else self._expected
        if self.begun:
            if size is not None and self.size is not None and size != self.size:
                where = self.sources[0].repository.namespace
                raise UpstreamBroken(
                    f"{where} said first that {self.digest} has {self.size} bytes, and then {size}", namespace=where
                )
            return
        part = self._part
        self._reserve(size or 0, part.allocated())
        await self._threads.run(part.begin, size, part.generation + 1)
        self._allocated(part)
        self.size = size
        self._attach(part.file, part.generation)

    async def land(self, piece: bytes, offset: int) -> None:
        """See `transfer.Target.land`."""
        part = self._part
        assert part is not None  # noqa: S101  # a transfer runs only while there is one
        stop = offset + len(piece)
        if self.size is None:
            self._room.reserve(len(piece))
            self._reserved += len(piece)
            self._landing += len(piece)
        await self._threads.run(part.write, piece, offset, self.spans.around(offset, stop))
        if part.size is None:
            self._landed(len(piece))
        self.spans.add(offset, stop)
        self.pulse.beat()

    def wanted(self) -> list[int]:
        """See `transfer.Target.wanted`."""
        state = self._part.read_map() if self._part is not None else None
        return [] if state is None else [spot for spot in state.wanted if self.spans.end_of(spot) == spot]

    # --- accounts ------------------------------------------------------------------------------------------------

    def _reserve(self, size: int, before: int) -> None:
        """Take room for a `.part` file of `size` bytes, which takes `before` already."""
        more = max(0, size - before)
        self._room.reserve(more)
        self._reserved, self._landing = before + more, more

    def _allocated(self, part: PartFile) -> None:
        """What the file system has allocated, its own count of free space knows."""
        if part.allocated() >= self._reserved:
            self._landed(self._landing)

    def _landed(self, count: int) -> None:
        self._landing -= count
        self._room.landed(count)

    def _settle(self, kept: int) -> None:
        """The `.part` file is empty or gone, or has become a blob of `kept` bytes: give back the rest of what was reserved."""
        self._landed(self._landing)
        self._room.release(self._reserved - kept)
        self._reserved = 0

    def _close(self) -> None:
        """Let go of the file and the lock; readers have descriptors of their own."""
        self._landed(self._landing)
        if self._part is not None:
            self._part.close()
            self._part = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _names(self) -> list[str]:
        return [str(source.repository) for source in self.sources]


class FillReader:
    """One client's view of a fill."""

    whole = False

    def __init__(self, fill: Fill, file: BinaryIO) -> None:
        self.file = file
        self.size = fill.size
        self._fill = fill
        self._generation = fill.generation

    async def ready(self, position: int, stop: int) -> int:
        """See `source.BlobSource.ready`."""
        fill = self._fill
        while True:
            if fill.generation != self._generation:
                where = fill.sources[0].repository.namespace
                raise UpstreamBroken(f"what {where} sent for {fill.digest} was wrong", namespace=where)
            end = min(fill.spans.end_of(position), fill.limit(), stop)
            if end > position or fill.verified:
                fill.leave(self)
                return max(end, position)
            if fill.error is not None:
                raise fill.error
            fill.demand(self, position, stop)
            await fill.pulse.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._fill.leave(self)
        self.file.close()


_buffers = threading.local()


def _hash_range(fd: int, hasher: _Hash, start: int, stop: int) -> None:
    """Hash bytes of a file, through one buffer a thread."""
    buffer = getattr(_buffers, "buffer", None)
    if buffer is None:
        buffer = _buffers.buffer = memoryview(bytearray(1024 * 1024))
    while start < stop:
        count = os.preadv(fd, [buffer[: min(len(buffer), stop - start)]], start)
        if count == 0:
            raise StoreError("a .part file became shorter while it was hashed; something else writes in the store")
        hasher.update(buffer[:count])
        start += count
