"""Where a bundle comes from: a file, parts of one, a directory, or standard input."""

from __future__ import annotations

import io
import os
import select
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self, cast

from mirror.airgap.bundle.compression import decompressed
from mirror.airgap.bundle.parts import is_part, joined, whole_of
from mirror.errors import BundleRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _typeshed import WriteableBuffer

STANDARD_INPUT = "-"
BESIDE, SIGNED = ".bundle.json", ".sig"  # behind the name of a bundle: its manifest alone; and behind that: signed
LARGEST_SIGNATURE = 64 * 1024  # bytes
_BUFFER = 64 * 1024  # bytes; what is longer is read past it
_LOOK = 0.2  # seconds between looks whether somebody wants to stop, while nothing comes


class Stopped(Exception):
    """Somebody asked to stop while a pipe was waited for."""


class Source:
    """One bundle. `label` is how messages name it; `size` is what has to be read, in bytes, None where nobody knows."""

    def __init__(
        self,
        label: str,
        *,
        directory: Path | None = None,
        file: BinaryIO | None = None,
        size: int | None = None,
        whole: Path | None = None,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self.label = label
        self.directory = directory
        self.size = size
        self._whole = whole  # how all of it is called: what lies beside it begins like that
        self.settle = settle  # of parts: raises `BundleRefused` where the one is damaged that was being read
        self._file = file
        self._stream: BinaryIO | None = None

    def stream(self) -> BinaryIO:
        """Return the archive, unpacked, to be read once. Raise `BundleRefused` where it is packed in no known way."""
        if self._file is None:
            raise BundleRefused(f"{self.label} is a directory")
        if self._stream is None:
            self._stream = decompressed(self._file)
        return self._stream

    def detached(self) -> bytes | None:
        """Return the signature that lies beside the bundle, of its manifest, None where there is none.

        So a key can sign that never comes near the machine that writes bundles. Raise `BundleRefused`.
        """
        if self._whole is None:
            return None
        path = self._whole.with_name(f"{self._whole.name}{BESIDE}{SIGNED}")
        try:
            with path.open("rb") as file:
                return file.read(LARGEST_SIGNATURE)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BundleRefused(f"{path} cannot be read: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for file in (self._stream, self._file):
            if file is not None:
                file.close()


def open_source(paths: Sequence[str], stopped: Callable[[], bool] = lambda: False) -> Source:
    """Open one bundle: a file, its parts in any order, a directory, or `-`.

    `NAME` means its parts where only these are there. Raise `BundleRefused` where nothing of that is there. While a
    pipe is waited for `stopped` is asked now and then whether to give up, by `Stopped`.
    """
    if list(paths) == [STANDARD_INPUT]:
        return Source("standard input", file=_patient(sys.stdin.buffer.fileno(), stopped, ours=False))
    files = [Path(path) for path in paths]
    try:
        if len(files) == 1:
            return _one(files[0], stopped)
        return _parts(files)
    except OSError as error:
        raise BundleRefused(f"{error.filename or paths[0]} cannot be read: {error.strerror or error}") from error


def bundles(paths: Sequence[str]) -> list[list[str]]:
    """Sort what a command was given into bundles: parts of one belong together, all else is one by itself.

    The manifests, and their signatures, are left out that lie beside another one of them: the shell names all.
    """
    found: dict[str, list[str]] = {}
    for path in (path for path in paths if not _lies_beside(path, paths)):
        whole = path
        if path != STANDARD_INPUT and is_part(Path(path)):
            whole = f"{whole_of(Path(path)).name} in parts"
        found.setdefault(whole, []).append(path)
    return list(found.values())


def _lies_beside(path: str, given: Sequence[str]) -> bool:
    name, manifest, _ = path.partition(BESIDE)
    return bool(manifest) and any(other.startswith(name) and BESIDE not in other for other in given)


def _one(path: Path, stopped: Callable[[], bool]) -> Source:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not path.name or not path.with_name(f"{path.name}.001").exists():
            raise
        return _parts([path.with_name(f"{path.name}.001")])
    if stat.S_ISDIR(mode):
        return Source(str(path), directory=path, size=_size(path), whole=path)
    if is_part(path):
        return _parts([path])
    if path.name.endswith((BESIDE, f"{BESIDE}{SIGNED}")):
        raise BundleRefused(f"{path} lies beside a bundle, and holds none of its content; name that one")
    if stat.S_ISREG(mode):
        return Source(str(path), file=path.open("rb", buffering=_BUFFER), size=path.stat().st_size, whole=path)
    return Source(str(path), file=_patient(os.open(path, os.O_RDONLY | os.O_CLOEXEC), stopped, ours=True))


def _parts(paths: Sequence[Path]) -> Source:
    parts = joined(paths)
    file = cast("BinaryIO", io.BufferedReader(parts, _BUFFER))
    whole = whole_of(paths[0])
    return Source(str(whole), file=file, size=parts.size, whole=whole, settle=parts.settle)


def _size(directory: Path) -> int:
    return sum(found.stat().st_size for found in directory.rglob("*") if found.is_file() and not found.is_symlink())


def _patient(fd: int, stopped: Callable[[], bool], *, ours: bool) -> BinaryIO:
    return cast("BinaryIO", io.BufferedReader(_Patient(fd, stopped, ours=ours), _BUFFER))


class _Patient(io.RawIOBase):
    """A pipe. A read that nothing comes for can be given up, which read(2) in a thread cannot."""

    def __init__(self, fd: int, stopped: Callable[[], bool], *, ours: bool) -> None:
        super().__init__()
        self._fd = fd
        self._stopped = stopped
        self._ours = ours
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._poll.poll(_LOOK * 1000):
            if self._stopped():
                raise Stopped
        return os.readv(self._fd, [buffer])

    def close(self) -> None:
        if self._ours and not self.closed:
            os.close(self._fd)
        super().close()
