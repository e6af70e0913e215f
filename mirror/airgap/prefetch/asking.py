"""Questions to one upstream, asked patiently: again where it fails for a moment, later where it limits requests."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from cachetools import LRUCache

from mirror.errors import (
    MirrorError,
    NoSpace,
    Overloaded,
    StoreError,
    UpstreamBroken,
    UpstreamError,
    UpstreamLimited,
    UpstreamUnavailable,
)
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest, ManifestMalformed
from mirror.oci.mediatype import OCI_INDEX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirror.airgap.prefetch.allowance import Allowance
    from mirror.airgap.prefetch.outage import Outage
    from mirror.airgap.prefetch.place import Place
    from mirror.airgap.prefetch.timing import Timing
    from mirror.cache.cache import Cache
    from mirror.cache.manifests import ManifestAnswer
    from mirror.oci.descriptor import Descriptor
    from mirror.oci.name import Reference, Repository, Tag

_T = TypeVar("_T")

BLOBS_AT_ONCE = 8  # of one upstream, which has so many places for them
BUSY_PAUSES = (1.0, 4.0, 15.0)  # seconds before each further try where too much was under way here, more or less
FULL_PAUSES = (5.0, 20.0, 45.0)  # where there is no room: what was used a minute ago may go (`mirror.cache.space`)
_LEARN_PATIENCE = 20.0  # seconds
_LITTLE = 16 * 1024  # bytes: a manifest and its part of the index
_FULL_FOR = 5.0  # seconds
_REPOSITORIES = 256  # whose signature tags are remembered
_PAGE = 1000  # tags, which is the most that many registries give at once
_CHEAP = 5  # pages that are read to find signatures; in a repository of more each is asked for by its name
_PAGES = 2000  # of a list of tags, after which it is taken to be endless


class Asking:
    """One upstream, asked for the images of one prefetch. Raises `MirrorError` once there is no use in going on."""

    def __init__(self, cache: Cache, namespace: str, allowance: Allowance, outage: Outage, timing: Timing) -> None:
        self._cache = cache
        self._namespace = namespace
        self._allowance = allowance
        self._outage = outage
        self._timing = timing
        self._blobs = asyncio.Semaphore(BLOBS_AT_ONCE)
        self._full: tuple[float, str] | None = None  # until when nobody looks again whether there is room, and why
        self._listed: LRUCache[Repository, frozenset[str] | None] = LRUCache(_REPOSITORIES)

    async def said(self, place: Place, repository: Repository, tag: Tag) -> Digest | None:
        """Ask what a tag is, by a request that is not counted; None where this registry does not do that well."""
        return await self._patiently(place, lambda: self._cache.manifests.said(repository, tag))

    async def manifest(self, place: Place, repository: Repository, reference: Reference) -> tuple[ManifestAnswer, bool]:
        """Return a manifest, and whether that took a counted request: not where it was here."""
        if isinstance(reference, Digest):
            digest = reference
            if self._cache.obtaining.here(repository, digest):  # whatever becomes of upstream
                here = await self._cache.manifests.held(repository, digest)
            else:
                here = await self._patiently(place, lambda: self._cache.manifests.held(repository, digest))
            if here is not None:
                return here, False

        await self._see_room()

        async def fetch() -> ManifestAnswer:
            async with self._allowance.counted(place, lambda: self._learn(repository, reference)):
                return await self._cache.manifests.fetch(repository, reference)

        answer = await self._patiently(place, fetch)
        if not answer.outcome.stored:
            raise StoreError(f"the manifest {answer.digest} could not be stored; see the log")
        return answer, not answer.outcome.collapsed

    async def _see_room(self) -> None:
        """Raise `NoSpace` where not even a manifest can be stored: the request would count, and be made in vain."""
        now = self._timing.clock()
        if self._full is not None and now < self._full[0]:
            raise NoSpace(self._full[1])
        try:
            await self._cache.space.reserve(_LITTLE)
        except NoSpace as error:
            self._full = now + _FULL_FOR, str(error)
            raise
        self._cache.space.landed(_LITTLE)
        self._cache.space.release(_LITTLE)

    async def blob(
        self, place: Place, repository: Repository, digest: Digest, *, size: int | None, came: Callable[[int], None]
    ) -> None:
        """See that a blob is here, and linked; see `Obtaining.blob`."""

        async def obtain() -> None:
            async with self._blobs:
                await self._cache.obtaining.blob(repository, digest, size=size, came=came)

        await self._patiently(place, obtain)

    async def referrers(self, place: Place, repository: Repository, subject: Digest) -> tuple[Descriptor, ...]:
        """Return what refers to `subject`; raise `UpstreamNotFound` where upstream has no such lists."""

        async def ask() -> tuple[Descriptor, ...]:
            found = await self._cache.listings.referrers(repository, subject)
            if found.outcome.warning is not None:
                raise UpstreamUnavailable(found.outcome.warning.removeprefix("stale: "), namespace=self._namespace)
            try:
                return Manifest.parse(json.dumps(found.index).encode(), OCI_INDEX).manifests
            except ManifestMalformed as error:
                raise UpstreamBroken(
                    f"{self._namespace} sent a list of referrers that cannot be read: {error}",
                    namespace=self._namespace,
                ) from error

        return await self._patiently(place, ask)

    async def tags(self, place: Place, repository: Repository) -> list[str]:
        """Return all tags of a repository, as upstream lists them."""
        found: dict[str, None] = {}
        for _ in range(_PAGES):
            names, more = await self._page(place, repository, None, next(reversed(found), None))
            known = len(found)
            found |= dict.fromkeys(names)
            if not more or len(found) == known:
                return list(found)
        raise UpstreamBroken(f"{self._namespace} lists tags of {repository} without end", namespace=self._namespace)

    async def listed(self, place: Place, repository: Repository) -> frozenset[str] | None:
        """Return the tags `sha256-…` of a repository; None where finding them all would take too many pages."""
        if repository not in self._listed:
            found: list[str] = []
            more = True
            for _ in range(_CHEAP):
                try:
                    names, more = await self._page(place, repository, _PAGE, found[-1] if found else None)
                except MirrorError:  # not every registry lists for everyone: each tag is asked for by name, then
                    break
                found += names
                if not (more and names):
                    break
            tags = frozenset(name for name in found if name.startswith("sha"))
            self._listed[repository] = None if more else tags
        return self._listed[repository]

    async def _page(
        self, place: Place, repository: Repository, n: int | None, last: str | None
    ) -> tuple[tuple[str, ...], bool]:
        async def ask() -> tuple[tuple[str, ...], bool]:
            page = await self._cache.listings.tags(repository, n=n, last=last)
            if page.outcome.warning is not None:
                reason = page.outcome.warning.removeprefix("only what is cached: ")
                raise UpstreamUnavailable(reason, namespace=self._namespace)
            return page.names, page.more

        return await self._patiently(place, ask)

    async def _learn(self, repository: Repository, reference: Reference) -> None:
        """Ask for something that is not counted: the answer says what remains of the limit."""
        with suppress(UpstreamError):  # what is wrong with it shows when it is fetched
            upstream = self._cache.upstream(self._namespace)
            await upstream.head(repository, reference, patience=_LEARN_PATIENCE)

    async def _patiently(self, place: Place, ask: Callable[[], Awaitable[_T]]) -> _T:
        outage, tries, answers = self._outage, 0, self._outage.answers
        while True:
            await self._allowance.rested(place)
            outage.check()
            try:
                answer = await ask()
            except UpstreamLimited as error:
                outage.answered()
                self._allowance.limited(error.retry_after)
                continue
            except (UpstreamUnavailable, Overloaded, NoSpace) as error:
                pause = self._pause(error, tries, answers)
                if pause is None:
                    raise
            except UpstreamError as error:
                if error.upstream_status is not None:
                    outage.answered()
                raise
            else:
                self._allowance.answered()
                outage.answered()
                return answer
            tries, answers = tries + 1, outage.answers
            async with place.given_up():
                await self._timing.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311  # jitter is no secret

    def _pause(self, error: MirrorError, tries: int, answers: int) -> float | None:
        """Return for how long to wait before it is asked again; None: there is no use in it."""
        if isinstance(error, UpstreamUnavailable):
            return self._outage.silent(error, tries, answers)
        pauses: tuple[float, ...] = BUSY_PAUSES
        if isinstance(error, NoSpace):
            pauses = FULL_PAUSES if error.passing else ()
        return pauses[tries] if tries < len(pauses) else None
