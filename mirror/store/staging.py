"""Content that comes together as a whole, or not at all: what an import brings is none before all of it was checked.

Each piece lies in `fills.v1/ALGORITHM-HEX.carried` meanwhile, locked by the process that brings it, and gets its name
in `blobs.v1` at the end, all of them together. After an interrupt the files stay, for the next import to go on from.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from mirror.errors import StoreError
from mirror.store.direct import DirectFile, buffer
from mirror.store.layout import sync_directory
from mirror.store.locks import pending, seize, unnaming
from mirror.store.refusal import refusing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from mmap import mmap
    from pathlib import Path

    from mirror.oci.digest import Digest
    from mirror.store.layout import Layout
    from mirror.store.room import Room

SUFFIX = ".carried"
_BLOCK = 512  # bytes that st_blocks counts in (stat(2))
_AT_ONCE = 256  # files that get their names while everybody else waits for the lock on names
_MANY = 256  # files: with fewer, what all others write to the same disk would be more to wait for
_SYNCING = 8  # threads: each waits for the disk
_TRIES = 16  # others may throw a file away between the moments in which it is opened and locked

_DIRECT = 1024 * 1024  # bytes from which a file goes past the page cache
_NAMELESS = ".put"  # nobody can go on with what has no digest yet: it is thrown away an hour later, not a week

_libc = ctypes.CDLL(None, use_errno=True)


class Staged:
    """One file. It is written from front to back; what an earlier run left of it is compared, not written again."""

    def __init__(self, path: Path, fd: int, size: int, memory: mmap | None) -> None:
        """It is to have `size` bytes, written directly by way of `memory`, or through the page cache."""
        self.path = path
        self.fd = fd
        self.digest: Digest | None = None  # None: nobody knows yet
        self.size = 0  # bytes that came
        self.named = False  # it is content
        self._left = os.fstat(fd).st_size  # by an earlier run
        self._whole = size
        self._memory = memory
        self._direct: DirectFile | None = None

    @property
    def taken(self) -> int:
        """Bytes on disk."""
        return os.fstat(self.fd).st_blocks * _BLOCK

    def write(self, piece: bytes) -> int:
        """Append a piece; return how many bytes went to the disk by that. Raise `StoreError`."""
        with refusing(self.path.parent):
            if self._direct is None and self.size < self._left and os.pread(self.fd, len(piece), self.size) == piece:
                self.size += len(piece)
                return 0
            if self._memory is not None:
                return self._write_directly(piece, self._memory)
            view = memoryview(piece)
            while view:
                done = os.pwrite(self.fd, view, self.size)
                view = view[done:]
                self.size += done
            return len(piece)

    def _write_directly(self, piece: bytes, memory: mmap) -> int:
        if self._direct is None:
            self._direct = DirectFile(self.path, self.fd, self.size, memory)
        went = self._direct.write(piece)
        self.size += len(piece)
        if self.size >= self._whole:
            went += self._direct.flush()
            self._shut()
        return went

    def end(self, digest: Digest) -> None:
        """Hear that all has come, and that it is what `digest` says."""
        self.digest = digest
        if self._left > self.size:
            with refusing(self.path.parent):
                os.ftruncate(self.fd, self.size)

    def close(self) -> None:
        """Let go of it."""
        self._shut()
        os.close(self.fd)

    def _shut(self) -> None:
        if self._direct is not None:
            self._direct.close()
            self._direct = None


class Staging:
    """All that one import brings. The methods block on the disk, and raise `StoreError`; use them in one thread.

    One of `commit`, `withdraw` and `leave` ends it, and `close` behind that.
    """

    def __init__(self, layout: Layout, room: Room) -> None:
        self._layout = layout
        self._room = room
        self._files: dict[Path, Staged] = {}
        self._held = self._outstanding = 0  # bytes of the room; of them, not known to be on disk
        self._untold: list[int] = []
        self._memory = buffer()
        self._counting = threading.Lock()

    def left(self, digest: Digest) -> int:
        """Return how many bytes on disk an earlier run has left of `digest`."""
        try:
            return self._path(digest).stat().st_blocks * _BLOCK
        except FileNotFoundError:
            return 0

    def reserved(self, size: int) -> None:
        """Hear that `size` bytes of the room were reserved for what is to come."""
        self._held += size
        self._outstanding += size

    def open(self, digest: Digest | None, size: int = 0) -> Staged:
        """Begin a file of `size` bytes; where its digest is known it goes on from what an earlier run left.

        Large ones are written one after another.
        """
        with refusing(self._layout.root):
            for _ in range(_TRIES):
                path = self._path(digest)
                with suppress(FileNotFoundError):
                    path.chmod(0o600)  # who left it was killed when it was about to become content
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    if seize(fd) and _is_at(fd, path):
                        staged = Staged(path, fd, size, self._memory if size >= _DIRECT else None)
                        self._find(staged.taken)
                        self._files[path] = staged
                        return staged
                except BaseException:
                    os.close(fd)
                    raise
                os.close(fd)
        raise StoreError(f"{path} is held by another process; end that one, or try again later")

    def write(self, staged: Staged, piece: bytes) -> None:
        """Append a piece to a file, in any thread."""
        self._wrote(staged.write(piece))

    def add(self, digest: Digest, body: bytes) -> Staged:
        """Bring small content that was verified."""
        staged = self.open(digest)
        self.write(staged, body)
        staged.end(digest)
        return staged

    def drop(self, staged: Staged) -> None:
        """Throw one away: nobody needs it."""
        with refusing(self._layout.root):
            taken = min(staged.taken, self._held)
            self._files.pop(staged.path).path.unlink(missing_ok=True)
            staged.close()
            self._held -= taken
            self._wrote(max(0, self._outstanding - self._held))  # what is no longer held is not waited for either
            self._room.release(taken)

    def commit(self, going_on: Callable[[], None] = lambda: None) -> dict[Digest, int]:
        """Make all of it content; return the bytes that each takes on disk.

        `going_on` is called now and then until the first one gets its name, and raises where somebody wants to stop.
        It is not evicted before `close`: by then index and book have to know it. Raise `StoreError` where the disk
        refuses; `withdraw` then.
        """
        files = list(self._files.values())
        taken: dict[Digest, int] = {}
        with refusing(self._layout.root):
            self._sync(files, going_on)
            going_on()
            for at in range(0, len(files), _AT_ONCE):
                with unnaming(self._layout):
                    self._untold.append(pending(self._layout))
                    for staged in files[at : at + _AT_ONCE]:
                        self._name(staged)
            with ThreadPoolExecutor(_SYNCING, thread_name_prefix="sync") as threads:
                parents = {self._target(staged).parent for staged in files if staged.named}
                list(threads.map(sync_directory, parents))
        for staged in files:
            assert staged.digest is not None  # noqa: S101  # `_name` looked
            taken[staged.digest] = staged.taken
        return taken

    def settle(self) -> None:
        """Hear that the index knows what was committed: the room counts it as content."""
        self._give_back(sum(staged.taken for staged in self._files.values() if staged.named))

    def withdraw(self) -> None:
        """Remove all of it again, as if it had never come; but not what somebody else has begun to use."""
        kept = 0
        with refusing(self._layout.root), unnaming(self._layout):
            for staged in self._files.values():
                if not staged.named:
                    if _is_at(staged.fd, staged.path):
                        staged.path.unlink(missing_ok=True)
                elif not _is_at(staged.fd, self._target(staged)) or not seize(staged.fd):
                    kept += staged.taken  # who has put the same in its place takes this off what is content
                else:
                    self._target(staged).unlink()
        self._give_back(kept)

    def leave(self) -> None:
        """Let what has come lie, for the next import to go on from, and throw away what it could not go on from."""
        for staged in [staged for path, staged in self._files.items() if path.suffix == _NAMELESS]:
            self.drop(staged)
        self._give_back(sum(staged.taken for staged in self._files.values()))

    def close(self) -> None:
        """Let go of everything."""
        while self._files:
            self._files.popitem()[1].close()
        while self._untold:
            os.close(self._untold.pop())

    # --- how -------------------------------------------------------------------------------------------------------

    def _path(self, digest: Digest | None) -> Path:
        if digest is None:
            return self._layout.fills / f"{secrets.token_hex(16)}{_NAMELESS}"
        return self._layout.part(digest).with_suffix(SUFFIX)

    def _target(self, staged: Staged) -> Path:
        assert staged.digest is not None  # noqa: S101  # only what is whole has a target
        return self._layout.blob(staged.digest)

    def _find(self, taken: int) -> None:
        """Take what an earlier run has left: the room has it as content."""
        if taken:
            self._room.found(taken)
            self._held += taken

    def _wrote(self, count: int) -> None:
        """Hear that `count` bytes went to the disk that were reserved."""
        with self._counting:
            count = min(count, self._outstanding)
            self._outstanding -= count
        self._room.landed(count)

    def _sync(self, files: Sequence[Staged], going_on: Callable[[], None]) -> None:
        """Write all to the disk. Very many go faster all at once; then it is only heard of each how that went."""
        if len(files) > _MANY:
            self._sync_everything()

        def sync(staged: Staged) -> None:
            going_on()
            os.fsync(staged.fd)

        with ThreadPoolExecutor(_SYNCING, thread_name_prefix="sync") as threads:
            list(threads.map(sync, files))

    def _sync_everything(self) -> None:
        directory = os.open(self._layout.fills, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(AttributeError):  # a C library without it: the files are synced one by one
                _libc.syncfs(directory)
        finally:
            os.close(directory)

    def _name(self, staged: Staged) -> None:
        """Give it its name, unless another process has brought the same meanwhile. The lock on names is held."""
        target = self._target(staged)
        if target.exists():
            there = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(there, fcntl.LOCK_SH)
            staged.path.unlink(missing_ok=True)
            os.close(staged.fd)
            staged.fd = there
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        os.fchmod(staged.fd, 0o444)
        fcntl.flock(staged.fd, fcntl.LOCK_SH)  # it may be read from the moment that it has its name
        staged.path.rename(target)
        staged.named = True

    def _give_back(self, kept: int) -> None:
        """End the account: `kept` bytes stay on disk."""
        self._wrote(self._outstanding)
        held, self._held = self._held, 0
        self._room.release(held - kept)
        self._room.keep(kept)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
