"""Whether an image is wholly here, for at least one platform (promise 8).

Podman and CRI-O choose the mirror when they ask for the manifest, and do not change their mind at a blob: a manifest
whose blobs cannot be had must not be served.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.errors import ContentBroken
from mirror.oci.manifest import Manifest, ManifestMalformed

if TYPE_CHECKING:
    from mirror.cache.memory import Memory
    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository
    from mirror.store.blobs import BlobStore
    from mirror.store.index import Index

_DEEPEST = 4  # indexes within indexes; nobody publishes more than two


class Completeness:
    """Looks through what is here."""

    def __init__(self, blobs: BlobStore, index: Index, memory: Memory) -> None:
        self._blobs = blobs
        self._index = index
        self._memory = memory

    async def of(self, repository: Repository, digest: Digest, media_type: str, *, depth: int = 0) -> bool:
        """Say whether the manifest, and for an index at least one platform's image, is here with all its blobs."""
        try:
            body = await self._memory.read(digest)
            if body is None:
                return False
            manifest = Manifest.parse(body, media_type)
        except (ContentBroken, ManifestMalformed):
            return False
        if not manifest.is_index:
            return all(self._here(repository, blob.digest) for blob in manifest.blobs)
        if not manifest.manifests or depth >= _DEEPEST:
            return depth < _DEEPEST
        for child in manifest.platform_children:
            seen = self._here(repository, child.digest)
            if seen and await self.of(repository, child.digest, child.media_type, depth=depth + 1):
                return True
        return False

    def _here(self, repository: Repository, digest: Digest) -> bool:
        return self._index.standing(repository, digest).visible and self._blobs.size(digest) is not None
