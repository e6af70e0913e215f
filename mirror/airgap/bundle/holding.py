"""What an export reads of the store, and holds, so that it stays there until it is written.

Of each image only its own manifest is held, by the lock that every reader takes: whoever evicts takes an image whole or
not at all, so that a manifest that stays keeps all that it names.
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, BinaryIO

from mirror.errors import ContentBroken
from mirror.oci.manifest import MAX_SIZE, Manifest, ManifestMalformed
from mirror.store.changes import Lost

if TYPE_CHECKING:
    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository
    from mirror.store.store import Store

_OTHERS = 256  # descriptors that the process needs for other things


class Lacking(Exception):
    """Something that an image needs is not here. The text says what, and goes on behind the image's name."""


class Holding:
    """A reader of one store. Closing it lets go of everything."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._files: dict[Digest, BinaryIO] = {}
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = max(most - _OTHERS, most // 3)

    async def manifest(self, repository: Repository, digest: Digest, *, hold: bool) -> tuple[Manifest, bytes]:
        """Return a manifest that a repository may show, and its bytes, verified; raise `Lacking` or `StoreError`.

        `hold` what is no part of an image that is held.
        """
        standing = self._store.index.standing(repository, digest)
        if not standing.visible:
            raise Lacking(f"its manifest {digest} is not here")
        if hold:
            self._hold(digest)
        body = await self._read(digest)
        if body is None:
            raise Lacking(f"its manifest {digest} is not here")
        try:
            return Manifest.parse(body, standing.media_type or ""), body
        except ManifestMalformed as error:
            raise Lacking(f"its manifest {digest} cannot be read: {error}") from None

    def size(self, repository: Repository, digest: Digest) -> int | None:
        """Return the bytes of a blob, None where it is not here, or not for this repository (promise 10)."""
        size = self._store.blobs.size(digest)
        return size if size is not None and self._store.index.standing(repository, digest).visible else None

    async def document(self, digest: Digest) -> bytes | None:
        """Return a blob that is small enough for a configuration; raise `Lacking` where it was damaged."""
        size = self._store.blobs.size(digest)
        return await self._read(digest) if size is not None and size <= MAX_SIZE else None

    def close(self) -> None:
        """Let go."""
        while self._files:
            self._files.popitem()[1].close()

    def _hold(self, digest: Digest) -> None:
        # Past the limit on open files it goes on without: then what is evicted meanwhile is told when it is written.
        if digest in self._files or len(self._files) >= self._most:
            return
        opened = self._store.blobs.open(digest)
        if opened is not None:
            self._files[digest] = opened[0]

    async def _read(self, digest: Digest) -> bytes | None:
        try:
            return await self._store.blobs.read(digest)
        except ContentBroken as error:
            await self._store.index.apply(Lost(digest))
            raise Lacking(f"{error}; mirror verify --repair does that") from None
