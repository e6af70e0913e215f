"""Which processes have a store open: each owns a number for as long as it lives.

A number is a byte of the book's file that its owner holds locked. The lock belongs to the open file, not to the process
(an open file description lock, fcntl(2)): it falls when the process ends, however that happens, and closing another
descriptor of the file does not let go of it. So no process is taken for alive because a later one has its pid.
"""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

_FIRST = 1 << 20  # the byte that number 0 locks; far behind the content, which is never locked so
_FLOCK = struct.Struct("hhqqi0q")  # struct flock: type, whence, start, length, process (0 for these locks)
_PROC = Path("/proc")
_START = 19  # index of `starttime` among the fields of /proc/PID/stat that follow the program's name (proc(5))


@dataclass(frozen=True, slots=True)
class Process:
    """One process that has the store open."""

    pid: int  # as it sees itself; in another container that may be another process here
    started: int  # clock ticks after boot (proc(5)); 0: the system did not tell
    mirror: int  # pid of the mirror that it serves clients for, its own or its supervisor's; 0: a command-line tool

    def __str__(self) -> str:
        """Name it for a person."""
        here = self.started != 0 and started(self.pid) == self.started
        return f"process {self.pid}" if here else f"process {self.pid} of another container"


def this() -> Process:
    """Return the process that calls, which serves nobody yet."""
    pid = os.getpid()
    return Process(pid, started(pid), 0)


def started(pid: int) -> int:
    """Return when a process was started, in clock ticks after boot; 0 where the system does not tell."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()  # a program's name may hold anything
    return int(fields[_START]) if len(fields) > _START else 0


def take(fd: int, number: int) -> bool:
    """Own a number of the file `fd` until it is closed, unless another open file does."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK, number))
    except (BlockingIOError, PermissionError):  # POSIX allows either (fcntl(2): EAGAIN, EACCES)
        return False
    return True


def let_go(fd: int, number: int) -> None:
    """Own it no longer."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _lock(fcntl.F_UNLCK, number))


def alive(fd: int, number: int) -> bool:
    """Say whether another open file than `fd` owns a number."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _lock(fcntl.F_WRLCK, number))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _lock(kind: int, number: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, _FIRST + number, 1, 0)
