"""What the fake upstream holds: bytes, or a pattern that is made by offset and never wholly in memory."""

from __future__ import annotations

import functools
import hashlib
import os
import random
import struct
import tempfile
from dataclasses import dataclass
from typing import IO, Protocol

from mirror.oci.digest import Digest

BLOCK = 1 << 20  # bytes of one block of a pattern


class Content(Protocol):
    """Bytes that can be read from any offset."""

    @property
    def size(self) -> int: ...  # bytes

    @property
    def digest(self) -> Digest: ...

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` up to and without `stop`, or fewer: never across a block."""
        ...

    def file(self) -> IO[bytes]:
        """Return an unlinked file with the whole content, for sendfile; the same one each time."""
        ...


def _spill(content: Content) -> IO[bytes]:
    # On disk and not in memory: the figures of a bench must not hold the fake's copy.
    spilled: IO[bytes] = tempfile.TemporaryFile(prefix="fake-registry-")  # noqa: SIM115 - lives as long as its content
    offset = 0
    while offset < content.size:
        offset += os.write(spilled.fileno(), content.read(offset, content.size))
    return spilled


class Plain:
    """Content that is in memory."""

    def __init__(self, body: bytes, algorithm: str = "sha256") -> None:
        self.body = body
        self.size = len(body)
        self.digest = Digest.of(body, algorithm)

    def read(self, start: int, stop: int) -> bytes:
        return self.body[start : min(stop, start + BLOCK)]

    @functools.cache  # noqa: B019 - a content lives as long as the fake that holds it
    def file(self) -> IO[bytes]:
        return _spill(self)


@dataclass(frozen=True)
class Pattern:
    """`size` bytes that look random to a compressor; each block of 1 MiB begins with its number: no two are alike."""

    size: int
    seed: int = 0

    @functools.cached_property
    def digest(self) -> Digest:
        return _pattern_digest(self.size, self.seed)

    def read(self, start: int, stop: int) -> bytes:
        number, offset = divmod(start, BLOCK)
        upto = min(stop - number * BLOCK, self.size - number * BLOCK, BLOCK)
        base = _base(self.seed)
        if offset >= 8:
            return base[offset:upto]
        return (struct.pack(">Q", number) + base[8:])[offset:upto]

    def file(self) -> IO[bytes]:
        return _pattern_file(self.size, self.seed)


@functools.lru_cache(maxsize=8)
def _base(seed: int) -> bytes:
    return random.Random(seed).randbytes(BLOCK)  # noqa: S311 - content, not a secret


@functools.lru_cache(maxsize=64)
def _pattern_digest(size: int, seed: int) -> Digest:
    hasher = hashlib.sha256()
    base = memoryview(_base(seed))
    for number in range((size + BLOCK - 1) // BLOCK):
        upto = min(size - number * BLOCK, BLOCK)
        hasher.update(struct.pack(">Q", number)[:upto])
        hasher.update(base[8:upto])
    return Digest("sha256", hasher.hexdigest())


@functools.lru_cache(maxsize=16)
def _pattern_file(size: int, seed: int) -> IO[bytes]:
    return _spill(Pattern(size, seed))
