"""Where everything lies on disk: version 1 of the layout.

VERSION                         the number of this layout
blobs.v1/ALGORITHM/ab/HEX       whole, verified content; read-only files
fills.v1/ALGORITHM-HEX.part     content that is still coming
fills.v1/ALGORITHM-HEX.map      what of it is here
index.sqlite                    who holds what
journal.v1                      what the index can be made from again
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.errors import StoreUnusable

if TYPE_CHECKING:
    from mirror.oci.digest import Digest

VERSION = 1
MOUNTS = Path("/proc/self/mountinfo")

# No locks that hold across hosts, no WAL, or neither (sqlite.org/wal.html): fills and index need both.
_REMOTE = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "ncpfs", "ceph", "lustre", "fuse.sshfs", "fuse.glusterfs"}
)
_ROOT_FILES = ("index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "journal.v1")


class Layout:
    """The paths of one store. Opening it creates what is missing and refuses what it cannot keep its promises on."""

    def __init__(self, root: Path) -> None:
        """Raise `StoreUnusable` where `root` cannot be written, is on a network file system, or has another version."""
        self.root = root
        self.blobs = root / "blobs.v1"
        self.fills = root / "fills.v1"
        self.index = root / "index.sqlite"
        self.journal = root / "journal.v1"
        try:
            root.mkdir(parents=True, exist_ok=True)
            refuse_remote(root)
            _check_version(root / "VERSION")
            self.fills.mkdir(exist_ok=True)
            self._shelve()
            for directory in (root, self.fills, self.blobs):
                if not os.access(directory, os.W_OK | os.X_OK):
                    raise PermissionError(f"{directory} is not writable")
        except OSError as error:
            raise StoreUnusable(
                f"storage.path {root} cannot be used: {error.strerror or error}; "
                "give the mirror's user write access to it, or name another directory"
            ) from error

    def blob(self, digest: Digest) -> Path:
        """Return where whole content of `digest` lies."""
        return self.blobs / digest.algorithm / digest.hex[:2] / digest.hex

    def part(self, digest: Digest) -> Path:
        """Return where content of `digest` lies while it comes."""
        return self.fills / f"{digest.algorithm}-{digest.hex}.part"

    def map(self, digest: Digest) -> Path:
        """Return where the map of a `.part` file lies."""
        return self.fills / f"{digest.algorithm}-{digest.hex}.map"

    def facts(self) -> list[Path]:
        """Return the files of the index and its journal, which grow as the mirror runs; some may be missing."""
        return [self.root / name for name in _ROOT_FILES]

    def _shelve(self) -> None:
        """Make the directories that content goes to, once and durably: a rename into a new one would not be."""
        shelf = self.blobs / "sha256"
        if (shelf / "ff").is_dir():
            return
        for number in range(256):
            (shelf / f"{number:02x}").mkdir(parents=True, exist_ok=True)
        for directory in (shelf, self.blobs, self.root):
            sync_directory(directory)


def sync_directory(path: Path) -> None:
    """Make renames and unlinks in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _check_version(path: Path) -> None:
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        aside = path.with_name(f"VERSION.{secrets.token_hex(4)}")
        with aside.open("w", encoding="ascii") as file:
            file.write(f"{VERSION}\n")
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
        return
    if text != str(VERSION):
        raise StoreUnusable(
            f"{path} says that this store has layout {text[:20]!r}, and this program knows layout {VERSION}; "
            "use the release that wrote it, or another directory"
        )


def refuse_remote(root: Path) -> None:
    """Raise `StoreUnusable` where `root` lies on a network file system."""
    kind = file_system(root)
    if kind in _REMOTE:
        raise StoreUnusable(
            f"storage.path {root} lies on {kind}, where locks and write-ahead logs cannot be trusted; "
            "use a local disk or a block volume"
        )


def file_system(path: Path) -> str:
    """Return the type of the file system that holds `path`, or an empty string where the system does not tell."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in reversed(lines):  # a later mount hides an earlier one
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0]
    return ""
