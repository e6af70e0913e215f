"""Keeping a small body: a manifest, a list of referrers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.store.room import on_disk

if TYPE_CHECKING:
    from mirror.oci.digest import Digest
    from mirror.store.blobs import BlobStore
    from mirror.store.room import Room


async def keep(store: BlobStore, room: Room, digest: Digest, body: bytes) -> None:
    """Store verified content, within the room there is; raise `StoreError` where it cannot be kept."""
    if store.size(digest) is not None:
        return
    size = on_disk(len(body))
    room.reserve(size)
    try:
        await store.put(digest, body)
    except BaseException:
        room.landed(size)
        room.release(size)
        raise
    room.landed(size)
