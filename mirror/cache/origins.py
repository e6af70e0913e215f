"""The repositories through which one digest may be had, and what upstream has said of it there (promise 10)."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from mirror.errors import StoreError, UpstreamDenied, UpstreamNotFound
from mirror.store.changes import Linked, Stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from mirror.errors import MirrorError
    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository
    from mirror.store.index import Index
    from mirror.upstream.protocol import BlobBody, Upstream, Urgency

log = structlog.get_logger(__name__)


class Origin:
    """A repository through which the content may be had, and whether upstream has served it there."""

    def __init__(self, repository: Repository, upstream: Upstream) -> None:
        self.repository = repository
        self.upstream = upstream
        self.served = False
        self.public = False  # it was served without credentials
        self.linked = False
        self.refused: MirrorError | None = None
        self.asking = asyncio.Lock()  # one client's question to upstream is the answer for all who wait


class Origins:
    """Where a fill asks: the first repository that upstream does not refuse."""

    def __init__(self, digest: Digest, first: Origin, index: Index, moved: Callable[[], None]) -> None:
        """`moved` is called when one of them has been served, or refused."""
        self._digest = digest
        self._all = [first]
        self._index = index
        self._moved = moved

    @property
    def namespace(self) -> str:
        """The upstream that is asked now."""
        return self._all[0].repository.namespace

    @property
    def asked(self) -> Origin:
        """The one that is asked now."""
        return self._all[0]

    @property
    def label(self) -> str:
        """What metrics call it."""
        return self._all[0].upstream.label

    def names(self) -> list[str]:
        """Return the repositories, for the log."""
        return [str(origin.repository) for origin in self._all]

    def join(self, origin: Origin) -> Origin:
        """Add a repository; return the one that stands for it."""
        for known in self._all:
            if known.repository == origin.repository:
                return known
        self._all.append(origin)
        return origin

    @asynccontextmanager
    async def open(
        self, start: int, stop: int | None, urgency: Urgency, *, patience: float, avoid: frozenset[str] = frozenset()
    ) -> AsyncIterator[BlobBody]:
        """Ask for bytes, see `upstream.protocol.Upstream.blob`."""
        async with AsyncExitStack() as stack:

            def ask(origin: Origin) -> AbstractAsyncContextManager[BlobBody]:
                return origin.upstream.blob(
                    origin.repository,
                    self._digest,
                    start=start,
                    stop=stop,
                    urgency=urgency,
                    patience=patience,
                    avoid=avoid,
                )

            origin, body = await self._first(stack, ask)
            if not origin.served:
                origin.served, origin.public = True, body.public
                self._moved()
            yield body

    async def link(self) -> None:
        """Record where upstream has served it, once the content is verified, and before it has its name in the store.

        Whoever finds it there must not have to ask upstream whose it is.
        A link outlives the fill: whoever sends garbage for a digest must not be taken to hold it.
        """
        served = [origin for origin in self._all if origin.served and not origin.linked]
        await self._index.apply(*(Linked(one.repository, self._digest, public=one.public) for one in served))
        for origin in served:
            origin.linked = True

    async def stored(self, taken: int) -> None:
        """Record that it has its name, and takes `taken` bytes on disk: it may be evicted once nobody has it open."""
        try:
            await self._index.apply(Stored(self._digest, taken, time.time()))
        except StoreError as error:  # a full disk keeps nobody from what is here
            log.warning("stored, and not recorded until the next survey", digest=str(self._digest), error=str(error))

    async def _first(
        self, stack: AsyncExitStack, ask: Callable[[Origin], AbstractAsyncContextManager[BlobBody]]
    ) -> tuple[Origin, BlobBody]:
        while True:
            origin = self._all[0]
            try:
                return origin, await stack.enter_async_context(ask(origin))
            except (UpstreamNotFound, UpstreamDenied) as error:
                origin.refused = error
                if origin in self._all and len(self._all) > 1:  # another connection may have heard it sooner
                    self._all.remove(origin)
                self._moved()
                if self._all[0] is origin:
                    raise
