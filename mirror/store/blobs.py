"""Whole content by digest."""

from __future__ import annotations

import fcntl
import os
import secrets
from typing import TYPE_CHECKING, BinaryIO, Protocol

from mirror.errors import ContentBroken
from mirror.store.holds import Holds
from mirror.store.layout import sync_directory
from mirror.store.locks import pending, share, unnaming
from mirror.store.part import PartFile
from mirror.store.refusal import refusal, refusing

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.oci.digest import Digest
    from mirror.store.aside import Aside
    from mirror.store.io import DiskThreads
    from mirror.store.layout import Layout

_BLOCK = 512  # bytes that st_blocks counts in, whatever the file system's own blocks are (stat(2))


class BlobStore(Protocol):
    """Content-addressed bytes. What it gives out is whole and was verified when it came.

    Every method raises `StoreError` where the disk refuses, `NoSpace` where it is full.
    """

    def open(self, digest: Digest) -> tuple[BinaryIO, int] | None:
        """Open content for reading: the file, unbuffered, and its size in bytes. None where it is not here.

        It is not evicted before this file, and every duplicate of its descriptor, is closed.
        """
        ...

    def size(self, digest: Digest) -> int | None:
        """Return the size in bytes, or None where it is not here."""
        ...

    async def read(self, digest: Digest) -> bytes | None:
        """Return small content whole, verified again. None where it is not here.

        Raise `ContentBroken` where the disk has changed it; it is put aside, so that it is fetched again.
        """
        ...

    async def put(self, digest: Digest, body: bytes, came: Callable[[int], None] | None = None) -> int:
        """Keep small content that the caller has verified: durably, and at once as a whole or not at all.

        Return the bytes that it takes on disk, also where it is here already; `came` is called with them, in any
        thread, where it was not. It is not evicted before the index was told of it by `Stored`, or a minute has gone.
        """
        ...

    async def part(self, digest: Digest) -> PartFile:
        """Open the place where content comes together that is still to come."""
        ...

    def set_aside(self, digest: Digest) -> bool:
        """Take away content that was found to be wrong; whoever is sent it now goes on. False where it is not here.

        Blocks: call it off the loop. The caller tells the index by `Lost`.
        """
        ...


class DiskBlobs:
    """Blobs as read-only files under `blobs.v1/ALGORITHM/ab/HEX`."""

    def __init__(self, layout: Layout, threads: DiskThreads, aside: Aside) -> None:
        self._layout = layout
        self._threads = threads
        self._aside = aside
        self._holds = Holds()

    def open(self, digest: Digest) -> tuple[BinaryIO, int] | None:
        """See `BlobStore.open`."""
        try:
            fd = os.open(self._layout.blob_name(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise refusal(self._layout.root, error) from error
        try:
            # In this order: who unlinks it holds it alone until it has no name any more.
            status = os.fstat(fd) if share(fd) else None
        except OSError as error:
            os.close(fd)
            raise refusal(self._layout.root, error) from error
        if status is None or status.st_nlink == 0:
            os.close(fd)
            return None
        return os.fdopen(fd, "rb", buffering=0), status.st_size

    def size(self, digest: Digest) -> int | None:
        """See `BlobStore.size`."""
        try:
            return os.stat(self._layout.blob_name(digest)).st_size  # noqa: PTH116  # a Path takes as long as the look
        except FileNotFoundError:
            return None
        except OSError as error:
            raise refusal(self._layout.root, error) from error

    async def read(self, digest: Digest) -> bytes | None:
        """See `BlobStore.read`."""
        return await self._threads.run(self._read, digest)

    async def put(self, digest: Digest, body: bytes, came: Callable[[int], None] | None = None) -> int:
        """See `BlobStore.put`."""
        return await self._threads.run(self._put, digest, body, came)

    async def part(self, digest: Digest) -> PartFile:
        """See `BlobStore.part`."""
        with refusing(self._layout.root):
            return await self._threads.run(PartFile, self._layout, digest)

    def set_aside(self, digest: Digest) -> bool:
        """See `BlobStore.set_aside`."""
        return self._aside.take(digest)

    def known(self, digest: Digest) -> None:
        """Hear that the index knows what was put."""
        self._holds.release(digest)

    def close(self) -> None:
        """Let go of what is held."""
        self._holds.close()

    def _read(self, digest: Digest) -> bytes | None:
        opened = self.open(digest)
        if opened is None:
            return None
        file, _ = opened
        with file:
            with refusing(self._layout.root):
                body = file.readall()  # type: ignore[attr-defined]  # a raw file has it; typeshed says BinaryIO
            if digest.matches(body):
                return bytes(body)
            self._aside.take(digest, os.fstat(file.fileno()))
        raise ContentBroken(f"{digest} was damaged on disk and is put aside; ask again, and it is fetched again")

    def _put(self, digest: Digest, body: bytes, came: Callable[[int], None] | None = None) -> int:
        taken = self._hold_what_is_here(digest)
        if taken is None:
            with refusing(self._layout.root):
                taken = self._write(digest, body, came)
        return taken

    def _hold_what_is_here(self, digest: Digest) -> int | None:
        opened = self.open(digest)
        if opened is None:
            return None
        with opened[0] as file:
            return self._hold(digest, file.fileno())

    def _write(self, digest: Digest, body: bytes, came: Callable[[int], None] | None) -> int:
        target = self._layout.blob(digest)
        aside = self._layout.fills / f"{digest.hex[:16]}-{secrets.token_hex(8)}.put"
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        with os.fdopen(fd, "wb") as file:
            try:
                fcntl.flock(fd, fcntl.LOCK_SH)  # whoever looks for leftovers sees that it is none
                file.write(body)
                file.flush()
                os.fsync(fd)
                target.parent.mkdir(parents=True, exist_ok=True)
                with unnaming(self._layout):  # alone: of two that put the same one gives it the name, and counts it
                    taken = self._hold_what_is_here(digest)
                    if taken is not None:
                        aside.unlink()
                        return taken
                    untold = pending(self._layout)
                    aside.rename(target)
            except BaseException:
                aside.unlink(missing_ok=True)
                raise
            taken = self._hold(digest, fd, untold)
            try:
                sync_directory(target.parent)
            except BaseException:
                self._take_back(digest, taken, came)
                raise
            if came is not None:
                came(taken)
            return taken

    def _take_back(self, digest: Digest, taken: int, came: Callable[[int], None] | None) -> None:
        """Unlink what may not last: the caller hears that it is not stored. Then it is not, or it is counted."""
        try:
            with unnaming(self._layout):
                self._layout.blob(digest).unlink(missing_ok=True)
        except OSError:
            if came is not None:
                came(taken)
            raise
        finally:
            self._holds.release(digest)

    def _hold(self, digest: Digest, fd: int, *more: int) -> int:
        self._holds.add(digest, os.dup(fd), *more)
        return os.fstat(fd).st_blocks * _BLOCK
