"""Small bodies in memory: manifests, configs, the smallest layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachetools import LRUCache

if TYPE_CHECKING:
    from mirror.oci.digest import Digest
    from mirror.store.blobs import BlobStore

LARGEST = 64 * 1024  # bytes; what is larger goes out by sendfile
_CAPACITY = 16 * 1024 * 1024  # bytes in all
_OVERHEAD = 512  # bytes that an entry costs beside its body


class Memory:
    """Bodies by digest, bounded in bytes, the least recently used ones out first."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._bodies: LRUCache[Digest, bytes] = LRUCache(_CAPACITY, getsizeof=lambda body: len(body) + _OVERHEAD)

    def get(self, digest: Digest) -> bytes | None:
        """Return a body that is in memory."""
        body: bytes | None = self._bodies.get(digest)
        return body

    def keep(self, digest: Digest, body: bytes) -> None:
        """Keep a verified body, if it is small."""
        if len(body) <= LARGEST:
            self._bodies[digest] = body

    async def read(self, digest: Digest) -> bytes | None:
        """Return a body from memory or else from disk, verified; None where it is in neither.

        For manifests and small blobs. Raises `ContentBroken`.
        """
        body = self.get(digest)
        if body is None:
            body = await self._blobs.read(digest)
            if body is not None:
                self.keep(digest, body)
        return body
