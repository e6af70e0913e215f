"""A `BlobStore` in memory; what comes in parts comes together in a directory of the test."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

from mirror.errors import ContentBroken, StoreError
from mirror.store.part import PartFile
from mirror.store.room import on_disk

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.oci.digest import Digest
    from mirror.store.layout import Layout


class FakeBlobs:
    """Keeps small bodies in `bodies`, to look at and to spoil, and wrong ones in `aside`.

    `trouble`, while set, is what `put` and `part` raise.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.bodies: dict[Digest, bytes] = {}
        self.aside: dict[Digest, bytes] = {}
        self.trouble: StoreError | None = None

    def open(self, digest: Digest) -> tuple[BinaryIO, int] | None:
        body = self._body(digest)
        if body is None:
            return None
        file = os.fdopen(os.memfd_create("blob"), "r+b", buffering=0)
        file.write(body)
        file.seek(0)
        return file, len(body)

    def size(self, digest: Digest) -> int | None:
        body = self._body(digest)
        return None if body is None else len(body)

    async def read(self, digest: Digest) -> bytes | None:
        body = self._body(digest)
        if body is not None and not digest.matches(body):
            self.set_aside(digest)
            raise ContentBroken(f"{digest} was damaged and is put aside")
        return body

    async def put(self, digest: Digest, body: bytes, came: Callable[[int], None] | None = None) -> int:
        if self.trouble is not None:
            raise self.trouble
        taken = on_disk(len(body))
        if self._body(digest) is None:
            self.bodies[digest] = body
            if came is not None:
                came(taken)
        return taken

    async def part(self, digest: Digest) -> PartFile:
        if self.trouble is not None:
            raise self.trouble
        return PartFile(self._layout, digest)

    def set_aside(self, digest: Digest) -> bool:
        wrong = self._body(digest)
        if wrong is None:
            return False
        self.aside[digest] = wrong
        self.bodies.pop(digest, None)
        self._layout.blob(digest).unlink(missing_ok=True)
        return True

    def _body(self, digest: Digest) -> bytes | None:
        if digest in self.bodies:
            return self.bodies[digest]
        path = self._layout.blob(digest)
        return path.read_bytes() if path.exists() else None
