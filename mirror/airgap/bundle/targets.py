"""Where a bundle is written to: a file, standard output, or a directory. All have another name until they are whole."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from mirror.airgap.bundle.compression import compressing
from mirror.errors import MirrorError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BEHIND = 32 * 1024 * 1024  # bytes after which the disk is told to begin: else all of it would wait for the end
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
_libc = ctypes.CDLL(None, use_errno=True)


class Target(Protocol):
    """Takes bytes. `mirror.airgap.bundle.parts.PartsWriter` is one, too."""

    def write(self, data: memoryview, /) -> object:
        """Take all of `data`."""
        ...

    def finish(self) -> tuple[Path, ...]:
        """Make it durable, give it its name, and return what was written."""
        ...

    def close(self) -> None:
        """Let go; take away what was not finished."""
        ...


class FileTarget:
    """One file: `NAME.part` until it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._real = path.resolve()  # a link stays one
        self._part = self._real.with_name(f"{self._real.name}.part")
        self._written = self._told = 0
        with refusing(path):
            self._fd = _alone(self._part, os.O_RDWR | os.O_CREAT)
            os.ftruncate(self._fd, 0)

    def write(self, data: memoryview, /) -> None:
        """See `Target.write`."""
        with refusing(self._path):
            view = memoryview(data).cast("B")
            while view:
                count = os.write(self._fd, view)
                self._written += count
                view = view[count:]
            if self._written - self._told >= _BEHIND:
                # It starts to write, and lets go of what is written: nobody here reads that again.
                os.posix_fadvise(self._fd, 0, self._written, os.POSIX_FADV_DONTNEED)
                self._told = self._written

    def finish(self) -> tuple[Path, ...]:
        """See `Target.finish`."""
        with refusing(self._path):
            os.fsync(self._fd)
            self._part.rename(self._real)
            sync_directory(self._real.parent)
        self.close()
        return (self._path,)

    def close(self) -> None:
        """See `Target.close`."""
        if self._fd < 0:
            return
        with suppress(OSError):
            if os.path.samestat(os.fstat(self._fd), self._part.stat()):
                self._part.unlink()
        os.close(self._fd)
        self._fd = -1


class StreamTarget:
    """What has no name to be given at the end: standard output, a pipe, a tape. `name` is how messages call it."""

    def __init__(self, fd: int, name: str) -> None:
        """The descriptor is the caller's to close."""
        self._fd = fd
        self._name = name

    def write(self, data: memoryview, /) -> None:
        """See `Target.write`."""
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except BrokenPipeError:
            raise MirrorError(f"{self._name} was closed before the bundle was whole") from None
        except OSError as error:
            raise MirrorError(f"{self._name} cannot be written: {error.strerror or error}") from error

    def finish(self) -> tuple[Path, ...]:
        """See `Target.finish`."""
        return ()

    def close(self) -> None:
        """See `Target.close`: what went out went out, and lacks its end."""


class Compressed:
    """Another target, to which all goes by zstd."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._writer = compressing(_Views(target))

    def write(self, data: memoryview, /) -> None:
        """See `Target.write`."""
        self._writer.write(data)

    def finish(self) -> tuple[Path, ...]:
        """See `Target.finish`."""
        self._writer.finish()
        return self._target.finish()

    def close(self) -> None:
        """See `Target.close`."""
        self._target.close()


class _Views:
    def __init__(self, target: Target) -> None:
        self._target = target

    def write(self, data: bytes, /) -> None:
        self._target.write(memoryview(data))


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn what the disk says into a sentence with the bundle's name."""
    try:
        yield
    except OSError as error:
        raise MirrorError(f"{path} cannot be written: {error.strerror or error}") from error


def replace(new: Path, path: Path) -> None:
    """Give a directory its name, in one step where the system can; what had that name is taken away behind it."""
    old = path.with_name(f"{path.name}.old.part")
    shutil.rmtree(old, ignore_errors=True)
    if not path.exists():
        new.rename(path)
    elif _exchange(new, path):
        old = new
    else:
        path.rename(old)
        new.rename(path)
    sync_directory(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names at once; False where the C library or the file system cannot (renameat2(2))."""
    if not hasattr(_libc, "renameat2"):
        return False
    if _libc.renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(code, os.strerror(code))


def alone_in(path: Path) -> None:
    """Take away a directory that a killed export left behind; raise `MirrorError` where one is at work in it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _busy(path) from None
    finally:
        os.close(fd)
    shutil.rmtree(path)


def sync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _alone(path: Path, flags: int) -> int:
    """Open a file that no other export writes to now; one that a killed export left behind is taken over."""
    while True:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(path)):  # noqa: PTH116  # beside its fstat
                return fd
        except BlockingIOError:
            os.close(fd)
            raise _busy(path) from None
        except FileNotFoundError:  # the other one has ended between the two
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _busy(path: Path) -> MirrorError:
    return MirrorError(f"{path} is being written by another export; wait for it, or choose another name")
