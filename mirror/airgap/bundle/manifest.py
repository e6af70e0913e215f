"""The manifest of a bundle, `bundle.json`: what it holds, what it leaves out since the other side has it, and who it is.

It is one JSON object with sorted keys on one line, and depends on nothing but the content: no time, no host. So the
same content gives the same bytes, and `sha256` of those bytes is the identity of the bundle.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Self

from mirror.oci.reference import ImageReference

NAME = "bundle.json"
SIGNATURE = "bundle.json.sig"
VERSION = 1
LARGEST = 256 * 1024 * 1024  # bytes; some 100,000 images with 2 million blobs


@dataclass(frozen=True, slots=True, order=True)
class BundledImage:
    """One name, and what it stands for. Signature tags (`sha256-HEX.sig`) are names like any other."""

    reference: str  # `docker.io/library/nginx:1.25`, or `…@sha256:…` for what has no tag
    digest: str
    media_type: str
    platforms: tuple[str, ...] = ()  # that are here whole, of those that its index lists
    subject: str = ""  # the digest that it refers to, where it travels because of that

    def named(self) -> ImageReference:
        """Return the reference, parsed."""
        return ImageReference.parse(self.reference)


@dataclass(frozen=True, slots=True, order=True)
class Content:
    """A manifest or a blob of some image. What is not `carried` was in the parent, or in a parent of that."""

    digest: str
    size: int  # bytes
    media_type: str = ""  # of a manifest; empty: a blob
    carried: bool = True


@dataclass(frozen=True, slots=True)
class BundleManifest:
    """What a bundle is. `images` and `contents` are sorted; `contents` is all that the images need, carried or not."""

    images: tuple[BundledImage, ...]
    contents: tuple[Content, ...]
    parent: str | None = None  # the identity of the bundle that this one continues
    rewritten: bool = False  # indexes name only the platforms that are carried: their digests are not upstream's

    def dump(self) -> bytes:
        """Write it, the same bytes for the same content."""
        document = {
            "version": VERSION,
            "parent": self.parent,
            "rewritten": self.rewritten,
            "images": [asdict(image) for image in sorted(self.images)],
            "contents": [asdict(content) for content in sorted(self.contents)],
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    @property
    def identity(self) -> str:
        """`sha256:HEX` of what `dump` writes."""
        return f"sha256:{hashlib.sha256(self.dump()).hexdigest()}"

    @property
    def carried(self) -> tuple[Content, ...]:
        """The contents that the bundle brings."""
        return tuple(content for content in self.contents if content.carried)

    @classmethod
    def load(cls, body: bytes) -> Self:
        """Read what `dump` wrote; raise `BundleRefused` with what is wrong of anything else."""
        raise NotImplementedError
