"""Keeping a small body: a manifest, a list of referrers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.store.room import on_disk

if TYPE_CHECKING:
    from mirror.cache.space import Space
    from mirror.oci.digest import Digest
    from mirror.store.blobs import BlobStore


async def keep(space: Space, store: BlobStore, digest: Digest, body: bytes) -> int:
    """Store verified content, making room where there is none; raise `StoreError` where it cannot be kept.

    Return the bytes that it takes on disk, for `Stored`: before that is recorded nothing evicts it.
    """
    if store.size(digest) is not None:
        return await store.put(digest, body)
    size = on_disk(len(body))
    await space.reserve(size)
    came: list[int] = []
    try:
        return await store.put(digest, body, came.append)
    finally:  # whoever is cancelled here waited until it was on disk, or not
        space.landed(size)
        space.release(size - sum(came))  # nothing came where another one was quicker: that one counts it
        space.keep(sum(came))
