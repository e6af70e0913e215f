"""Manifests by digest, which are what they are for ever; and whatever upstream sends, verified and kept."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog
from cachetools import TTLCache

from mirror.cache.keep import keep
from mirror.cache.outcome import HIT, Outcome, stale
from mirror.cache.parsing import named, sent
from mirror.cache.shared import Shared
from mirror.errors import (
    ContentBroken,
    StoreError,
    UpstreamBroken,
    UpstreamDenied,
    UpstreamError,
    UpstreamNotFound,
)
from mirror.oci.digest import Digest
from mirror.oci.name import Tag
from mirror.store.changes import Linked, Lost, Stored, TagSet
from mirror.store.index import Validated
from mirror.upstream.protocol import ManifestBody

if TYPE_CHECKING:
    from mirror.cache.completeness import Completeness
    from mirror.cache.means import Means
    from mirror.oci.manifest import Manifest
    from mirror.oci.name import Reference, Repository

log = structlog.get_logger(__name__)

PATIENCE = 20.0  # seconds for upstream, tokens included
NEGATIVE_SECONDS = 5  # build systems push and pull at once
NOBODY_KNOWS = 1.0  # seconds since the epoch: when a tag was last asked for, where nobody can tell


@dataclass(frozen=True, slots=True)
class ManifestAnswer:
    """A manifest as it goes out."""

    body: bytes
    media_type: str
    digest: Digest
    outcome: Outcome
    age: float | None = None  # of a tag: seconds since upstream was asked for it; None: nobody is asked

    def aged(self, age: float) -> ManifestAnswer:
        """Return it with its age. Every warm pull takes it, and `replace` would cost several times as much."""
        return ManifestAnswer(self.body, self.media_type, self.digest, self.outcome, max(0.0, age))


@dataclass(frozen=True, slots=True)
class Word:
    """What upstream says that a tag is. `stale` and `age` as in `mirror.upstream.protocol.ManifestHead`."""

    digest: Digest
    stale: str | None = None
    age: float = 0.0


class Manifests:
    """Fetches each manifest once, and knows who may have what is here."""

    def __init__(self, means: Means, completeness: Completeness) -> None:
        self._means = means
        self._store = means.store
        self._index = means.index
        self._memory = means.memory
        self._upstreams = means.upstreams
        self._completeness = completeness
        self._fetches: Shared[ManifestAnswer] = Shared()
        self._confirmations: Shared[str] = Shared()
        self._negative: TTLCache[tuple[Repository, Reference], UpstreamError] = TTLCache(4096, NEGATIVE_SECONDS)

    async def get(self, repository: Repository, digest: Digest) -> ManifestAnswer:
        """Return a manifest to a client; raise `UpstreamError` or `StoreError`."""
        answer = await self.held(repository, digest)
        if answer is None:
            return await self.fetch(repository, digest)
        if self.away(repository) and not await self.whole(repository, answer):
            # Upstream may be back by now; nothing else could complete the image.
            await self._upstreams.of(repository.namespace).head(repository, digest, patience=PATIENCE)
        return answer

    async def word(self, repository: Repository, tag: Tag, patience: float) -> Word:
        """Ask upstream what a tag is: by HEAD, or by GET where this registry does not do HEAD well. Nothing moves."""
        word = await self._word(repository, tag, patience)
        if word is not None:
            return word
        answer = await self.fetch(repository, tag, tagging=False)
        return Word(answer.digest, answer.outcome.warning, answer.age or 0.0)

    async def said(self, repository: Repository, tag: Tag) -> Digest | None:
        """Ask by HEAD, and record nothing; None where this registry does not do that well."""
        word = await self._word(repository, tag, PATIENCE)
        return None if word is None else word.digest

    async def _word(self, repository: Repository, tag: Tag, patience: float) -> Word | None:
        try:
            head = await self._upstreams.of(repository.namespace).head(repository, tag, patience=patience)
        except UpstreamBroken:
            return None
        return None if head.digest is None else Word(head.digest, head.stale, head.age)

    async def held(self, repository: Repository, digest: Digest) -> ManifestAnswer | None:
        """Return what is here and `repository` holds, confirmed by a HEAD at most. To have `fetch`ed it takes a GET."""
        standing = self._index.standing(repository, digest)
        if standing.linked:
            return await self.here(repository, digest, HIT, standing.media_type)
        if self._store.size(digest) is None:
            return await self.here(repository, digest, HIT)
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
        return await self.here(repository, digest, HIT, media_type)

    async def fetch(self, repository: Repository, reference: Reference, *, tagging: bool = True) -> ManifestAnswer:
        """GET a manifest from upstream, once for all who ask, and keep it; its `outcome` says whether it was.

        Without `tagging` a tag goes on meaning what it meant. Raise as `get`, and `Quarantined`.
        """
        known = self._negative.get((repository, reference))
        if known is not None:
            raise known.with_traceback(None)  # each raising would add to it
        try:
            answer, joined = await self._fetches.get(
                (repository, reference, tagging), lambda: self._fetch(repository, reference, tagging=tagging)
            )
        except (UpstreamNotFound, UpstreamDenied) as error:
            self._negative[repository, reference] = error
            raise
        return replace(answer, outcome=answer.outcome.joined()) if joined else answer

    async def restore(self, repository: Repository, digest: Digest) -> None:
        """Bring back what the disk has lost: from memory where it is there, else from upstream. Raise as `get`."""
        media_type, body = self._index.standing(repository, digest).media_type, self._memory.get(digest)
        if media_type is not None and body is not None:
            got = ManifestBody(digest, media_type, body, public=False)
            await self._keep(repository, got, await sent(body, media_type, repository))
        if self._store.size(digest) is None:
            await self.fetch(repository, digest)

    async def close(self) -> None:
        """Stop what is under way."""
        await self._fetches.close()
        await self._confirmations.close()

    # --- by digest -----------------------------------------------------------------------------------------------

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

    # --- what is here --------------------------------------------------------------------------------------------

    async def here(
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

    async def servable(self, repository: Repository, answer: ManifestAnswer) -> bool:
        """Say whether whoever gets it can have the rest: from upstream, or since it is here (promise 8)."""
        return not self.away(repository) or await self.whole(repository, answer)

    async def whole(self, repository: Repository, answer: ManifestAnswer) -> bool:
        """Say whether it is an image that is wholly here, for one platform at least."""
        return await self._completeness.of(repository, answer.digest, answer.media_type)

    async def _lose(self, digest: Digest) -> None:
        """Record that content is not on disk any more: it was wrong, and is put aside."""
        try:
            await self._index.apply(Lost(digest))
        except StoreError as error:  # it is fetched again all the same; the survey finds the rest
            log.warning("loss not recorded", digest=str(digest), error=str(error))

    def away(self, repository: Repository) -> bool:
        """Say whether upstream is away, or for that repository as good as that, see `Upstream`."""
        upstream = self._upstreams.of(repository.namespace)
        return upstream.away or upstream.lacks(repository)

    # --- what is not ---------------------------------------------------------------------------------------------

    async def _fetch(self, repository: Repository, reference: Reference, *, tagging: bool) -> ManifestAnswer:
        known = None if isinstance(reference, Digest) else self._index.tag(repository, reference.name)
        async with self._means.turn(repository, f"manifest {reference}", PATIENCE) as left:
            meanwhile = await self._meanwhile(repository, reference, known)
            if meanwhile is not None:
                return meanwhile
            upstream = self._upstreams.of(repository.namespace)
            got = await upstream.manifest(repository, reference, patience=left)
            manifest = await sent(got.body, got.media_type, repository)
            stored = await self._keep(repository, got, manifest)
            if tagging and isinstance(reference, Tag):
                served = self._means.quarantine.judge(repository, reference, None, got.digest)
                at = self.validated_at(Word(got.digest, got.stale, got.age))
                if stored or served != got.digest:
                    stored = await self.tag(repository, reference, Validated(served, at))
                if served != got.digest:
                    return await self.held(repository, served) or await self.fetch(repository, served)
        warning = None if got.stale is None else stale(got.stale)
        outcome = Outcome(forward="uri-miss", status=200, stored=stored, warning=warning)
        return ManifestAnswer(got.body, got.media_type, got.digest, outcome, got.age)

    async def _meanwhile(
        self, repository: Repository, reference: Reference, known: Validated | None
    ) -> ManifestAnswer | None:
        """Return what another process has fetched while this one waited for its turn."""
        outcome = Outcome(forward="uri-miss", status=200, stored=True, collapsed=True)
        if isinstance(reference, Digest):
            linked = self._index.standing(repository, reference).linked
            return await self.here(repository, reference, outcome) if linked else None
        now = self._index.tag(repository, reference.name)
        return None if now is None or now == known else await self.here(repository, now.digest, outcome)

    def validated_at(self, word: Word) -> float:
        """Return when the registry itself was last asked for what upstream has just said; seconds since the epoch.

        A mirror between tells how long ago that was, also where it could not ask again. One that could not and does not
        tell leaves nothing to go by.
        """
        return NOBODY_KNOWS if word.stale is not None and not word.age else self._means.clock() - word.age

    async def tag(self, repository: Repository, tag: Tag, now: Validated) -> bool:
        """Record what a tag is; say whether that went well."""
        try:
            await self._index.apply(TagSet(repository, tag.name, now.digest, now.at))
        except StoreError as error:  # a full disk keeps nobody from what upstream has just said
            log.warning("tag not recorded", tag=f"{repository}:{tag}", error=str(error))
            return False
        return True

    async def _keep(self, repository: Repository, got: ManifestBody, manifest: Manifest) -> bool:
        """Store it; say whether that went well. A disk that is full does not keep the answer from the client."""
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
            )
        except StoreError as error:
            log.warning("manifest not stored", digest=str(got.digest), error=str(error))
            return False
        return True
