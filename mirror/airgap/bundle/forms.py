"""The two forms of a bundle: one tar archive, or the same files in a directory."""

from __future__ import annotations

import fcntl
import os
import shutil
import tarfile
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from mirror.airgap.bundle.targets import alone_in, refusing, replace, sync_directory

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.airgap.bundle.targets import Target

_GATHERED = 256 * 1024  # bytes: smaller pieces are written together
_SYNCED = 64  # files that are on their way to the disk
_SYNCERS = 8


class Form(Protocol):
    """Takes files one after another; one thread at a time."""

    def begin(self, name: str, size: int) -> None:
        """Begin the file `name` of `size` bytes."""
        ...

    def write(self, data: memoryview, /) -> None:
        """Write some of it."""
        ...

    def end(self) -> None:
        """All of it was written."""
        ...

    def finish(self) -> tuple[Path, ...]:
        """All files were written: make them durable and visible; return what there is now."""
        ...

    def close(self) -> None:
        """Let go; take away what was not finished."""
        ...


class Archive:
    """A tar archive that depends on nothing but the content: no times, no owners (POSIX.1-2017, "pax")."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._gathered = bytearray()
        self._size = 0  # of the current file
        self._written = 0  # bytes in all

    def begin(self, name: str, size: int) -> None:
        """See `Form.begin`."""
        self._size = size
        self._put(memoryview(header(name, size)))

    def write(self, data: memoryview, /) -> None:
        """See `Form.write`."""
        self._put(data)

    def end(self) -> None:
        """See `Form.end`."""
        self._put(memoryview(bytes(-self._size % tarfile.BLOCKSIZE)))

    def finish(self) -> tuple[Path, ...]:
        """See `Form.finish`."""
        end = 2 * tarfile.BLOCKSIZE
        end += -(self._written + end) % tarfile.RECORDSIZE
        self._put(memoryview(bytes(end)))
        self._flush()
        return self._target.finish()

    def close(self) -> None:
        """See `Form.close`."""
        self._target.close()

    def _put(self, data: memoryview) -> None:
        self._written += len(data)
        if len(self._gathered) + len(data) > _GATHERED:
            self._flush()
        if len(data) > _GATHERED:
            self._target.write(data)
        else:
            self._gathered += data

    def _flush(self) -> None:
        if self._gathered:
            self._target.write(memoryview(self._gathered))
            self._gathered = bytearray()


class Directory:
    """The files in a directory, which has another name until all are there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._real = path.resolve()  # a link stays one
        self._part = self._real.with_name(f"{self._real.name}.part")
        self._made: set[str] = set()
        self._fd = -1
        self._threads = ThreadPoolExecutor(_SYNCERS, thread_name_prefix="sync")
        self._syncing: deque[Future[None]] = deque()
        with refusing(path):
            alone_in(self._part)
            self._part.mkdir()
            self._lock = os.open(self._part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def begin(self, name: str, size: int) -> None:
        """See `Form.begin`."""
        del size
        with refusing(self._path):
            parent, _, _ = name.rpartition("/")
            if parent not in self._made:
                (self._part / parent).mkdir(parents=True, exist_ok=True)
                self._made.add(parent)
            self._fd = os.open(self._part / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def write(self, data: memoryview, /) -> None:
        """See `Form.write`."""
        with refusing(self._path):
            while data:
                data = data[os.write(self._fd, data) :]

    def end(self) -> None:
        """See `Form.end`."""
        fd, self._fd = self._fd, -1
        self._syncing.append(self._threads.submit(_sync, fd))
        with refusing(self._path):
            while len(self._syncing) > _SYNCED or (self._syncing and self._syncing[0].done()):
                self._syncing.popleft().result()

    def finish(self) -> tuple[Path, ...]:
        """See `Form.finish`."""
        with refusing(self._path):
            while self._syncing:
                self._syncing.popleft().result()
            for parent in sorted(self._made, reverse=True):
                sync_directory(self._part / parent)
            sync_directory(self._part)
            replace(self._part, self._real)
        return (self._path,)

    def close(self) -> None:
        """See `Form.close`."""
        self._threads.shutdown()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._lock < 0:
            return
        with suppress(OSError):
            if os.path.samestat(os.fstat(self._lock), self._part.stat()):  # else it is finished, or another export's
                shutil.rmtree(self._part, ignore_errors=True)
        os.close(self._lock)
        self._lock = -1


def header(name: str, size: int) -> bytes:
    """Return the header of a file in a tar archive: ustar's, with a pax header before it where that has no room."""
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.PAX_FORMAT)


def _sync(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
