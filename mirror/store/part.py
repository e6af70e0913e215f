"""An unfinished fill on disk: the `.part` file with the bytes, and the `.map` file that says which of them are here.

The lock of the `.part` file says which process fills it; once the content is whole it becomes a shared one, so that
nothing that a client is still sent is evicted (`mirror.store.locks`). The map is written after the data, with
`pwrite`: a store through `mmap` raises no inotify event and dies of SIGBUS on a full disk. Whoever holds no lock may
read both at any time, and may mark chunks as wanted; whoever gets the lock goes on from the map.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mirror.errors import NoSpace
from mirror.store.layout import sync_directory
from mirror.store.locks import naming, pending, seize, unnaming
from mirror.store.refusal import refusing
from mirror.store.spans import Spans

if TYPE_CHECKING:
    from mirror.oci.digest import Digest
    from mirror.store.layout import Layout

CHUNK = 1024 * 1024  # bytes that one mark of the map stands for
UNKNOWN = 2**64 - 1  # size of a blob that upstream sends without a length

# magic, version, state, size, chunk size, generation, watermark, boot id, inode of the `.part` file
_HEADER = struct.Struct("<4sHHQIIQ16sQ8x")
# Behind it two bytes for each chunk: whether it is here, and whether a reader of another process waits for it. In
# turn, so that a reader who marks by an outdated size never writes where another chunk is said to be here.
_BLOCK = 4096  # bytes in which file systems give out space, mostly
_MAGIC = b"RMFM"
_VERSION = 1
FILLING, VERIFIED = 0, 1

_libc = ctypes.CDLL(None, use_errno=True)


def _boot_id() -> bytes:
    try:
        return bytes.fromhex(
            Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip().replace("-", "")
        )
    except OSError:
        return bytes(16)


BOOT_ID = _boot_id()


@dataclass(frozen=True, slots=True)
class MapState:
    """What a map says: `size` is None while upstream has not told it; `spans` are the bytes that are here."""

    state: int
    size: int | None
    generation: int
    spans: Spans
    wanted: tuple[int, ...]  # offsets of chunks that readers of other processes wait for


class PartFile:
    """One `.part` and its `.map`. Methods block on the disk: call them off the loop, but `read_map` and `try_lock`.

    Those that write raise `StoreError` where the disk refuses, `NoSpace` where it is full.
    """

    def __init__(self, layout: Layout, digest: Digest) -> None:
        """Open both, creating what is missing. No lock is taken."""
        self.digest = digest
        self._layout = layout
        self._path = layout.part(digest)
        self._map_path = layout.map(digest)
        self.file: BinaryIO = os.fdopen(
            os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0
        )
        try:
            self._map = os.open(self._map_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            self.file.close()
            raise
        self.size: int | None = None
        self.generation = 0
        self.locked = False
        self._untold = -1  # held from when it is committed until it is closed: by then index and book know it
        self._watermark = 0

    # --- who fills -----------------------------------------------------------------------------------------------

    def try_lock(self) -> bool:
        """Become the one who fills, unless somebody is. The caller checks `current` next."""
        if not seize(self.file.fileno()):
            return False
        self.locked = True
        return True

    def current(self) -> bool:
        """Say whether the path still names this file: else it was committed or thrown away before it was locked."""
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        here = os.fstat(self.file.fileno())
        return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)

    def close(self) -> None:
        """Give up the lock and close both files. What is here stays for whoever goes on.

        A shared lock stays as long as a client is sent bytes through a duplicate of the descriptor.
        """
        if self._map >= 0:
            os.close(self._map)
            self._map = -1
        if not self.file.closed:
            self.unlock()
            self.file.close()
        if self._untold >= 0:
            os.close(self._untold)
            self._untold = -1

    def unlock(self) -> None:
        """Let go of the lock, though a client may still be sent bytes through a duplicate of the descriptor."""
        if self.locked:
            fcntl.flock(self.file.fileno(), fcntl.LOCK_UN)
            self.locked = False

    def share(self) -> None:
        """Keep the content from being evicted as long as anybody has this file open, a duplicate of it included.

        For whoever fills, `commit` does it; a follower does it when it adopts what another process committed. Waits
        for those who hold the lock alone: a follower that finds out that the fill has ended, an evictor.
        """
        self.locked = False
        fcntl.flock(self.file.fileno(), fcntl.LOCK_SH)

    def allocated(self) -> int:
        """Return the bytes that both files take on disk."""
        return (os.fstat(self.file.fileno()).st_blocks + os.fstat(self._map).st_blocks) * 512

    def stored(self) -> int:
        """Return the bytes that the content alone takes on disk."""
        return os.fstat(self.file.fileno()).st_blocks * 512

    # --- what is here --------------------------------------------------------------------------------------------

    def begin(self, size: int | None) -> None:
        """Start from nothing: allocate `size` bytes and write an empty map. Raise `NoSpace` where they do not fit."""
        # By chance, not by count: whoever takes over after a crash must not call other bytes by the same number.
        self.size, self.generation, self._watermark = size, secrets.randbits(32), 0
        self.clear()
        if size:
            with refusing(self._layout.root):
                _allocate(self.file.fileno(), size)
        chunks = -(-size // CHUNK) if size is not None else 0
        self._pwrite_map(self._header(FILLING) + bytes(2 * chunks), 0)

    def resume(self) -> MapState | None:
        """Go on from the map, if it is whole and was written since this machine booted; None says: begin."""
        state = self.read_map()
        if state is None or state.size is None or os.fstat(self.file.fileno()).st_size > state.size:
            return None
        self.size, self.generation = state.size, state.generation
        with refusing(self._layout.root):
            _allocate(self.file.fileno(), state.size)
        self._watermark = state.spans.end_of(0)
        return state

    def write(self, data: bytes, offset: int, run: tuple[int, int]) -> None:
        """Write `data` at `offset`, then mark the chunks it made whole; `run` is the span that it now belongs to."""
        view = memoryview(data)
        at = offset
        with refusing(self._layout.root):
            while view:
                done = os.pwrite(self.file.fileno(), view, at)
                view = view[done:]
                at += done
            self._mark(offset, at, run)

    def want(self, offset: int) -> None:
        """Ask the process that fills to fetch the chunk at `offset` first."""
        # Whoever fills may have committed and unlinked the map meanwhile; then the mark goes nowhere, and nobody
        # needs it. Or that one gave up just before this one was opened: then this map is new, empty, and nobody's, and
        # what it grew by would be bytes on disk that nobody has counted.
        mark = _HEADER.size + 2 * (offset // CHUNK) + 1
        with contextlib.suppress(OSError):  # a hint: where it cannot be written the chunk comes in its turn
            if os.fstat(self._map).st_size > mark:
                os.pwrite(self._map, b"\x01", mark)

    def read_map(self) -> MapState | None:
        """Read what the map says now.

        None where it is not whole yet, was written before this machine booted, or tells of another `.part` file.
        """
        part = os.fstat(self.file.fileno())  # before the map: data comes first, and a map is emptied before its data
        head = os.pread(self._map, _HEADER.size, 0)
        if len(head) < _HEADER.size:
            return None
        magic, version, state, size, chunk, generation, watermark, boot, inode = _HEADER.unpack(head)
        if magic != _MAGIC or version != _VERSION or chunk != CHUNK or boot != BOOT_ID or inode != part.st_ino:
            return None
        spans = Spans()
        if size == UNKNOWN:
            spans.add(0, watermark)
            return MapState(state, None, generation, spans, ()) if watermark <= part.st_size else None
        chunks = -(-size // CHUNK)
        marks = os.pread(self._map, 2 * chunks, _HEADER.size)
        if len(marks) < 2 * chunks:
            return None
        body, asked = marks[::2], marks[1::2]
        at = body.find(b"\x01", 0, chunks)
        while at >= 0:
            stop = body.find(b"\x00", at, chunks)
            stop = chunks if stop < 0 else stop
            spans.add(at * CHUNK, min(stop * CHUNK, size))
            at = body.find(b"\x01", stop, chunks)
        spans.add(0, min(watermark, size))
        if spans.end() > part.st_size:
            return None
        wanted = []
        at = asked.find(b"\x01")
        while at >= 0:
            wanted.append(at * CHUNK)
            at = asked.find(b"\x01", at + 1)
        return MapState(state, size, generation, spans, tuple(wanted))

    # --- how it ends ---------------------------------------------------------------------------------------------

    def verified(self) -> None:
        """Tell readers of other processes that the whole has been verified."""
        self._pwrite_map(self._header(VERIFIED), 0)

    def commit(self, size: int) -> int:
        """Make the verified content whole: sync it, give it its name, share the lock, forget the map. It is locked.

        Return the bytes on disk of what had the name: somebody may have had the same content at hand (`BlobStore.put`).
        """
        fd = self.file.fileno()
        target = self._layout.blob(self.digest)
        with refusing(self._layout.root):
            os.ftruncate(fd, size)
            os.fchmod(fd, 0o444)
            os.fsync(fd)
            target.parent.mkdir(parents=True, exist_ok=True)
            with naming(self._layout):  # nobody puts or evicts it meanwhile
                self._untold = pending(self._layout)
                replaced = _taken(target)
                self._path.rename(target)
            self.share()
            try:
                sync_directory(target.parent)
            except BaseException:
                with unnaming(self._layout):
                    target.unlink(missing_ok=True)  # the caller hears that it is not stored: then it is not
                raise
            self._map_path.unlink(missing_ok=True)
        return replaced

    def clear(self) -> None:
        """Empty both files: what came was wrong. The lock is held."""
        with refusing(self._layout.root):
            os.ftruncate(self._map, 0)
            os.ftruncate(self.file.fileno(), 0)

    def discard(self) -> None:
        """Throw both files away. The lock is held: nobody else may be writing them. Those of another fill stay."""
        with refusing(self._layout.root):
            if self.current() or not self._path.exists():
                self._map_path.unlink(missing_ok=True)
                self._path.unlink(missing_ok=True)

    def _mark(self, start: int, stop: int, run: tuple[int, int]) -> None:
        if run[0] == 0 and run[1] > self._watermark:
            self._watermark = run[1]
            self._pwrite_map(self._header(FILLING), 0)
        if self.size is None:
            return
        first = max(start // CHUNK, -(-run[0] // CHUNK))
        end = run[1] if run[1] == self.size else run[1] // CHUNK * CHUNK
        last = min(-(-stop // CHUNK), -(-end // CHUNK))
        if last > first:
            self._pwrite_map(b"\x01\x00" * (last - first), _HEADER.size + 2 * first)  # nobody wants what is here

    def _header(self, state: int) -> bytes:
        size = UNKNOWN if self.size is None else self.size
        inode = os.fstat(self.file.fileno()).st_ino
        return _HEADER.pack(_MAGIC, _VERSION, state, size, CHUNK, self.generation, self._watermark, BOOT_ID, inode)

    def _pwrite_map(self, data: bytes, offset: int) -> None:
        with refusing(self._layout.root):
            while data:
                done = os.pwrite(self._map, data, offset)
                data = data[done:]
                offset += done


def _taken(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def footprint(size: int) -> int:
    """Return the bytes on disk that an unfinished fill of `size` bytes takes, its map included."""
    marks = _HEADER.size + 2 * (-(-size // CHUNK))
    return -(-size // _BLOCK) * _BLOCK + -(-marks // _BLOCK) * _BLOCK


def _allocate(fd: int, size: int) -> None:
    """Reserve blocks, so that a full disk is found before the first byte. File systems that cannot are left alone.

    Not `os.posix_fallocate`: where the file system cannot, the C library writes to every block instead.
    """
    result = _libc.fallocate(fd, 0, ctypes.c_long(0), ctypes.c_long(size))
    if result == 0:
        return
    code = ctypes.get_errno()
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        with contextlib.suppress(OSError):  # what was allocated before it failed goes back
            os.ftruncate(fd, 0)
        raise NoSpace(f"the disk has no room for a blob of {size} bytes; free some of it")
    if code not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
        raise OSError(code, os.strerror(code))
