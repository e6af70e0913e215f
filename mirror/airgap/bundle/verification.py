"""A whole bundle read again: every byte against its digest, and every list against the others.

The signature covers `bundle.json`, and by its digests all content. It does not cover the files for other tools: a
`manifest.json` that gave the name of one image to another would make `docker load` take in what nobody signed under
that name. So what they say is compared with `bundle.json` too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mirror.airgap.bundle.inspection import BLOBS, Manifests, begin, carried, closure_of, digest_in
from mirror.airgap.bundle.layout import DOCKER, FILES, INDEX, LAYOUT, path_of
from mirror.errors import BundleRefused
from mirror.oci.manifest import MAX_SIZE
from mirror.oci.mediatype import OCI_INDEX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from mirror.airgap.bundle.closure import Closure, Extent, Node
    from mirror.airgap.bundle.manifest import Content
    from mirror.airgap.bundle.reader import Entry
    from mirror.airgap.bundle.source import Source
    from mirror.oci.digest import Digest

_LONGEST_ENTRY = 64 * 1024  # bytes that the lists for other tools have for an image; it may have hundreds of layers
_INDEX_FRAME = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": 0}
_DESCRIBED = {"digest", "size", "mediaType", "annotations"}
_NAMES = {"io.containerd.image.name", "org.opencontainers.image.ref.name"}
_DOCKER_KEYS = {"Config", "RepoTags", "Layers"}


class Verification:
    """One reading of one bundle. Opening it reads its front; raise `BundleRefused` where that is none."""

    def __init__(self, source: Source) -> None:
        beginning = begin(source)
        self.manifest = beginning.manifest
        self.body = beginning.body
        self.signature = beginning.signature
        self.files = 0
        self.size = 0  # bytes of content that were read
        self.problems: list[str] = []
        self._label = source.label
        self._rest = beginning.rest
        self._lists: dict[str, bytes] = {}
        self._came: set[str] = set()
        self._bad: set[str] = set()

    def run(self, advance: Callable[[int], None]) -> list[str]:
        """Read all of it, and return what is wrong, a sentence each; `advance` is told the bytes.

        Raise `BundleRefused` where it cannot be read to its end.
        """
        contents = {content.digest: content for content in self.manifest.contents}
        manifests = Manifests()
        try:
            for entry in self._rest:
                self._take(entry, contents, manifests, advance)
            self.problems += (
                f"{digest} is not there; the bundle was not copied whole, or put together wrongly"
                for digest, content in contents.items()
                if content.carried and digest not in self._came
            )
            closure = closure_of(self.manifest, manifests)
            self._compare(contents, self._extents(contents, manifests, closure), closure)
        finally:
            manifests.close()
        return self.problems

    def _take(
        self, entry: Entry, contents: Mapping[str, Content], manifests: Manifests, advance: Callable[[int], None]
    ) -> None:
        if entry.name in FILES:
            self._lists[entry.name] = entry.read(_LONGEST_ENTRY * (len(self.manifest.images) + 1))
            return
        digest = digest_in(entry.name)
        content = contents.get(str(digest))
        if digest is None or content is None or not content.carried:
            what = (
                "content that bundle.json does not say it carries" if entry.name.startswith(BLOBS) else "no file of one"
            )
            self.problems.append(f"{entry.name} does not belong to the bundle: it is {what}")
            return
        self._came.add(content.digest)
        if entry.size != content.size:
            self._damaged(content, f"has {entry.size} bytes, and bundle.json says {content.size}")
            return
        self._hash(entry, digest, content, manifests, advance)

    def _hash(
        self, entry: Entry, digest: Digest, content: Content, manifests: Manifests, advance: Callable[[int], None]
    ) -> None:
        kept = bytearray()
        hasher = digest.hasher()
        for chunk in entry.chunks():
            hasher.update(chunk)
            advance(len(chunk))
            if content.media_type and len(kept) <= MAX_SIZE:
                kept += chunk
        self.files += 1
        self.size += content.size
        if hasher.hexdigest() != digest.hex:
            self._damaged(content, "is damaged: its bytes are not what its digest says")
        elif content.media_type:
            manifests.add(digest, bytes(kept))

    def _damaged(self, content: Content, what: str) -> None:
        self._bad.add(content.digest)
        self.problems.append(f"{content.digest} {what}; copy the bundle again")

    def _extents(self, contents: Mapping[str, Content], manifests: Manifests, closure: Closure) -> dict[str, Extent]:
        """Follow what is carried of each image, by reference; what only a parent has cannot be followed."""

        def here(digest: Digest) -> bool:
            return digest in manifests if contents[str(digest)].media_type else str(digest) not in self._bad

        extents = {}
        for image in self.manifest.images:
            try:
                extents[image.reference] = closure.extent(carried(image), here)
            except BundleRefused as error:
                self.problems.append(str(error))
        return extents

    def _compare(self, contents: Mapping[str, Content], extents: Mapping[str, Extent], closure: Closure) -> None:
        """Compare what other tools read with what the mirror reads."""
        if self._document(LAYOUT) != {"imageLayoutVersion": "1.0.0"}:
            self.problems.append(f"{LAYOUT} does not say that this is an OCI image layout of version 1.0.0")
        self.problems += (f"{INDEX} {problem}" for problem in self._index(contents))
        if DOCKER in self._lists:
            self.problems += (f"{DOCKER} {problem}" for problem in self._docker(extents, closure))

    def _document(self, name: str) -> Any:
        try:
            return json.loads(self._lists.get(name, b"null"))
        except (ValueError, RecursionError):
            return None

    def _index(self, contents: Mapping[str, Content]) -> Iterator[str]:
        document = self._document(INDEX)
        listed = set()
        for entry in _objects(document, "manifests"):
            digest, names = entry.get("digest"), entry.get("annotations", {})
            content = contents.get(digest) if isinstance(digest, str) else None
            described = {"digest": digest, "size": entry.get("size"), "mediaType": entry.get("mediaType")}
            if content is None or described != _descriptor(content) or entry.keys() - _DESCRIBED:
                yield f"lists {_shown(digest)}, which is not in bundle.json, or not like this"
                continue
            listed.add(content.digest)
            yield from self._named(content.digest, names)
        for image in self.manifest.images:
            if image.digest not in listed:
                yield f"does not list {image.reference}"
        if not isinstance(document, dict) or {**document, "manifests": 0} != _INDEX_FRAME:
            yield "is no index of an OCI image layout"

    def _named(self, digest: str, names: object) -> Iterator[str]:
        """Tell what is wrong with the names that an entry gives to a digest."""
        if not isinstance(names, dict) or names.keys() - _NAMES:
            yield f"has annotations for {digest} that no mirror writes"
            return
        digests = {image.reference: image.digest for image in self.manifest.images}
        for name in dict.fromkeys(map(_text, names.values())):
            if name not in digests:
                yield f"names {_shown(name)}, which is not in bundle.json"
            elif digests[name] != digest:
                yield f"says that {name} is {digest}, and bundle.json says {digests[name]}"

    def _docker(self, extents: Mapping[str, Extent], closure: Closure) -> Iterator[str]:
        """Compare what `docker load` would make of it: each name has to be that of a manifest with the same blobs."""
        document = self._document(DOCKER)
        if not isinstance(document, list):
            yield "is no list of images"
        for entry in _objects({"list": document}, "list"):
            if entry.keys() - _DOCKER_KEYS:
                yield f"has keys that no mirror writes: {_shown(sorted(entry.keys() - _DOCKER_KEYS))}"
            layers, tags = entry.get("Layers"), entry.get("RepoTags")
            files = [_text(file) for file in (entry.get("Config"), *(layers if isinstance(layers, list) else ()))]
            paths = list(dict.fromkeys(files))  # a manifest's blobs are told once, too
            for name in map(_text, tags if isinstance(tags, list) else ()):
                if name not in extents:
                    yield f"names {_shown(name)}, which is not in bundle.json"
                elif not any(_blobs(closure.nodes[one]) == paths for one in extents[name].manifests):
                    yield f"makes {name} of something else than its manifest does"


def _objects(document: Any, key: str) -> Iterable[dict[str, Any]]:
    """Return the objects in a list; what is none is one that is empty, and then no right one."""
    found = document.get(key) if isinstance(document, dict) else None
    return [entry if isinstance(entry, dict) else {} for entry in found] if isinstance(found, list) else []


def _descriptor(content: Content) -> dict[str, Any]:
    return {"digest": content.digest, "size": content.size, "mediaType": content.media_type}


def _blobs(node: Node) -> list[str]:
    return [path_of(str(named.digest)) for named in node.blobs]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _shown(value: object) -> str:
    return repr(value)[:160]
