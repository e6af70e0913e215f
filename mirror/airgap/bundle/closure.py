"""What the images of a bundle need, found by reading their manifests; nobody's word is taken for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.errors import BundleRefused
from mirror.oci.manifest import Manifest, ManifestMalformed
from mirror.oci.mediatype import INDEXES, MANIFESTS
from mirror.store.changes import Named

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.oci.descriptor import Descriptor
    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository, Tag

_DEEPEST = 4  # indexes within indexes; nobody publishes more than two


@dataclass(frozen=True, slots=True)
class Carried:
    """One name of a bundle, and what it stands for."""

    repository: Repository
    tag: Tag | None
    digest: Digest
    media_type: str
    subject: Digest | None = None  # what it refers to, where it came along because of that

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}" if self.tag is not None else f"{self.repository}@{self.digest}"


@dataclass(frozen=True, slots=True)
class Node:
    """A manifest: what it names, and what of that has to be here."""

    media_type: str
    size: int  # bytes
    names: tuple[Named, ...]
    children: tuple[tuple[Digest, str], ...]  # of an index: with their media types
    blobs: tuple[Named, ...]
    subject: Digest | None
    referrer: dict[str, object] = field(hash=False)  # as a list of referrers shows it, but for digest and size


@dataclass(frozen=True, slots=True)
class Extent:
    """All that one image consists of: the manifests, the blobs, and what of it is not here."""

    manifests: tuple[Digest, ...]
    blobs: tuple[Digest, ...]
    missing: tuple[Digest, ...]


class Closure:
    """Reads manifests, each once."""

    def __init__(self, body: Callable[[Digest], bytes | None], size: Callable[[Digest], int | None]) -> None:
        """`body` returns a manifest; `size` the bytes of what belongs to the bundle, None of what does not."""
        self._body = body
        self._size = size
        self.nodes: dict[Digest, Node] = {}

    def extent(self, image: Carried, here: Callable[[Digest], bool]) -> Extent:
        """Return what an image consists of; raise `BundleRefused` where that cannot be right.

        An index may name platforms that do not belong to the bundle, as long as one does.
        """
        manifests: dict[Digest, None] = {}
        blobs: dict[Digest, None] = {}
        missing: dict[Digest, None] = {}
        pending: list[tuple[Digest, str, int]] = [(image.digest, image.media_type, 0)]
        while pending:
            digest, media_type, depth = pending.pop()
            if digest in manifests or digest in missing:
                continue
            if depth > _DEEPEST:
                raise BundleRefused(f"{image} has indexes within indexes within indexes; nothing reads so deep")
            if not here(digest):
                missing[digest] = None
                continue
            node = self.node(digest, media_type, image)
            manifests[digest] = None
            children = [child for child in node.children if self._size(child[0]) is not None]
            if node.children and not children:
                raise BundleRefused(f"{image} has no platform that the bundle has: {digest} names others")
            pending += [(child, kind, depth + 1) for child, kind in reversed(children)]
            for blob in node.blobs:
                self._see(blob, digest, image)
                if here(blob.digest):
                    blobs[blob.digest] = None
                else:
                    missing[blob.digest] = None
        return Extent(tuple(manifests), tuple(blobs), tuple(missing))

    def node(self, digest: Digest, media_type: str, image: Carried) -> Node:
        """Read a manifest; raise `BundleRefused` where it is none of that type."""
        known = self.nodes.get(digest)
        if known is not None and known.media_type == media_type:
            return known
        if media_type not in INDEXES | MANIFESTS:
            raise BundleRefused(f"{image} needs {digest}, which is of type {media_type!r}: that is no manifest")
        body = self._body(digest)
        if body is None:
            raise BundleRefused(f"{image} needs the manifest {digest}, which cannot be read; take the bundle in again")
        try:
            manifest = Manifest.parse(body, media_type)
        except ManifestMalformed as error:
            raise BundleRefused(f"the manifest {digest} of {image} cannot be read: {error}") from None
        self.nodes[digest] = node = _node(manifest, len(body))
        return node

    def _see(self, blob: Named, digest: Digest, image: Carried) -> None:
        size = self._size(blob.digest)
        if size is None:
            raise BundleRefused(f"{image} needs {blob.digest}, which the bundle does not have: {digest} names it")
        if blob.size is not None and blob.size != size:
            raise BundleRefused(
                f"{blob.digest} has {size} bytes in the bundle, and {blob.size} in the manifest {digest} of {image}"
            )


def _node(manifest: Manifest, size: int) -> Node:
    shown: dict[str, object] = {"mediaType": manifest.media_type}
    if manifest.referrer_type is not None:
        shown["artifactType"] = manifest.referrer_type
    if manifest.annotations:
        shown["annotations"] = dict(manifest.annotations)
    return Node(
        manifest.media_type,
        size,
        tuple(map(_named, (*manifest.manifests, *manifest.blobs))),
        tuple((child.digest, child.media_type) for child in manifest.manifests),
        tuple(map(_named, manifest.blobs)),
        manifest.subject.digest if manifest.subject is not None else None,
        shown,
    )


def _named(descriptor: Descriptor) -> Named:
    return Named(descriptor.digest, descriptor.size)
