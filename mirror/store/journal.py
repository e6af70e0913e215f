"""The journal: every change in the order in which it was made, so that the index can always be made again.

The first line names the journal; each further line is a change as `changes.dump` writes it. The methods block on the
disk. Whoever appends, cuts or replaces holds the index's write lock: both have one order (see `mirror.store.database`).
"""

from __future__ import annotations

import json
import os
import secrets
from typing import TYPE_CHECKING

import structlog

from mirror.errors import MirrorError
from mirror.store import changes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from mirror.store.changes import Change

log = structlog.get_logger(__name__)

_VERSION = 1
_HEADER_LIMIT = 256  # bytes


class Journal:
    """The file `journal.v1`, opened anew for each use: another process may have put a shorter one in its place."""

    def __init__(self, path: Path) -> None:
        self._path = path

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
        name = secrets.token_hex(8)
        aside = self._path.with_name(self._path.name + ".new")
        try:
            with aside.open("wb") as file:
                file.write(json.dumps({"journal": _VERSION, "name": name}).encode("ascii") + b"\n")
                for change in every:
                    file.write(changes.dump(change).encode("utf-8") + b"\n")
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
            aside.rename(self._path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        return name, size


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
