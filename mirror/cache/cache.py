"""The cache as the server sees it: what is asked for, and how it is answered."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mirror.cache.blobs import Blobs
from mirror.cache.completeness import Completeness
from mirror.cache.fills import Fills
from mirror.cache.freshness import Freshness
from mirror.cache.generations import Generations
from mirror.cache.listings import Listings
from mirror.cache.manifests import Manifests
from mirror.cache.memory import Memory
from mirror.cache.parsing import parsed
from mirror.cache.readahead import ReadAhead
from mirror.cache.vouching import Vouching
from mirror.oci.manifest import ManifestMalformed

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.cache.manifests import ManifestAnswer
    from mirror.config import Config
    from mirror.oci.name import Reference, Repository
    from mirror.store.store import Store
    from mirror.upstream.protocol import Upstreams


class Cache:
    """Wires the decisions to one store and its upstreams."""

    def __init__(
        self, config: Config, store: Store, upstreams: Upstreams, *, clock: Callable[[], float] = time.time
    ) -> None:
        """`clock` gives seconds since the epoch. `upstreams` are closed with the cache."""
        self._upstreams = upstreams = Generations(upstreams)
        memory = Memory(store.blobs)
        freshness = self._freshness = Freshness(config.freshness)
        self.fills = Fills(
            blobs=store.blobs, index=store.index, room=store.room, threads=store.threads, upstreams=upstreams
        )
        self.vouching = Vouching(store=store.blobs, index=store.index, threads=store.threads, upstreams=upstreams)
        self.blobs = Blobs(
            store=store.blobs,
            index=store.index,
            memory=memory,
            fills=self.fills,
            vouching=self.vouching,
            upstreams=upstreams,
        )
        self.manifests = Manifests(
            store=store.blobs,
            index=store.index,
            room=store.room,
            memory=memory,
            upstreams=upstreams,
            freshness=freshness,
            completeness=Completeness(store.blobs, store.index, memory),
            clock=clock,
        )
        self.listings = Listings(
            store=store.blobs,
            index=store.index,
            room=store.room,
            memory=memory,
            upstreams=upstreams,
            freshness=freshness,
            clock=clock,
        )
        self._read_ahead = ReadAhead(
            self.fills,
            store.blobs,
            self.vouching.see_to,
            _read_ahead(config),
            otherwise=True,
        )

    def reconfigure(self, config: Config, upstreams: Upstreams | None) -> None:
        """Decide by another configuration from now on, and ask `upstreams`; None: the same ones as before.

        What is under way goes on as it began, and the upstreams before are closed when it has ended.
        """
        self._freshness.reconfigure(config.freshness)
        self._read_ahead.reconfigure(_read_ahead(config))
        if upstreams is not None:
            self._upstreams.switch(upstreams, self.fills.under_way())
            self.fills.forgive()

    async def manifest(self, repository: Repository, reference: Reference, *, ahead: bool) -> ManifestAnswer:
        """Return a manifest; `ahead` says that a client has come to pull it, so that its blobs are wanted next."""
        answer = await self.manifests.get(repository, reference)
        if ahead and self._read_ahead.due(repository, answer.digest):
            try:
                manifest = await parsed(answer.body, answer.media_type)
            except ManifestMalformed:
                return answer  # what is stored was read once; a newer release may read it otherwise
            self._read_ahead.follow(repository, answer.digest, manifest)
        return answer

    async def close(self) -> None:
        """Stop everything; unfinished fills leave on disk what they can be gone on from."""
        await self.vouching.close()
        await self.manifests.close()
        await self.listings.close()
        await self.fills.close()
        await self._upstreams.close()


def _read_ahead(config: Config) -> dict[str, bool]:
    return {name: upstream.read_ahead for name, upstream in config.upstreams.items()}
