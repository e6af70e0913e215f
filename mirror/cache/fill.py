"""The fill: one download from upstream into the store, shared by everyone who wants that digest.

It runs in a task of its own: a client that leaves, or reads slowly, neither stops nor slows it (promise 2). Its bytes
are hashed as they come; the last ones wait for the verdict, so a wrong body always shows as a broken transfer (promise
3). What it has is on disk and in the map, to go on from after a break, a crash, or in another process (promise 4).
"""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, BinaryIO

import structlog

from mirror import metrics
from mirror.cache.account import Account
from mirror.cache.following import POLL, Following
from mirror.cache.listeners import Listeners
from mirror.cache.origins import Origins
from mirror.cache.pulse import Pulse
from mirror.cache.reader import FillReader
from mirror.cache.running import RunningHash
from mirror.cache.senders import Senders
from mirror.cache.source import ENDLESS
from mirror.cache.transfer import Transfer
from mirror.config.values import ITSELF
from mirror.errors import MirrorError, NoSpace, StoreError, UpstreamBroken, UpstreamUnavailable
from mirror.store.part import footprint
from mirror.store.spans import Spans

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mirror.cache.origins import Origin
    from mirror.cache.space import Space
    from mirror.oci.digest import Digest
    from mirror.store.blobs import BlobStore
    from mirror.store.index import Index
    from mirror.store.io import DiskThreads
    from mirror.store.part import PartFile
    from mirror.upstream.protocol import BlobBody, Urgency

log = structlog.get_logger(__name__)

WITHHELD = 64 * 1024  # bytes at the end that wait for the verdict
PATIENCE = 20.0  # seconds for each request to upstream, until its headers are here
UNHURRIED = 3600.0  # the same while no client waits: what is read ahead waits for a place for as long as others take it


class Fill:
    """One digest on its way from upstream."""

    def __init__(
        self,
        digest: Digest,
        origin: Origin,
        *,
        blobs: BlobStore,
        index: Index,
        space: Space,
        threads: DiskThreads,
        urgency: Urgency,
        expected: int | None,
        first: int,
    ) -> None:
        """`expected` is the size that a descriptor gives, `first` the offset that the first client begins at; bytes."""
        self.digest = digest
        self.urgency = urgency
        self.size: int | None = None
        self.spans = Spans()
        self.begun = False  # there is a file, and bytes that a client may wait for
        self.verified = False
        self.error: MirrorError | None = None
        self.generation = 0  # how often what was here has been thrown away
        self.pulse = Pulse()
        self.origins = Origins(digest, origin, index, self.pulse.beat)
        self._stored = False  # it has its name in the store
        self.on_end = Listeners()
        self._expected = expected
        self._first = first
        self._blobs = blobs
        self._threads = threads
        self._part: PartFile | None = None
        self._file: BinaryIO | None = None
        self._version: tuple[int, int] | None = None  # inode of the file, and the generation of its map
        self._transfer: Transfer | None = None
        self._running: RunningHash | None = None
        self._demands: dict[object, tuple[int, int]] = {}
        self._account = Account(space, urgency)
        self._plain = False
        self._senders = Senders(digest)
        self._following: Following | None = None

    # --- for those who wait --------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.verified or self.error is not None

    @property
    def readable(self) -> bool:
        """Whether `reader` may be called."""
        return self.begun and self._file is not None

    @property
    def namespace(self) -> str:
        """The upstream that is asked."""
        return self.origins.namespace

    def asks(self, origin: Origin) -> bool:
        """Say whether upstream is being asked through `origin` right now: then it will be served, or refused, soon."""
        return self._transfer is not None and self._transfer.under_way and self.origins.asked is origin

    def reader(self) -> FillReader:
        """Return a source for one client."""
        return FillReader(self)

    def duplicate(self) -> BinaryIO:
        """Return the file once more, for one client to read from and close."""
        assert self._file is not None  # noqa: S101  # the callers see that it is `readable`
        return os.fdopen(os.dup(self._file.fileno()), "rb", buffering=0)

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
        elif self._following is not None:
            self._following.demand(position)

    def leave(self, reader: object) -> None:
        """Hear that a client has what it wanted, or has gone."""
        self._demands.pop(reader, None)
        if self._transfer is not None:
            self._transfer.leave(reader)

    # --- the task ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Fill. Never raises but when cancelled: `error` says what went wrong."""
        outcome = "stopped"
        try:
            while not self._stored:
                await self._turn()
            await self.origins.link()  # those that only read what another process filled
            outcome = "stored"
        except MirrorError as error:
            self.error = error
            outcome = "failed"
            say = log.info if isinstance(error, NoSpace) else log.warning  # it is streamed, and that is said
            say("fill failed", digest=str(self.digest), sources=self.origins.names(), error=str(error))
        except Exception as error:
            log.exception("fill failed", digest=str(self.digest), sources=self.origins.names())
            self.error = StoreError(f"the mirror failed over {self.digest}: {type(error).__name__}; see its log")
            outcome = "failed"
        finally:
            if not self.ended:
                self.error = UpstreamUnavailable("the mirror is stopping; ask again", namespace=self.namespace)
            metrics.FILLS.labels(self.origins.label, outcome).inc()
            self._close()
            self.pulse.beat()
            self.on_end.tell()

    async def _turn(self) -> None:
        """Fill, or follow the process that does; come back when that has come to an end."""
        self._close()
        part = self._part = await self._blobs.part(self.digest)
        if not part.try_lock():
            self._following = Following(self, part, self._blobs, self._threads)
            try:
                await self._following.run()
            finally:
                self._following = None
            return
        current = part.current()
        if self._blobs.size(self.digest) is not None:
            if current:
                await self._threads.run(part.discard)
            self.adopt()
            if not self._stored:
                await asyncio.sleep(POLL)  # somebody is about to take it away
        elif current:
            await self._own(part)

    def adopt(self) -> None:
        """Take the content that another process has made whole."""
        opened = self._blobs.open(self.digest)
        if opened is None:
            return
        file, self.size = opened
        self.spans = Spans()
        self.spans.add(0, self.size)
        self.attach(file, self._version[1] if self._version else 0)
        self.verified = self._stored = True
        self.pulse.beat()

    def attach(self, file: BinaryIO, generation: int) -> None:
        """Go on in `file`. Those who were sent bytes of another file, or another generation of it, break off."""
        version = (os.fstat(file.fileno()).st_ino, generation)
        if self._version not in (None, version):
            self.generation += 1
        self._version = version
        if self._file is not None and self._file is not file:
            self._file.close()
        self._file, self.begun = file, True
        self.pulse.beat()

    def _close(self) -> None:
        """Let go of the file and the lock; readers have descriptors of their own."""
        if self._part is not None:
            self._part.close()
            self._part = None
        if self._file is not None:
            self._file.close()
            self._file = None

    # --- this process fills --------------------------------------------------------------------------------------

    async def _own(self, part: PartFile) -> None:
        """Fetch, verify, commit; what cannot be gone on from is not left on disk."""
        self._account.found(part.allocated())
        self._forget()
        try:
            await self._resume(part)
            await self._fetch_right(part)
            assert self.size is not None  # noqa: S101  # what is verified has a size
            self._senders.right(self.size)
            self.verified = True
            self.pulse.beat()
            await self.origins.link()
            await self._threads.run(part.verified)
            replaced = await self._threads.run(part.commit, self.size)
            self._stored = True
            self._account.replaced(replaced)
            await self.origins.stored(part.stored())
        except StoreError:
            self.spans.clear()  # a full disk gets its room back
            raise
        finally:
            self._account.settle(part, stored=self._stored, useful=bool(self.spans.total()))

    async def _resume(self, part: PartFile) -> None:
        """Go on from what is on disk, if there is anything to go on from."""
        state = await self._threads.run(part.resume)
        if state is None or state.size is None:
            return
        await self._account.hold(footprint(state.size))
        self._account.landed(part.allocated())
        self.size, self.spans = state.size, state.spans
        self._senders.resumed()
        self.attach(part.file, state.generation)
        log.info("fill goes on", digest=str(self.digest), here=self.spans.total(), size=self.size)

    async def _fetch_right(self, part: PartFile) -> None:
        """Fetch; a wrong body is thrown away and fetched again: once, or until nobody is left who may be right."""
        attempt = 1
        while True:
            try:
                await self._fetch(part)
            except UpstreamBroken as error:
                self._senders.wrong(verdict=False)
                self.generation += 1
                self._version = None
                self._forget()
                self._expected = None  # it may have been what was wrong
                self._plain = True  # asked in the plainest way upstream is most often right
                await self._threads.run(part.clear)
                if attempt >= self._senders.attempts:
                    raise
                log.warning("wrong content is fetched again", digest=str(self.digest), error=str(error))
            else:
                return
            attempt += 1

    async def _fetch(self, part: PartFile) -> None:
        """Fetch what is missing and hash it all; raise `UpstreamBroken` where the hash is not the digest."""
        self._transfer = Transfer(self, self.urgency, expected=self._expected, first=self._first, plain=self._plain)
        for reader, (position, stop) in self._demands.items():
            self._transfer.demand(reader, position, stop)
        running = self._running = RunningHash(self.digest, part.file.fileno(), self._threads)
        hashing = asyncio.create_task(self._hash(running))
        try:
            await self._transfer.run()
            if self.size is None:
                self.size = self.spans.end_of(0)
            self.pulse.beat()
            matches = await hashing
        finally:
            self._transfer = self._running = None
            hashing.cancel()
            await asyncio.gather(hashing, return_exceptions=True)
        if not matches:
            self._senders.wrong(verdict=True)
            raise UpstreamBroken(
                f"{self.namespace} sent content for {self.digest} that is not what the digest says",
                namespace=self.namespace,
            )

    async def _hash(self, running: RunningHash) -> bool:
        while self.size is None or running.done < self.size:
            if not await running.step(self.spans.end_of(0)):
                await self.pulse.wait()
        return running.matches()

    def _forget(self) -> None:
        """Forget all that came."""
        self.begun = self.verified = False
        self.size = None
        self.spans = Spans()
        self.pulse.beat()

    # --- what the transfer works with ------------------------------------------------------------------------------

    @asynccontextmanager
    async def open(self, start: int, stop: int | None, urgency: Urgency) -> AsyncIterator[BlobBody]:
        """See `transfer.Target.open`. Another size than a manifest says is believed of the registry itself alone."""
        patience = PATIENCE if urgency.urgent else UNHURRIED
        asked = self.origins.open(start, stop, urgency, patience=patience, avoid=self._senders.avoid)
        async with self._senders.opened(asked) as body:
            known = self.size if self.begun and self.size is not None else self._expected
            if body.size is not None and known not in (None, body.size) and body.sender.label != ITSELF:
                self._senders.broke(body.sender)
                text = f"{body.sender.label} says that {self.digest} has {body.size} bytes, where {known} were due"
                raise (UpstreamUnavailable if self.begun else UpstreamBroken)(text, namespace=self.namespace)
            yield body

    async def begin(self, size: int | None) -> None:
        """See `transfer.Target.begin`: reserve the space, make the file."""
        assert self._part is not None  # noqa: S101  # a transfer runs only while there is one
        size = size if size is not None else self._expected
        if self.begun:
            if size is not None and self.size is not None and size != self.size:
                raise UpstreamBroken(
                    f"{self.namespace} said first that {self.digest} has {self.size} bytes, and then {size}",
                    namespace=self.namespace,
                )
            return
        part = self._part
        await self._account.hold(footprint(size or 0))
        await self._threads.run(part.begin, size)
        self._account.landed(part.allocated())
        self.size = size
        self.attach(part.file, part.generation)

    async def land(self, piece: bytes, offset: int) -> int:
        """See `transfer.Target.land`. What is here already stays as it is: it has been hashed, and sent."""
        stop = offset + len(piece)
        fresh = 0
        while (gap := self.spans.gap(offset, stop)) is not None:
            start, end = gap
            await self._write(piece if end - start == len(piece) else piece[start - offset : end - offset], start)
            fresh += end - start
            piece, offset = piece[end - offset :], end
        return fresh

    async def _write(self, piece: bytes, offset: int) -> None:
        part = self._part
        assert part is not None  # noqa: S101  # a transfer runs only while there is one
        stop = offset + len(piece)
        if part.size is None:
            await self._account.grow(len(piece))
        await self._threads.run(part.write, piece, offset, self.spans.around(offset, stop))
        if part.size is None:
            self._account.wrote(len(piece))
        self.spans.add(offset, stop)
        running = self._running
        if running is not None:
            running.feed(piece, offset)
        if self.size is None:
            self.pulse.beat()  # what may go out lies further to the front
        else:
            self.pulse.beat(offset, stop)
        if running is not None:
            await running.room()

    def wanted(self) -> list[int]:
        """See `transfer.Target.wanted`."""
        state = self._part.read_map() if self._part is not None else None
        missing = [] if state is None else [spot for spot in state.wanted if self.spans.end_of(spot) == spot]
        if missing:
            self.urgency.raise_()
        return missing
