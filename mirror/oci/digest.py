"""Digests, as the OCI image specification defines them (descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.errors import DigestInvalid

if TYPE_CHECKING:
    from hashlib import _Hash

# The registered algorithms. Another one may be well-formed, but content under it could not be verified (promise 3).
_HEX_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_FORM = re.compile(r"(sha256|sha384|sha512):([a-f0-9]+)")


@dataclass(frozen=True, slots=True)
class Digest:
    """`ALGORITHM:HEX`, lower case, of a registered algorithm."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Raise `DigestInvalid` unless `text` is a whole, canonical digest."""
        match = _FORM.fullmatch(text)
        if match is None or len(match[2]) != _HEX_LENGTHS[match[1]]:
            raise DigestInvalid(f"{text[:160]!r} is not a digest; one looks like sha256: and 64 hexadecimal digits")
        return cls(match[1], match[2])

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Digest:
        """Return the digest of `content`."""
        return cls(algorithm, hashlib.new(algorithm, content, usedforsecurity=False).hexdigest())

    def hasher(self) -> _Hash:
        """Return a fresh hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm, usedforsecurity=False)

    def matches(self, content: bytes) -> bool:
        """Say whether `content` has this digest."""
        return Digest.of(content, self.algorithm) == self

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
