"""What other processes hold of a store at this moment, as the kernel lists their locks (proc_locks(5)).

Asking by trying the lock would be in the way of whoever wants it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.errors import DigestInvalid
from mirror.oci.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.store.layout import Layout

_PROC = Path("/proc")
_FIELDS = 8  # number, kind, mandatory or not, mode, process, device and inode, start, end


def in_use(layout: Layout) -> dict[Digest, set[int]]:
    """Return which content is being read or filled, and the ids of the processes that do; empty if nobody tells."""
    found: dict[Digest, set[int]] = {}
    for pid, inodes in _locked(layout.root).items():
        for path, inode in _open_files(pid):
            digest = _digest(layout, path) if inode in inodes else None
            if digest is not None:
                found.setdefault(digest, set()).add(pid)
    return found


def _locked(root: Path) -> dict[int, set[int]]:
    """Return the inodes on the store's file system that other processes have locked by flock(2)."""
    try:
        device = root.stat().st_dev
        lines = (_PROC / "locks").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    ours = f"{os.major(device):02x}:{os.minor(device):02x}"
    found: dict[int, set[int]] = {}
    for line in lines:
        fields = line.split()  # a lock that is waited for has one more: `->`
        if len(fields) != _FIELDS or fields[1] != "FLOCK" or not fields[4].isdigit():
            continue
        at, _, inode = fields[5].rpartition(":")
        if at == ours and int(fields[4]) not in (0, os.getpid()):
            found.setdefault(int(fields[4]), set()).add(int(inode))
    return found


def _open_files(pid: int) -> Iterator[tuple[str, int]]:
    """Yield path and inode of what a process has open; nothing of one that has ended, or is somebody else's."""
    with suppress(OSError), os.scandir(_PROC / str(pid) / "fd") as entries:
        for entry in entries:
            with suppress(OSError):  # closed meanwhile
                yield os.fspath(Path(entry.path).readlink()), entry.stat().st_ino


def _digest(layout: Layout, path: str) -> Digest | None:
    """Return what content a path of the store belongs to."""
    file = Path(path)
    algorithm, _, hexadecimal = file.stem.partition("-")
    if file.parent != layout.fills.resolve():
        algorithm, hexadecimal = file.parent.parent.name, file.name
        if file.parent.parent.parent != layout.blobs.resolve():
            return None
    try:
        return Digest.parse(f"{algorithm}:{hexadecimal}")
    except DigestInvalid:
        return None
