"""Tags: what they mean for as long as their rule says, then what upstream says, and stale rather than nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog
from cachetools import TTLCache

from mirror.cache.freshness import Age
from mirror.cache.manifests import NEGATIVE_SECONDS
from mirror.cache.moves import denied
from mirror.cache.outcome import HIT, SAVING, Outcome, stale
from mirror.cache.shared import Shared
from mirror.errors import (
    MirrorError,
    Overloaded,
    Quarantined,
    StoreError,
    UpstreamError,
    UpstreamLimited,
    UpstreamNotFound,
    UpstreamUnavailable,
)
from mirror.store.changes import SETTLED, TagDropped
from mirror.store.index import Validated

if TYPE_CHECKING:
    from mirror.cache.manifests import ManifestAnswer, Manifests, Word
    from mirror.cache.means import Means
    from mirror.cache.moves import Moves
    from mirror.cache.troubles import Troubles
    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository, Tag

log = structlog.get_logger(__name__)

PATIENCE = 20.0  # seconds for upstream, tokens included
PATIENCE_WITH_STALE = 3.0  # the same where a cached answer is at hand
PROMPT = 0.3  # seconds after which it is looked whether upstream has asked to be left alone meanwhile
MAX_BEHIND = 256  # revalidations behind an answer at once


@dataclass(frozen=True, slots=True)
class Said:
    """What asking upstream for a tag came to. `stale`: a mirror that is the upstream could not ask: why."""

    validated: Validated
    stale: str | None = None


class Tags:
    """Decides what a tag is now."""

    def __init__(self, means: Means, manifests: Manifests, moves: Moves, troubles: Troubles) -> None:
        self._means = means
        self._index = means.index
        self._manifests = manifests
        self._moves = moves
        self._troubles = troubles
        self._thrift = means.thrift
        self._revalidations: Shared[Said] = Shared()
        self._heard: TTLCache[tuple[Repository, Tag], Word] = TTLCache(4096, NEGATIVE_SECONDS)

    async def get(self, repository: Repository, tag: Tag) -> ManifestAnswer:
        """Return a manifest to a client; raise `UpstreamError`, `StoreError` or `Quarantined`."""
        known = self._index.tag(repository, tag.name)
        if known is None:
            return await self._first(repository, tag)
        if known.at >= SETTLED:
            return await self._settled(repository, tag, known.digest)
        answer = await self._known(repository, tag, known)
        if answer.outcome.forward is not None:  # upstream was asked just now
            latest = self._index.tag(repository, tag.name)
            known = latest if latest is not None and latest.digest == answer.digest else known
        return answer.aged(self._means.clock() - known.at)

    async def refresh(self, repository: Repository, tag: Tag) -> tuple[Validated | None, Validated]:
        """Ask upstream what a tag is, however fresh it is; return what it was, where it was known, and what it is.

        Raise `UpstreamError` or `StoreError`; `UpstreamLimited` where it is something new, and a rule of `budget`
        leaves what remains of a limit to clients. A new manifest is fetched, its blobs are not.
        """
        known = self._index.tag(repository, tag.name)
        if known is None:
            self._thrift.check_spare(repository, f"{repository}:{tag} is not fetched")
            fetched = await self._first(repository, tag)
            return None, self._index.tag(repository, tag.name) or Validated(fetched.digest, self._means.clock())
        said, _ = await self._revalidations.get(
            (repository, tag, "spare"), lambda: self._revalidate(repository, tag, known, spare=True)
        )
        return known, said.validated

    async def close(self) -> None:
        """Stop what is under way."""
        await self._revalidations.close()

    # --- what is known -------------------------------------------------------------------------------------------

    async def _first(self, repository: Repository, tag: Tag) -> ManifestAnswer:
        """Fetch what is not known yet."""
        if not self._means.quarantine.watches(repository, tag):
            return await self._manifests.fetch(repository, tag)
        said, joined = await self._revalidations.get((repository, tag, "first"), lambda: self._hear(repository, tag))
        warning = None if said.stale is None else stale(said.stale)
        outcome = Outcome(forward="uri-miss", status=200, stored=True, collapsed=joined, warning=warning)
        digest = said.validated.digest
        answer = await self._manifests.here(repository, digest, outcome)
        if answer is None:  # a full disk has not kept it
            answer = await self._manifests.fetch(repository, digest)
        return answer.aged(self._means.clock() - said.validated.at)

    async def _hear(self, repository: Repository, tag: Tag) -> Said:
        """Learn by a HEAD, which is not counted, what a tag is that may have to wait (`min_age`), and fetch it if not.

        Who is refused asks again soon, and a whole cluster with it: upstream is not asked each time.
        """
        word = known = self._heard.get((repository, tag))
        if word is None:
            word = await self._manifests.word(repository, tag, PATIENCE)
        quarantine = self._means.quarantine
        try:
            now = quarantine.judge(repository, tag, None, word.digest)
        except Quarantined:
            if known is None:
                self._heard[repository, tag] = word
            raise
        try:
            if await self._manifests.held(repository, now) is None:
                await self._manifests.fetch(repository, now)
        except UpstreamNotFound as error:
            if now != word.digest and (held := quarantine.held(repository, tag)) is not None:
                raise quarantine.refusal(held) from error  # what the tag was before is nowhere any more
            raise denied(repository, tag, now) from error
        validated = Validated(now, self._manifests.validated_at(word))
        await self._manifests.tag(repository, tag, validated)
        return Said(validated, word.stale)

    async def _settled(self, repository: Repository, tag: Tag, digest: Digest) -> ManifestAnswer:
        """Answer with what was carried in. Of what the disk has lost since, upstream is asked for the digest alone."""
        try:
            return await self._manifests.get(repository, digest)
        except UpstreamNotFound as error:
            raise denied(repository, tag, digest) from error

    async def _known(self, repository: Repository, tag: Tag, known: Validated) -> ManifestAnswer:
        now = self._means.clock()
        age = self._means.freshness.age(repository, tag.name, known.at, now)
        rule = None if age is Age.FRESH else self._thrift.rule(repository)
        saved = rule is not None and abs(now - known.at) < rule.ttl
        behind = age is Age.REVALIDATE_BEHIND and not saved
        asks = behind and (rule is None or rule.prefetch)
        if age is Age.FRESH or saved or (behind and (not asks or len(self._revalidations) < MAX_BEHIND)):
            answer = await self._manifests.here(repository, known.digest, HIT if age is Age.FRESH or asks else SAVING)
            if answer is not None and await self._manifests.servable(repository, answer):
                if asks:
                    self._behind(repository, tag, known)
                return answer
        away = self._manifests.away(repository)
        fallback = None if age is Age.TOO_OLD else await self._fallback(repository, tag, known, away=away)
        trouble = self._troubles.lasting(repository, tag, rule.ttl if rule else 0.0) or self._thrift.rests(repository)
        if fallback is not None and trouble is not None:
            if self._troubles.look(repository.namespace) and len(self._revalidations) < MAX_BEHIND:
                self._behind(repository, tag, known)
            outcome = Outcome(hit=True, detail="limited", warning=stale(trouble))
            return replace(fallback, outcome=outcome)
        return await self._asked(repository, tag, known, fallback)

    async def _fallback(
        self, repository: Repository, tag: Tag, known: Validated, *, away: bool
    ) -> ManifestAnswer | None:
        """Return what can be pulled to the end while upstream does not tell what the tag is now.

        That is what it was when upstream was asked last, if it is wholly here; or if only blobs lack, which those that
        are not `away` still send. Else it is what the tag was before that.
        """
        answer = await self._manifests.here(repository, known.digest, HIT)
        if answer is not None and await self._manifests.whole(repository, answer):
            return answer
        former = self._moves.former(repository, tag, known.digest)
        if former is not None and not away:
            return answer  # `Moves` has seen to the manifests
        answer = None if former is None else await self._manifests.here(repository, former, HIT)
        if answer is not None and await self._manifests.whole(repository, answer):
            return answer
        log.info("cached, and not a whole image: of use only with upstream", image=f"{repository}:{tag}")
        return None

    async def _asked(
        self, repository: Repository, tag: Tag, known: Validated, fallback: ManifestAnswer | None
    ) -> ManifestAnswer:
        """Ask upstream; where it cannot tell, answer from the cache and say so."""
        patience = PATIENCE if fallback is None else PATIENCE_WITH_STALE
        try:
            task, joined = self._revalidations.start(
                (repository, tag), lambda: self._revalidate(repository, tag, known)
            )
            said = await self._awaited(repository, task, patience, prompt=fallback is not None)
        except UpstreamNotFound as error:
            if not self._means.pinned(repository, known.digest, tag.name):
                raise
            kept = fallback or await self._manifests.here(repository, known.digest, HIT)
            return _answered(kept, error)
        except TimeoutError:
            where = repository.namespace
            slow = UpstreamUnavailable(f"{where} did not answer within {patience:.0f} s", namespace=where)
            return _answered(await self._without(repository, tag, known, fallback), slow)
        except UpstreamLimited as error:
            return _answered(fallback, error)
        except (UpstreamError, StoreError, Overloaded) as error:
            return _answered(await self._without(repository, tag, known, fallback), error)
        warning = None if said.stale is None else stale(said.stale)
        outcome = Outcome(forward="stale", status=200, collapsed=joined, warning=warning)
        digest = said.validated.digest
        answer = await self._manifests.here(repository, digest, outcome)
        return answer if answer is not None else await self._manifests.fetch(repository, digest)

    async def _awaited(
        self, repository: Repository, task: asyncio.Task[Said], patience: float, *, prompt: bool
    ) -> Said:
        """Wait for what upstream says, in a task that goes on; where it asks to be left alone, no longer: `prompt`."""
        if prompt:
            soon = min(PROMPT, patience / 2)
            done, _ = await asyncio.wait([task], timeout=soon)
            if not done and (why := self._thrift.rests(repository)) is not None:
                raise UpstreamLimited(why, namespace=repository.namespace, upstream_status=429)
            patience -= soon
        return await asyncio.wait_for(asyncio.shield(task), patience)

    async def _without(
        self, repository: Repository, tag: Tag, known: Validated, fallback: ManifestAnswer | None
    ) -> ManifestAnswer | None:
        """Return the fallback where upstream turns out not to send anything."""
        return None if fallback is None else await self._fallback(repository, tag, known, away=True)

    # --- what upstream says --------------------------------------------------------------------------------------

    def _behind(self, repository: Repository, tag: Tag, known: Validated) -> None:
        self._revalidations.start((repository, tag), lambda: self._revalidate(repository, tag, known))

    async def _revalidate(self, repository: Repository, tag: Tag, known: Validated, *, spare: bool = False) -> Said:
        """Ask by HEAD, which Docker Hub does not count, and GET only what is new. `spare`: no client waits for it."""
        async with self._means.turn(repository, f"tag {tag}", PATIENCE) as left:
            again = self._index.tag(repository, tag.name)
            if again is not None and again != known:
                return Said(again)  # another process has asked meanwhile
            with self._troubles.noted(repository, tag):
                return await self._ask(repository, tag, known, left, spare=spare)

    async def _ask(self, repository: Repository, tag: Tag, known: Validated, patience: float, *, spare: bool) -> Said:
        try:
            word = await self._manifests.word(repository, tag, patience)
        except UpstreamNotFound:
            if not self._means.pinned(repository, known.digest, tag.name):
                await self._index.apply(TagDropped(repository, tag.name))
            raise
        at = self._manifests.validated_at(word)
        if word.stale is not None and at <= known.at < SETTLED:
            return Said(known, word.stale)  # what is known here is the later word of the registry itself
        now = self._means.quarantine.judge(repository, tag, known.digest, word.digest)
        await self._moves.see_to(repository, tag, known.digest, now, spare=spare)
        # What was aged since part of it is not kept (`cache.unkept`) is not fresh before it is whole.
        unkept = known.at <= 0 and not await self._is_whole(repository, now)
        validated = Validated(now, 0.0 if unkept else at)
        await self._manifests.tag(repository, tag, validated)
        return Said(validated, word.stale)

    async def _is_whole(self, repository: Repository, digest: Digest) -> bool:
        answer = await self._manifests.here(repository, digest, HIT)
        return answer is not None and await self._manifests.whole(repository, answer)


def _answered(fallback: ManifestAnswer | None, error: MirrorError) -> ManifestAnswer:
    """Return what is at hand where upstream could not tell, marked as stale; raise `error` where nothing is."""
    if fallback is None:
        raise error
    status = error.upstream_status if isinstance(error, UpstreamError) else None
    log.info("served stale", digest=str(fallback.digest), reason=str(error))
    outcome = Outcome(hit=True, forward="stale", status=status, warning=stale(str(error)))
    return replace(fallback, outcome=outcome)
