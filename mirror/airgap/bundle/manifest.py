"""The manifest of a bundle, `bundle.json`: what it holds, what it leaves out since the other side has it, who it is.

It is one JSON object with sorted keys on one line, and depends on nothing but the content: no time, no host. So the
same content gives the same bytes, and `sha256` of those bytes is the identity of the bundle.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass
from typing import Any, Self

from mirror.errors import BundleRefused, DigestInvalid, MirrorError
from mirror.oci.digest import Digest
from mirror.oci.manifest import MAX_SIZE
from mirror.oci.mediatype import INDEXES, MANIFESTS
from mirror.oci.reference import ImageReference

NAME = "bundle.json"
SIGNATURE = "bundle.json.sig"
VERSION = 1
LARGEST = 256 * 1024 * 1024  # bytes; some 100,000 images with 2 million blobs

_IMAGE_KEYS = {"reference", "digest", "media_type", "platforms", "subject"}
_CONTENT_KEYS = {"digest", "size", "media_type", "carried"}
_SIZES = 2**63
_LONGEST = 1024  # characters
_SHOWN = 80


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
        if len(body) > LARGEST:
            raise BundleRefused(f"{NAME} has {len(body)} bytes; more than {LARGEST} is no manifest of a bundle")
        document = _object(_parsed(body), "", {"version", "parent", "rewritten", "images", "contents"})
        if not isinstance(document["rewritten"], bool):
            raise _wrong("rewritten is neither true nor false")
        if document["parent"] is not None:
            _digest(document["parent"], "parent")
        read = cls(
            tuple(
                _image(entry, f"images[{number}]") for number, entry in enumerate(_list(document["images"], "images"))
            ),
            tuple(_content(entry, f"contents[{n}]") for n, entry in enumerate(_list(document["contents"], "contents"))),
            document["parent"],
            document["rewritten"],
        )
        read._check()
        if read.dump() != body:  # else its identity would not be that of its bytes
            raise _wrong("it is not written as a mirror writes it: keys in order, and no blanks")
        return read

    def _check(self) -> None:
        """Raise `BundleRefused` where its parts do not agree with each other."""
        for what, keys in (
            ("images", [image.reference for image in self.images]),
            ("contents", [content.digest for content in self.contents]),
        ):
            for one, next_ in itertools.pairwise(keys):
                if one >= next_:
                    raise _wrong(f"its {what} are not in order, or one is there twice: {next_} follows {one}")
        kinds = {content.digest: content.media_type for content in self.contents if content.media_type}
        for image in self.images:
            if kinds.get(image.digest) != image.media_type:
                raise _wrong(f"its contents do not have {image.reference}, which is {image.digest}")


def _parsed(body: bytes) -> object:
    try:
        document = json.loads(body.decode("utf-8"), object_pairs_hook=_unambiguous)
    except RecursionError:
        raise _wrong("it is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError
        raise _wrong(f"it is not JSON: {error}") from None
    version = document.get("version") if isinstance(document, dict) else None
    if isinstance(version, int) and not isinstance(version, bool) and version > VERSION:
        raise BundleRefused(
            f"{NAME} is of version {version}, and this mirror reads up to {VERSION}: use the version that wrote it, "
            "or a later one"
        )
    if version != VERSION or isinstance(version, bool):
        raise _wrong("it does not say that it is of version 1")
    return document


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) < len(pairs):
        raise ValueError("it has the same key twice in one object")
    return read


def _image(value: object, where: str) -> BundledImage:
    read = _object(value, where, _IMAGE_KEYS)
    reference, digest = _text(read["reference"], f"{where}.reference"), _digest(read["digest"], f"{where}.digest")
    try:
        named = ImageReference.parse(reference)
    except MirrorError as error:
        raise _wrong(f"{where}.reference: {error}") from None
    if str(named) != reference or (named.tag is not None and named.digest is not None):
        raise _wrong(f"{where}.reference {reference!r} is not HOST/NAME:TAG or HOST/NAME@DIGEST")
    if named.digest is not None and str(named.digest) != digest:
        raise _wrong(f"{where} is called {reference} and has the digest {digest}")
    platforms = tuple(_text(one, f"{where}.platforms") for one in _list(read["platforms"], f"{where}.platforms"))
    return BundledImage(
        reference,
        digest,
        _media_type(read["media_type"], f"{where}.media_type"),
        platforms,
        _digest(read["subject"], f"{where}.subject") if read["subject"] != "" else "",
    )


def _content(value: object, where: str) -> Content:
    read = _object(value, where, _CONTENT_KEYS)
    size, kind, carried = read["size"], read["media_type"], read["carried"]
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < _SIZES:
        raise _wrong(f"{where}.size is not a number of bytes")
    if not isinstance(carried, bool):
        raise _wrong(f"{where}.carried is neither true nor false")
    if kind != "":
        _media_type(kind, f"{where}.media_type")
        if size > MAX_SIZE:
            raise _wrong(f"{where} is a manifest of {size} bytes, and the limit is {MAX_SIZE}")
    return Content(_digest(read["digest"], f"{where}.digest"), size, kind, carried)


def _object(value: object, where: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"{where or 'it'} is not an object")
    if value.keys() != keys:
        [first, *_] = sorted(value.keys() ^ keys)
        there = "has" if first in value else "lacks"
        raise _wrong(f"{where or 'it'} {there} {first[:_SHOWN]!r}; an object here has {', '.join(sorted(keys))}")
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(f"{where} is not a list")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value or len(value) > _LONGEST or not value.isprintable():
        raise _wrong(f"{where} is not text that can be shown, of up to {_LONGEST} characters")
    return value


def _media_type(value: object, where: str) -> str:
    if not isinstance(value, str) or (value not in INDEXES and value not in MANIFESTS):
        raise _wrong(f"{where} is not the media type of a manifest")
    return value


def _digest(value: object, where: str) -> str:
    try:
        return str(Digest.parse(_text(value, where)))
    except DigestInvalid as error:
        raise _wrong(f"{where}: {error}") from None


def _wrong(problem: str) -> BundleRefused:
    return BundleRefused(f"{NAME} is damaged, or no bundle's: {problem}; get the bundle again from who made it")
