"""Whether an image is wholly here, for at least one platform (promise 8).

Podman and CRI-O choose the mirror when they ask for the manifest, and do not change their mind at a blob: a manifest
whose blobs cannot be had must not be served.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from mirror.cache.parsing import INLINE, parsed
from mirror.errors import ContentBroken
from mirror.oci.manifest import ManifestMalformed
from mirror.oci.platform import Platform

if TYPE_CHECKING:
    from mirror.cache.memory import Memory
    from mirror.oci.digest import Digest
    from mirror.oci.manifest import Manifest
    from mirror.oci.name import Repository
    from mirror.store.blobs import BlobStore
    from mirror.store.index import Index

_DEEPEST = 4  # indexes within indexes; nobody publishes more than two
_MOST = 1000  # manifests looked into for one answer: an index may name as many as it likes
_TURN = 64  # blobs looked for before others get their turn on the loop


class Completeness:
    """Looks through what is here."""

    def __init__(self, blobs: BlobStore, index: Index, memory: Memory) -> None:
        self._blobs = blobs
        self._index = index
        self._memory = memory

    async def of(self, repository: Repository, digest: Digest, media_type: str) -> bool:
        """Say whether the manifest, and for an index at least one platform's image, is here with all its blobs."""
        return await self._look(repository, digest, media_type, set(), 0)

    async def platforms(self, repository: Repository, digest: Digest, media_type: str) -> tuple[Platform | None, ...]:
        """Return for which platforms `of` is so, each once; None stands for one that nothing tells."""
        manifest = await self._read(digest, media_type)
        if manifest is None:
            return ()
        found: dict[Platform | None, None] = {}
        if not manifest.is_index:
            if await self.of(repository, digest, media_type):
                found[await self._configured(manifest)] = None
            return tuple(found)
        for child in manifest.platform_children[:_MOST]:
            if child.platform in found or not self._here(repository, child.digest):
                continue
            if await self.of(repository, child.digest, child.media_type):
                found[child.platform] = None
        return tuple(found)

    async def _configured(self, manifest: Manifest) -> Platform | None:
        """Return the platform that an image's configuration tells (image specification, config.md)."""
        config = manifest.config
        if config is None or (config.size or 0) > INLINE:
            return None
        try:
            document = json.loads(await self._memory.read(config.digest) or b"")
            return Platform(document["os"], document["architecture"], document.get("variant") or None)
        except (ContentBroken, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    async def _read(self, digest: Digest, media_type: str) -> Manifest | None:
        try:
            body = await self._memory.read(digest)
            return None if body is None else await parsed(body, media_type)
        except (ContentBroken, ManifestMalformed):
            return None

    async def _look(
        self, repository: Repository, digest: Digest, media_type: str, seen: set[Digest], depth: int
    ) -> bool:
        if digest in seen or len(seen) >= _MOST or depth > _DEEPEST:
            return False  # what was looked into before was not whole, or there would have been an answer
        seen.add(digest)
        manifest = await self._read(digest, media_type)
        if manifest is None:
            return False
        if not manifest.is_index:
            return await self._all_here(repository, [blob.digest for blob in manifest.blobs])
        for number, child in enumerate(manifest.platform_children):
            if number % _TURN == _TURN - 1:
                await asyncio.sleep(0)
            if child.digest in seen or not self._here(repository, child.digest):
                continue
            if await self._look(repository, child.digest, child.media_type, seen, depth + 1):
                return True
        return not manifest.manifests

    async def _all_here(self, repository: Repository, digests: list[Digest]) -> bool:
        for number, digest in enumerate(digests):
            if number % _TURN == _TURN - 1:
                await asyncio.sleep(0)
            if not self._here(repository, digest):
                return False
        return True

    def _here(self, repository: Repository, digest: Digest) -> bool:
        return self._blobs.size(digest) is not None and self._index.standing(repository, digest).visible
