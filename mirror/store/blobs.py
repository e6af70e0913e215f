"""Whole content by digest."""

from __future__ import annotations

import errno
import os
import secrets
from typing import TYPE_CHECKING, BinaryIO, Protocol

from mirror.errors import ContentBroken, NoSpace
from mirror.store.part import PartFile, sync_directory

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.oci.digest import Digest
    from mirror.store.io import DiskThreads
    from mirror.store.layout import Layout


class BlobStore(Protocol):
    """Content-addressed bytes. What it gives out is whole and was verified when it came."""

    def open(self, digest: Digest) -> tuple[BinaryIO, int] | None:
        """Open content for reading: the file, unbuffered, and its size in bytes. None where it is not here."""
        ...

    def size(self, digest: Digest) -> int | None:
        """Return the size in bytes, or None where it is not here."""
        ...

    async def read(self, digest: Digest) -> bytes | None:
        """Return small content whole, verified again; raise `ContentBroken` where the disk has changed it."""
        ...

    async def put(self, digest: Digest, body: bytes) -> None:
        """Keep small content that the caller has verified. Raise `NoSpace`."""
        ...

    async def part(self, digest: Digest) -> PartFile:
        """Open the place where content comes together that is still to come."""
        ...


class DiskBlobs:
    """Blobs as read-only files under `blobs.v1/ALGORITHM/ab/HEX`."""

    def __init__(self, layout: Layout, threads: DiskThreads) -> None:
        self._layout = layout
        self._threads = threads

    def open(self, digest: Digest) -> tuple[BinaryIO, int] | None:
        """See `BlobStore.open`."""
        try:
            fd = os.open(self._layout.blob(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        return os.fdopen(fd, "rb", buffering=0), os.fstat(fd).st_size

    def size(self, digest: Digest) -> int | None:
        """See `BlobStore.size`."""
        try:
            return self._layout.blob(digest).stat().st_size
        except FileNotFoundError:
            return None

    async def read(self, digest: Digest) -> bytes | None:
        """See `BlobStore.read`."""
        try:
            body = await self._threads.run(self._layout.blob(digest).read_bytes)
        except FileNotFoundError:
            return None
        if not digest.matches(body):
            raise ContentBroken(f"{digest} is damaged on disk; delete {self._layout.blob(digest)} to fetch it again")
        return body

    async def put(self, digest: Digest, body: bytes) -> None:
        """See `BlobStore.put`."""
        if self.size(digest) is None:
            await self._threads.run(self._put, digest, body)

    async def part(self, digest: Digest) -> PartFile:
        """See `BlobStore.part`."""
        try:
            return await self._threads.run(PartFile, self._layout, digest)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(f"the disk that holds {self._layout.root} is full; free some of it") from error
            raise

    def _put(self, digest: Digest, body: bytes) -> None:
        target = self._layout.blob(digest)
        aside = self._layout.fills / f"{digest.hex[:16]}-{secrets.token_hex(8)}.put"
        try:
            self._write(aside, body)
            target.parent.mkdir(parents=True, exist_ok=True)
            aside.rename(target)
            sync_directory(target.parent)
        except OSError as error:
            aside.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(f"the disk that holds {self._layout.root} is full; free some of it") from error
            raise

    @staticmethod
    def _write(path: Path, body: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        with os.fdopen(fd, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(fd)
