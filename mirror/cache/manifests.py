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
from mirror.cache.parsing import named, sent
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
from mirror.oci.name import Tag
from mirror.store.changes import SETTLED, Linked, Lost, Stored, TagDropped, TagSet
from mirror.store.index import Validated
from mirror.upstream.protocol import ManifestBody

if TYPE_CHECKING:
    from mirror.cache.completeness import Completeness
    from mirror.cache.means import Means
    from mirror.oci.manifest import Manifest
    from mirror.oci.name import Reference, Repository

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

    def __init__(self, means: Means, completeness: Completeness) -> None:
        self._means = means
        self._store = means.store
        self._index = means.index
        self._memory = means.memory
        self._upstreams = means.upstreams
        self._completeness = completeness
        self._fetches: Shared[ManifestAnswer] = Shared()
        self._revalidations: Shared[Validated] = Shared()
        self._confirmations: Shared[str] = Shared()
        self._negative: TTLCache[tuple[Repository, Reference], UpstreamError] = TTLCache(4096, NEGATIVE_SECONDS)

    async def get(self, repository: Repository, reference: Reference) -> ManifestAnswer:
        """Return a manifest to a client; raise `UpstreamError` or `StoreError`."""
        if isinstance(reference, Digest):
            answer = await self._by_digest(repository, reference)
        elif (known := self._index.tag(repository, reference.name)) is None:
            answer = await self._fetch(repository, reference)
        elif known.at >= SETTLED:
            answer = await self._by_settled_tag(repository, reference, known.digest)
        else:
            answer = await self._by_tag(repository, reference, known)
        self._means.uses.touch(repository, answer.digest)
        return answer

    async def refresh(self, repository: Repository, tag: Tag) -> tuple[Validated | None, Validated]:
        """Ask upstream what a tag is, however fresh it is; return what it was, where it was known, and what it is.

        Raise `UpstreamError` or `StoreError`. A new manifest is fetched, its blobs are not.
        """
        known = self._index.tag(repository, tag.name)
        if known is None:
            fetched = await self._fetch(repository, tag)
            return None, self._index.tag(repository, tag.name) or Validated(fetched.digest, self._means.clock())
        validated, _ = await self._revalidations.get(
            (repository, tag), lambda: self._revalidate(repository, tag, known)
        )
        return known, validated

    async def said(self, repository: Repository, tag: Tag) -> Digest | None:
        """Ask upstream by HEAD what a tag is, and record nothing; None where this registry does not do HEAD well."""
        return await self._head(repository, tag, PATIENCE)

    async def held(self, repository: Repository, digest: Digest) -> ManifestAnswer | None:
        """Return what is here and `repository` holds, confirmed by a HEAD at most. To have `fetch`ed it takes a GET."""
        return await self._admitted(repository, digest)

    async def fetch(self, repository: Repository, reference: Reference) -> ManifestAnswer:
        """GET a manifest, and keep it; its `outcome` says whether it was. Raise as `get`."""
        return await self._fetch(repository, reference)

    async def restore(self, repository: Repository, digest: Digest) -> None:
        """Bring back what the disk has lost: from memory where it is there, else from upstream. Raise as `get`."""
        media_type, body = self._index.standing(repository, digest).media_type, self._memory.get(digest)
        if media_type is not None and body is not None:
            got = ManifestBody(digest, media_type, body, public=False)
            await self._keep(repository, digest, got, await sent(body, media_type, repository))
        if self._store.size(digest) is None:
            await self._fetch(repository, digest)

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
        if standing.linked:
            return await self._here(repository, digest, HIT, standing.media_type)
        if self._store.size(digest) is None:
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
        names = named(await sent(body, media_type, repository))
        try:
            await self._index.apply(Linked(repository, digest, media_type, names=names))
        except StoreError as error:  # a full disk keeps nobody from what is here
            log.warning("link not recorded", digest=str(digest), error=str(error))

    # --- by tag --------------------------------------------------------------------------------------------------

    async def _by_settled_tag(self, repository: Repository, tag: Tag, digest: Digest) -> ManifestAnswer:
        """Answer with what was carried in. Of what the disk has lost since, upstream is asked for the digest alone."""
        try:
            return await self._by_digest(repository, digest)
        except UpstreamNotFound as error:
            raise _denied(repository, tag, digest) from error

    async def _by_tag(self, repository: Repository, tag: Tag, known: Validated) -> ManifestAnswer:
        age = self._means.freshness.age(repository, tag.name, known.at, self._means.clock())
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
        except UpstreamNotFound as error:
            if not self._means.pinned(repository, known.digest, tag.name):
                raise
            kept = fallback or await self._here(repository, known.digest, HIT)
            return self._stale(kept, error)
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
        async with self._means.turn(repository, f"tag {tag}", PATIENCE) as left:
            again = self._index.tag(repository, tag.name)
            if again is not None and again != known:
                return again  # another process has asked meanwhile
            return await self._ask(repository, tag, known, left)

    async def _ask(self, repository: Repository, tag: Tag, known: Validated, patience: float) -> Validated:
        try:
            now = await self._head(repository, tag, patience)
            if now is None:
                now = (await self._fetch(repository, tag)).digest
        except UpstreamNotFound:
            if not self._means.pinned(repository, known.digest, tag.name):
                await self._index.apply(TagDropped(repository, tag.name))
            raise
        new = now != known.digest or self._store.size(now) is None
        if new and await self._admitted(repository, now) is None:
            await self._fetch_new(repository, tag, now)
        # What was aged since part of it is not kept (`cache.unkept`) is not fresh before it is whole.
        unkept = known.at <= 0 and not await self._is_whole(repository, now)
        validated = Validated(now, 0.0 if unkept else self._means.clock())
        try:
            await self._index.apply(TagSet(repository, tag.name, validated.digest, validated.at))
        except StoreError as error:  # a full disk keeps nobody from what upstream has just said
            log.warning("tag not recorded", tag=str(tag), error=str(error))
        return validated

    async def _head(self, repository: Repository, tag: Tag, patience: float) -> Digest | None:
        try:
            return (await self._upstreams.of(repository.namespace).head(repository, tag, patience=patience)).digest
        except UpstreamBroken:
            return None  # this registry does not do HEAD well: ask the other way

    async def _fetch_new(self, repository: Repository, tag: Tag, digest: Digest) -> None:
        try:
            await self._fetch(repository, digest)
        except UpstreamNotFound as error:
            # A push seen half way: upstream has not denied the tag, so what is cached of it still stands.
            raise _denied(repository, tag, digest) from error

    # --- what is here --------------------------------------------------------------------------------------------

    async def _here(
        self, repository: Repository, digest: Digest, outcome: Outcome, media_type: str | None = None
    ) -> ManifestAnswer | None:
        """Return a manifest that is here and linked, or known to be of `media_type`."""
        try:
            body = await self._memory.read(digest)
        except ContentBroken as error:
            log.error("damaged on disk", digest=str(digest), error=str(error))  # noqa: TRY400  # the text says it all
            await self._lose(digest)
            return None
        if body is None:
            return None
        media_type = media_type or self._index.standing(repository, digest).media_type
        if media_type is None:
            return None
        return ManifestAnswer(body, media_type, digest, outcome)

    async def _lose(self, digest: Digest) -> None:
        """Record that content is not on disk any more: it was wrong, and is put aside."""
        try:
            await self._index.apply(Lost(digest))
        except StoreError as error:  # it is fetched again all the same; the survey finds the rest
            log.warning("loss not recorded", digest=str(digest), error=str(error))

    def _away(self, repository: Repository) -> bool:
        return self._upstreams.of(repository.namespace).away

    async def _servable(self, repository: Repository, answer: ManifestAnswer) -> bool:
        return not self._away(repository) or await self._whole(repository, answer)

    async def _is_whole(self, repository: Repository, digest: Digest) -> bool:
        answer = await self._here(repository, digest, HIT)
        return answer is not None and await self._whole(repository, answer)

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
        known = None if isinstance(reference, Digest) else self._index.tag(repository, reference.name)
        async with self._means.turn(repository, f"manifest {reference}", PATIENCE) as left:
            meanwhile = await self._meanwhile(repository, reference, known)
            if meanwhile is not None:
                return meanwhile
            upstream = self._upstreams.of(repository.namespace)
            got = await upstream.manifest(repository, reference, patience=left)
            manifest = await sent(got.body, got.media_type, repository)
            stored = await self._keep(repository, reference, got, manifest)
        outcome = Outcome(forward="uri-miss", status=200, stored=stored)
        return ManifestAnswer(got.body, got.media_type, got.digest, outcome)

    async def _meanwhile(
        self, repository: Repository, reference: Reference, known: Validated | None
    ) -> ManifestAnswer | None:
        """Return what another process has fetched while this one waited for its turn."""
        outcome = Outcome(forward="uri-miss", status=200, stored=True, collapsed=True)
        if isinstance(reference, Digest):
            linked = self._index.standing(repository, reference).linked
            return await self._here(repository, reference, outcome) if linked else None
        now = self._index.tag(repository, reference.name)
        return None if now is None or now == known else await self._here(repository, now.digest, outcome)

    async def _keep(self, repository: Repository, reference: Reference, got: ManifestBody, manifest: Manifest) -> bool:
        """Store it; say whether that went well. A disk that is full does not keep the answer from the client."""
        tags = []
        if isinstance(reference, Tag):
            tags.append(TagSet(repository, reference.name, got.digest, self._means.clock()))
        try:
            taken = await keep(self._means.space, self._store, got.digest, got.body)
            self._memory.keep(got.digest, got.body)
            await self._index.apply(
                Stored(
                    got.digest,
                    taken,
                    time.time(),
                    got.media_type,
                    names=tuple(descriptor.digest for descriptor in (*manifest.manifests, *manifest.blobs)),
                    subject=manifest.subject.digest if manifest.subject else None,
                ),
                Linked(repository, got.digest, got.media_type, public=got.public, names=named(manifest)),
                *tags,
            )
        except StoreError as error:
            log.warning("manifest not stored", digest=str(got.digest), error=str(error))
            return False
        return True


def _denied(repository: Repository, tag: Tag, digest: Digest) -> UpstreamBroken:
    """Return the error for a tag that is known to be `digest`, which upstream does not have: no tag was denied."""
    return UpstreamBroken(
        f"{repository}:{tag} is {digest}, and {repository.namespace} does not have that",
        namespace=repository.namespace,
        upstream_status=404,
    )
