"""Blobs: from memory, from disk, from a fill, or past the store; and only to those whose repository holds them.

That a repository holds a digest is what a link says, or upstream itself (promise 10).
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog
from cachetools import LRUCache

from mirror.cache.memory import LARGEST
from mirror.cache.outcome import HIT, Outcome
from mirror.cache.source import StoredBlob
from mirror.errors import (
    ContentBroken,
    NoSpace,
    StoreError,
    UpstreamDenied,
    UpstreamNotFound,
    UpstreamUnavailable,
)
from mirror.oci.digest import Digest
from mirror.store.changes import Linked, Lost

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from mirror.cache.fill import Fill
    from mirror.cache.fills import Fills
    from mirror.cache.memory import Memory
    from mirror.cache.origins import Origin
    from mirror.cache.passage import Passage, Passages
    from mirror.cache.source import BlobSource
    from mirror.cache.uses import Uses
    from mirror.cache.vouching import Vouching
    from mirror.oci.name import Repository
    from mirror.store.blobs import BlobStore
    from mirror.store.index import Index, Standing
    from mirror.store.io import DiskThreads
    from mirror.upstream.protocol import Upstreams

log = structlog.get_logger(__name__)

_STEP = 1024 * 1024  # bytes that are hashed at once
PATIENCE = 20.0  # seconds until upstream's body must have begun (promise 5)


@dataclass(frozen=True, slots=True)
class BlobAnswer:
    """A blob to send: either its `body`, or a `source` that must be used as a context manager."""

    body: bytes | None
    source: BlobSource | Passage | None
    outcome: Outcome


class Blobs:
    """Hit or fill; and where it cannot be kept, past the store."""

    def __init__(
        self,
        *,
        store: BlobStore,
        index: Index,
        threads: DiskThreads,
        memory: Memory,
        fills: Fills,
        passages: Passages,
        vouching: Vouching,
        uses: Uses,
        upstreams: Upstreams,
    ) -> None:
        self._store = store
        self._index = index
        self._threads = threads
        self._memory = memory
        self._fills = fills
        self._passages = passages
        self._upstreams = upstreams
        self._vouching = vouching
        self._uses = uses
        self._sizes: LRUCache[Digest, int] = LRUCache(4096)  # of what is right, though a manifest says another size
        self.on_sent: Callable[[Digest], None] | None = None  # hears what was sent whole from the disk

    async def get(self, repository: Repository, digest: Digest, *, first: int = 0) -> BlobAnswer:
        """Return the blob; `first` is the offset at which the client wants to begin, as far as its header tells.

        Raises `UpstreamError`, `Overloaded` or `StoreError` where it is not here and cannot be had.
        """
        deadline = time.monotonic() + PATIENCE
        try:
            standing = self._index.standing(repository, digest)
            found = await self._stored(repository, digest, standing)
            if found is None:
                found = await self._filled(repository, digest, standing, first, deadline)
        except StoreError as error:
            found = await self.stream(repository, digest, error, first=first, deadline=deadline)
        self._uses.touch(repository, digest)
        return found

    async def stream(
        self,
        repository: Repository,
        digest: Digest,
        error: StoreError,
        *,
        first: int = 0,
        deadline: float | None = None,
    ) -> BlobAnswer:
        """Return the blob past the store, which fails with `error`: from upstream to this client alone.

        By `deadline`, on the monotonic clock, upstream must have begun to answer. Raises as `get`.
        """
        if deadline is None:
            deadline = time.monotonic() + PATIENCE
        try:
            size = self._index.standing(repository, digest).size
        except StoreError:  # it is this that cannot be read, then
            size = None
        passage = await self._passages.open(repository, digest, error, size=size, first=first, deadline=deadline)
        return BlobAnswer(None, passage, Outcome(forward="uri-miss", status=200, detail="not-kept"))

    def sent(self, digest: Digest) -> None:
        """Hear that a large blob was sent whole from the disk. Nobody has looked at its bytes, which go out unread."""
        if self.on_sent is not None:
            self.on_sent(digest)

    async def damaged(self, digest: Digest, file: BinaryIO, reason: str) -> None:
        """Hear that `file`, which should hold `digest`, does not, or cannot be read: it is never served again."""
        try:
            if await self._threads.run(self._set_aside, digest, file):
                await self._index.apply(Lost(digest))
        except StoreError as error:
            log.error("damaged content could not be put aside", digest=str(digest), reason=reason, error=str(error))  # noqa: TRY400  # nothing of the trace helps
            return
        log.error(
            "content on the disk is damaged; it is fetched again when somebody asks", digest=str(digest), reason=reason
        )

    async def size(self, repository: Repository, digest: Digest) -> tuple[int | None, Outcome]:
        """Return the size in bytes without fetching; None where upstream does not tell either.

        A HEAD is never passed on: some registries answer every HEAD of a blob with 401 (public.ecr.aws).
        """
        standing = self._index.standing(repository, digest)
        try:
            size = self._store.size(digest)
        except StoreError:  # the descriptor knows, or upstream
            size = None
        if size is not None and standing.visible:
            self._uses.touch(repository, digest)
            return size, HIT
        away = self._upstreams.of(repository.namespace).away
        if standing.named and standing.size is not None and (standing.visible or not away):
            return standing.size, Outcome(forward="uri-miss", detail="descriptor")
        empty = size == 0 or Digest.of(b"", digest.algorithm) == digest
        async with self._vouching.first_byte(repository, digest, empty=empty) as body:
            return body.size, Outcome(forward="uri-miss", status=200)

    # --- what is here ------------------------------------------------------------------------------------------------

    async def _stored(self, repository: Repository, digest: Digest, standing: Standing) -> BlobAnswer | None:
        """Return what is whole in memory or on disk; None where it is in neither."""
        if standing.linked and (body := self._memory.get(digest)) is not None:
            return BlobAnswer(body, None, HIT)
        if standing.linked and (standing.size or 0) > LARGEST:  # the warm hit, with no look at the disk but one
            return await self._large(digest, standing, HIT)
        size = self._store.size(digest)
        if size is None:
            return None
        outcome = HIT
        if not standing.visible:
            await self._vouching.confirm(repository, digest, empty=size == 0, vouched=standing.vouched)
            outcome = Outcome(hit=True, detail="confirmed")
        elif not standing.linked:
            with suppress(StoreError):  # a full disk keeps nobody from what is here
                await self._index.apply(Linked(repository, digest, standing.media_type))
        if size <= LARGEST:
            try:
                body = await self._memory.read(digest)
            except ContentBroken as error:  # it is aside, and comes anew
                log.error("content on the disk is damaged; it is fetched again", digest=str(digest), reason=str(error))  # noqa: TRY400
                with suppress(StoreError):  # whoever looks through the disk finds it out, too
                    await self._index.apply(Lost(digest))
                return None
            return None if body is None else BlobAnswer(body, None, outcome)
        return await self._large(digest, standing, outcome)

    async def _large(self, digest: Digest, standing: Standing, outcome: Outcome) -> BlobAnswer | None:
        opened = self._store.open(digest)
        if opened is None:
            return None
        file, size = opened
        doubtful = standing.size not in (None, size) and self._sizes.get(digest) != size
        if doubtful and not await self._is_right(digest, file):
            with file:
                await self.damaged(digest, file, f"it has {size} bytes, and a manifest says {standing.size}")
            return None
        return BlobAnswer(None, StoredBlob(file, size), outcome)

    async def _is_right(self, digest: Digest, file: BinaryIO) -> bool:
        """Hash a file whose size is not what a manifest says: a crash cut it off, or the manifest lies."""
        try:
            right = await self._threads.run(_matches, digest, file.fileno())
        except BaseException:
            file.close()
            raise
        if right:
            self._sizes[digest] = os.fstat(file.fileno()).st_size
        return right

    def _set_aside(self, digest: Digest, file: BinaryIO) -> bool:
        opened = self._store.open(digest)
        if opened is None:
            return False
        with opened[0] as current:
            same = os.path.samestat(os.fstat(current.fileno()), os.fstat(file.fileno()))
        return same and self._store.set_aside(digest)  # else what is right has taken its place

    # --- what is not here ----------------------------------------------------------------------------------------

    async def _filled(
        self, repository: Repository, digest: Digest, standing: Standing, first: int, deadline: float
    ) -> BlobAnswer:
        fill = self._fills.running(digest)
        if fill is not None and fill.namespace != repository.namespace:
            return await self._after(fill, repository, digest, first, deadline)
        joined = fill is not None
        origin = self._fills.origin(repository)
        if fill is not None:
            origin = fill.origins.join(origin)
            fill.urgency.raise_()
        else:
            fill = self._start(origin, digest, standing.size, first)
        allowed = standing.visible
        while True:
            if origin.refused is not None and not allowed:
                raise origin.refused.with_traceback(None)
            if (fill.readable or fill.ended) and not (allowed or origin.served) and fill.error is None:
                if fill.asks(origin):
                    await self._wait(fill, repository.namespace, deadline)
                    continue
                # Another process may have had it served to this repository; else upstream must say that it holds it.
                if not self._index.standing(repository, digest).visible:
                    await self._vouch_for(fill, origin, digest)
                allowed = True
                continue
            if fill.readable:
                outcome = Outcome(forward="uri-miss", status=200, stored=True, collapsed=joined)
                return BlobAnswer(None, fill.reader(), outcome)
            if fill.ended:
                return await self._ended(fill, origin, digest, first, joined=joined)
            await self._wait(fill, origin.repository.namespace, deadline)

    def _start(self, origin: Origin, digest: Digest, size: int | None, first: int) -> Fill:
        if (error := self._passages.unkept(digest)) is not None:
            raise error.with_traceback(None)
        fill = self._fills.start(origin, digest, expected=size, first=first)
        fill.on_end.add(partial(self._see_kept, fill))
        return fill

    async def _after(
        self, fill: Fill, repository: Repository, digest: Digest, first: int, deadline: float
    ) -> BlobAnswer:
        """Another upstream's fill of the same digest: what it brings may be private there, so it is waited for."""
        fill.urgency.raise_()
        while not fill.ended:
            await self._wait(fill, repository.namespace, deadline)
        return await self.get(repository, digest, first=first)

    async def _vouch_for(self, fill: Fill, origin: Origin, digest: Digest) -> None:
        """Ask for the first byte through this repository too, once; it is linked when the content is verified."""
        async with origin.asking:
            if origin.served:
                return
            if origin.refused is not None:
                raise origin.refused.with_traceback(None)
            try:
                async with self._vouching.first_byte(origin.repository, digest, empty=fill.size == 0) as body:
                    origin.served, origin.public = True, body.public
            except (UpstreamNotFound, UpstreamDenied) as error:
                origin.refused = error
                raise
            if fill.verified:
                await fill.origins.link()

    async def _ended(self, fill: Fill, origin: Origin, digest: Digest, first: int, *, joined: bool) -> BlobAnswer:
        repository = origin.repository
        if fill.error is not None:
            if isinstance(fill.error, UpstreamNotFound | UpstreamDenied) and origin.refused is None:
                # It ended over other repositories, just when this one came to be asked.
                return await self.get(repository, digest, first=first)
            self._see_kept(fill)
            raise fill.error.with_traceback(None)
        opened = self._store.open(digest)
        if opened is None:
            raise NoSpace(f"{digest} was evicted before all had it: more is asked for at once than fits", passing=True)
        outcome = Outcome(forward="uri-miss", status=200, stored=True, collapsed=joined)
        return BlobAnswer(None, StoredBlob(*opened), outcome)

    def _see_kept(self, fill: Fill) -> None:
        """Remember what a fill could not keep, so that the next client's is not begun in vain."""
        if isinstance(fill.error, StoreError):
            self._passages.remember(fill.digest, fill.error)

    async def _wait(self, fill: Fill, where: str, deadline: float) -> None:
        try:
            # Not `wait_for`: it waits in a task, which begins a turn later, and a beat in between would be missed.
            async with asyncio.timeout(deadline - time.monotonic()):
                await fill.pulse.wait()
        except TimeoutError:
            raise UpstreamUnavailable(
                f"{where} did not begin to send {fill.digest} within {PATIENCE:.0f} s", namespace=where
            ) from None


def _matches(digest: Digest, fd: int) -> bool:
    hasher, position = digest.hasher(), 0
    try:
        while piece := os.pread(fd, _STEP, position):
            hasher.update(piece)
            position += len(piece)
    except OSError:  # it cannot even be read
        return False
    return bool(hasher.hexdigest() == digest.hex)
