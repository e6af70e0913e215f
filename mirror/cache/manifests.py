"""Manifests: by digest for ever, by tag for as long as its rule says, and stale rather than not at all."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from cachetools import TTLCache

from mirror.cache.freshness import Age
from mirror.cache.keep import keep
from mirror.cache.outcome import HIT, Outcome
from mirror.cache.parsing import parsed
from mirror.cache.shared import Shared
from mirror.errors import (
    ContentBroken,
    MirrorError,
    Overloaded,
    StoreError,
    UpstreamBroken,
    UpstreamDenied,
    UpstreamError,
    UpstreamNotFound,
    UpstreamUnavailable,
)
from mirror.oci.digest import Digest
from mirror.oci.manifest import ManifestMalformed
from mirror.oci.name import Tag
from mirror.store.changes import Linked, Named, TagDropped, TagSet
from mirror.store.index import Validated

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.cache.completeness import Completeness
    from mirror.cache.freshness import Freshness
    from mirror.cache.memory import Memory
    from mirror.oci.name import Reference, Repository
    from mirror.store.blobs import BlobStore
    from mirror.store.index import Index
    from mirror.store.room import Room
    from mirror.upstream.protocol import ManifestBody, Upstreams

log = structlog.get_logger(__name__)

PATIENCE = 20.0  # seconds for upstream, tokens included
PATIENCE_WITH_STALE = 3.0  # the same where a cached answer is at hand
NEGATIVE_SECONDS = 5  # build systems push and pull at once
MAX_BEHIND = 256  # revalidations behind an answer at once


@dataclass(frozen=True, slots=True)
class ManifestAnswer:
    """A manifest as it goes out."""

    body: bytes
    media_type: str
    digest: Digest
    outcome: Outcome


class Manifests:
    """Decides what a manifest is now."""

    def __init__(
        self,
        *,
        store: BlobStore,
        index: Index,
        room: Room,
        memory: Memory,
        upstreams: Upstreams,
        freshness: Freshness,
        completeness: Completeness,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives seconds since the epoch."""
        self._store = store
        self._index = index
        self._room = room
        self._memory = memory
        self._upstreams = upstreams
        self._freshness = freshness
        self._completeness = completeness
        self._clock = clock
        self._fetches: Shared[ManifestAnswer] = Shared()
        self._revalidations: Shared[Validated] = Shared()
        self._confirmations: Shared[str] = Shared()
        self._negative: TTLCache[tuple[Repository, Reference], UpstreamError] = TTLCache(4096, NEGATIVE_SECONDS)

    async def get(self, repository: Repository, reference: Reference) -> ManifestAnswer:
        """Return a manifest; raise `UpstreamError` or `StoreError`."""
        if isinstance(reference, Digest):
            return await self._by_digest(repository, reference)
        known = self._index.tag(repository, reference.name)
        if known is None:
            return await self._fetch(repository, reference)
        return await self._by_tag(repository, reference, known)

    async def close(self) -> None:
        """Stop what is under way."""
        await self._fetches.close()
        await self._revalidations.close()
        await self._confirmations.close()

    # --- by digest -----------------------------------------------------------------------------------------------

    async def _by_digest(self, repository: Repository, digest: Digest) -> ManifestAnswer:
        answer = await self._admitted(repository, digest)
        if answer is None:
            return await self._fetch(repository, digest)
        if self._away(repository) and not await self._whole(repository, answer):
            # Upstream may be back by now; nothing else could complete the image.
            await self._upstreams.of(repository.namespace).head(repository, digest, patience=PATIENCE)
        return answer

    async def _admitted(self, repository: Repository, digest: Digest) -> ManifestAnswer | None:
        """Return a manifest that is here and that this repository is known, or confirmed by a HEAD, to hold."""
        standing = self._index.standing(repository, digest)
        if standing.linked or self._store.size(digest) is None:
            return await self._here(repository, digest, HIT)
        media_type = standing.media_type if standing.visible else None
        if media_type is None:
            if not standing.vouched:
                return None  # it may be another upstream's secret: this one has to send it
            # It is here through another repository: a HEAD, which nobody counts, says whether this one has it too.
            try:
                media_type, _ = await self._confirmations.get(
                    (repository, digest), lambda: self._confirm(repository, digest)
                )
            except UpstreamBroken:
                return None  # this registry does not do HEAD well: ask the other way
        await self._link(repository, digest, media_type)
        return await self._here(repository, digest, HIT, media_type)

    async def _confirm(self, repository: Repository, digest: Digest) -> str:
        """Return the media type that upstream says it has."""
        head = await self._upstreams.of(repository.namespace).head(repository, digest, patience=PATIENCE)
        if head.digest not in (None, digest) or not head.media_type:
            raise UpstreamBroken(
                f"{repository.namespace} answers {head.digest} for {digest}", namespace=repository.namespace
            )
        return head.media_type

    async def _link(self, repository: Repository, digest: Digest, media_type: str) -> None:
        body = await self._memory.read(digest)
        if body is None:
            return
        names = await _named(body, media_type, repository)
        try:
            await self._index.apply(Linked(repository, digest, media_type, names=names))
        except StoreError as error:  # a full disk keeps nobody from what is here
            log.warning("link not recorded", digest=str(digest), error=str(error))

    # --- by tag --------------------------------------------------------------------------------------------------

    async def _by_tag(self, repository: Repository, tag: Tag, known: Validated) -> ManifestAnswer:
        age = self._freshness.age(repository, tag.name, known.at, self._clock())
        if age is Age.FRESH or (age is Age.REVALIDATE_BEHIND and len(self._revalidations) < MAX_BEHIND):
            answer = await self._here(repository, known.digest, HIT)
            if answer is not None and await self._servable(repository, answer):
                if age is Age.REVALIDATE_BEHIND:
                    self._revalidations.start((repository, tag), lambda: self._revalidate(repository, tag, known))
                return answer
        return await self._by_stale_tag(repository, tag, known, age)

    async def _by_stale_tag(self, repository: Repository, tag: Tag, known: Validated, age: Age) -> ManifestAnswer:
        """Ask upstream; where it cannot tell, answer from the cache and say so."""
        fallback = None
        if age is not Age.TOO_OLD:
            fallback = await self._here(repository, known.digest, HIT)
            if fallback is not None and not await self._whole(repository, fallback):
                log.info("cached, and not a whole image: of use only with upstream", image=f"{repository}:{tag}")
                fallback = None
        patience = PATIENCE if fallback is None else PATIENCE_WITH_STALE
        try:
            validated, joined = await self._revalidations.get(
                (repository, tag), lambda: self._revalidate(repository, tag, known), patience=patience
            )
        except UpstreamNotFound:
            raise
        except TimeoutError:
            where = repository.namespace
            slow = UpstreamUnavailable(f"{where} did not answer within {patience:.0f} s", namespace=where)
            return self._stale(fallback, slow)
        except (UpstreamError, StoreError, Overloaded) as error:
            return self._stale(fallback, error)
        outcome = Outcome(forward="stale", status=200, collapsed=joined)
        answer = await self._here(repository, validated.digest, outcome)
        return answer if answer is not None else await self._fetch(repository, validated.digest)

    def _stale(self, fallback: ManifestAnswer | None, error: MirrorError) -> ManifestAnswer:
        if fallback is None:
            raise error
        status = error.upstream_status if isinstance(error, UpstreamError) else None
        log.info("served stale", digest=str(fallback.digest), reason=str(error))
        outcome = Outcome(hit=True, forward="stale", status=status, warning=f"stale: {error}")
        return ManifestAnswer(fallback.body, fallback.media_type, fallback.digest, outcome)

    async def _revalidate(self, repository: Repository, tag: Tag, known: Validated) -> Validated:
        """Ask by HEAD, which Docker Hub does not count, and GET only what is new."""
        try:
            now = await self._head(repository, tag)
            if now is None:
                now = (await self._fetch(repository, tag)).digest
        except UpstreamNotFound:
            await self._index.apply(TagDropped(repository, tag.name))
            raise
        if now != known.digest and await self._admitted(repository, now) is None:
            await self._fetch_new(repository, tag, now)
        validated = Validated(now, self._clock())
        try:
            await self._index.apply(TagSet(repository, tag.name, validated.digest, validated.at))
        except StoreError as error:  # a full disk keeps nobody from what upstream has just said
            log.warning("tag not recorded", tag=str(tag), error=str(error))
        return validated

    async def _head(self, repository: Repository, tag: Tag) -> Digest | None:
        try:
            return (await self._upstreams.of(repository.namespace).head(repository, tag, patience=PATIENCE)).digest
        except UpstreamBroken:
            return None  # this registry does not do HEAD well: ask the other way

    async def _fetch_new(self, repository: Repository, tag: Tag, digest: Digest) -> None:
        try:
            await self._fetch(repository, digest)
        except UpstreamNotFound as error:
            # A push seen half way: upstream has not denied the tag, so what is cached of it still stands.
            raise UpstreamBroken(
                f"{repository.namespace} says that {tag} is {digest} now, and does not have that",
                namespace=repository.namespace,
                upstream_status=404,
            ) from error

    # --- what is here --------------------------------------------------------------------------------------------

    async def _here(
        self, repository: Repository, digest: Digest, outcome: Outcome, media_type: str | None = None
    ) -> ManifestAnswer | None:
        """Return a manifest that is here and linked, or known to be of `media_type`."""
        try:
            body = await self._memory.read(digest)
        except ContentBroken as error:
            log.error("damaged on disk", digest=str(digest), error=str(error))  # noqa: TRY400  # the text says it all
            return None
        if body is None:
            return None
        media_type = media_type or self._index.standing(repository, digest).media_type
        if media_type is None:
            return None
        return ManifestAnswer(body, media_type, digest, outcome)

    def _away(self, repository: Repository) -> bool:
        return self._upstreams.of(repository.namespace).away

    async def _servable(self, repository: Repository, answer: ManifestAnswer) -> bool:
        return not self._away(repository) or await self._whole(repository, answer)

    async def _whole(self, repository: Repository, answer: ManifestAnswer) -> bool:
        return await self._completeness.of(repository, answer.digest, answer.media_type)

    # --- what is not ---------------------------------------------------------------------------------------------

    async def _fetch(self, repository: Repository, reference: Reference) -> ManifestAnswer:
        """GET a manifest from upstream, once for all who ask."""
        known = self._negative.get((repository, reference))
        if known is not None:
            raise known.with_traceback(None)  # each raising would add to it
        try:
            answer, joined = await self._fetches.get(
                (repository, reference), lambda: self._fetch_and_keep(repository, reference)
            )
        except (UpstreamNotFound, UpstreamDenied) as error:
            self._negative[repository, reference] = error
            raise
        if not joined:
            return answer
        return ManifestAnswer(answer.body, answer.media_type, answer.digest, answer.outcome.joined())

    async def _fetch_and_keep(self, repository: Repository, reference: Reference) -> ManifestAnswer:
        upstream = self._upstreams.of(repository.namespace)
        got = await upstream.manifest(repository, reference, patience=PATIENCE)
        names = await _named(got.body, got.media_type, repository)
        stored = await self._keep(repository, reference, got, names)
        outcome = Outcome(forward="uri-miss", status=200, stored=stored)
        return ManifestAnswer(got.body, got.media_type, got.digest, outcome)

    async def _keep(
        self, repository: Repository, reference: Reference, got: ManifestBody, names: tuple[Named, ...]
    ) -> bool:
        """Store it; say whether that went well. A disk that is full does not keep the answer from the client."""
        linked = Linked(repository, got.digest, got.media_type, public=got.public, names=names)
        try:
            await keep(self._store, self._room, got.digest, got.body)
            self._memory.keep(got.digest, got.body)
            if isinstance(reference, Tag):
                await self._index.apply(linked, TagSet(repository, reference.name, got.digest, self._clock()))
            else:
                await self._index.apply(linked)
        except StoreError as error:
            log.warning("manifest not stored", digest=str(got.digest), error=str(error))
            return False
        return True


async def _named(body: bytes, media_type: str, repository: Repository) -> tuple[Named, ...]:
    """Return what a manifest names; raise `UpstreamBroken` for one that cannot be right."""
    try:
        manifest = await parsed(body, media_type)
    except ManifestMalformed as error:
        raise UpstreamBroken(
            f"{repository.namespace} sent a manifest for {repository.name} that cannot be read: {error}",
            namespace=repository.namespace,
        ) from error
    named = [*manifest.manifests, *manifest.blobs]
    return tuple(Named(descriptor.digest, descriptor.size) for descriptor in named)
