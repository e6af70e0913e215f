"""Blobs: from memory, from disk, or from a fill; and only to those whose repository holds them (promise 10)."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.cache.memory import LARGEST
from mirror.cache.outcome import HIT, Outcome
from mirror.cache.shared import Shared
from mirror.cache.source import StoredBlob
from mirror.errors import BlobUnknown, ContentBroken, UpstreamDenied, UpstreamNotFound, UpstreamUnavailable
from mirror.oci.digest import Digest
from mirror.store.changes import Linked
from mirror.upstream.protocol import Urgency

if TYPE_CHECKING:
    from mirror.cache.fill import Fill
    from mirror.cache.fills import Fills
    from mirror.cache.memory import Memory
    from mirror.cache.origins import Origin
    from mirror.cache.source import BlobSource
    from mirror.oci.name import Repository
    from mirror.store.blobs import BlobStore
    from mirror.store.index import Index, Standing
    from mirror.upstream.protocol import Upstreams

MOST_CONFIRMATIONS = 256  # at once, that nobody waits for
PATIENCE = 20.0  # seconds until upstream's body must have begun (promise 5)


@dataclass(frozen=True, slots=True)
class BlobAnswer:
    """A blob to send: either its `body`, or a `source` that must be used as a context manager."""

    body: bytes | None
    source: BlobSource | None
    outcome: Outcome


class Blobs:
    """Hit or fill."""

    def __init__(self, *, store: BlobStore, index: Index, memory: Memory, fills: Fills, upstreams: Upstreams) -> None:
        self._store = store
        self._index = index
        self._memory = memory
        self._fills = fills
        self._upstreams = upstreams
        self._confirmations: Shared[int | None] = Shared()

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
            await self._confirm(repository, digest, size)
            outcome = Outcome(hit=True, detail="confirmed")
        elif not standing.linked:
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

        A HEAD is never passed on: some registries answer every HEAD of a blob with 401 (facts: public.ecr.aws).
        """
        standing = self._index.standing(repository, digest)
        size = self._store.size(digest)
        if size is not None and standing.visible:
            return size, HIT
        if standing.named and standing.size is not None:
            return standing.size, Outcome(hit=True, detail="descriptor")
        size = await self._confirm(repository, digest, size)
        return size, Outcome(forward="uri-miss", status=200)

    def vouch(self, repository: Repository, digest: Digest) -> None:
        """See to it, without anyone waiting, that content which is here is linked where `repository` holds it."""
        size = self._store.size(digest)
        if size is None or len(self._confirmations) >= MOST_CONFIRMATIONS:
            return
        if self._upstreams.of(repository.namespace).away or self._index.standing(repository, digest).visible:
            return
        self._confirmations.start(
            (repository, digest),
            lambda: self._ask(repository, digest, empty=size == 0 or digest == Digest.of(b"", digest.algorithm)),
        )

    async def close(self) -> None:
        """Stop what is under way."""
        await self._confirmations.close()

    # --- who may see it ------------------------------------------------------------------------------------------

    async def _confirm(self, repository: Repository, digest: Digest, size: int | None) -> int | None:
        """Ask upstream for the first byte through this very repository, and link it. Return the size it tells."""
        found, _ = await self._confirmations.get(
            (repository, digest),
            lambda: self._ask(repository, digest, empty=size == 0 or digest == Digest.of(b"", digest.algorithm)),
        )
        return found

    async def _ask(self, repository: Repository, digest: Digest, *, empty: bool) -> int | None:
        upstream = self._upstreams.of(repository.namespace)
        stop = None if empty else 1  # no range of nothing can be satisfied
        asked = upstream.blob(repository, digest, start=0, stop=stop, urgency=Urgency(urgent=True), patience=PATIENCE)
        async with asked as body:
            size, public = body.size, body.public
            async for _ in body.pieces():
                break
        await self._index.apply(Linked(repository, digest, public=public))
        return size

    # --- what is not here ----------------------------------------------------------------------------------------

    async def _filled(self, repository: Repository, digest: Digest, standing: Standing, first: int) -> BlobAnswer:
        deadline = time.monotonic() + PATIENCE
        origin = self._fills.origin(repository)
        fill = self._fills.running(digest)
        joined = fill is not None
        if fill is None:
            fill = self._fills.start(origin, digest, expected=standing.size, first=first)
        else:
            origin = fill.origins.join(origin)
            fill.urgency.raise_()
        allowed = standing.visible
        while True:
            if origin.refused is not None and not allowed:
                raise origin.refused
            ready = fill.readable or fill.ended
            if ready and not (allowed or origin.served) and fill.error is None:
                # Another process may have had it served to this repository. Somebody else's giving the bytes says
                # nothing.
                if not self._index.standing(repository, digest).visible:
                    await self._confirm(repository, digest, fill.size)
                allowed = True
                continue
            if fill.readable:
                outcome = Outcome(forward="uri-miss", status=200, stored=True, collapsed=joined)
                return BlobAnswer(None, fill.reader(), outcome)
            if fill.error is not None:
                if isinstance(fill.error, UpstreamNotFound | UpstreamDenied) and origin.refused is None:
                    # It ended over other repositories, just when this one came to be asked.
                    return await self.get(repository, digest, first=first)
                raise fill.error
            if fill.verified:
                return await self._just_filled(repository, digest, joined=joined)
            await self._wait(fill, origin, deadline)

    async def _just_filled(self, repository: Repository, digest: Digest, *, joined: bool) -> BlobAnswer:
        opened = self._store.open(digest)
        if opened is None:
            raise BlobUnknown(f"{digest} was filled, and is gone again from {repository}; ask again")
        outcome = Outcome(forward="uri-miss", status=200, stored=True, collapsed=joined)
        return BlobAnswer(None, StoredBlob(*opened), outcome)

    async def _wait(self, fill: Fill, origin: Origin, deadline: float) -> None:
        try:
            # Not `wait_for`: it waits in a task, which begins a turn later, and a beat in between would be missed.
            async with asyncio.timeout(deadline - time.monotonic()):
                await fill.pulse.wait()
        except TimeoutError:
            where = origin.repository.namespace
            raise UpstreamUnavailable(
                f"{where} did not begin to send {fill.digest} within {PATIENCE:.0f} s", namespace=where
            ) from None
