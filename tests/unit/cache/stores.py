"""Real stores for the tests of what the cache decides about them, and images in them."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mirror.cache.evictor import Evictor
from mirror.cache.space import Space
from mirror.cache.uses import Uses
from mirror.config import StorageConfig
from mirror.config.units import Size
from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from mirror.store.changes import Linked, Stored, TagSet
from mirror.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1024 * 1024
REPO = Repository("docker.io", "library/app")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@contextmanager
def opened(path: Path, *, max_size: int = 2**40, low: float = 0.9, high: float = 0.95) -> Iterator[Store]:
    """Open a store, which counts as looked through."""
    config = StorageConfig(path, Size(bytes=max_size), Size(bytes=0), high_water=high, low_water=low)
    store = Store.open(config)
    try:
        yield store
    finally:
        store.close()


def evictor_of(store: Store, *, ready: bool = True) -> Evictor:
    evictor = Evictor(store, Uses(store.index, store.recent), max_size=0)
    if ready:
        evictor.ready.set()
    return evictor


def space_of(store: Store) -> Space:
    return Space(store.room, evictor_of(store))


async def blob(store: Store, size: int, seed: int, *, at: float | None = None) -> Digest:
    """Put a blob there as a fill does."""
    body = seed.to_bytes(8, "big") * (size // 8)
    digest = Digest.of(body)
    if store.blobs.size(digest) is None:
        store.room.reserve(size)
        taken = await store.blobs.put(digest, body)
        store.room.landed(size)
        store.room.release(size - taken)
        store.room.keep(taken)
        await store.index.apply(Stored(digest, taken, time.time() if at is None else at))
    return digest


async def image(store: Store, tag: str, *blobs: Digest, at: float) -> Digest:
    """Put an image there that names blobs, and was used at `at`."""
    body = json.dumps({"tag": tag, "layers": [str(digest) for digest in blobs]}).encode()
    digest = Digest.of(body)
    store.room.reserve(4096)
    taken = await store.blobs.put(digest, body)
    store.room.landed(4096)
    store.room.keep(4096)
    await store.index.apply(
        Stored(digest, taken, at, MANIFEST, names=blobs),
        Linked(REPO, digest, MANIFEST),
        *(Linked(REPO, blob) for blob in blobs),
        TagSet(REPO, tag, digest, at),
    )
    return digest


async def images(store: Store, count: int, size: int) -> list[Digest]:
    """Put images of one blob there, of `size` bytes, one used after the other."""
    return [
        await image(
            store, f"v{number}", await blob(store, size, number + 1, at=float(number + 1)), at=float(number + 1)
        )
        for number in range(count)
    ]


def left_of(store: Store, digests: list[Digest]) -> list[int]:
    """Return the numbers of those that are on disk."""
    return [number for number, digest in enumerate(digests) if store.blobs.size(digest) is not None]
