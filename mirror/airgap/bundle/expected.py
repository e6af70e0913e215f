"""Taking in a bundle that a mirror wrote: nothing comes but what `bundle.json` says, and all of it does."""

from __future__ import annotations

import json
from itertools import chain
from typing import TYPE_CHECKING, Any

from mirror.airgap.bundle.closure import Carried, Closure
from mirror.airgap.bundle.manifest import LARGEST, NAME, SIGNATURE, BundleManifest
from mirror.airgap.bundle.outcome import ParentMissing
from mirror.airgap.bundle.signature import verify
from mirror.airgap.bundle.source import LARGEST_SIGNATURE
from mirror.airgap.bundle.tar import shown
from mirror.errors import BundleRefused, DigestInvalid
from mirror.oci.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirror.airgap.bundle.bay import Bay
    from mirror.airgap.bundle.closure import Extent
    from mirror.airgap.bundle.manifest import Content
    from mirror.airgap.bundle.outcome import Imported, Terms
    from mirror.airgap.bundle.reader import Entry

_LARGEST_LIST = 64 * 1024 * 1024  # bytes of index.json, of manifest.json
_LISTS = ("oci-layout", "index.json", "manifest.json")
_BLOBS = "blobs/"


class Expected:
    """One bundle, from its second entry on."""

    def __init__(self, first: Entry, terms: Terms, outcome: Imported) -> None:
        """`first` is `bundle.json`; raise `BundleRefused` where it is none."""
        self._terms = terms
        self._outcome = outcome
        self._body = first.read(LARGEST)
        self._manifest = BundleManifest.load(self._body)
        self.contents = {Digest.parse(content.digest): content for content in self._manifest.contents}
        self._missing: frozenset[Digest] = frozenset()
        outcome.identity, outcome.parent = self._manifest.identity, self._manifest.parent

    def images(self) -> list[Carried]:
        """Return the names that the bundle has."""
        found = []
        for image in self._manifest.images:
            name = image.named()
            subject = Digest.parse(image.subject) if image.subject else None
            found.append(Carried(name.repository, name.tag, Digest.parse(image.digest), image.media_type, subject))
        return found

    @property
    def platforms(self) -> dict[str, tuple[str, ...]]:
        """The platforms of each reference, as the bundle says them: for a person."""
        return {image.reference: image.platforms for image in self._manifest.images}

    def authenticate(self, rest: Iterator[Entry], detached: Callable[[], bytes | None]) -> Iterator[Entry]:
        """Return the entries behind the signature, having verified it where a key is asked for.

        Where there is none within, `detached` gives the one that lies beside the bundle.
        """
        second = next(rest, None)
        signature = None
        if second is not None and second.name == SIGNATURE:
            signature, second = second.read(LARGEST_SIGNATURE), None
        elif self._terms.key is not None:
            signature = detached()
        self._outcome.signed = signature is not None
        if self._terms.key is not None:
            if signature is None:
                raise BundleRefused(
                    f"{self._outcome.label} is not signed, and --key asks for it; export it again with --sign, "
                    "or import it without --key if you trust where it comes from"
                )
            self._outcome.signer = verify(self._body, signature, self._terms.key)
        return rest if second is None else chain([second], rest)

    def prepare(self, bay: Bay) -> int:
        """Hold what is here, and make room for what is not; return its bytes on disk.

        Raise `ParentMissing` where something is neither here nor carried, `NoSpace` where there is no room.
        """
        missing: list[Content] = []
        new: list[Content] = []
        for digest, content in self.contents.items():
            size = bay.hold(digest)
            if size is not None and size != content.size:
                raise BundleRefused(
                    f"{digest} has {size} bytes here and {content.size} in {NAME}: one of them is wrong; "
                    "see mirror verify, and where the bundle comes from"
                )
            if size is None:
                (new if content.carried else missing).append(content)
        if missing and not self._terms.partial:
            raise ParentMissing(self._outcome.label, self._manifest.parent, missing)
        self._missing = frozenset(Digest.parse(content.digest) for content in missing)
        self._outcome.missing = tuple(missing)
        return bay.make_room(((Digest.parse(content.digest), content.size) for content in new), self._outcome.label)

    def foretell(self, bay: Bay) -> None:
        """Write into the outcome what would come, by the word of `bundle.json` alone."""
        for digest, content in self.contents.items():
            if digest not in self._missing:
                self._outcome.count(content.size, new=not bay.held(digest))

    def receive(self, rest: Iterator[Entry], bay: Bay) -> None:
        """Take all entries in."""
        lists: dict[str, bytes] = {}
        for entry in rest:
            if entry.target is not None:
                raise BundleRefused(f"{shown(entry.name)} is a link, which has no place in a bundle")
            if entry.name in _LISTS:
                lists[entry.name] = entry.read(_LARGEST_LIST)
                continue
            digest = blob_digest(entry.name)
            content = self.contents.get(digest) if digest is not None else None
            if digest is None or content is None or not content.carried:
                raise BundleRefused(f"{shown(entry.name)} is in the bundle, and {NAME} does not say so")
            if entry.size != content.size:
                raise BundleRefused(f"{shown(entry.name)} has {entry.size} bytes, and {NAME} says {content.size}")
            bay.take(entry, digest)
        bay.drained()
        for digest, content in self.contents.items():
            if content.carried and not bay.arrived(digest):
                raise BundleRefused(f"{blob_name(digest)} is not in the bundle, and {NAME} says that it is")
        for name, body in lists.items():
            self._check_list(name, body)

    def extents(self, images: list[Carried], bay: Bay) -> tuple[dict[Digest, Extent], Closure]:
        """Return what each image consists of; raise `BundleRefused` where `bundle.json` lies about it."""
        closure = Closure(bay.body, self._size)
        found: dict[Digest, Extent] = {}
        for image in images:
            extent = found[image.digest] = closure.extent(image, lambda digest: bay.size(digest) is not None)
            node = closure.nodes.get(image.digest)
            if node is not None and image.subject is not None and image.tag is None and node.subject != image.subject:
                raise BundleRefused(f"{image} refers to {node.subject}, and {NAME} says to {image.subject}")
            for digest in extent.manifests:
                if self.contents[digest].media_type != closure.nodes[digest].media_type:
                    raise BundleRefused(
                        f"{digest} is of type {closure.nodes[digest].media_type}, and {NAME} says "
                        f"{self.contents[digest].media_type or 'that it is no manifest'}"
                    )
        if not self._missing:
            needed = {digest for extent in found.values() for digest in (*extent.manifests, *extent.blobs)}
            if stray := next((digest for digest in self.contents if digest not in needed), None):
                raise BundleRefused(f"{NAME} lists {stray}, which none of its images needs")
        return found, closure

    def _size(self, digest: Digest) -> int | None:
        content = self.contents.get(digest)
        return None if content is None else content.size

    def _check_list(self, name: str, body: bytes) -> None:
        """See that the lists for other programs name nothing that the bundle does not."""
        try:
            document = json.loads(body)
            if name == "index.json":
                named = [entry["digest"] for entry in document["manifests"]]
            elif name == "manifest.json":
                named = [_digest_text(path) for entry in document for path in (entry["Config"], *entry["Layers"])]
            else:
                named = []
            unknown = next((text for text in named if Digest.parse(text) not in self.contents), None)
        except (ValueError, TypeError, KeyError, RecursionError, DigestInvalid):
            raise BundleRefused(f"{name} cannot be read as what it should be") from None
        if unknown is not None:
            raise BundleRefused(f"{name} names {shown(str(unknown))}, which is not in the bundle")


def blob_digest(name: str) -> Digest | None:
    """Return the digest of an entry `blobs/ALGORITHM/HEX`; None where it is none."""
    text = name.removeprefix(_BLOBS)
    algorithm, _, hexadecimal = text.partition("/")
    if text == name:
        return None
    try:
        return Digest.parse(f"{algorithm}:{hexadecimal}")
    except DigestInvalid:
        return None


def blob_name(digest: Digest) -> str:
    """Return where the content of `digest` lies in a bundle."""
    return f"{_BLOBS}{digest.algorithm}/{digest.hex}"


def _digest_text(path: Any) -> str:
    return str(path).removeprefix(_BLOBS).replace("/", ":", 1)
