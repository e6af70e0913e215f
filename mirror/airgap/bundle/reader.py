"""The entries of a bundle, one after another, whether it is a tar archive or a directory.

Nothing here is trusted: names that lead elsewhere, links, devices, sparse files, entries that are there twice, and
archives that end too early are refused with `BundleRefused`, which names the entry.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from mirror.airgap.bundle.manifest import NAME, SIGNATURE
from mirror.airgap.bundle.tar import CHUNK, TarReader, checked, shown
from mirror.errors import BundleRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mirror.airgap.bundle.source import Source

# In a directory they come in this order, as in an archive that a mirror wrote; the rest by their names.
_FIRST = (NAME, SIGNATURE, "oci-layout", "index.json", "manifest.json")
_DEEPEST = 8  # directories within directories


class Entry:
    """One file of a bundle. Its content is read once, and before the next entry is asked for."""

    __slots__ = ("_chunks", "hard", "name", "size", "target")

    def __init__(
        self,
        name: str,
        size: int,
        chunks: Callable[[], Iterator[bytes]],
        *,
        target: str | None = None,
        hard: bool = False,
    ) -> None:
        """`size` is in bytes; `target` is where a link points to, and `hard` says that it counts from the top."""
        self.name = name
        self.size = size
        self.target = target
        self.hard = hard
        self._chunks = chunks

    def chunks(self) -> Iterator[bytes]:
        """Yield the content, up to 1 MiB at a time; raise `BundleRefused` where it ends before `size` bytes."""
        return self._chunks()

    def read(self, limit: int) -> bytes:
        """Return the content whole; raise `BundleRefused` where it has more than `limit` bytes."""
        if self.size > limit:
            raise BundleRefused(f"{shown(self.name)} has {self.size} bytes; more than {limit} cannot be right")
        return b"".join(self.chunks())


def entries(source: Source, *, links: bool = False) -> Iterator[Entry]:
    """Yield the entries of `source`; directories are left out. Links are refused unless the caller asks for them."""
    if source.directory is not None:
        yield from _directory(source.directory)
        return
    reader = TarReader(source.stream(), links=links)
    for member in reader:
        yield Entry(member.name, member.size, reader.chunks, target=member.target, hard=member.hard)


def _directory(root: Path) -> Iterator[Entry]:
    try:
        names = sorted(_walk(root, "", 0), key=_order)
        for name in names:
            yield _file(root, name)
    except OSError as error:
        raise BundleRefused(f"{error.filename or root} cannot be read: {error.strerror or error}") from error


def _order(name: str) -> tuple[int, str]:
    return (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)


def _walk(root: Path, within: str, depth: int) -> Iterator[str]:
    with os.scandir(root / within) as found:
        for entry in found:
            name = checked(f"{within}{entry.name}")
            if entry.is_symlink():
                raise BundleRefused(f"{root / name} is a symbolic link, which has no place in a bundle")
            if entry.is_dir(follow_symlinks=False):
                if depth < _DEEPEST:
                    yield from _walk(root, f"{name}/", depth + 1)
            elif within or not entry.name.startswith("."):  # what desktops leave behind
                yield name


def _file(root: Path, name: str) -> Entry:
    # O_NONBLOCK: a named pipe that took its place would keep us waiting.
    fd = os.open(root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
    finally:
        os.close(fd)
    if not stat.S_ISREG(status.st_mode):
        raise BundleRefused(f"{root / name} is no ordinary file, and has no place in a bundle")
    return Entry(name, status.st_size, lambda: _content(root, name, status))


def _content(root: Path, name: str, seen: os.stat_result) -> Iterator[bytes]:
    fd = os.open(root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb", buffering=0) as file:
        if not os.path.samestat(os.fstat(fd), seen):
            raise BundleRefused(f"{root / name} was replaced while it was read; try again when nobody writes to it")
        left = seen.st_size
        while left:
            piece = file.read(min(CHUNK, left))
            if not piece:
                raise BundleRefused(f"{root / name} was cut short while it was read; try again when nobody writes it")
            left -= len(piece)
            yield piece
