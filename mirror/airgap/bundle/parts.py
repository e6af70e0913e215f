"""A bundle in parts: `NAME.001`, `NAME.002`, … of one size, with `NAME.sha256` that `sha256sum -c` reads.

`cat NAME.[0-9]* > NAME` makes the whole again. The mirror reads parts as one stream, without the room for a second
copy, and compares each with its checksum as it goes, so that only the part has to be carried again that is damaged.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.airgap.bundle.targets import refusing, sync_directory
from mirror.errors import BundleRefused, ConfigError, MirrorError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from _typeshed import WriteableBuffer

MOST = 999  # parts; with more, `cat NAME.[0-9]*` would join them in the wrong order
CHECKSUMS = ".sha256"
_PART = re.compile(r"(?P<name>.+)\.(?P<number>[0-9]{3})", re.ASCII | re.DOTALL)
_LINE = re.compile(r"(?P<hex>[0-9a-fA-F]{64}) [ *](?P<name>[^/\x00]+)", re.ASCII)
_LARGEST_LIST = 1024 * 1024  # bytes
_BUFFER = 1024 * 1024
_BEHIND = 32 * 1024 * 1024  # bytes after which the disk is told to begin: else all of it would wait for the end


def is_part(path: Path) -> bool:
    """Say whether the name is that of a part, or of the checksums of parts."""
    return _PART.fullmatch(path.name) is not None or path.name.endswith(CHECKSUMS)


class PartsWriter(io.RawIOBase):
    """Writes `path.001`, `path.002`, … of `size` bytes each, the last one of what is left.

    They have `.part` behind their names until `finish`. Without it, `close` removes them. Raise `ConfigError` where
    there would be more than `MOST`, and `MirrorError` where they cannot be written, or somebody else writes them now.
    """

    def __init__(self, path: Path, size: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError("a part has at least one byte")
        self._path = path
        self._size = size
        self._written = 0  # bytes of the current part
        self._told = 0  # of these, the disk was told to begin with
        self._hash = hashlib.sha256()
        self._fd = -1
        self._done: list[tuple[Path, str]] = []  # where each part is to be, and its checksum
        self._finished = False
        self._lock = -1
        with refusing(path):
            self._lock = _locked(_unnamed(self._named(1)))  # held to the end

    def writable(self) -> bool:
        """Say yes."""
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]  # what mypy knows of buffers
        """Take all of `data`; return its length in bytes."""
        whole = left = memoryview(data).cast("B")
        while left:
            if self._fd >= 0 and self._written == self._size:
                self._end_part()
            if self._fd < 0:
                self._begin_part()
            with refusing(self._path):
                count = os.write(self._fd, left[: self._size - self._written])
            self._hash.update(left[:count])
            self._written += count
            left = left[count:]
            if self._written - self._told >= _BEHIND:
                os.posix_fadvise(self._fd, 0, self._written, os.POSIX_FADV_DONTNEED)
                self._told = self._written
        return len(whole)

    def finish(self) -> tuple[Path, ...]:
        """Give the parts their names, write the checksums, and return all of these files.

        Parts that an earlier bundle of the same name had beyond these are removed: `cat` would join them.
        """
        if not self._done and self._fd < 0:
            self._begin_part()
        if self._fd >= 0:
            self._end_part()
        checksums = self._path.with_name(self._path.name + CHECKSUMS)
        with refusing(self._path):
            checksums.unlink(missing_ok=True)  # until the new one is there, nothing says that a mixture is whole
            for path, _ in self._done:
                _unnamed(path).rename(path)
            for number in range(len(self._done) + 1, MOST + 1):
                self._named(number).unlink(missing_ok=True)
                _unnamed(self._named(number)).unlink(missing_ok=True)  # of an export that was killed
            lines = "".join(f"{checksum}  {path.name}\n" for path, checksum in self._done)
            with _unnamed(checksums).open("wb") as file:
                file.write(os.fsencode(lines))
                file.flush()
                os.fsync(file.fileno())
            _unnamed(checksums).rename(checksums)
            sync_directory(self._path.parent)
        self._finished = True
        return (*(path for path, _ in self._done), checksums)

    def close(self) -> None:
        """Let go of the files; remove what was written if it was not finished."""
        if self.closed:
            return
        super().close()
        if self._lock < 0:  # the parts are another export's
            return
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if not self._finished:
            for number in range(1, len(self._done) + 2):
                with suppress(OSError):  # what cannot be removed says `.part`, and the next run replaces it
                    _unnamed(self._named(number)).unlink(missing_ok=True)
        os.close(self._lock)

    def _named(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number:03}")

    def _begin_part(self) -> None:
        number = len(self._done) + 1
        if number > MOST:
            raise ConfigError(
                [f"the bundle has more than {MOST} parts of {self._size} bytes; give --split a larger size"]
            )
        self._written = self._told = 0
        self._hash = hashlib.sha256()
        with refusing(self._path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._fd = os.open(_unnamed(self._named(number)), flags, 0o666)

    def _end_part(self) -> None:
        with refusing(self._path):
            os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._done.append((self._named(len(self._done) + 1), self._hash.hexdigest()))


def whole_of(path: Path) -> Path:
    """Return how the whole is called of which `path` is a part, or the list of checksums."""
    return path.with_name(path.name.removesuffix(CHECKSUMS) if path.name.endswith(CHECKSUMS) else path.name[:-4])


def joined(paths: Sequence[Path]) -> Joined:
    """Return what the parts `paths` hold together, as one stream that is read once, and has no buffer.

    They may come in any order, from several directories, and include their `.sha256` file; that alone is enough too.
    A part that was not named and lies beside one that was is taken. Where there are checksums each part is compared
    with its own when it is read to its end. Raise `BundleRefused` that names what is missing, doubled or damaged.
    """
    name = _common_name(paths)
    parts = _numbered(path for path in paths if not path.name.endswith(CHECKSUMS))
    lists = [path for path in paths if path.name.endswith(CHECKSUMS)]
    directories = list(dict.fromkeys(path.parent for path in paths))
    checksums = _checksums(name, lists or _there(directories, f"{name}{CHECKSUMS}"))
    for number in checksums or range(1, MOST + 1):
        if number not in parts and (found := _there(directories, f"{name}.{number:03}")):
            parts[number] = found[0]
    return Joined(_ordered(name, parts, checksums))


@dataclass(frozen=True, slots=True)
class _Part:
    path: Path
    checksum: str | None  # None: nobody knows


class Joined(io.RawIOBase):
    """Parts, one after another, `size` bytes in all."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        super().__init__()
        self.size = sum(part.path.stat().st_size for part in parts)
        self._waiting = list(reversed(parts))
        self._part: _Part | None = None
        self._file: io.FileIO | None = None
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read on, within one part; return the bytes, 0 at the end. Raise `BundleRefused` where a part is damaged."""
        target = memoryview(buffer).cast("B")
        while True:
            if self._file is None:
                if not self._waiting:
                    return 0
                self._part = self._waiting.pop()
                self._file = self._part.path.open("rb", buffering=0)
                self._hash = hashlib.sha256()
            count = self._file.readinto(target)
            if count:
                if self._part is not None and self._part.checksum is not None:
                    self._hash.update(target[:count])
                return count
            self._file.close()
            self._file = None
            self._compare()

    def close(self) -> None:
        """Close the part at hand."""
        super().close()
        if self._file is not None:
            self._file.close()
            self._file = None

    def settle(self) -> None:
        """Read the part at hand to its end, so that it is compared; raise `BundleRefused` where it is damaged.

        For whoever has found something wrong within it: that the part has to be copied again says more.
        """
        part = self._part
        if self._file is None or part is None or part.checksum is None:
            return
        try:
            while piece := self._file.read(_BUFFER):
                self._hash.update(piece)
        except OSError as error:
            raise BundleRefused(f"{part.path} cannot be read: {error.strerror or error}; copy it again") from error
        self._file.close()
        self._file = None
        self._compare()

    def _compare(self) -> None:
        part = self._part
        if part is not None and part.checksum not in (None, self._hash.hexdigest()):
            raise BundleRefused(
                f"{part.path} is damaged: its checksum is not the one that was written with it; copy it again"
            )


def _common_name(paths: Sequence[Path]) -> str:
    """Return the name of the whole."""
    names: dict[str, Path] = {}
    for path in paths:
        match = _PART.fullmatch(path.name)
        if path.name.endswith(CHECKSUMS):
            names.setdefault(path.name.removesuffix(CHECKSUMS), path)
        elif match is not None and int(match["number"]):
            names.setdefault(match["name"], path)
        else:
            raise BundleRefused(f"{path} is no part of a bundle: parts end in .001, .002 and so on")
    if len(names) > 1:
        some = " and ".join(map(str, list(names.values())[:2]))
        raise BundleRefused(f"{some} are of different bundles; take in one at a time")
    return next(iter(names))


def _numbered(paths: Iterable[Path]) -> dict[int, Path]:
    parts: dict[int, Path] = {}
    for path in paths:
        number = int(path.name[-3:])
        if (other := parts.setdefault(number, path)) != path and not _same(other, path):
            raise BundleRefused(f"part {number} is there twice, as {other} and {path}; name one of them")
    return parts


def _checksums(name: str, lists: Sequence[Path]) -> dict[int, str]:
    checksums: dict[int, str] = {}
    for path in lists:
        for number, checksum in _listed(path, name).items():
            if checksums.setdefault(number, checksum) != checksum:
                raise BundleRefused(f"{path} and {lists[0]} belong to different bundles; name the right one of them")
    return checksums


def _there(directories: Sequence[Path], name: str) -> list[Path]:
    return [path for directory in directories if (path := directory / name).is_file()]


def _ordered(name: str, parts: dict[int, Path], checksums: dict[int, str]) -> list[_Part]:
    """Return the parts in their order, all of them, of sizes that can be right."""
    count = max(checksums or parts, default=0)
    missing = [number for number in range(1, count + 1) if number not in parts]
    if missing or not count:
        named = ", ".join(f"{name}.{number:03}" for number in missing[:20]) or f"{name}.001"
        more = f" and {len(missing) - 20} more" if len(missing) > 20 else ""  # noqa: PLR2004  # as above
        raise BundleRefused(f"a part is missing: {named}{more}; put it beside the others, or name it too")
    if extra := sorted(set(parts) - set(range(1, count + 1))):
        raise BundleRefused(f"{parts[extra[0]]} is no part of this bundle, which has {count}; leave it out")
    sizes = [parts[number].stat().st_size for number in range(1, count + 1)]
    for number, size in enumerate(sizes, 1):
        if size > sizes[0] or (size < sizes[0] and number < count):
            raise BundleRefused(
                f"{parts[number]} has {size} bytes, and {parts[1]} has {sizes[0]}: one of them was not copied whole"
            )
    return [_Part(parts[number], checksums.get(number)) for number in range(1, count + 1)]


def _listed(path: Path, name: str) -> dict[int, str]:
    """Read the checksums of the parts of `name`, as `sha256sum` writes them."""
    with path.open("rb") as file:
        body = file.read(_LARGEST_LIST + 1)
    if len(body) > _LARGEST_LIST:
        raise BundleRefused(f"{path} is too large for a list of checksums; copy it again")
    lines = os.fsdecode(body).replace("\r\n", "\n").removesuffix("\n").split("\n")
    found: dict[int, str] = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        part = _PART.fullmatch(match["name"]) if match else None
        if match is None or part is None or part["name"] != name or not int(part["number"]):
            raise BundleRefused(f"{path} is no list of the checksums of {name}.001 and so on; copy it again")
        if found.setdefault(int(part["number"]), match["hex"].lower()) != match["hex"].lower():
            raise BundleRefused(f"{path} has two checksums for {match['name']}; copy it again")
    return found


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except FileNotFoundError:
        return False


def _locked(path: Path) -> int:
    """Open the first part so that no other export writes it; one that a killed export left is taken over."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        except BlockingIOError:
            os.close(fd)
            raise MirrorError(f"{path} is being written by another export; wait for it, or name another file") from None
        os.close(fd)  # the other one has ended between the two, and taken its name away


def _unnamed(path: Path) -> Path:
    return path.with_name(path.name + ".part")
