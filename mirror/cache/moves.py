"""Moves: a tag that can be pulled whole means something new only when clients can be given what they ask for next.

Upstream may limit requests, or go away, between an index and the image in it. Were the tag to mean the new index by
then, a pull would fail of what is here, as it was before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirror.cache.outcome import HIT
from mirror.cache.parsing import sent
from mirror.errors import DigestInvalid, UpstreamBroken, UpstreamNotFound
from mirror.oci.digest import Digest

if TYPE_CHECKING:
    from mirror.cache.completeness import Completeness
    from mirror.cache.manifests import ManifestAnswer, Manifests
    from mirror.cache.means import Means
    from mirror.oci.name import Repository, Tag
    from mirror.oci.platform import Platform

_NOT_FOUND = 404
KIND = "former"  # in the book: what a tag was while it was last whole, until what it is now is whole


class Moves:
    """Fetches what is new of a tag, and remembers what it was."""

    def __init__(self, means: Means, manifests: Manifests, completeness: Completeness) -> None:
        self._means = means
        self._manifests = manifests
        self._completeness = completeness

    async def see_to(self, repository: Repository, tag: Tag, known: Digest, now: Digest, *, spare: bool) -> None:
        """Have here what has to be before `tag`, which was `known`, means `now`. `spare`: no client waits for it.

        That is the manifest; and if the tag can be pulled whole as it was, for each platform of which that is so the
        image in the new index. Raise `UpstreamError`, `UpstreamLimited` too where what is left of a limit is too little
        for all of it: what was fetched by then is here for the next time.
        """
        if now == known and self._means.store.size(now) is not None:
            return
        title = f"{repository}:{tag}"
        if spare:
            self._means.thrift.check_spare(repository, f"{title} is {now} now, which is not fetched")
        former, platforms = await self._standing(repository, tag, known, now)
        answer = await self._manifests.held(repository, now)
        if former is None:
            if answer is None:
                await self._fetch(repository, tag, now)
            return
        thrift = self._means.thrift
        what = f"{title} has moved to {now}, which"
        if fetched := answer is None:
            thrift.check(repository, 1 + len(platforms), what)
            answer = await self._fetch(repository, tag, now)
        missing = [
            digest
            for digest in await self._next(repository, answer, platforms)
            if await self._manifests.held(repository, digest) is None
        ]
        if not fetched:
            thrift.check(repository, len(missing), what)
        lacking = 0
        for digest in missing:
            try:
                await self._fetch(repository, tag, digest)
            except UpstreamBroken as error:
                # An index may list what its registry does not have. That holds up nobody else's platform.
                lacking += error.upstream_status == _NOT_FOUND
                if error.upstream_status != _NOT_FOUND or lacking == len(platforms):
                    raise
        self._means.book.put(KIND, title, {"at": self._means.clock(), "former": str(former), "now": str(now)})

    def former(self, repository: Repository, tag: Tag, now: Digest) -> Digest | None:
        """Return what could be pulled whole when the tag came to mean `now`."""
        row: dict[str, Any] = self._means.book.get(KIND, f"{repository}:{tag}") or {}
        if row.get("now") != str(now):
            return None
        try:
            return Digest.parse(row["former"])
        except DigestInvalid:  # not what this program wrote
            return None

    async def _standing(
        self, repository: Repository, tag: Tag, known: Digest, now: Digest
    ) -> tuple[Digest | None, tuple[Platform | None, ...]]:
        """Return what can be pulled whole while the tag has not moved, and for which platforms."""
        for digest in (known, self.former(repository, tag, known)):
            answer = None if digest in (None, now) else await self._manifests.here(repository, digest, HIT)
            if answer is not None:
                platforms = await self._completeness.platforms(repository, answer.digest, answer.media_type)
                if platforms:
                    return digest, platforms
        return None, ()

    async def _next(
        self, repository: Repository, answer: ManifestAnswer, platforms: tuple[Platform | None, ...]
    ) -> list[Digest]:
        """Return which images of an index clients of these platforms will ask for."""
        manifest = await sent(answer.body, answer.media_type, repository)
        children = manifest.platform_children
        found = [child.digest for child in children if child.platform in platforms]
        if children and not found and None in platforms:  # an image that does not say what it runs on
            found = [children[0].digest]
        return list(dict.fromkeys(found))

    async def _fetch(self, repository: Repository, tag: Tag, digest: Digest) -> ManifestAnswer:
        try:
            return await self._manifests.fetch(repository, digest)
        except UpstreamNotFound as error:
            # A push seen half way: upstream has not denied the tag, so what is cached of it still stands.
            raise denied(repository, tag, digest) from error


def denied(repository: Repository, tag: Tag, digest: Digest) -> UpstreamBroken:
    """Return the error for a tag that is known to be `digest`, which upstream does not have: no tag was denied."""
    return UpstreamBroken(
        f"{repository}:{tag} is {digest}, and {repository.namespace} does not have that",
        namespace=repository.namespace,
        upstream_status=404,
    )
