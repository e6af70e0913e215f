"""Whether a repository holds what is here through another one (promise 10): upstream is asked, and believed or not."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from mirror.cache.shared import Shared
from mirror.errors import StoreError, UpstreamBroken, UpstreamUnavailable
from mirror.store.changes import Linked
from mirror.upstream.protocol import Urgency

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository
    from mirror.store.blobs import BlobStore
    from mirror.store.index import Index
    from mirror.store.io import DiskThreads
    from mirror.store.turns import Turns
    from mirror.upstream.protocol import BlobBody, Upstreams

PATIENCE = 20.0  # seconds that a client waits for the word of upstream
MOST = 256  # questions at once that nobody waits for


class Vouching:
    """Asks upstream, and links what it vouches for."""

    def __init__(
        self, *, store: BlobStore, index: Index, threads: DiskThreads, turns: Turns, upstreams: Upstreams
    ) -> None:
        self._store = store
        self._index = index
        self._threads = threads
        self._turns = turns
        self._upstreams = upstreams
        self._questions: Shared[None] = Shared()

    async def confirm(
        self,
        repository: Repository,
        digest: Digest,
        *,
        empty: bool,
        vouched: bool,
        patience: float | None = PATIENCE,
    ) -> None:
        """Let upstream say that `repository` holds content that is here, and link it; raise `UpstreamError`.

        Where this upstream has never given the content, and nobody may have it for the asking, its word proves nothing:
        it has to send the whole. `vouched` is `Standing.vouched`; `empty` says that there is no first byte. `patience`
        is in seconds; None waits for as long as the whole takes.
        """
        try:
            await self._questions.get(
                (repository, digest),
                lambda: self._settle(repository, digest, empty=empty, vouched=vouched),
                patience=patience,
            )
        except TimeoutError:
            where = repository.namespace
            text = f"{where} did not confirm {digest} within {PATIENCE:.0f} s"
            raise UpstreamUnavailable(text, namespace=where) from None

    def see_to(self, repository: Repository, digest: Digest) -> None:
        """Confirm it without anyone waiting, if there is need, and upstream is there to ask."""
        size = self._store.size(digest)
        if size is None or len(self._questions) >= MOST or self._upstreams.of(repository.namespace).away:
            return
        standing = self._index.standing(repository, digest)
        if not standing.visible and standing.vouched:
            self._questions.start(
                (repository, digest), lambda: self._settle(repository, digest, empty=size == 0, vouched=True)
            )

    @asynccontextmanager
    async def first_byte(self, repository: Repository, digest: Digest, *, empty: bool) -> AsyncIterator[BlobBody]:
        """Ask for the first byte, which shows that upstream has the blob; never by HEAD, which some refuse."""
        upstream = self._upstreams.of(repository.namespace)
        stop = None if empty else 1  # no range of nothing can be satisfied
        asked = upstream.blob(repository, digest, start=0, stop=stop, urgency=Urgency(urgent=True), patience=PATIENCE)
        async with asked as body:
            async for _ in body.pieces():
                break
            yield body

    async def close(self) -> None:
        """Stop what is under way."""
        await self._questions.close()

    async def _settle(self, repository: Repository, digest: Digest, *, empty: bool, vouched: bool) -> None:
        """Ask, as the only process that does: the whole of a large blob may be what has to come."""
        async with self._turns.take(f"{repository} blob {digest}", PATIENCE) as waited:
            if waited and self._index.standing(repository, digest).visible:
                return  # another process has asked meanwhile
            if vouched:
                await self._ask(repository, digest, empty=empty)
            else:
                await self._prove(repository, digest)

    async def _ask(self, repository: Repository, digest: Digest, *, empty: bool) -> None:
        async with self.first_byte(repository, digest, empty=empty) as body:
            public = body.public
        await self._link(repository, digest, public=public)

    async def _prove(self, repository: Repository, digest: Digest) -> None:
        upstream = self._upstreams.of(repository.namespace)
        hasher = digest.hasher()
        async with upstream.blob(repository, digest, urgency=Urgency(urgent=True), patience=PATIENCE) as body:
            public = body.public
            async for piece in body.pieces():
                await self._threads.run(hasher.update, piece)
        if hasher.hexdigest() != digest.hex:
            body.sender.lied(f"what it sent for {digest} is not what the digest says")
            where = repository.namespace
            text = f"{where} sent content for {digest} that is not what the digest says"
            raise UpstreamBroken(text, namespace=where)
        await self._link(repository, digest, public=public)

    async def _link(self, repository: Repository, digest: Digest, *, public: bool) -> None:
        with suppress(StoreError):  # a full disk keeps nobody from what is here; upstream is asked again next time
            await self._index.apply(Linked(repository, digest, public=public))
