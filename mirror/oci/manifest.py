"""Manifests and indexes (image specification, manifest.md and image-index.md; Docker's schema 1 and 2).

What is parsed here may come from a hostile upstream. The bytes themselves are stored and served as they came; this is
what the mirror takes from them: which blobs and manifests they name, for sizes, read-ahead and eviction.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from mirror.errors import DigestInvalid
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.mediatype import (
    DOCKER_SCHEMA1,
    DOCKER_SCHEMA1_SIGNED,
    INDEXES,
    MANIFESTS,
    OCI_ARTIFACT,
    OCI_INDEX,
    OCI_MANIFEST,
    OCTET_STREAM,
    SCHEMA1,
    bare,
)
from mirror.oci.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SIZE = 4 * 1024 * 1024
"""Bytes. Clients refuse larger ones (distribution specification, "Pushing Manifests": registries take up to 4 MB)."""

_MAX_DIGITS = 19  # of an int64, which is what every client reads a number into
_MAX_NUMBER = 2**63 - 1
_MAX_MEDIA_TYPE = 255  # RFC 6838 §4.2: 127 characters on either side of the slash

_INDEX_FIELDS = frozenset({"manifests"})
_SCHEMA1_FIELDS = frozenset({"fsLayers"})
_IMAGE_FIELDS = frozenset({"config", "layers", "blobs"})

_Object = dict[str, object]


class ManifestMalformed(ValueError):
    """These bytes are not a manifest. The text says where and why."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A single image's manifest, or an index: then `manifests` is what counts, and `config` and `layers` are empty.

    `layers` stand as written: schema 1 lists the newest first, and a layer may occur more than once.
    """

    media_type: str
    artifact_type: str | None = None
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def parse(cls, body: bytes, media_type: str) -> Manifest:
        """Read a manifest that came with the `Content-Type` `media_type`; raise `ManifestMalformed`.

        The type is the header's, or where that names no manifest format the document's own, or else what its fields
        show. A document that could be read as an index and as an image is refused, as containerd does
        (CVE-2021-41190): two readers would see two images.
        """
        document = _load(body)
        kind = _media_type(document, bare(media_type))
        _check_unambiguous(document, kind)
        if kind in SCHEMA1:
            return cls(media_type=kind, layers=_schema1_layers(document))
        return cls(
            media_type=kind,
            artifact_type=_type(document, "artifactType", ""),
            config=_optional(document, "config"),
            layers=_descriptors(document, "layers") or _descriptors(document, "blobs"),
            manifests=_descriptors(document, "manifests"),
            subject=_optional(document, "subject"),
            annotations=_annotations(document, ""),
        )

    @property
    def is_index(self) -> bool:
        """Whether it lists manifests and has no content of its own."""
        return self.media_type in INDEXES

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The blobs that a registry must have for this image: config, then layers, each digest once, none foreign."""
        first: dict[Digest, Descriptor] = {}
        for named in (self.config, *self.layers):
            if named is not None and not named.foreign:
                first.setdefault(named.digest, named)
        return tuple(first.values())

    @property
    def children(self) -> tuple[Descriptor, ...]:
        """The manifests that an index lists, in its order; empty for an image."""
        return self.manifests

    @property
    def platform_children(self) -> tuple[Descriptor, ...]:
        """The children that are somebody's image: all but those that an index marks as attestations."""
        return tuple(child for child in self.manifests if child.platform is None or child.platform.known)

    @property
    def referrer_type(self) -> str | None:
        """The `artifactType` that a list of referrers shows (distribution specification, "Listing Referrers")."""
        return self.artifact_type or (self.config.media_type if self.config else None)


def _load(body: bytes) -> _Object:
    if len(body) > MAX_SIZE:
        raise ManifestMalformed(f"a manifest of {len(body)} bytes is larger than the limit of {MAX_SIZE} bytes")
    try:
        document = json.loads(
            body.decode("utf-8"), object_pairs_hook=_object, parse_int=_integer, parse_constant=_refuse_constant
        )
    except ManifestMalformed:
        raise
    except RecursionError:
        raise ManifestMalformed("the manifest is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError
        raise ManifestMalformed(f"the manifest is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ManifestMalformed("the manifest is not a JSON object")
    return document


def _object(pairs: list[tuple[str, object]]) -> _Object:
    # Of two equal keys one reader takes the first, another the last: they would see two images in one digest.
    read = dict(pairs)
    if len(read) < len(pairs):
        raise ManifestMalformed("the manifest has the same key twice in one object")
    return read


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > _MAX_DIGITS:
        raise ManifestMalformed(f"the manifest holds a number of {len(digits)} digits")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ManifestMalformed(f"the manifest is not JSON: it holds {name}")


def _media_type(document: _Object, header: str) -> str:
    own = bare(_type(document, "mediaType", "") or "")
    for candidate in (header, own):
        if candidate in INDEXES or candidate in MANIFESTS:
            return candidate
    if "fsLayers" in document:
        return DOCKER_SCHEMA1_SIGNED if "signatures" in document else DOCKER_SCHEMA1
    if "manifests" in document:
        return OCI_INDEX
    if "layers" in document or "config" in document:
        return OCI_MANIFEST
    raise ManifestMalformed(
        f"this is no manifest: neither its type {header[:_MAX_MEDIA_TYPE]!r} nor its fields are those of one"
    )


def _check_unambiguous(document: _Object, kind: str) -> None:
    if kind in INDEXES:
        family, fields = INDEXES, _INDEX_FIELDS
    elif kind in SCHEMA1:
        family, fields = SCHEMA1, _SCHEMA1_FIELDS
    else:
        family, fields = MANIFESTS - SCHEMA1, _IMAGE_FIELDS
    own = bare(_type(document, "mediaType", "") or "")
    if own in (INDEXES | MANIFESTS) - family:
        raise ManifestMalformed(f"the manifest came as {kind} and calls itself {own}")
    foreign = (_INDEX_FIELDS | _SCHEMA1_FIELDS | _IMAGE_FIELDS) - fields
    if wrong := sorted(key for key in foreign if document.get(key)):
        raise ManifestMalformed(f"the manifest is of type {kind} and has {wrong[0]!r}, which belongs to another type")
    if fields.isdisjoint(document) and kind != OCI_ARTIFACT:  # whose blobs are optional
        raise ManifestMalformed(f"the manifest came as {kind} and has none of its fields: {', '.join(sorted(fields))}")


def _schema1_layers(document: _Object) -> tuple[Descriptor, ...]:
    layers = []
    for number, entry in enumerate(_list(document, "fsLayers", "")):
        where = f"fsLayers[{number}]"
        layers.append(Descriptor(OCTET_STREAM, _digest(_expect_object(entry, where), "blobSum", where), None))
    return tuple(layers)


def _descriptors(document: _Object, key: str) -> tuple[Descriptor, ...]:
    return tuple(_descriptor(entry, f"{key}[{number}]") for number, entry in enumerate(_list(document, key, "")))


def _optional(document: _Object, key: str) -> Descriptor | None:
    value = document.get(key)
    return None if value is None else _descriptor(value, key)


def _descriptor(value: object, where: str) -> Descriptor:
    read = _expect_object(value, where)
    return Descriptor(
        media_type=_type(read, "mediaType", where) or OCTET_STREAM,
        digest=_digest(read, "digest", where),
        size=_size(read, where),
        urls=tuple(_expect_text(url, f"{where}.urls") for url in _list(read, "urls", where)),
        platform=_platform(read, where),
        annotations=_annotations(read, where),
        artifact_type=_type(read, "artifactType", where),
    )


def _digest(read: _Object, key: str, where: str) -> Digest:
    value = read.get(key)
    if not isinstance(value, str):
        raise ManifestMalformed(f"{where} has no {key!r}")
    try:
        return Digest.parse(value)
    except DigestInvalid as error:
        raise ManifestMalformed(f"{where}.{key}: {error}") from None


def _size(read: _Object, where: str) -> int | None:
    size = read.get("size")
    if size is None:
        return None
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_NUMBER:
        raise ManifestMalformed(f"{where}.size is not a number of bytes")
    return size


def _platform(read: _Object, where: str) -> Platform | None:
    value = read.get("platform")
    if value is None:
        return None
    platform = _expect_object(value, f"{where}.platform")
    os, architecture, variant = (_text(platform, key, f"{where}.platform") for key in ("os", "architecture", "variant"))
    return Platform(os, architecture, variant or None) if os or architecture else None


def _annotations(read: _Object, where: str) -> dict[str, str]:
    value = read.get("annotations")
    if value is None:
        return {}
    path = _join(where, "annotations")
    return {_expect_text(key, path): _expect_text(text, path) for key, text in _expect_object(value, path).items()}


def _type(read: _Object, key: str, where: str) -> str | None:
    """Read a media type, None if absent or empty. It goes out in headers, so it is printable ASCII or refused."""
    path = _join(where, key)
    text = _text(read, key, where)
    if len(text) > _MAX_MEDIA_TYPE or not text.isascii() or not text.isprintable():
        raise ManifestMalformed(f"{path} is not a media type")
    return text or None


def _list(read: _Object, key: str, where: str) -> list[object]:
    value = read.get(key)
    if value is None:  # Go writes an empty slice as null
        return []
    if not isinstance(value, list):
        raise ManifestMalformed(f"{_join(where, key)} is not a list")
    return value


def _text(read: _Object, key: str, where: str) -> str:
    value = read.get(key)
    return "" if value is None else _expect_text(value, _join(where, key))


def _expect_object(value: object, where: str) -> _Object:
    if not isinstance(value, dict):
        raise ManifestMalformed(f"{where} is not an object")
    return value


def _expect_text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ManifestMalformed(f"{where} is not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # "\ud800" is JSON, but can be neither stored nor sent
        raise ManifestMalformed(f"{where} holds half of a surrogate pair") from None
    return value


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
