"""A store with images in several repositories, as the cache keeps them: with links, names, tags, lists of referrers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

from mirror import config
from mirror.cache.parsing import named
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest
from mirror.oci.mediatype import OCI_INDEX, OCI_MANIFEST
from mirror.oci.name import Repository
from mirror.store.changes import Linked, ListingSet, Stored, TagSet
from mirror.store.recognition import describe
from mirror.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from mirror.store.changes import Change

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
COSIGN = "application/vnd.dev.cosign.simplesigning.v1+json"

Descriptor = dict[str, Any]


class Shelf:
    """The store in `directory`, open while the block runs, and the `mirror.yaml` that names it."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "mirror.yaml"
        self.path = directory / "store"
        self.file.write_text(json.dumps({"storage": {"path": str(self.path), "min_free": "0B"}}))

    def __enter__(self) -> Self:
        self.store = Store.open(config.load(self.file, {}).storage)
        asyncio.run(self.store.count())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.close()

    def blob(self, repository: str, body: bytes, media_type: str = OCI_LAYER) -> Descriptor:
        self._keep(body, lambda digest, taken: [Stored(digest, taken, time.time()), Linked(repo(repository), digest)])
        return {"mediaType": media_type, "digest": str(Digest.of(body)), "size": len(body)}

    def manifest(
        self, repository: str, tag: str | None, document: dict[str, Any], *, here: bool = True, linked: bool = True
    ) -> Descriptor:
        body, at = json.dumps(document).encode(), repo(repository)
        read = Manifest.parse(body, document["mediaType"])

        def facts(digest: Digest, taken: int) -> list[Change]:
            found: list[Change] = [describe(digest, taken, time.time(), read.media_type, body)]
            if linked:
                found.append(Linked(at, digest, read.media_type, names=named(read)))
            if tag:
                found.append(TagSet(at, tag, digest, time.time()))
            return found

        if here:
            self._keep(body, facts)
        return {"mediaType": read.media_type, "digest": str(Digest.of(body)), "size": len(body)}

    def image(
        self,
        repository: str,
        tag: str | None,
        *layers: bytes,
        platform: str = "linux/amd64",
        here: bool = True,
        subject: Descriptor | None = None,
    ) -> Descriptor:
        """Keep an image; not `here` is what is known of it and was never fetched. Returns it as an index lists it."""
        system = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
        diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
        configured = json.dumps({**system, "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
        keep = self.blob if here else _described
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": keep(repository, configured, OCI_CONFIG),
            "layers": [keep(repository, layer) for layer in layers],
        }
        if subject is not None:
            document["subject"] = {key: subject[key] for key in ("mediaType", "digest", "size")}
        return {**self.manifest(repository, tag, document, here=here), "platform": system}

    def index(self, repository: str, tag: str | None, *children: Descriptor) -> Descriptor:
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(children)}
        return self.manifest(repository, tag, document)

    def artifact(
        self, repository: str, tag: str | None, kind: str, content: bytes, *, subject: Descriptor | None = None
    ) -> Descriptor:
        """Keep what is no container's image: a signature, a chart."""
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": kind,
            "config": self.blob(repository, b"{}", "application/vnd.oci.empty.v1+json"),
            "layers": [self.blob(repository, content, kind)],
        }
        if subject is not None:
            document["subject"] = {key: subject[key] for key in ("mediaType", "digest", "size")}
        return {**self.manifest(repository, tag, document), "artifactType": kind}

    def listing(self, repository: str, subject: Descriptor, *referrers: Descriptor) -> None:
        """Keep what upstream answered of the referrers of a manifest."""
        body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(referrers)}).encode()
        of = Digest.parse(subject["digest"])
        self._keep(
            body,
            lambda digest, taken: [
                Stored(digest, taken, time.time(), subject=of),
                ListingSet(repo(repository), of, digest, time.time()),
            ],
        )

    def file_of(self, descriptor: Descriptor | str) -> Path:
        digest = descriptor if isinstance(descriptor, str) else descriptor["digest"]
        return self.store.layout.blob(Digest.parse(digest))

    def damage(self, descriptor: Descriptor | str) -> None:
        """Change one byte behind the store's back."""
        path = self.file_of(descriptor)
        body = bytearray(path.read_bytes())
        body[len(body) // 2] ^= 1
        path.chmod(0o600)
        path.write_bytes(body)

    def _keep(self, body: bytes, facts: Any) -> None:
        async def keep() -> None:
            digest = Digest.of(body)
            if self.store.blobs.size(digest) is not None:
                taken = await self.store.blobs.put(digest, body)
            else:
                room = -(-len(body) // 4096) * 4096
                self.store.room.reserve(room)
                taken = await self.store.blobs.put(digest, body)
                self.store.room.landed(room)
                self.store.room.keep(taken)
                self.store.room.release(room - taken)
            await self.store.index.apply(*facts(digest, taken))

        asyncio.run(keep())


def repo(name: str) -> Repository:
    namespace, _, rest = name.partition("/")
    return Repository(namespace, rest)


def signature_tag(of: Descriptor, kind: str = "sig") -> str:
    return f"{of['digest'].replace(':', '-')}.{kind}"


def _described(_: str, body: bytes, media_type: str = OCI_LAYER) -> Descriptor:
    return {"mediaType": media_type, "digest": str(Digest.of(body)), "size": len(body)}


def digests(*descriptors: Descriptor) -> set[str]:
    return {one["digest"] for one in descriptors}


def whole(shelf: Shelf, *descriptors: Descriptor) -> set[str]:
    """Return the digests of all that some manifests need and that is here, themselves included."""
    found: set[str] = set()
    pending: Sequence[Descriptor] = descriptors
    while pending:
        found |= digests(*pending)
        documents = [json.loads(shelf.file_of(one).read_bytes()) for one in pending]
        blobs = [
            blob for document in documents for blob in (document.get("config"), *document.get("layers", ())) if blob
        ]
        found |= digests(*blobs)
        pending = [
            child for document in documents for child in document.get("manifests", ()) if shelf.file_of(child).exists()
        ]
    return found
