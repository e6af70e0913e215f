"""Blobs: from memory, from disk, or from a fill; and only to those whose repository holds them (promise 10)."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.cache.memory import LARGEST
from mirror.cache.outcome import HIT, Outcome
from mirror.cache.source import StoredBlob
from mirror.errors import (
    BlobUnknown,
    ContentBroken,
    StoreError,
    UpstreamDenied,
    UpstreamNotFound,
    UpstreamUnavailable,
)
from mirror.oci.digest import Digest
from mirror.store.changes import Linked

if TYPE_CHECKING:
    from mirror.cache.fill import Fill
    from mirror.cache.fills import Fills
    from mirror.cache.memory import Memory
    from mirror.cache.origins import Origin
    from mirror.cache.source import BlobSource
    from mirror.cache.vouching import Vouching
    from mirror.oci.name import Repository
    from mirror.store.blobs import BlobStore
    from mirror.store.index import Index, Standing
    from mirror.upstream.protocol import Upstreams

PATIENCE = 20.0  # seconds until upstream's body must have begun (promise 5)


@dataclass(frozen=True, slots=True)
class BlobAnswer:
    """A blob to send: either its `body`, or a `source` that must be used as a context manager."""

    body: bytes | None
    source: BlobSource | None
    outcome: Outcome


class Blobs:
    """Hit or fill."""

    def __init__(
        self,
        *,
        store: BlobStore,
        index: Index,
        memory: Memory,
        fills: Fills,
        vouching: Vouching,
        upstreams: Upstreams,
    ) -> None:
        self._store = store
        self._index = index
        self._memory = memory
        self._fills = fills
        self._upstreams = upstreams
        self._vouching = vouching

    async def get(self, repository: Repository, digest: Digest, *, first: int = 0) -> BlobAnswer:
        """Return the blob; `first` is the offset at which the client wants to begin, as far as its header tells.

        Raises `UpstreamError` or `StoreError` where it is not here and cannot be had.
        """
        standing = self._index.standing(repository, digest)
        if standing.linked and (body := self._memory.get(digest)) is not None:
            return BlobAnswer(body, None, HIT)
        size = self._store.size(digest)
        if size is None:
            return await self._filled(repository, digest, standing, first)
        outcome = HIT
        if not standing.visible:
            await self._vouching.confirm(repository, digest, empty=size == 0, vouched=standing.vouched)
            outcome = Outcome(hit=True, detail="confirmed")
        elif not standing.linked:
            with suppress(StoreError):  # a full disk keeps nobody from what is here
                await self._index.apply(Linked(repository, digest, standing.media_type))
        if size <= LARGEST:
            # What a disk has changed is not served; it is missing, then, and the pull goes on elsewhere.
            with suppress(ContentBroken):
                body = await self._memory.read(digest)
                if body is not None:
                    return BlobAnswer(body, None, outcome)
            raise BlobUnknown(f"{digest} is damaged on this mirror's disk")
        opened = self._store.open(digest)
        if opened is None:
            return await self._filled(repository, digest, standing, first)
        return BlobAnswer(None, StoredBlob(*opened), outcome)

    async def size(self, repository: Repository, digest: Digest) -> tuple[int | None, Outcome]:
        """Return the size in bytes without fetching; None where upstream does not tell either.

        A HEAD is never passed on: some registries answer every HEAD of a blob with 401 (public.ecr.aws).
        """
        standing = self._index.standing(repository, digest)
        size = self._store.size(digest)
        if size is not None and standing.visible:
            return size, HIT
        away = self._upstreams.of(repository.namespace).away
        if standing.named and standing.size is not None and (standing.visible or not away):
            return standing.size, Outcome(forward="uri-miss", detail="descriptor")
        empty = size == 0 or Digest.of(b"", digest.algorithm) == digest
        async with self._vouching.first_byte(repository, digest, empty=empty) as body:
            return body.size, Outcome(forward="uri-miss", status=200)

    # --- what is not here ----------------------------------------------------------------------------------------

    async def _filled(self, repository: Repository, digest: Digest, standing: Standing, first: int) -> BlobAnswer:
        deadline = time.monotonic() + PATIENCE
        fill = self._fills.running(digest)
        joined = fill is not None
        if fill is not None and fill.namespace != repository.namespace:
            return await self._after(fill, repository, digest, first, deadline)
        origin = self._fills.origin(repository)
        if fill is None:
            fill = self._fills.start(origin, digest, expected=standing.size, first=first)
        else:
            origin = fill.origins.join(origin)
            fill.urgency.raise_()
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

    async def _after(
        self, fill: Fill, repository: Repository, digest: Digest, first: int, deadline: float
    ) -> BlobAnswer:
        """Another upstream's fill of the same digest: what it brings may be private there, so it is waited for."""
        fill.urgency.raise_()
        while not fill.ended:
            await self._wait(fill, repository.namespace, deadline)
        return await self.get(repository, digest, first=first)

    async def _vouch_for(self, fill: Fill, origin: Origin, digest: Digest) -> None:
        """Ask for the first byte through this repository too; it is linked when the content is verified."""
        async with self._vouching.first_byte(origin.repository, digest, empty=fill.size == 0) as body:
            origin.served, origin.public = True, body.public
        if fill.verified:
            await fill.origins.link()

    async def _ended(self, fill: Fill, origin: Origin, digest: Digest, first: int, *, joined: bool) -> BlobAnswer:
        repository = origin.repository
        if fill.error is not None:
            if isinstance(fill.error, UpstreamNotFound | UpstreamDenied) and origin.refused is None:
                # It ended over other repositories, just when this one came to be asked.
                return await self.get(repository, digest, first=first)
            raise fill.error.with_traceback(None)
        opened = self._store.open(digest)
        if opened is None:
            raise BlobUnknown(f"{digest} was filled, and is gone again from {repository}; ask again")
        outcome = Outcome(forward="uri-miss", status=200, stored=True, collapsed=joined)
        return BlobAnswer(None, StoredBlob(*opened), outcome)

    async def _wait(self, fill: Fill, where: str, deadline: float) -> None:
        try:
            # Not `wait_for`: it waits in a task, which begins a turn later, and a beat in between would be missed.
            async with asyncio.timeout(deadline - time.monotonic()):
                await fill.pulse.wait()
        except TimeoutError:
            raise UpstreamUnavailable(
                f"{where} did not begin to send {fill.digest} within {PATIENCE:.0f} s", namespace=where
            ) from None
