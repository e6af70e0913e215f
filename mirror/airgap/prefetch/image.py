"""One image: what it is, what of it is here, and the rest fetched."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from mirror.airgap.choice import Platforms
from mirror.airgap.prefetch.anatomy import Dissection
from mirror.airgap.prefetch.outcome import Amount, Came, Fetched, Planned, Resolved
from mirror.errors import MirrorError, PullRefused, StoreError
from mirror.store.changes import SETTLED, Pinned, TagSet

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from mirror.airgap.prefetch.anatomy import Anatomy, Part
    from mirror.airgap.prefetch.asking import Asking
    from mirror.airgap.prefetch.keeping import Keeping
    from mirror.airgap.prefetch.order import Order
    from mirror.airgap.prefetch.outcome import Event, Missing
    from mirror.airgap.prefetch.place import Place
    from mirror.airgap.prefetch.timing import Timing
    from mirror.airgap.wanted import Wanted
    from mirror.cache.cache import Cache
    from mirror.oci.digest import Digest
    from mirror.oci.name import Reference
    from mirror.store.store import Store

_TOLD = 0.0  # when upstream said of a tag what a person says of it: never, so the next client's word is upstream's


class Image:
    """The work on one image, which holds `place` meanwhile."""

    def __init__(
        self,
        wanted: Wanted,
        place: Place,
        *,
        cache: Cache,
        store: Store,
        order: Order,
        asking: Asking,
        keeping: Keeping,
        hear: Callable[[Event], None],
        timing: Timing,
    ) -> None:
        self._wanted = wanted
        self._place = place
        self._cache = cache
        self._store = store
        self._order = order
        self._asking = asking
        self._keeping = keeping
        self._hear = hear
        self._timing = timing
        self._at = _TOLD  # when upstream said what the tag is, seconds since the epoch
        self._own: Collection[Digest] = ()  # what no image before it needs
        self.needs: Iterable[Digest] = ()  # all that it consists of, once it is whole

    async def plan(self) -> tuple[Planned, Anatomy | None]:
        """Find out what it is; the anatomy is None where there is no use in fetching any of it."""
        platforms = Platforms(self._wanted.platforms) if self._wanted.platforms else self._order.platforms
        looking = Dissection(self._asking, self._place, self._wanted.repository, platforms, self._order.referrers)
        failure = None
        try:
            await looking.run(await self._resolve())
            new = self._keeping.new(looking.anatomy.parts)
            self._own = {part.digest for part in new}
            self._keeping.claim(new)
        except MirrorError as error:
            failure = str(error)
        planned = self._planned(looking.anatomy, failure)
        if failure is None:
            self._hear(Resolved(planned))
        return planned, looking.anatomy if failure is None else None

    async def fetch(self, planned: Planned, anatomy: Anatomy) -> Fetched:
        """Fetch what is not here, let the tag name it, and pin it if that is wanted."""
        pinned = False
        failure = None
        fetched = anatomy.manifests.keys() - anatomy.here
        try:
            assert anatomy.digest is not None  # noqa: S101  # it was resolved
            self._keeping.hold(anatomy.digest)
            before = self._store.index.tag(self._wanted.repository, self._wanted.tag.name) if self._wanted.tag else None
            moves = before is not None and before.digest != anatomy.digest
            await self._sign(anatomy)
            if not moves:
                await self._name(anatomy.digest)
            fetched |= await self._fill(anatomy)
            if not anatomy.lacking:
                if moves:  # not before it is whole: what was here before is of more use than half of what is new
                    await self._name(anatomy.digest)
                    assert before is not None  # noqa: S101  # else it would not have moved
                    self._keeping.let_go(before.digest)
                pinned = await self._pin(anatomy.digest)
                self.needs = [part.digest for part in anatomy.parts]
        except MirrorError as error:
            failure = str(error)
        if not self.needs:
            self._give_back(anatomy)
        came = _amount(anatomy, fetched & set(self._own))
        return Fetched(
            planned,
            came=came,
            waited=self._place.waited,
            missing=tuple(anatomy.missing),
            lacking=anatomy.lacking,
            pinned=pinned,
            failure=failure or _failure(anatomy.missing, anatomy.lacking),
        )

    def _give_back(self, anatomy: Anatomy) -> None:
        """Leave to others the room of what did not come."""
        own = [part for part in anatomy.parts if part.digest in self._own]
        with suppress(StoreError):  # a disk that does not say what is here has failed the image already
            self._keeping.give_back([part for part in own if self._store.blobs.size(part.digest) is None])

    # --- what it is ------------------------------------------------------------------------------------------------

    async def _resolve(self) -> Reference:
        wanted = self._wanted
        self._see_allowed()
        if wanted.digest is not None:
            return wanted.digest
        assert wanted.tag is not None  # noqa: S101  # or there is a selection, which was expanded
        if self._order.locked is not None:
            digest = self._order.locked.get(f"{wanted.repository}:{wanted.tag}")
            if digest is not None:
                return digest
            if not self._order.amend:
                raise MirrorError(
                    "it is not in the lock file; with --lock as well, for the same file, it is asked for and added"
                )
        at = self._timing.clock()
        said = await self._asking.said(self._place, wanted.repository, wanted.tag)
        self._at = at
        if not self._cache.quarantine.watches(wanted.repository, wanted.tag):
            return said if said is not None else wanted.tag
        if said is None:
            said = (await self._asking.manifest(self._place, wanted.repository, wanted.tag))[0].digest
        before = self._store.index.tag(wanted.repository, wanted.tag.name)
        former = None if before is None else before.digest
        return self._cache.quarantine.judge(wanted.repository, wanted.tag, former, said)

    def _see_allowed(self) -> None:
        """Raise `PullRefused` for what no client could pull, be it by digest."""
        wanted = self._wanted
        rule = self._cache.admission.rule(wanted.repository, wanted.digest or wanted.tag)
        if rule is not None and not rule.allow:
            refusal = self._cache.admission.refusal(wanted.repository, wanted.digest or wanted.tag)
            raise PullRefused(f"{refusal} (the mirror would give it to nobody; change its rules first)")

    def _planned(self, anatomy: Anatomy, failure: str | None) -> Planned:
        planned = Planned(
            self._wanted,
            digest=anatomy.digest,
            media_type=anatomy.media_type,
            platforms=tuple(anatomy.platforms),
            referrers=anatomy.referrers,
            counted=anatomy.counted,
            waited=self._place.waited,
            missing=tuple(anatomy.missing),
            lacking=anatomy.lacking,
            failure=failure or _failure(anatomy.missing, anatomy.lacking),
        )
        everything = {part.digest for part in anatomy.parts}
        on_disk = self._store.blobs.size
        here = anatomy.here | {digest for digest in anatomy.blobs if on_disk(digest) is not None}
        to_fetch = set(self._own) - here
        return replace(
            planned,
            whole=_amount(anatomy, everything),
            here=_amount(anatomy, here),
            to_fetch=_amount(anatomy, to_fetch),
            shared=_amount(anatomy, everything - here - to_fetch),
        )

    # --- fetching --------------------------------------------------------------------------------------------------

    async def _fill(self, anatomy: Anatomy) -> set[Digest]:
        """Fetch the blobs that are not here; return those that came. What does not come is `lacking`."""
        came: set[Digest] = set()
        here = self._cache.obtaining.here
        if brought := _amount(anatomy, set(self._own) & anatomy.manifests.keys() - anatomy.here).bytes:
            self._hear(Came(self._wanted_text, brought))

        async def one(part: Part) -> None:
            heard = 0

            def hear(total: int) -> None:
                nonlocal heard
                total = total if part.size is None else min(total, part.size)
                if total > heard and part.digest in self._own:
                    self._hear(Came(self._wanted_text, total - heard))
                    heard = total

            try:
                absent = self._store.blobs.size(part.digest) is None
                await self._asking.blob(self._place, anatomy.repository, part.digest, size=part.size, came=hear)
            except MirrorError as error:
                anatomy.lacks_part("blob", part, error)
                return
            if absent:
                came.add(part.digest)
                hear(part.size or 0)

        lacking = [part for part in anatomy.blobs.values() if not here(anatomy.repository, part.digest)]
        async with asyncio.TaskGroup() as group:
            for part in lacking:
                group.create_task(one(part))
        return came

    @property
    def _wanted_text(self) -> str:
        return str(self._wanted)

    # --- what is recorded ------------------------------------------------------------------------------------------

    async def _name(self, digest: Digest) -> None:
        """Let the tag be what upstream said it is, or a person."""
        wanted, index = self._wanted, self._store.index
        if wanted.tag is None:
            return
        known = index.tag(wanted.repository, wanted.tag.name)
        if known is not None and known.at >= SETTLED and known.digest == digest:
            return  # it was carried in, and is still what upstream says
        if known is not None and self._at == _TOLD and known.digest == digest:
            return
        if known is not None and self._at != _TOLD and self._at < known.at < SETTLED:
            return  # somebody has asked later
        await index.apply(TagSet(wanted.repository, wanted.tag.name, digest, self._at))

    async def _sign(self, anatomy: Anatomy) -> None:
        """Let the tags of signatures be what upstream said."""
        now, index = self._timing.clock(), self._store.index
        new = []
        for tag, digest in anatomy.tags.items():
            known = index.tag(anatomy.repository, tag.name)
            settled = known is not None and known.at >= SETTLED and known.digest == digest
            if digest in anatomy.manifests and not settled:
                new.append(TagSet(anatomy.repository, tag.name, digest, now))
        await index.apply(*new)

    async def _pin(self, digest: Digest) -> bool:
        """Pin it by the name under which it was asked for; say whether it is pinned now."""
        if not self._order.pin:
            return False
        wanted, index = self._wanted, self._store.index
        by_digest = wanted.digest is not None or wanted.tag is None
        reference = str(digest) if by_digest else str(wanted.tag)
        if not index.pinned(wanted.repository, digest if by_digest else None, None if by_digest else reference):
            await index.apply(Pinned(wanted.repository, reference, self._timing.clock()))
        return True


def _amount(anatomy: Anatomy, digests: Collection[Digest]) -> Amount:
    manifests = [part for part in anatomy.manifests.values() if part.digest in digests]
    blobs = [part for part in anatomy.blobs.values() if part.digest in digests]
    return Amount(len(manifests), len(blobs), sum(part.size or 0 for part in (*manifests, *blobs)))


def _failure(missing: Sequence[Missing], lacking: int) -> str | None:
    """Return one sentence for all that could not be had."""
    if not lacking:
        return None
    more = f" (and {lacking - 1} more)" if lacking > 1 else ""
    return f"{missing[0]}{more}"
