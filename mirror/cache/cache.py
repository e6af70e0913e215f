"""The cache as the server sees it: what is asked for, and how it is answered."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from mirror.cache.absence import Absence
from mirror.cache.admission import Admission
from mirror.cache.blobs import Blobs
from mirror.cache.check import Checker, Pace
from mirror.cache.chores import Figures, Neighbours, Relief, Surveys, Tidying
from mirror.cache.completeness import Completeness
from mirror.cache.evictor import Evictor
from mirror.cache.fills import Fills
from mirror.cache.freshness import Freshness
from mirror.cache.generations import Generations
from mirror.cache.heal import Heal, Healer
from mirror.cache.housekeeper import Housekeeper
from mirror.cache.listings import Listings
from mirror.cache.manifests import Manifests
from mirror.cache.means import Means
from mirror.cache.memory import Memory
from mirror.cache.moves import Moves
from mirror.cache.obtaining import Obtaining
from mirror.cache.parsing import parsed
from mirror.cache.passage import Passages
from mirror.cache.quarantine import Quarantine
from mirror.cache.readahead import ReadAhead
from mirror.cache.scrub import Scrub, Sent
from mirror.cache.served import Record
from mirror.cache.space import Space
from mirror.cache.tags import Tags
from mirror.cache.thrift import Thrift, told
from mirror.cache.troubles import Troubles
from mirror.cache.unkept import Unkept
from mirror.cache.uses import Uses
from mirror.cache.vouching import Vouching
from mirror.errors import NameUnknown, UpstreamError
from mirror.oci.digest import Digest
from mirror.oci.manifest import ManifestMalformed

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.cache.manifests import ManifestAnswer
    from mirror.config import Config
    from mirror.oci.name import Reference, Repository, Tag
    from mirror.store.index import Validated
    from mirror.store.store import Store
    from mirror.upstream.protocol import Upstream, Upstreams


class Cache:
    """Wires the decisions to one store and its upstreams."""

    def __init__(
        self, config: Config, store: Store, upstreams: Upstreams, *, clock: Callable[[], float] = time.time
    ) -> None:
        """`clock` gives seconds since the epoch. `upstreams` are closed with the cache."""
        self._clock = clock
        self._store = store
        self._upstreams = upstreams = Generations(upstreams)
        self.admission = Admission(config.pulls, store.index)
        self.quarantine = Quarantine(self.admission, store.dealings, clock, self._label)
        memory = Memory(store.blobs)
        self.uses = Uses(store.index, store.recent)
        self.served = Record(store, clock=clock)
        self.evictor = Evictor(store, self.uses, max_size=store.limits(config.storage)[0])
        self.space = Space(store.room, self.evictor)
        freshness = self._freshness = Freshness(config.freshness)
        self.thrift = Thrift(config.budget, upstreams, clock)
        self.fills = Fills(
            blobs=store.blobs, index=store.index, space=self.space, threads=store.threads, upstreams=upstreams
        )
        self.vouching = Vouching(
            store=store.blobs, index=store.index, threads=store.threads, turns=store.turns, upstreams=upstreams
        )
        self.obtaining = Obtaining(store=store.blobs, index=store.index, fills=self.fills, vouching=self.vouching)
        self._unkept = Unkept(store.index, store.graph)
        self._passages = Passages(upstreams, store.threads, self._unkept.note)
        self.blobs = Blobs(
            store=store.blobs,
            index=store.index,
            threads=store.threads,
            memory=memory,
            fills=self.fills,
            passages=self._passages,
            vouching=self.vouching,
            uses=self.uses,
            upstreams=upstreams,
        )
        means = Means(
            store=store.blobs,
            index=store.index,
            space=self.space,
            memory=memory,
            upstreams=upstreams,
            freshness=freshness,
            thrift=self.thrift,
            quarantine=self.quarantine,
            book=store.dealings,
            uses=self.uses,
            turns=store.turns,
            pinned=store.index.pinned,
            clock=clock,
        )
        completeness = Completeness(store.blobs, store.index, memory)
        self.manifests = Manifests(means, completeness)
        moves = Moves(means, self.manifests, completeness)
        self._troubles = Troubles(store.dealings, clock)
        self.tags = Tags(means, self.manifests, moves, self._troubles)
        self._absence = Absence(store.index, store.graph, memory)
        self.listings = Listings(means)
        self._read_ahead = ReadAhead(
            self.fills,
            store.blobs,
            self.vouching.see_to,
            self.space,
            _read_ahead(config),
            thrift=self.thrift,
            otherwise=True,
        )
        self.checker = Checker(store, Pace(config.storage.scrub_rate), config.storage.scrub_every)
        self._sent = Sent(self.checker)
        self.blobs.on_sent = self._sent.hear
        self.healer = Healer(store, self.space, memory, self.fills, self.manifests)
        self._heal = Heal(
            store, self.healer, self.checker.rejected, self._upstreams.away, offline=config.server.offline
        )
        self._housekeeper: Housekeeper | None = None

    async def open(self, mirror: int) -> None:
        """Begin to fill and to keep house, as soon as it is known what is on disk.

        `mirror` is the pid of this process, or of the supervisor that has several.
        """
        self._store.room.serve(mirror)
        self.uses.start()
        self.served.start()
        surveys = Surveys(self._store)
        if not await asyncio.to_thread(lambda: self._store.sure):
            await surveys.see()  # else the book says too much at worst, and is put right meanwhile
        self.attend()
        self._housekeeper = Housekeeper(
            self._store.layout.keeper_lock,
            [
                Relief(self._store, self.space, self.evictor),
                surveys,
                Tidying(self._store),
                Figures(self._store, self.evictor),
                self._heal,
                Scrub(self.checker),
            ],
            everywhere=[Neighbours(self._store, mirror), self._sent],
        )
        self._housekeeper.start()

    def attend(self) -> None:
        """Fill, and make room, for a command-line tool: the store has been looked through."""
        self.evictor.ready.set()
        self.fills.counted.set()

    def reconfigure(self, config: Config, upstreams: Upstreams | None) -> None:
        """Decide by another configuration from now on, and ask `upstreams`; None: the same ones as before.

        What is under way goes on as it began, and the upstreams before are closed when it has ended.
        """
        self.checker.every = config.storage.scrub_every
        self.checker.pace.set(config.storage.scrub_rate)
        self._heal.reconfigure(offline=config.server.offline)
        self._freshness.reconfigure(config.freshness)
        self.thrift.reconfigure(config.budget)
        self.admission.reconfigure(config.pulls)
        self._read_ahead.reconfigure(_read_ahead(config))
        if upstreams is not None:
            self._upstreams.switch(upstreams, self.fills.under_way())
            self.fills.forgive()
            self._troubles.forgive()
        self._passages.forgive()
        self.evictor.max_size = self._store.limits(config.storage)[0]

    async def manifest(self, repository: Repository, reference: Reference, *, ahead: bool) -> ManifestAnswer:
        """Return a manifest to a client; `ahead`: it has come to pull it, so that the blobs are wanted next."""
        try:
            if isinstance(reference, Digest):
                answer = await self.manifests.get(repository, reference)
            else:
                answer = await self.tags.get(repository, reference)
        except UpstreamError as error:
            told = await self._absence.told(repository, reference, error)
            if told is error:
                raise
            raise told from error
        self.uses.touch(repository, answer.digest)
        if ahead or not isinstance(reference, Digest):
            self.served.note(repository, reference, answer.digest)
        if ahead and self._read_ahead.due(repository, answer.digest):
            try:
                manifest = await parsed(answer.body, answer.media_type)
            except ManifestMalformed:
                return answer  # what is stored was read once; a newer release may read it otherwise
            self._read_ahead.follow(repository, answer.digest, manifest)
        return answer

    async def refresh(self, repository: Repository, tag: Tag) -> tuple[Validated | None, Validated]:
        """Ask upstream what a tag is now; see `Tags.refresh`."""
        return await self.tags.refresh(repository, tag)

    def upstream(self, namespace: str) -> Upstream:
        """Return the upstream of a namespace, see `Upstreams.of`."""
        return self._upstreams.of(namespace)

    def show(self) -> None:
        """Tell the metrics what is known of upstreams, whichever process was told it."""
        self._upstreams.show()

    def _label(self, namespace: str) -> str:
        """Return what metrics call an upstream, which may have been taken away meanwhile."""
        try:
            return self._upstreams.of(namespace).label
        except NameUnknown:
            return "*"

    def told(self, repository: Repository) -> dict[str, str]:
        """Return the headers that tell a mirror below what is left of an upstream's limit, see `thrift.told`."""
        try:
            accounts = self._upstreams.of(repository.namespace).accounts
            return told(accounts.best(repository.name), self._clock())
        except NameUnknown:  # a reload may just have taken it away
            return {}

    async def close(self) -> None:
        """Stop everything; unfinished fills leave on disk what they can be gone on from."""
        if self._housekeeper is not None:
            await self._housekeeper.close()
        self.evictor.close()
        await self.vouching.close()
        await self.tags.close()
        await self.manifests.close()
        await self.listings.close()
        await self._passages.close()
        await self._unkept.close()
        await self.fills.close()
        await self.uses.close()
        await self.served.close()
        await self._upstreams.close()


def _read_ahead(config: Config) -> dict[str, bool]:
    return {name: upstream.read_ahead for name, upstream in config.upstreams.items()}
