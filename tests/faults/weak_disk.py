"""A disk that can fail, as a FUSE file system: it answers with errors when told to, and forgets what was not synced.

    python -m tests.faults.weak_disk PLAN.json

The plan: {"root": directory that holds what the file system shows, "mount": where, "rules": file that says what fails
(see `rules_of`), "refused": file that tells what did fail, "after": directory to make at the end, "names": "synced" or
"all", "torn": a number or null}.

It ends when it is unmounted, and then leaves in `after` what a power cut at that moment could leave on a disk:
- data: of each file what it held at its last fsync; with `torn`, a seed, some blocks that were written since, too;
- names: those of each directory's last fsync, or with "all" those of the last moment: file systems may write them
  earlier than the data. A new directory is there at once.
"""

from __future__ import annotations

import errno
import fnmatch
import itertools
import json
import os
import posixpath
import random
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfusepy import FUSE, FuseOSError, Operations

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 4096


def rules_of(path: Path) -> list[dict[str, Any]]:
    """Read [{"do": "read", "name": "*.part", "from": 4096, "errno": 5}]: what fails, by name and from which offset."""
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


class WeakDisk(Operations):  # type: ignore[misc]
    """Passes everything on to `root`, and remembers what was synced."""

    use_ns = True

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._root = Path(plan["root"])
        self._rules = Path(plan["rules"])
        self._read_at, self._failing = -1, list[dict[str, Any]]()
        self._refused = Path(plan["refused"]).open("a", buffering=1)  # noqa: SIM115 - as long as the program runs
        self._snapshots = Path(f"{plan['after']}.synced")
        self._snapshots.mkdir()
        self._ids = itertools.count()
        self._live: dict[str, int] = {}  # path -> file
        self._synced: dict[str, int] = {}  # the same as the disk has it
        self._open: dict[int, tuple[str, int]] = {}  # descriptor -> path when it was opened, file

    # --- files ---------------------------------------------------------------------------------------------------

    def create(self, path: str, mode: int, _flags: int) -> int:
        self._fail("create", path)
        fd = os.open(self._at(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)  # to be read, see `open`
        self._live[path] = next(self._ids)
        self._open[fd] = (path, self._live[path])
        return fd

    def open(self, path: str, flags: int) -> int:
        self._fail("open", path)
        # Reading is needed to keep what is synced, whatever the mirror asks for.
        mode = os.O_RDONLY if flags & os.O_ACCMODE == os.O_RDONLY else os.O_RDWR
        if mode == os.O_RDWR:
            self._fail("open for writing", path)
        fd = os.open(self._at(path), mode | flags & os.O_TRUNC)
        self._open[fd] = (path, self._live[path])
        return fd

    def read(self, _path: str, size: int, offset: int, fh: int) -> bytes:
        self._fail("read", self._open[fh][0], offset + size)
        return os.pread(fh, size, offset)

    def write(self, _path: str, data: bytes, offset: int, fh: int) -> int:
        self._fail("write", self._open[fh][0], offset + len(data))
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        self._fail("truncate", path)
        os.truncate(self._at(path) if fh is None else fh, length)
        return 0

    def fallocate(self, _path: str, mode: int, offset: int, length: int, fh: int) -> int:
        if mode:
            raise FuseOSError(errno.EOPNOTSUPP)
        self._fail("fallocate", self._open[fh][0])
        os.posix_fallocate(fh, offset, length)
        return 0

    def fsync(self, _path: str, _datasync: int, fh: int) -> int:
        path, file = self._open[fh]
        self._fail("fsync", path)
        with (self._snapshots / f"{file}.new").open("wb") as copy:
            copy.writelines(_pieces(fh))
        (self._snapshots / f"{file}.new").rename(self._snapshots / str(file))
        return 0

    def flush(self, _path: str, _fh: int) -> int:
        return 0

    def release(self, _path: str, fh: int) -> int:
        del self._open[fh]
        os.close(fh)
        return 0

    # --- names ---------------------------------------------------------------------------------------------------

    def rename(self, old: str, new: str) -> int:
        self._fail("rename", new)
        self._at(old).rename(self._at(new))
        self._live[new] = self._live.pop(old)
        return 0

    def unlink(self, path: str) -> int:
        self._fail("unlink", path)
        self._at(path).unlink()
        del self._live[path]
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        self._fail("mkdir", path)
        self._at(path).mkdir(mode)
        return 0

    def rmdir(self, path: str) -> int:
        self._at(path).rmdir()
        return 0

    def fsyncdir(self, path: str, _datasync: int, fh: int) -> int:
        path = self._open[fh][0] if fh in self._open else path
        self._fail("fsync", path)
        for name in [name for name in self._synced if posixpath.dirname(name) == path and name not in self._live]:
            del self._synced[name]
        self._synced.update({name: file for name, file in self._live.items() if posixpath.dirname(name) == path})
        return 0

    def opendir(self, path: str) -> int:
        fd = os.open(self._at(path), os.O_RDONLY | os.O_DIRECTORY)
        self._open[fd] = (path, -1)
        return fd

    def releasedir(self, _path: str, fh: int) -> int:
        return self.release(_path, fh)

    def readdir(self, _path: str, fh: int) -> Iterator[Any]:
        directory = self._at(self._open[fh][0])
        for path in (directory, *directory.iterdir()):
            if not _is_hidden(path.name):
                status = path.lstat()
                name = "." if path == directory else path.name
                yield name, {"st_mode": status.st_mode, "st_ino": status.st_ino}, 0

    # --- the rest ------------------------------------------------------------------------------------------------

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        status = os.fstat(fh) if fh is not None else self._at(path).lstat()
        found = {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
        if _is_hidden(path):
            found["st_nlink"] = 0
        for name in ("st_atime", "st_mtime", "st_ctime"):
            found[name] = found[f"{name}_ns"]
        return found

    def chmod(self, path: str, mode: int) -> int:
        self._fail("chmod", path)
        self._at(path).chmod(mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        os.chown(self._at(path), uid, gid)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        self._fail("utimens", path)
        os.utime(self._at(path), ns=times)
        return 0

    def statfs(self, _path: str) -> dict[str, int]:
        status = os.statvfs(self._root)
        return {name: getattr(status, name) for name in dir(status) if name.startswith("f_")}

    def destroy(self, _path: str) -> None:
        """Make what the power cut leaves."""
        after, chance = Path(self._plan["after"]), self._plan["torn"]
        shutil.copytree(self._root, after, ignore=lambda path, names: [n for n in names if not Path(path, n).is_dir()])
        for path, file in (self._live if self._plan["names"] == "all" else self._synced).items():
            if _is_hidden(path):
                continue
            kept = self._snapshots / str(file)
            data = bytearray(kept.read_bytes() if kept.exists() else b"")
            if chance is not None and path in self._live and self._live[path] == file:
                _tear(data, self._at(path).read_bytes(), random.Random(f"{chance} {path}"))  # noqa: S311 - no secret
            there = after / path[1:]
            there.write_bytes(data)
            if self._live.get(path) == file:
                shutil.copymode(self._at(path), there)

    def _at(self, path: str) -> Path:
        return self._root / path[1:]

    def _fail(self, do: str, path: str, upto: int = 0) -> None:
        changed = self._rules.stat().st_mtime_ns
        if changed != self._read_at:
            self._failing, self._read_at = rules_of(self._rules), changed
        for rule in self._failing:
            if rule["do"] == do and fnmatch.fnmatch(path, rule["name"]) and upto >= rule.get("from", 0):
                self._refused.write(f"{do} {path}\n")
                raise FuseOSError(rule["errno"])


def _is_hidden(path: str) -> bool:
    """Say whether libfuse keeps here what was unlinked while it was open."""
    return path.rpartition("/")[2].startswith(".fuse_hidden")


def _pieces(fd: int) -> Iterator[bytes]:
    offset = 0
    while piece := os.pread(fd, 1 << 20, offset):
        yield piece
        offset += len(piece)


def _tear(data: bytearray, written: bytes, chance: random.Random) -> None:
    """Let some of the blocks of `written` have come to the disk, after all."""
    size = chance.choice((len(data), len(written)))
    data[:] = data[:size].ljust(size, b"\0")
    for start in range(0, size, _BLOCK):
        if chance.random() < 0.5 and start < len(written):
            block = written[start : start + _BLOCK]
            data[start : start + len(block)] = block
    del data[size:]


if __name__ == "__main__":
    settings = json.loads(Path(sys.argv[1]).read_text())
    FUSE(
        WeakDisk(settings),
        settings["mount"],
        foreground=True,
        nothreads=True,
        use_ino=True,
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
        fsname="weak-disk",
    )
