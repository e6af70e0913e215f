"""Lock files, where images stand with their digests.

`Images.lock` of Helm's distribution tooling (github.com/vmware-labs/distribution-tooling-for-helm), and of Carvel
`ImagesLock` and `BundleLock` (carvel.dev/imgpkg/docs, carvel.dev/kbld/docs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.airgap.lists.documents import items, line_of, table, word
from mirror.airgap.lists.platforms import platforms_in
from mirror.airgap.lists.references import read_reference
from mirror.airgap.lists.trees import Text
from mirror.errors import MirrorError

if TYPE_CHECKING:
    from mirror.airgap.lists.documents import Document
    from mirror.airgap.lists.sink import Sink
    from mirror.airgap.lists.trees import Tree

_ID = "kbld.carvel.dev/id"
_KINDS = {"ImagesLock", "BundleLock"}


class ImagesLock:
    """What a chart or a bundle had when it was locked: that content, under the tags that it was found by."""

    name = "images lock file"

    def fits(self, document: Document) -> bool:
        """Say whether its kind is that of a lock file."""
        return word(document.root.get("kind")) in _KINDS

    def read(self, document: Document, sink: Sink) -> None:
        """Take every image, with its digests where it has some."""
        root = document.root
        if "bundle" in root:
            _bundle(table(root.get("bundle")), sink)
        for tree in items(root.get("images")):
            entry = table(tree)
            image = word(entry.get("image"))
            if image is None:
                sink.unread("a locked image", "it has no name behind `image:`", next(map(line_of, entry), None))
            elif digests := [table(one) for one in items(entry.get("digests"))]:
                _by_platform(image, digests, sink)
            else:
                tag = _tag_of(word(table(entry.get("annotations")).get(_ID)) or "", image)
                sink.reference(_tagged(image, tag))


def _by_platform(image: str, digests: list[dict[str, Tree]], sink: Sink) -> None:
    """Take the tag for the platforms that are locked, and the digest of each, which the tag may have left since."""
    try:
        platforms = platforms_in(*(entry.get("arch") for entry in digests))
    except ValueError as error:
        sink.unread(image, str(error))
        platforms = ()
    sink.reference(image, platforms=platforms)
    for entry in digests:
        if digest := word(entry.get("digest")):
            sink.reference(Text.at(line_of(digest), f"{_untagged(image)}@{digest}"))


def _bundle(bundle: dict[str, Tree], sink: Sink) -> None:
    image = word(bundle.get("image"))
    if image is None:
        sink.unread("a bundle", "it has no name behind `image:`", next(map(line_of, bundle), None))
        return
    sink.reference(_tagged(image, word(bundle.get("tag"))))
    sink.unread(
        image, "the images of a bundle stand in its .imgpkg/images.yml; `imgpkg pull` it, and hand that over too"
    )


def _untagged(image: str) -> str:
    directory, slash, last = image.partition("@")[0].rpartition("/")
    return directory + slash + last.partition(":")[0]


def _tagged(image: str, tag: str | None) -> str:
    """Return `image`, which is named by digest, under a tag too."""
    name, at, digest = image.partition("@")
    if not (tag and at) or ":" in name.rpartition("/")[2]:
        return image
    return Text.at(line_of(image), f"{name}:{tag}@{digest}")


def _tag_of(identifier: str, image: str) -> str | None:
    """Return the tag by which kbld found a digest, if it was one of the same repository."""
    try:
        found, locked = read_reference(identifier, ""), read_reference(image, "")
    except MirrorError:
        return None
    same = found.repository == locked.repository and found.digest is None
    return str(found.tag) if same and found.tag and ":" in identifier.rpartition("/")[2] else None
