"""What this mirror has served, and when last: known for a year and longer, whatever became of the content.

`served.log` in the store has a line of JSON for each reference that was served, written behind and at most once an hour
for each process. It is no part of the index: an index forgets what is evicted, and this is to outlive it. A line that
cannot be read, as a crash or a full disk leaves one, is passed over. Every method blocks on the disk.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from mirror.errors import MirrorError
from mirror.oci.digest import Digest
from mirror.oci.name import Repository, Tag, check_name
from mirror.store.layout import sync_directory
from mirror.store.refusal import refusing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mirror.store.compaction import Reserving
    from mirror.store.layout import Layout

log = structlog.get_logger(__name__)

KEPT = 400 * 24 * 3600.0  # seconds; past that a line is thrown away
LARGEST = 32 * 1024 * 1024  # bytes; some 200,000 lines. Past that the oldest go
GROWTH = 1024 * 1024  # bytes that it grows by until somebody looks how much of it is overtaken

_LINE = re.compile(rb'\{"at":(\d{1,12}),("repo":.*\})\n?')
_BEGUN = re.compile(rb'\{"begun":(\d{1,12})\}\n?')
_LONGEST = 1024  # bytes of a line: a repository and a tag have up to 400
_ROOT = 64  # bytes that are read of its beginning


@dataclass(frozen=True, slots=True)
class Served:
    """A client got `digest`, last at `at` (seconds since the epoch). `tag` is None where it asked by the digest."""

    repository: Repository
    tag: Tag | None
    digest: Digest
    at: float


class History:
    """The file, opened anew for each use: another process may have put a shorter one in its place."""

    def __init__(self, layout: Layout) -> None:
        self._root = layout.root
        self._path = layout.served
        self._aside = self._path.with_name(self._path.name + ".new")
        self._looked = 0  # bytes that it had when it was last looked at

    def add(self, entries: Iterable[Served]) -> None:
        """Write lines; raise `StoreError`, and then none of them is there."""
        new = list(entries)
        if not new:
            return
        text = b"".join(map(_dump, new))
        with refusing(self._root), self._alone(make=True) as fd:
            size = os.fstat(fd).st_size
            if size == 0:
                text = b'{"begun":%d}\n' % max(0, int(min(entry.at for entry in new))) + text
            elif os.pread(fd, 1, size - 1) != b"\n":  # a line was cut
                text = b"\n" + text
            try:
                _write(fd, text)
            except OSError:
                os.ftruncate(fd, size)
                raise

    def read(self, since: float = 0.0) -> Iterator[Served]:
        """Yield what was served at or after `since` (seconds since the epoch), each reference and digest once."""
        latest: dict[bytes, int] = {}
        with refusing(self._root):
            try:
                file = self._path.open("rb")
            except FileNotFoundError:
                return
            with file:
                for line in file:
                    found = _matched(line)
                    if found is not None and found[1] >= since:
                        latest[found[0]] = max(found[1], latest.get(found[0], 0))
        skipped = 0
        for key, at in latest.items():
            try:
                yield _load(key, at)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MirrorError):
                skipped += 1
        if skipped:
            log.warning("lines of the history cannot be read and are passed over", path=str(self._path), lines=skipped)

    def begun(self) -> float | None:
        """Return since when it is kept, in seconds since the epoch, 0 where that is lost; None: nothing was served."""
        with refusing(self._root):
            try:
                with self._path.open("rb") as file:
                    found = _BEGUN.match(file.read(_ROOT))
            except FileNotFoundError:
                return None
        return float(found[1]) if found else 0.0

    def tidy(self, room: Reserving, *, now: float) -> bool:
        """Write it anew where half of it is overtaken or too old, or where it is too large; say whether that was so.

        Cheap until it has grown by `GROWTH` since the last look. The new one's room is taken from `room`: raise
        `NoSpace` where there is none, or another `StoreError`.
        """
        with refusing(self._root):
            try:
                size = self._path.stat().st_size
            except FileNotFoundError:
                return False
            if self._looked <= size < self._looked + GROWTH:
                return False
            with self._alone(make=False) as fd:
                begun, kept = _kept(fd, now)
                size = os.fstat(fd).st_size
                self._looked = size
                text = b"".join([b'{"begun":%d}\n' % begun, *kept])
                if len(text) > size // 2 and size <= LARGEST:
                    return False
                self._replace(text, room)
                self._looked = len(text)
        log.info("the history was written anew, without what had been overtaken", before=size, after=len(text))
        return True

    def _replace(self, text: bytes, room: Reserving) -> None:
        room.reserve(len(text))
        try:
            fd = os.open(self._aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                _write(fd, text)
                os.fsync(fd)
            finally:
                os.close(fd)
            self._aside.rename(self._path)
            sync_directory(self._root)
        except OSError:
            self._aside.unlink(missing_ok=True)  # a full disk needs each byte of it
            raise
        finally:
            room.release(len(text))  # it is counted as a file of the store

    @contextmanager
    def _alone(self, *, make: bool) -> Iterator[int]:
        """Hold the file alone, that one which has its name."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if make else 0)
        while True:
            fd = os.open(self._path, flags, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if self._is_named(fd):
                    yield fd
                    return
            finally:
                os.close(fd)

    def _is_named(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self._path.stat())
        except FileNotFoundError:
            return False


def _dump(entry: Served) -> bytes:
    row: dict[str, Any] = {"at": max(0, int(entry.at)), "repo": str(entry.repository)}
    if entry.tag is not None:
        row["tag"] = entry.tag.name
    row["digest"] = str(entry.digest)
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"


def _matched(line: bytes) -> tuple[bytes, int] | None:
    """Return what a line says but for the time, and the time."""
    found = _LINE.fullmatch(line) if len(line) <= _LONGEST else None
    return None if found is None else (found[2], int(found[1]))


def _load(key: bytes, at: int) -> Served:
    row = json.loads(b"{" + key)
    namespace, _, name = row["repo"].partition("/")
    tag = Tag.parse(row["tag"]) if "tag" in row else None
    return Served(Repository(namespace, check_name(name)), tag, Digest.parse(row["digest"]), float(at))


def _kept(fd: int, now: float) -> tuple[int, list[bytes]]:
    """Return since when the history goes back, and the lines of it that are kept, oldest first."""
    latest: dict[bytes, int] = {}
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        first = _BEGUN.match(file.read(_ROOT))
        file.seek(0)
        for line in file:
            found = _matched(line)
            if found is not None and found[1] >= now - KEPT:
                # A clock that was ahead must not keep a line for ever.
                latest[found[0]] = max(min(found[1], int(now)), latest.get(found[0], 0))
    begun = max(int(first[1]) if first else min(latest.values(), default=int(now)), int(now - KEPT))
    lines = sorted((at, b'{"at":%d,%b\n' % (at, key)) for key, at in latest.items())
    taken = sum(len(line) for _, line in lines)
    if taken > LARGEST // 4 * 3:
        gone = 0
        while taken > LARGEST // 2:
            taken -= len(lines[gone][1])
            gone += 1
        begun = max(begun, lines[gone - 1][0])  # of what was served up to then, not all is known any more
        lines = lines[gone:]
    return begun, [line for _, line in lines]


def _write(fd: int, text: bytes) -> None:
    view = memoryview(text)
    while view:
        view = view[os.write(fd, view) :]
