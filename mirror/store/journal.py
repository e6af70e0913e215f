"""The journal: every change in the order in which it was made, so that the index can always be made again.

The first line names the journal; each further line is a change as `changes.dump` writes it. The methods block on the
disk. Whoever appends, cuts or replaces holds the index's write lock: both have one order (see `mirror.store.database`).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from mirror.errors import MirrorError
from mirror.store import changes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from io import BufferedWriter
    from pathlib import Path

    from mirror.store.changes import Change

log = structlog.get_logger(__name__)

_VERSION = 1
_HEADER_LIMIT = 256  # bytes
_PIECE = 1024 * 1024  # bytes copied at a time


class Journal:
    """The file `journal.v1`, opened anew for each use: another process may have put a shorter one in its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._aside = path.with_name(path.name + ".new")

    def state(self) -> tuple[str | None, int]:
        """Return the name that the first line gives, or None where there is none, and the size in bytes."""
        try:
            with self._path.open("rb", buffering=0) as file:
                return _name(file.read(_HEADER_LIMIT)), os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return None, 0

    def after(self, position: int) -> Iterator[tuple[Change | None, int]]:
        """Yield what lies behind `position` bytes, line by line: the change, and the position at the line's end.

        None stands for the first line, and for a line that cannot be read. A last line without an end is no line: a
        crash cut it.
        """
        skipped, first = 0, ""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                position += len(line)
                change = None
                try:
                    change = changes.load(line.decode("utf-8"))
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MirrorError) as error:
                    if _name(line) is None:
                        skipped += 1
                        first = first or str(error)
                yield change, position
        if skipped:
            log.warning("lines of the journal cannot be read and are passed over", lines=skipped, first=first)

    def append(self, new: Iterable[Change], position: int) -> int:
        """Write changes at `position`, which is the end of the last whole line, and return the position after them."""
        data = "".join(changes.dump(change) + "\n" for change in new).encode("utf-8")
        fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, position)
            _write(fd, data, position)
        finally:
            os.close(fd)
        return position + len(data)

    def cut(self, position: int) -> None:
        """Take away what lies behind `position`: it did not come to be."""
        os.truncate(self._path, position)

    def sync(self) -> None:
        """Wait until the disk has what was written."""
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def replace(self, every: Iterable[Change]) -> tuple[str, int]:
        """Put a new journal of just these changes in the place of this one; return its name and its size in bytes."""
        self._aside.unlink(missing_ok=True)  # whoever else writes one will find that it is not his any more
        with self.aside() as aside:
            if aside is None:
                raise BlockingIOError(f"{self._aside} is being written by another process")
            for change in every:
                aside.write(changes.dump(change).encode("utf-8") + b"\n")
            aside.sync()
            return aside.put_in_place()

    @contextmanager
    def aside(self) -> Iterator[Aside | None]:
        """Begin a new journal beside this one. It is thrown away unless it is put in place; None where another is."""
        with self._aside.open("ab") as file:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            try:
                if not _is(file, self._aside):
                    yield None  # it was put in place, or thrown away, before the lock was ours
                    return
                file.truncate(0)  # what a crash left
                yield Aside(file, self._aside, self._path)
            finally:
                if _is(file, self._aside):
                    self._aside.unlink()


class Aside:
    """A journal that is not yet one."""

    def __init__(self, file: BufferedWriter, path: Path, target: Path) -> None:
        self._file = file
        self._path = path
        self._target = target
        self._name = secrets.token_hex(8)
        self.write(json.dumps({"journal": _VERSION, "name": self._name}).encode("ascii") + b"\n")

    def write(self, lines: bytes) -> None:
        """Append whole lines."""
        self._file.write(lines)

    def copy(self, start: int, stop: int) -> None:
        """Append what the journal that is in place has from `start` to `stop` bytes. The index's write lock is held."""
        with self._target.open("rb") as journal:
            journal.seek(start)
            while start < stop:
                data = journal.read(min(_PIECE, stop - start))
                if not data:
                    raise OSError(errno.EIO, "the journal became shorter while it was copied", str(self._target))
                self.write(data)
                start += len(data)

    def sync(self) -> None:
        """Wait until the disk has what was written."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def put_in_place(self) -> tuple[str, int]:
        """Make it the journal; return its name, and its size in bytes. The index's write lock is held."""
        if not _is(self._file, self._path):
            raise FileNotFoundError(errno.ENOENT, "another process threw it away", str(self._path))
        size = os.fstat(self._file.fileno()).st_size
        self._path.rename(self._target)
        return self._name, size


def _is(file: BufferedWriter, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _write(fd: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, position)
        view = view[done:]
        position += done


def _name(start: bytes) -> str | None:
    try:
        header = json.loads(start.partition(b"\n")[0])
    except (ValueError, RecursionError):
        return None
    if not isinstance(header, dict) or "journal" not in header:
        return None
    name = header.get("name")
    return name if isinstance(name, str) else None
