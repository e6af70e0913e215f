"""A store with images in it, put there as the cache does: real files, real index, and no server."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mirror import config
from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from mirror.store.changes import Linked, Stored, TagSet
from mirror.store.store import Store
from tests.fakes.library import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, platform_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mirror.store.changes import Change


class Stock:
    """Builds a store in `directory`, and the `mirror.yaml` that names it. `used` is how many seconds ago."""

    def __init__(self, directory: Path, **storage: Any) -> None:
        self.file = directory / "mirror.yaml"
        self.path = directory / "store"
        self._storage = storage
        self._open: Store | None = None
        self.configure()
        self._run(lambda store: store.count())

    def configure(self, **storage: Any) -> None:
        """Write `mirror.yaml`, with other limits from now on."""
        self._storage |= storage
        self.file.write_text(json.dumps({"storage": {"path": str(self.path), "min_free": "0B", **self._storage}}))
        self._config = config.load(self.file, {})

    def copy(self, directory: Path) -> Stock:
        """Return the same again in another directory."""
        shutil.copytree(self.path, directory / "store")
        return Stock(directory, **self._storage)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Keep the store open meanwhile: to open it for each image takes long."""
        self._open = Store.open(self._config.storage)
        try:
            yield
        finally:
            self._open.close()
            self._open = None

    def apply(self, *changes: Change) -> None:
        self._run(lambda store: store.index.apply(*changes))

    def layer(self, content: bytes) -> dict[str, Any]:
        """Keep a blob; return its descriptor."""
        return self._keep(content, OCI_LAYER)

    def image(
        self,
        name: str,
        layers: Sequence[dict[str, Any]],
        *,
        platform: str = "linux/amd64",
        used: float = 0.0,
        here: bool = True,
        subject: str | None = None,
    ) -> dict[str, Any]:
        """Keep an image under `NAMESPACE/NAME[:TAG]`, or only say what it would be; return its descriptor."""
        config_ = self._keep(json.dumps(platform_of(platform)).encode(), OCI_CONFIG) if here else {}
        document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config_, "layers": list(layers)}
        if subject is not None:
            document["subject"] = {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1}
        named = [config_, *layers]
        written = self._manifest(name, document, named, used=used, here=here, subject=subject)
        return {**written, "platform": platform_of(platform)}

    def index(self, name: str, children: Sequence[dict[str, Any]], *, used: float = 0.0) -> dict[str, Any]:
        """Keep an index."""
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(children)}
        return self._manifest(name, document, children, used=used)

    def file_of(self, digest: str) -> Path:
        """Where content lies."""
        _, _, hexadecimal = digest.partition(":")
        return self.path / "blobs.v1/sha256" / hexadecimal[:2] / hexadecimal

    def files(self) -> set[str]:
        """The digests of all content on disk."""
        return {f"sha256:{path.name}" for path in (self.path / "blobs.v1").rglob("*") if path.is_file()}

    def _manifest(
        self,
        name: str,
        document: dict[str, Any],
        named: Sequence[dict[str, Any]],
        *,
        used: float,
        here: bool = True,
        subject: str | None = None,
    ) -> dict[str, Any]:
        path, _, tag = name.partition(":")
        namespace, _, rest = path.partition("/")
        repository = Repository(namespace, rest)
        body, at = json.dumps(document).encode(), time.time() - used
        digest, media_type = Digest.of(body), document["mediaType"]
        if here:

            async def keep(store: Store) -> None:
                taken = await self._put(store, digest, body)
                names = tuple(Digest.parse(one["digest"]) for one in named)
                about = Digest.parse(subject) if subject else None
                changes: list[Change] = [
                    Stored(digest, taken, at, media_type, names, about),
                    Linked(repository, digest, media_type, public=True),
                ]
                if tag:
                    changes.append(TagSet(repository, tag, digest, at))
                await store.index.apply(*changes)

            self._run(keep)
        return {"mediaType": media_type, "digest": str(digest), "size": len(body)}

    def _keep(self, body: bytes, media_type: str) -> dict[str, Any]:
        digest = Digest.of(body)

        async def keep(store: Store) -> None:
            taken = await self._put(store, digest, body)
            await store.index.apply(Stored(digest, taken, time.time() - 1e6))

        self._run(keep)
        return {"mediaType": media_type, "digest": str(digest), "size": len(body)}

    async def _put(self, store: Store, digest: Digest, body: bytes) -> int:
        if store.blobs.size(digest) is not None:
            return await store.blobs.put(digest, body)
        room = -(-len(body) // 4096) * 4096
        store.room.reserve(room)
        taken = await store.blobs.put(digest, body)
        store.room.landed(room)
        store.room.keep(taken)
        store.room.release(room - taken)
        return taken

    def _run(self, work: Any) -> None:
        if self._open is not None:
            asyncio.run(work(self._open))
            return
        store = Store.open(self._config.storage)
        try:
            asyncio.run(work(store))
        finally:
            store.close()
