"""Which processes hold a file locked, as the kernel lists them (proc_locks(5))."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_FIELDS = 8  # number, kind, mandatory or not, mode, process, device and inode, start, end


@dataclass(frozen=True, slots=True)
class Holder:
    """One process. `command` is its program's name; `mirror` says whether its command line is a mirror's."""

    pid: int
    command: str
    mirror: bool


def holders(path: Path) -> list[Holder]:
    """Return who holds a lock on `path`; nobody where it does not exist, or the system does not tell."""
    try:
        file = path.stat()
        lines = (_PROC / "locks").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
    wanted = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    pids = set()
    for line in lines:
        fields = line.replace("-> ", "").split()  # `->` marks one that waits
        if len(fields) == _FIELDS and fields[5] == wanted and fields[4].isdigit() and fields[4] != "0":
            pids.add(int(fields[4]))
    return [holder for pid in sorted(pids) if (holder := _holder(pid)) is not None]


def _holder(pid: int) -> Holder | None:
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it has ended, or belongs to somebody else
        return None
    program, *rest = [Path(word).name for word in words[:3]]
    # By its own name, by its script's, or as a module of Python.
    return Holder(pid, program or "?", mirror=program == "mirror" or rest[:1] == ["mirror"] or rest == ["-m", "mirror"])


def most_files(pid: int) -> int | None:
    """Return how many files a process may hold open, or None where the system does not tell (proc_pid_limits(5))."""
    try:
        lines = (_PROC / str(pid) / "limits").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("Max open files"):
            soft = line.split()[3]
            return int(soft) if soft.isdigit() else None
    return None
