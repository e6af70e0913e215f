"""A real store, and images in it that are stored as the cache stores them."""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.config import StorageConfig
from mirror.config.units import Size
from mirror.oci.digest import Digest
from mirror.oci.mediatype import OCI_INDEX, OCI_MANIFEST
from mirror.oci.name import Repository
from mirror.store.changes import Linked, Stored, TagSet
from mirror.store.recognition import describe
from mirror.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REPO = Repository("docker.io", "library/app")
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@contextmanager
def opened(path: Path, *, max_size: int = 2**40) -> Iterator[Store]:
    store = Store.open(StorageConfig(path, Size(bytes=max_size), Size(bytes=0)))
    try:
        yield store
    finally:
        store.close()


@dataclass(frozen=True, slots=True)
class Image:
    digest: Digest
    blobs: tuple[Digest, ...]

    @property
    def all(self) -> tuple[Digest, ...]:
        return (self.digest, *self.blobs)


async def put(store: Store, body: bytes) -> tuple[Digest, int]:
    """Put content on disk and into the account book; the index does not know it yet."""
    digest = Digest.of(body)
    size = -(-len(body) // 4096) * 4096
    store.room.reserve(size)
    taken = await store.blobs.put(digest, body)
    store.room.landed(size)
    store.room.release(size - taken)
    store.room.keep(taken)
    return digest, taken


async def blob(store: Store, seed: str, *, size: int = 10_000, at: float | None = None) -> Digest:
    body = (seed.encode() * size)[:size]
    if store.blobs.size(Digest.of(body)) is not None:
        return Digest.of(body)
    digest, taken = await put(store, body)
    await store.index.apply(Stored(digest, taken, time.time() if at is None else at), Linked(REPO, digest))
    return digest


def manifest(*blobs: Digest, subject: Digest | None = None, note: str = "") -> bytes:
    config, *layers = [{"mediaType": LAYER, "digest": str(digest), "size": 10_000} for digest in blobs]
    document = {"schemaVersion": 2, "config": config, "layers": layers, "annotations": {"note": note}}
    if subject is not None:
        document["subject"] = {"mediaType": OCI_MANIFEST, "digest": str(subject), "size": 1}
    return json.dumps(document).encode()


def index(*manifests: Digest) -> bytes:
    named = [{"mediaType": OCI_MANIFEST, "digest": str(digest), "size": 1} for digest in manifests]
    return json.dumps({"schemaVersion": 2, "manifests": named}).encode()


async def stored(store: Store, body: bytes, media_type: str, tag: str | None = None, *, at: float) -> Digest:
    """Store a manifest with all that the index learns of it."""
    digest, taken = await put(store, body)
    tags = () if tag is None else (TagSet(REPO, tag, digest, at),)
    await store.index.apply(
        describe(digest, taken, at, media_type, body), Linked(REPO, digest, media_type, public=True), *tags
    )
    return digest


async def image(store: Store, tag: str | None, *seeds: str, at: float = 1000.0, subject: Digest | None = None) -> Image:
    """Store an image of one blob for each seed; images share what has the same seed."""
    blobs = tuple([await blob(store, seed, at=at) for seed in seeds])
    body = manifest(*blobs, subject=subject, note=tag or "")
    return Image(await stored(store, body, OCI_MANIFEST, tag, at=at), blobs)


async def multi(store: Store, tag: str, *children: Image, at: float = 1000.0) -> Digest:
    return await stored(store, index(*(child.digest for child in children)), OCI_INDEX, tag, at=at)


def here(store: Store, *digests: Digest) -> list[bool]:
    return [store.blobs.size(digest) is not None for digest in digests]


def on_disk(store: Store) -> int:
    """Return what all content takes, by the disk."""
    tops = (store.layout.blobs, store.layout.fills, store.layout.aside)
    return sum(path.stat().st_blocks * 512 for top in tops for path in top.rglob("*") if path.is_file())


def book(store: Store) -> int:
    """Return the same by the account book."""
    balance = store.room.balance()
    return balance.content + balance.held


def overwrite(store: Store, digest: Digest, body: bytes) -> None:
    """Change content behind the store's back."""
    path = store.layout.blob(digest)
    path.chmod(0o600)
    path.write_bytes(body)
    os.sync()
