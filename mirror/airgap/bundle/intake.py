"""The way of a bundle into the store: everything is checked before anything of it can be seen.

One pass over the bundle. What comes is staged (`mirror.store.staging`), then the manifests are read, and at the end
content, links, tags and pins appear together. One import goes at a time on a store; the next one waits for it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from mirror.airgap.bundle.bay import Bay
from mirror.airgap.bundle.expected import Expected
from mirror.airgap.bundle.facts import changes, lists
from mirror.airgap.bundle.foreign import Foreign
from mirror.airgap.bundle.manifest import NAME
from mirror.airgap.bundle.outcome import LEFT_OUT, MOVED, NEW, UNCHANGED, Imported, ImportedImage
from mirror.airgap.bundle.reader import entries
from mirror.airgap.bundle.source import Stopped
from mirror.cache.evictor import Evictor
from mirror.cache.space import Space
from mirror.cache.uses import Uses
from mirror.config.units import show_bytes
from mirror.errors import BundleRefused, ContentBroken, NoSpace
from mirror.oci.digest import Digest
from mirror.store import heap

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from mirror.airgap.bundle.closure import Carried, Extent, Node
    from mirror.airgap.bundle.outcome import Terms
    from mirror.airgap.bundle.reader import Entry
    from mirror.airgap.bundle.source import Source
    from mirror.config import StorageConfig
    from mirror.oci.name import Repository
    from mirror.store.store import Store

T = TypeVar("T")

_TURN = "import"
_SOON = 0.5  # seconds until somebody is told that another one has it


class Intake:
    """Takes bundles into one store, beside a mirror that serves it or without."""

    def __init__(self, store: Store, limits: StorageConfig, terms: Terms) -> None:
        self._store = store
        self._terms = terms
        evictor = self._evictor = Evictor(store, Uses(store.index, store.recent), max_size=store.limits(limits)[0])
        self._space = Space(store.room, evictor)
        self._stop = threading.Event()

    def stopped(self) -> bool:
        """Say whether the import was interrupted: for those who wait for a pipe."""
        return self._stop.is_set()

    async def run(
        self,
        source: Source,
        advance: Callable[[int], None] = lambda _: None,
        waiting: Callable[[str], None] = lambda _: None,
    ) -> Imported:
        """Import one bundle. `advance` hears of bytes of content that were read, in any thread.

        `waiting` hears, as a sentence for people, what it waits for before it begins. A dry run waits for nobody.

        Raise `BundleRefused`, `NoSpace` or another `StoreError`: then nothing of it has come. Where it is cancelled
        what has come stays staged, and the next run goes on from there.
        """
        heap.keep()
        if self._terms.dry:
            return await self._in_thread(source, advance)
        async with AsyncExitStack() as turn:
            try:
                await turn.enter_async_context(self._store.turns.take(_TURN, _SOON))
            except TimeoutError:
                waiting("another import is at work on this store; this one goes on when that one has ended")
                await turn.enter_async_context(self._store.turns.take(_TURN))
            if not self._store.counted:
                waiting("the store is looked through first: a mirror, or a command, ended without closing it")
            await self._store.count()
            self._evictor.ready.set()
            return await self._in_thread(source, advance)

    async def _in_thread(self, source: Source, advance: Callable[[int], None]) -> Imported:
        """Return when the thread has ended, however often this is cancelled: it has to put its things away."""
        loop = asyncio.get_running_loop()
        working = loop.run_in_executor(None, self._work, source, advance, loop)
        while not working.done():
            try:
                await asyncio.wait([working])
            except asyncio.CancelledError:
                self._stop.set()
        try:
            return working.result()  # also where it was too late to stop
        except Stopped:
            raise asyncio.CancelledError from None

    # --- in a thread of its own ------------------------------------------------------------------------------------

    def _work(self, source: Source, advance: Callable[[int], None], loop: asyncio.AbstractEventLoop) -> Imported:
        def on_loop(coroutine: Coroutine[Any, Any, T]) -> T:
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

        outcome = Imported(source.label)
        bay = Bay(
            self._store,
            lambda size: on_loop(self._space.reserve(size)),
            stopped=self.stopped,
            advance=advance,
            dry=self._terms.dry,
        )
        with bay:
            coming = entries(source, links=True)
            first = next(coming, None)
            if first is None:
                raise BundleRefused(f"{source.label} is empty")
            if first.name == NAME:
                cargo = self._bundle(first, source, coming, bay, outcome)
            else:
                cargo = self._foreign(first, coming, bay, outcome)
            on_loop(self._judge(cargo, outcome))
            if outcome.signer is None:
                on_loop(self._see_whose(cargo, outcome, bay))
            if not self._terms.dry:
                bay.keep_only(cargo.needed(outcome).__contains__)
                self._commit(cargo, outcome, bay, on_loop)
        return outcome

    def _bundle(self, first: Entry, source: Source, rest: Iterator[Entry], bay: Bay, outcome: Imported) -> Cargo:
        expected = Expected(first, self._terms, outcome)
        rest = expected.authenticate(rest, source.detached)
        need = expected.prepare(bay)
        images = expected.images()
        if self._terms.dry:
            expected.foretell(bay)
            self._foresee(need, outcome)
            return Cargo(images, {}, {}, expected.platforms)
        expected.receive(rest, bay)
        extents, closure = expected.extents(images, bay)
        return Cargo(images, extents, closure.nodes, expected.platforms).counted(bay, outcome)

    def _foreign(self, first: Entry, rest: Iterator[Entry], bay: Bay, outcome: Imported) -> Cargo:
        foreign = Foreign(self._terms, outcome)
        foreign.receive(chain([first], rest), bay)
        images = foreign.images(bay)
        extents, closure = foreign.extents(images, bay)
        if self._terms.dry:
            outcome.room = self._store.room.left()
        return Cargo(images, extents, closure.nodes, {}).counted(bay, outcome)

    def _foresee(self, need: int, outcome: Imported) -> None:
        """Say of a dry run how much room there is; raise `NoSpace` where the bundle would be refused for it."""
        outcome.room = self._store.room.left()
        self._evictor.totals()
        if need > outcome.room and not self._space.fits(need):
            raise NoSpace(
                f"{outcome.label} needs {show_bytes(need)} more than is here, and not so much can be had, whatever is "
                "let go; raise storage.max_size, lower storage.min_free, free the disk, or unpin images"
            )

    async def _judge(self, cargo: Cargo, outcome: Imported) -> None:
        """Say of each image what becomes of it; on the loop, since the index is read there."""
        for image in cargo.images:
            extent = cargo.extents.get(image.digest)
            here = None if image.tag is None else self._store.index.tag(image.repository, image.tag.name)
            if extent is not None and extent.missing:
                state = LEFT_OUT
            elif image.tag is None:
                linked = self._store.index.standing(image.repository, image.digest).linked
                state = UNCHANGED if linked else NEW
            else:
                state = NEW if here is None else UNCHANGED if here.digest == image.digest else MOVED
            platforms = cargo.platforms.get(str(image), ())
            outcome.images.append(ImportedImage(image, cargo.size(image.digest), state, platforms))

    async def _see_whose(self, cargo: Cargo, outcome: Imported, bay: Bay) -> None:
        """See that what is here, and did not come along, is no secret to the upstream that a name is of (promise 10).

        Whoever knows a digest could else have the content shown to him, by a bundle that names it and does not have it.
        """
        for found in outcome.images:
            image, extent = found.image, cargo.extents.get(found.image.digest)
            if extent is None or found.state == LEFT_OUT:
                continue
            for digest in (*extent.manifests, *extent.blobs):
                if bay.arrived(digest):
                    continue
                standing = self._store.index.standing(image.repository, digest)
                if not (standing.visible or standing.vouched):
                    raise BundleRefused(
                        f"{image} needs {digest}, which {outcome.label} does not have, and which is here only from "
                        "another registry; export it again without --since-bundle, or sign it and import it with --key"
                    )

    def _commit(self, cargo: Cargo, outcome: Imported, bay: Bay, on_loop: OnLoop) -> None:
        """Make it visible, all together."""
        images = [found.image for found in outcome.images if found.state != LEFT_OUT]
        extents = {image.digest: cargo.extents[image.digest] for image in images}
        listed = lists(images, cargo.nodes, lambda *key: on_loop(self._listed(*key)))
        for body in listed.values():
            bay.add(Digest.of(body), body)
        expire, pin = self._terms.expire, self._terms.pin

        def tell(taken: dict[Digest, int]) -> None:
            facts = changes(images, extents, cargo.nodes, taken, listed, at=time.time(), expire=expire, pin=pin)
            on_loop(self._store.index.apply(*facts))

        bay.commit(tell)

    async def _listed(self, repository: Repository, subject: Digest) -> bytes | None:
        """Return the list of referrers that is here."""
        known = self._store.index.listing(repository, subject)
        if known is None:
            return None
        try:
            return await self._store.blobs.read(known.digest)
        except ContentBroken:  # it is put aside, and made anew from what the bundle has
            return None


class OnLoop(Protocol):
    """Runs a coroutine on the loop, from another thread, and returns its result."""

    def __call__(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Raise what it raises."""
        ...


@dataclass(frozen=True, slots=True)
class Cargo:
    """The images of one bundle, and what they consist of: empty where that was not read."""

    images: list[Carried]
    extents: dict[Digest, Extent]
    nodes: dict[Digest, Node]
    platforms: dict[str, tuple[str, ...]]
    sizes: dict[Digest, int] = field(default_factory=dict)

    def counted(self, bay: Bay, outcome: Imported) -> Self:
        """Write into the outcome how much came, and how much was here; not what goes with an image that is left out."""
        for digest in {digest for extent in self.extents.values() for digest in (*extent.manifests, *extent.blobs)}:
            self.sizes[digest] = bay.size(digest) or 0
        whole = [extent for extent in self.extents.values() if not extent.missing]
        for digest in {digest for extent in whole for digest in (*extent.manifests, *extent.blobs)}:
            outcome.count(self.sizes[digest], new=not bay.held(digest))
        return self

    def size(self, image: Digest) -> int:
        """Return the bytes of all that an image consists of, as far as it is here."""
        extent = self.extents.get(image)
        return 0 if extent is None else sum(self.sizes[digest] for digest in (*extent.manifests, *extent.blobs))

    def needed(self, outcome: Imported) -> set[Digest]:
        """Return what the images need that are taken in."""
        whole = (self.extents[found.image.digest] for found in outcome.images if found.state != LEFT_OUT)
        return {digest for extent in whole for digest in (*extent.manifests, *extent.blobs)}
