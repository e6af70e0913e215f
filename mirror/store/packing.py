"""Digests as they stand in the tables: one byte for the algorithm, and the hash."""

from __future__ import annotations

from mirror.oci.digest import Digest

_ALGORITHMS = ("sha256", "sha384", "sha512")


def pack(digest: Digest) -> bytes:
    """Return a digest as it stands in the tables. Raise `ValueError` for one of another algorithm."""
    return bytes([_ALGORITHMS.index(digest.algorithm)]) + bytes.fromhex(digest.hex)


def unpack(packed: bytes) -> Digest:
    """Read what `pack` wrote."""
    return Digest(_ALGORITHMS[packed[0]], packed[1:].hex())
