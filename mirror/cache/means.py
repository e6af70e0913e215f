"""What manifests and lists are decided with: one value, since both need all of it."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.errors import UpstreamUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mirror.cache.freshness import Freshness
    from mirror.cache.memory import Memory
    from mirror.cache.quarantine import Quarantine
    from mirror.cache.space import Space
    from mirror.cache.thrift import Thrift
    from mirror.cache.uses import Uses
    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository
    from mirror.store.blobs import BlobStore
    from mirror.store.dealings import Dealings
    from mirror.store.index import Index
    from mirror.store.turns import Turns
    from mirror.upstream.protocol import Upstreams

_LEAST = 1.0  # seconds that upstream gets from who waited for its turn almost too long


@dataclass(frozen=True, slots=True)
class Means:
    """`pinned` says whether a digest, or a tag, of a repository is; `clock` gives seconds since the epoch."""

    store: BlobStore
    index: Index
    space: Space
    memory: Memory
    upstreams: Upstreams
    freshness: Freshness
    thrift: Thrift
    quarantine: Quarantine
    book: Dealings
    uses: Uses
    turns: Turns
    pinned: Callable[[Repository, Digest | None, str | None], bool]
    clock: Callable[[], float] = time.time

    @asynccontextmanager
    async def turn(self, repository: Repository, key: str, patience: float) -> AsyncIterator[float]:
        """Be the only process that asks upstream for `key` of a repository; yields the seconds left of `patience`.

        Whoever gets it looks at the index again: another process may have asked meanwhile. Raise `UpstreamUnavailable`
        where that one gets no answer for so long.
        """
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            try:
                waited = await stack.enter_async_context(self.turns.take(f"{repository} {key}", patience))
            except TimeoutError as error:
                raise UpstreamUnavailable(
                    f"{repository.namespace} did not answer within {patience:.0f} s", namespace=repository.namespace
                ) from error
            yield max(patience - (time.monotonic() - began), min(_LEAST, patience)) if waited else patience
