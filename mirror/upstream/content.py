"""What upstream's manifest bytes are: their digest and their media type, whatever the headers say; and how old."""

from __future__ import annotations

import json
import re
import zlib
from typing import TYPE_CHECKING

from mirror.errors import DigestInvalid
from mirror.oci.digest import Digest
from mirror.oci.manifest import MAX_SIZE
from mirror.oci.mediatype import (
    DOCKER_SCHEMA1,
    DOCKER_SCHEMA1_SIGNED,
    INDEXES,
    MANIFESTS,
    OCI_INDEX,
    OCI_MANIFEST,
    OCTET_STREAM,
    bare,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

KNOWN = INDEXES | MANIFESTS
_MEANINGLESS = frozenset({"", "text/plain", OCTET_STREAM, "binary/octet-stream", "application/json"})
_DECODERS = {"gzip": 31, "x-gzip": 31, "deflate": 47}  # zlib's window bits: gzip alone, or whichever it is

_WARNING = re.compile(r'\b299 \S{1,255} "((?:[^"\\]|\\.){0,1000})"')  # RFC 7234 §5.5; 299 is what a mirror calls stale
_MAX_AGE = 10 * 365 * 86400.0  # seconds
_SHOWN = 300  # characters


def staleness(warnings: Iterable[str]) -> str | None:
    """Return why a mirror that is the upstream could not ask whether what it sends still holds; None: it did ask."""
    for header in warnings:
        if (match := _WARNING.search(header[:2000])) is not None:
            said = re.sub(r"\\(.)", r"\1", match[1])
            return "".join(c if c.isprintable() else " " for c in said)[:_SHOWN].removeprefix("stale: ")
    return None


def age_of(headers: Mapping[str, str]) -> float:
    """Return the seconds since such a mirror asked: `Age` (RFC 9111 §5.1); 0 where it cannot be read."""
    text = headers.get("Age", "").strip()
    return min(float(text[:12]), _MAX_AGE) if text.isascii() and text.isdigit() else 0.0


def header_digest(headers: Mapping[str, str]) -> Digest | None:
    """Return `Docker-Content-Digest`; None where there is none, or one that does not parse."""
    try:
        return Digest.parse(headers.get("Docker-Content-Digest", "").strip())
    except DigestInvalid:
        return None


def verified(body: bytes, expected: Digest, encoding: str) -> bytes | None:
    """Return the bytes whose digest is `expected`: as they came, else decoded; None where neither is right.

    A gzip-encoded answer to a request for identity comes of servers that label what they store (moby#17595).
    """
    if expected.matches(body):
        return body
    bits = _DECODERS.get(encoding.strip().lower())
    if bits is None:
        return None
    decoder = zlib.decompressobj(bits)
    try:
        decoded = decoder.decompress(body, MAX_SIZE + 1)
    except zlib.error:
        return None
    return decoded if len(decoded) <= MAX_SIZE and expected.matches(decoded) else None


def media_type(header: str, body: bytes) -> str:
    """Return the media type of a manifest; raise `ValueError` where these bytes are not one.

    The header counts if it names a type at all; else what the body says of itself; else what it looks like.
    """
    named = bare(header)
    if named in KNOWN:
        if body.lstrip()[:1] != b"{":
            raise ValueError("it is not a JSON object")
        return named
    if named == "text/html":
        raise ValueError("it is a web page; perhaps something in between wants a login")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004  one kind of error for all
    own = document.get("mediaType")
    if isinstance(own, str) and bare(own) in KNOWN:
        return bare(own)
    return named if named not in _MEANINGLESS else _by_shape(document)


def _by_shape(document: dict[str, object]) -> str:
    if isinstance(document.get("manifests"), list):
        return OCI_INDEX
    if isinstance(document.get("layers"), list) or isinstance(document.get("config"), dict):
        return OCI_MANIFEST
    if document.get("schemaVersion") == 1:
        return DOCKER_SCHEMA1_SIGNED if "signatures" in document else DOCKER_SCHEMA1
    raise ValueError("it is not a manifest of any kind that is known")
