"""What the index is told of images that were carried in: all of it at once, when all of it was checked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mirror.oci.digest import Digest
from mirror.oci.mediatype import OCI_INDEX
from mirror.store.changes import SETTLED, Linked, ListingSet, Pinned, Stored, TagSet
from mirror.store.nodes import referred
from mirror.store.packing import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mirror.airgap.bundle.closure import Carried, Extent, Node
    from mirror.oci.name import Repository
    from mirror.store.changes import Change

Lists = dict[tuple["Repository", Digest], bytes]  # lists of referrers, by repository and subject


def lists(
    images: Iterable[Carried], nodes: Mapping[Digest, Node], known: Callable[[Repository, Digest], bytes | None]
) -> Lists:
    """Return the lists of referrers as they are to be, with what is `known` of them already in front."""
    entries: dict[tuple[Repository, Digest], dict[str, dict[str, Any]]] = {}
    for image in images:
        node = nodes[image.digest]
        if node.subject is None:
            continue
        key = image.repository, node.subject
        if key not in entries:
            entries[key] = _entries(known(*key))
        shown = {"digest": str(image.digest), "size": node.size, **node.referrer}
        entries[key].setdefault(str(image.digest), shown)
    return {key: _list(found.values()) for key, found in sorted(entries.items(), key=lambda item: str(item[0]))}


def changes(
    images: Sequence[Carried],
    extents: Mapping[Digest, Extent],
    nodes: Mapping[Digest, Node],
    taken: Mapping[Digest, int],
    listed: Lists,
    *,
    at: float,
    expire: bool,
    pin: bool,
) -> Iterator[Change]:
    """Yield all of it, in an order in which each fact finds those that it builds on.

    `taken` are the bytes on disk of all content, `at` is the time in seconds since the epoch. Tags are settled: nobody
    asks upstream for them again, unless they are to `expire` as others do.
    """
    when = at if expire else SETTLED
    yield from _stored(extents, nodes, taken, at)
    yield from _linked(images, extents, nodes)
    for image in images:
        if image.tag is not None:
            yield TagSet(image.repository, image.tag.name, image.digest, when)
    for (repository, subject), body in listed.items():
        digest = Digest.of(body)
        yield Stored(digest, taken[digest], at, subject=subject)
        yield ListingSet(repository, subject, digest, when)
    if pin:
        subjects = {manifest for image in images for manifest in extents[image.digest].manifests}
        for image in images:
            if _subject(image, nodes[image.digest]) not in subjects:
                yield Pinned(image.repository, str(image.tag or image.digest), at)


def _stored(
    extents: Mapping[Digest, Extent], nodes: Mapping[Digest, Node], taken: Mapping[Digest, int], at: float
) -> Iterator[Change]:
    """Yield what is on disk, manifests first: a blob that one needs is never one that nobody needs."""
    manifests = {digest for extent in extents.values() for digest in extent.manifests}
    for digest in sorted(manifests, key=str):
        node = nodes[digest]
        names = tuple(dict.fromkeys(named.digest for named in node.names))
        yield Stored(digest, taken[digest], at, node.media_type, names, node.subject)
    blobs = {digest for extent in extents.values() for digest in extent.blobs}
    for digest in sorted(blobs - manifests, key=str):
        yield Stored(digest, taken[digest], at)


def _linked(
    images: Iterable[Carried], extents: Mapping[Digest, Extent], nodes: Mapping[Digest, Node]
) -> Iterator[Change]:
    told: set[tuple[Repository, Digest]] = set()
    for image in images:
        extent = extents[image.digest]
        for digest in (*extent.manifests, *extent.blobs):
            if (image.repository, digest) in told:
                continue
            told.add((image.repository, digest))
            node = nodes.get(digest)
            if node is None or digest not in extent.manifests:
                yield Linked(image.repository, digest)
            else:
                yield Linked(image.repository, digest, node.media_type, names=node.names)


def _subject(image: Carried, node: Node) -> Digest | None:
    """Return what an image goes and stays with: it needs no pin of its own where that has one."""
    if image.tag is None:
        return node.subject
    key = referred(image.tag.name)
    return None if key is None else unpack(key)


def _entries(body: bytes | None) -> dict[str, dict[str, Any]]:
    """Read a list that is here; one that cannot be read is made anew."""
    try:
        document = json.loads(body or b"{}")
        found = document.get("manifests", []) if isinstance(document, dict) else []
        return {entry["digest"]: entry for entry in found}
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}


def _list(entries: Iterable[Mapping[str, Any]]) -> bytes:
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
