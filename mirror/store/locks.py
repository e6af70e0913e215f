"""Who may use a file, and who may give files their names or take them away, in all processes on one store.

All locks are flock(2): one belongs to an open file and all duplicates of its descriptor, and ends with the last of
them, however the process ends.

- A reader holds a shared lock on the file that it sends from, an evictor an exclusive one on the file that it unlinks.
- Whoever gives a file its name in `blobs.v1` holds the shared side of `move.lock`, just while it does so. Whoever takes
  names away holds the exclusive side, from before the index forgets the content until the name is gone. Else content
  that comes in between would lose its name with the one that goes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.store.layout import Layout

_POLL = 0.001  # seconds; who waits for a lock by flock(2) cannot be told to give up


def share(fd: int) -> bool:
    """Take a shared lock without waiting; False where somebody has it alone."""
    return _try(fd, fcntl.LOCK_SH)


def seize(fd: int) -> bool:
    """Take an exclusive lock without waiting; False where anybody has it."""
    return _try(fd, fcntl.LOCK_EX)


@contextlib.contextmanager
def naming(layout: Layout) -> Iterator[None]:
    """Hold the shared side of `move.lock`: blocks while somebody takes names away."""
    with _held(layout, fcntl.LOCK_SH):
        yield


@contextlib.contextmanager
def unnaming(layout: Layout) -> Iterator[None]:
    """Hold the exclusive side of `move.lock`: blocks while somebody gives or takes names."""
    with _held(layout, fcntl.LOCK_EX):
        yield


def pending(layout: Layout) -> int:
    """Return a descriptor to be closed when index and book know what is done next. Some side of `move.lock` is held."""
    fd = os.open(layout.fills, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)  # it does not wait: whoever wants it alone has `move.lock` alone
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextlib.contextmanager
def quiet(layout: Layout, patience: float) -> Iterator[bool]:
    """Hold `move.lock` alone, and yield whether nothing was pending any more within `patience` seconds."""
    with unnaming(layout):
        fd = os.open(layout.fills, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            deadline = time.monotonic() + patience
            while not (alone := seize(fd)) and time.monotonic() < deadline:
                time.sleep(_POLL)
            yield alone
        finally:
            os.close(fd)


def _try(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _held(layout: Layout, kind: int) -> Iterator[None]:
    # Opened each time: two threads with one open file would have one lock.
    fd = os.open(layout.move_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, kind)
        yield
    finally:
        os.close(fd)
