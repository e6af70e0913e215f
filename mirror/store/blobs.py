"""Whole content by digest."""

from __future__ import annotations

import errno
import os
import secrets
from typing import TYPE_CHECKING, BinaryIO, Protocol

from mirror.errors import ContentBroken, NoSpace, StoreError
from mirror.store.layout import sync_directory
from mirror.store.part import PartFile

if TYPE_CHECKING:
    from mirror.oci.digest import Digest
    from mirror.store.io import DiskThreads
    from mirror.store.layout import Layout


class BlobStore(Protocol):
    """Content-addressed bytes. What it gives out is whole and was verified when it came.

    Every method raises `StoreError` where the disk refuses, `NoSpace` where it is full.
    """

    def open(self, digest: Digest) -> tuple[BinaryIO, int] | None:
        """Open content for reading: the file, unbuffered, and its size in bytes. None where it is not here."""
        ...

    def size(self, digest: Digest) -> int | None:
        """Return the size in bytes, or None where it is not here."""
        ...

    async def read(self, digest: Digest) -> bytes | None:
        """Return small content whole, verified again. None where it is not here.

        Raise `ContentBroken` where the disk has changed it; it is thrown away, so that it is fetched again.
        """
        ...

    async def put(self, digest: Digest, body: bytes) -> None:
        """Keep small content that the caller has verified: durably, and at once as a whole or not at all."""
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
        except OSError as error:
            raise self._refusal(error) from error
        return os.fdopen(fd, "rb", buffering=0), os.fstat(fd).st_size

    def size(self, digest: Digest) -> int | None:
        """See `BlobStore.size`."""
        try:
            return self._layout.blob(digest).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refusal(error) from error

    async def read(self, digest: Digest) -> bytes | None:
        """See `BlobStore.read`."""
        return await self._threads.run(self._read, digest)

    async def put(self, digest: Digest, body: bytes) -> None:
        """See `BlobStore.put`."""
        if self.size(digest) is None:
            await self._threads.run(self._put, digest, body)

    async def part(self, digest: Digest) -> PartFile:
        """See `BlobStore.part`."""
        try:
            return await self._threads.run(PartFile, self._layout, digest)
        except OSError as error:
            raise self._refusal(error) from error

    def _read(self, digest: Digest) -> bytes | None:
        opened = self.open(digest)
        if opened is None:
            return None
        file, _ = opened
        with file:
            try:
                body = file.readall()  # type: ignore[attr-defined]  # a raw file has it; typeshed says BinaryIO
            except OSError as error:
                raise self._refusal(error) from error
            if digest.matches(body):
                return bytes(body)
            self._throw_away(digest, os.fstat(file.fileno()))
        raise ContentBroken(f"{digest} was damaged on disk and is thrown away; ask again, and it is fetched again")

    def _throw_away(self, digest: Digest, read: os.stat_result) -> None:
        path = self._layout.blob(digest)
        try:
            if os.path.samestat(path.stat(), read):  # else it was replaced since by what is right
                path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._refusal(error) from error

    def _put(self, digest: Digest, body: bytes) -> None:
        target = self._layout.blob(digest)
        aside = self._layout.fills / f"{digest.hex[:16]}-{secrets.token_hex(8)}.put"
        try:
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(body)
                    file.flush()
                    os.fsync(fd)
                target.parent.mkdir(parents=True, exist_ok=True)
                aside.rename(target)
            except BaseException:
                aside.unlink(missing_ok=True)
                raise
            sync_directory(target.parent)
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> StoreError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return NoSpace(f"the disk that holds {self._layout.root} is full; free some of it")
        return StoreError(
            f"the store {self._layout.root} cannot be used: {error}; see who owns it, and the disk's health"
        )
