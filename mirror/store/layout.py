"""Where everything lies on disk: version 2 of the layout.

VERSION                         the number of this layout
blobs.v1/ALGORITHM/ab/HEX       whole, verified content; read-only files
fills.v1/ALGORITHM-HEX.part     content that is still coming
fills.v1/ALGORITHM-HEX.map      what of it is here
fills.v1/ALGORITHM-HEX.carried  content that an import brings, until all of it is checked
aside.v1/ALGORITHM-HEX          content that turned out to be damaged
index.sqlite                    who holds what
index.lock, index.damaged       nothing; locked by whoever has the index open; a mark that it is to be made again
journal.v1                      what the index can be made from again
room.v2                         the account book of the bytes, shared by all processes on the store
recent.v2                       when content was last asked for, shared likewise
served.log                      what clients were ever given: it outlives the content
upstreams.v1.sqlite             what was learnt of upstreams: limits, rests, quarantines
turns.v2                        nothing; ranges of it are locked: one process at a time asks upstream for one thing
move.lock                       nothing; locked by whoever moves content in (shared) or out (exclusively)
keeper.lock                     nothing; locked by the process that keeps house
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.errors import StoreUnusable
from mirror.store import dealings
from mirror.store.upgrade import bring_up

if TYPE_CHECKING:
    from mirror.oci.digest import Digest

VERSION = 2
MOUNTS = Path("/proc/self/mountinfo")

# No locks that hold across hosts, no WAL, or neither (sqlite.org/wal.html): fills and index need both.
_REMOTE = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "ncpfs", "ceph", "lustre", "fuse.sshfs", "fuse.glusterfs"}
)
_GROWING = (  # the second three are made when they are first needed
    *("index.sqlite", "index.sqlite-wal", "journal.v1"),
    *(dealings.FILE, f"{dealings.FILE}-wal", f"{dealings.FILE}-shm"),
)
_FACTS = (
    *_GROWING,
    *("index.sqlite-shm", "journal.v1.new", "VERSION", "room.v2", "recent.v2", "turns.v2", "served.log"),
)


class Layout:
    """The paths of one store. Opening it creates what is missing and refuses what it cannot keep its promises on."""

    def __init__(self, root: Path) -> None:
        """Open a store, making it where there is none; one of an older layout is brought up to this one in place.

        Raise `StoreUnusable` where `root` cannot be written, is on a network file system, or has a newer version.
        """
        self.root = root
        self.blobs = root / "blobs.v1"
        self.fills = root / "fills.v1"
        self.aside = root / "aside.v1"
        self.index = root / "index.sqlite"
        self.journal = root / "journal.v1"
        self.room = root / "room.v2"
        self.recent = root / "recent.v2"
        self.served = root / "served.log"
        self.dealings = root / dealings.FILE
        self.turns = root / "turns.v2"
        self.move_lock = root / "move.lock"
        self.keeper_lock = root / "keeper.lock"
        try:
            root.mkdir(parents=True, exist_ok=True)
            refuse_remote(root)
            bring_up(root, VERSION)
            for directory in (self.fills, self.aside):
                directory.mkdir(exist_ok=True)
            self._shelve()
            for path in (self.turns, self.move_lock, self.keeper_lock):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            for directory in (root, self.fills, self.blobs, self.aside):
                if not os.access(directory, os.W_OK | os.X_OK):
                    raise PermissionError(f"{directory} is not writable")
        except OSError as error:
            raise StoreUnusable(
                f"storage.path {root} cannot be used: {error.strerror or error}; {_cure(error)}"
            ) from error

    def blob(self, digest: Digest) -> Path:
        """Return where whole content of `digest` lies."""
        return Path(self.blob_name(digest))

    def blob_name(self, digest: Digest) -> str:
        """Return the same as text, for those who ask thousands of times a second."""
        return f"{self.blobs}/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"

    def part(self, digest: Digest) -> Path:
        """Return where content of `digest` lies while it comes."""
        return self.fills / f"{digest.algorithm}-{digest.hex}.part"

    def map(self, digest: Digest) -> Path:
        """Return where the map of a `.part` file lies."""
        return self.fills / f"{digest.algorithm}-{digest.hex}.map"

    def damaged(self, digest: Digest) -> Path:
        """Return where content of `digest` lies that is not what the digest says."""
        return self.aside / f"{digest.algorithm}-{digest.hex}"

    def facts(self) -> list[Path]:
        """Return all files but content: the index, its journal, what processes share; some may be missing."""
        return [self.root / name for name in _FACTS]

    def growing(self) -> list[Path]:
        """Return what grows with every change: some of the `facts`, and the directory of fills under many of them."""
        return [*(self.root / name for name in _GROWING), self.fills]

    def directories(self) -> list[Path]:
        """Return the directories that the store consists of: they take blocks, too."""
        return [self.root, self.blobs, self.fills, self.aside, *self.shelves()]

    def shelves(self) -> list[Path]:
        """Return those of them that content lies in."""
        shelf = self.blobs / "sha256"
        return [shelf, *(shelf / f"{number:02x}" for number in range(256))]

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


def _cure(error: OSError) -> str:
    match error.errno:
        case errno.EROFS:
            return (
                "its file system is mounted read-only: mount it for writing (the kernel remounts a broken disk "
                "read-only, see dmesg), or name another directory"
            )
        case errno.ENOSPC | errno.EDQUOT:
            return "free some of the disk, or some of its inodes (df -i), or name another directory"
        case errno.EIO:
            return "see the disk's health (dmesg), or name another directory"
    return "give the mirror's user write access to it, or name another directory"
