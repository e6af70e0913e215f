"""The number of a store's layout, and how a store of an older one is brought up to date in place.

A step takes a store from one number to the next. It may be cut at any point and is then run again from its start; the
number is written, durably, when it is through. What the index needs beyond that it sees to when it is opened.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from mirror.errors import StoreUnusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

log = structlog.get_logger(__name__)

_FLOCK = struct.Struct("hhqqi0q")  # struct flock: type, whence, start, length, process (fcntl(2))
_WAL_LOCKS = (120, 9)  # where SQLite locks the -shm file while an index is open (sqlite.org/walformat.html, 2.3.1)


def bring_up(root: Path, wanted: int, steps: Mapping[int, Callable[[Path], None]] | None = None) -> None:
    """Make the store in `root` one of layout `wanted`, a new one too. Raise `StoreUnusable` where that cannot be."""
    steps = STEPS if steps is None else steps
    path = root / "VERSION"
    if _number(path, wanted) == wanted:
        return
    with _alone(root):
        while (number := _number(path, wanted)) != wanted:
            if number is None:
                _write(path, wanted)
                return
            if number > wanted or number not in steps:
                raise _unknown(path, str(number), wanted)
            steps[number](root)
            _write(path, number + 1)
            log.info("the store has a new layout", path=str(root), before=number, now=number + 1)


def _number(path: Path, wanted: int) -> int | None:
    """Return what `VERSION` says, or None where there is none."""
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return None
    if not (text.isascii() and text.isdigit()):
        raise _unknown(path, text, wanted)
    return int(text[:9])


def _write(path: Path, number: int) -> None:
    aside = path.with_name(f"VERSION.{secrets.token_hex(4)}")
    try:
        with aside.open("w", encoding="ascii") as file:
            file.write(f"{number}\n")
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unknown(path: Path, said: str, known: int) -> StoreUnusable:
    return StoreUnusable(
        f"{path} says that this store has layout {said[:20]!r}, and this program knows layouts up to {known}; "
        "use the release that wrote it, or another directory"
    )


def _share(root: Path) -> None:
    """From 1 to 2: several processes share what was one's own.

    There is nothing to move: the book, the locks and the index's new tables are made where they are missing. But a
    mirror of an older release must not go on beside this one. It takes part neither in the account of the bytes nor in
    the locks that keep content from going while it is read.
    """
    holder = _holder(root / "index.sqlite-shm")
    if holder is not None:
        raise StoreUnusable(
            f"{holder} has the store {root} open, which a mirror of an older release wrote; end that one first, "
            "then start this one again: it brings the store up to date"
        )


STEPS: Mapping[int, Callable[[Path], None]] = {1: _share}


def _holder(path: Path) -> str | None:
    """Return who has an index open; None: nobody has."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        start, length = _WAL_LOCKS
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0))
    finally:
        os.close(fd)
    kind, _, _, _, pid = _FLOCK.unpack(answer)
    if kind == fcntl.F_UNLCK:
        return None
    return f"process {pid}" if pid > 0 else "a process of another container"


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
