"""Lists: a repository's tags, a digest's referrers, what is cached at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from cachetools import TTLCache

from mirror.cache.freshness import Age
from mirror.cache.keep import keep
from mirror.cache.outcome import HIT, LOCAL, Forward, Outcome, stale
from mirror.cache.parsing import INLINE
from mirror.cache.shared import Shared
from mirror.errors import (
    ContentBroken,
    StoreError,
    UpstreamBroken,
    UpstreamError,
    UpstreamNotFound,
    UpstreamUnavailable,
)
from mirror.oci.digest import Digest
from mirror.oci.mediatype import OCI_INDEX
from mirror.store.changes import ListingSet, Lost, Stored
from mirror.upstream.protocol import ReferrersBody

if TYPE_CHECKING:
    from mirror.cache.means import Means
    from mirror.oci.name import Repository
    from mirror.upstream.protocol import TagPage

log = structlog.get_logger(__name__)

PATIENCE = 20.0  # seconds for upstream
PATIENCE_WITH_STALE = 3.0  # the same where a cached answer is at hand
NEGATIVE_SECONDS = 5
_ONLY_CACHED = "only what is cached: "
MOST = 10_000  # entries of one page that the mirror gives, whatever is asked for


@dataclass(frozen=True, slots=True)
class Page:
    """Names, and whether there are more after the last."""

    names: tuple[str, ...]
    more: bool
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Referrers:
    """An OCI index of what refers to a digest, as parsed JSON."""

    index: dict[str, object]
    outcome: Outcome


class Listings:
    """Upstream's lists while it answers, the mirror's own knowledge while it does not."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._index = means.index
        self._memory = means.memory
        self._upstreams = means.upstreams
        self._pages: Shared[TagPage] = Shared()
        self._fetches: Shared[ReferrersBody] = Shared()
        self._negative: TTLCache[tuple[Repository, Digest], UpstreamNotFound] = TTLCache(4096, NEGATIVE_SECONDS)

    def catalog(self, *, n: int | None, last: str) -> Page:
        """Return the repositories of which something is cached, with their namespaces."""
        limit = MOST if n is None else min(n, MOST)
        names = self._index.repositories(after=last, limit=limit + 1)
        return Page(tuple(names[:limit]), limit > 0 and len(names) > limit, LOCAL)

    async def tags(self, repository: Repository, *, n: int | None, last: str | None) -> Page:
        """Return tags after `last`, at most `n`. Raises `UpstreamError` where upstream is needed and cannot help."""
        if n == 0:
            return Page((), more=False, outcome=LOCAL)
        limit = MOST if n is None else min(n, MOST)
        known = self._index.tags(repository, after=last or "", limit=limit + 1)
        self._upstreams.of(repository.namespace)  # refuses what is not mirrored, whatever is known
        patience = PATIENCE_WITH_STALE if known else PATIENCE
        try:
            page, joined = await self._pages.get(
                (repository, n, last),
                lambda: self._ask(repository, n=n, last=last),
                patience=patience,
            )
        except UpstreamNotFound:
            raise
        except TimeoutError:
            where = repository.namespace
            error: UpstreamError = UpstreamUnavailable(f"{where} did not answer in {patience:.0f} s", namespace=where)
        except UpstreamError as failed:
            error = failed
        else:
            tags = page.tags[:limit]
            more = page.more or len(page.tags) > limit
            warning = None if page.stale is None else f"{_ONLY_CACHED}{page.stale.removeprefix(_ONLY_CACHED)}"
            return Page(tags, more, Outcome(forward="uri-miss", status=200, collapsed=joined, warning=warning))
        if not known:
            raise error
        outcome = Outcome(hit=True, forward="stale", warning=f"{_ONLY_CACHED}{error}")
        return Page(tuple(known[:limit]), len(known) > limit, outcome)

    async def _ask(self, repository: Repository, *, n: int | None, last: str | None) -> TagPage:
        # The upstream is taken by the task that uses it: it stays open for that one, whoever leaves meanwhile.
        return await self._upstreams.of(repository.namespace).tags(repository, n=n, last=last, patience=PATIENCE)

    async def referrers(self, repository: Repository, subject: Digest) -> Referrers:
        """Return all referrers of `subject`.

        Raises `UpstreamNotFound` where upstream says that it has no such list, and another `UpstreamError` where nobody
        knows: an empty list would say "not signed" (fail closed).
        """
        known = self._index.listing(repository, subject)
        cached = None if known is None else await self._cached(known.digest)
        age = Age.TOO_OLD
        if known is not None and cached is not None:
            age = self._means.freshness.age(repository, str(subject), known.at, self._means.clock())
            self._means.uses.touch(repository, known.digest)
            if age is Age.FRESH:
                return Referrers(await _parsed(cached, repository), HIT)
        patience = PATIENCE if age is Age.TOO_OLD else PATIENCE_WITH_STALE
        try:
            got, joined = await self._fetch(repository, subject, patience)
        except UpstreamNotFound:
            raise
        except TimeoutError:
            where = repository.namespace
            error: UpstreamError = UpstreamUnavailable(f"{where} did not answer in {patience:.0f} s", namespace=where)
        except UpstreamError as failed:
            error = failed
        else:
            self._means.uses.touch(repository, Digest.of(got.body))
            how: Forward = "uri-miss" if known is None else "stale"
            warning = None if got.stale is None else stale(got.stale)
            outcome = Outcome(forward=how, status=200, collapsed=joined, warning=warning)
            return Referrers(await _parsed(got.body, repository), outcome)
        if cached is None or age is Age.TOO_OLD:
            raise error
        outcome = Outcome(hit=True, forward="stale", status=error.upstream_status, warning=stale(str(error)))
        return Referrers(await _parsed(cached, repository), outcome)

    async def close(self) -> None:
        """Stop what is under way."""
        await self._pages.close()
        await self._fetches.close()

    async def _cached(self, body: Digest) -> bytes | None:
        try:
            return await self._memory.read(body)
        except ContentBroken as error:
            log.error("damaged on disk", digest=str(body), error=str(error))  # noqa: TRY400  # the text says it all
            with contextlib.suppress(StoreError):  # it is fetched again, and recorded then
                await self._index.apply(Lost(body))
            return None

    async def _fetch(self, repository: Repository, subject: Digest, patience: float) -> tuple[ReferrersBody, bool]:
        refused = self._negative.get((repository, subject))
        if refused is not None:
            raise refused.with_traceback(None)
        try:
            return await self._fetches.get(
                (repository, subject), lambda: self._fetch_and_keep(repository, subject), patience=patience
            )
        except UpstreamNotFound as error:
            self._negative[repository, subject] = error
            raise

    async def _fetch_and_keep(self, repository: Repository, subject: Digest) -> ReferrersBody:
        known = self._index.listing(repository, subject)
        async with self._means.turn(repository, f"referrers {subject}", PATIENCE) as left:
            now = self._index.listing(repository, subject)
            if now is not None and now != known:  # another process has asked meanwhile
                meanwhile = await self._cached(now.digest)
                if meanwhile is not None:
                    return ReferrersBody(meanwhile, public=False)
            got = await self._upstreams.of(repository.namespace).referrers(repository, subject, patience=left)
            await _parsed(got.body, repository)
            if got.stale is None:  # else it is not known to hold now
                await self._keep(repository, subject, got.body)
        return got

    async def _keep(self, repository: Repository, subject: Digest, body: bytes) -> None:
        digest = Digest.of(body)
        try:
            taken = await keep(self._means.space, self._means.store, digest, body)
            await self._index.apply(
                Stored(digest, taken, time.time(), subject=subject),
                ListingSet(repository, subject, digest, self._means.clock()),
            )
        except StoreError:
            return  # a full disk keeps nothing, and keeps nobody from the answer
        self._memory.keep(digest, body)


async def _parsed(body: bytes, repository: Repository) -> dict[str, object]:
    if len(body) > INLINE:
        return await asyncio.to_thread(_load, body, repository)
    return _load(body, repository)


def _load(body: bytes, repository: Repository) -> dict[str, object]:
    try:
        index = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UpstreamBroken(
            f"{repository.namespace} sent a list of referrers that is not JSON", namespace=repository.namespace
        ) from error
    if not isinstance(index, dict) or not isinstance(index.get("manifests", []), list):
        raise UpstreamBroken(
            f"{repository.namespace} sent a list of referrers that is not an index", namespace=repository.namespace
        )
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], **index}
