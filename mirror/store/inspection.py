"""Reading content again, to see whether the disk still has what the digest says.

The file is opened anew for each piece, with the lock of a reader: whoever evicts waits for no more than a piece, and
content that went meanwhile takes no room. What was in the page cache stays there, and what was not is let go again: the
pages that clients want are not pushed out by a look at the whole disk.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import mmap
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.store.locks import share
from mirror.store.refusal import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.oci.digest import Digest
    from mirror.store.layout import Layout

PIECE = 1024 * 1024  # bytes of one step

# What a file system says of a file that it cannot read: the disk, or a checksum of its own. Anything else is no fault
# of the content.
DAMAGE = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA, errno.EREMOTEIO, errno.EILSEQ})

_MINCORE = getattr(ctypes.CDLL(None), "mincore", None)
_buffers = threading.local()


class Verdict(enum.Enum):
    """What became of a look at one file."""

    RIGHT = "right"
    WRONG = "wrong"  # its bytes are not what the digest says
    UNREADABLE = "unreadable"  # the disk does not give them
    MISSING = "missing"  # there is no file
    BUSY = "busy"  # it went, or another one came in its place, while it was read: nobody can say


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict, and how it came about."""

    digest: Digest
    verdict: Verdict
    reason: str = ""  # for a person, where it is not right
    size: int = 0  # bytes read
    seen: os.stat_result | None = None  # the file that was read

    @property
    def bad(self) -> bool:
        """Whether the file is of no use."""
        return self.verdict in (Verdict.WRONG, Verdict.UNREADABLE)


class Inspection:
    """One file that is being read again. `step` blocks on the disk; one thread at a time."""

    def __init__(self, layout: Layout, digest: Digest) -> None:
        self._layout = layout
        self._digest = digest
        self._hasher = digest.hasher()
        self._position = 0
        self._seen: os.stat_result | None = None
        self.finding: Finding | None = None  # once it is known

    def step(self) -> int:
        """Read and hash the next piece; return the bytes read. There is a `finding` after the last one.

        Raise `StoreError` where the disk refuses for a reason that is not the content's.
        """
        try:
            fd = os.open(self._layout.blob(self._digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            verdict = Verdict.MISSING if self._seen is None else Verdict.BUSY
            return self._end(verdict, "it is not on the disk")
        except OSError as error:
            return self._refused(error)
        try:
            return self._step(fd)
        except OSError as error:
            return self._refused(error)
        finally:
            os.close(fd)

    def _step(self, fd: int) -> int:
        if not share(fd):
            return self._end(Verdict.BUSY, "it is being removed")
        now = os.fstat(fd)
        if now.st_nlink == 0 or (self._seen is not None and not os.path.samestat(now, self._seen)):
            return self._end(Verdict.BUSY, "it went while it was read")
        self._seen = now
        piece = read_gently(fd, self._position)
        self._hasher.update(piece)
        self._position += len(piece)
        if len(piece) < PIECE:
            self._judge()
        return len(piece)

    def _judge(self) -> None:
        if self._hasher.hexdigest() == self._digest.hex:
            self._end(Verdict.RIGHT, "")
        else:
            self._end(Verdict.WRONG, f"its {self._position} bytes are not what the digest says")

    def _refused(self, error: OSError) -> int:
        if error.errno not in DAMAGE:
            raise refusal(self._layout.root, error) from error
        return self._end(Verdict.UNREADABLE, f"the disk cannot read it: {error.strerror}")

    def _end(self, verdict: Verdict, reason: str) -> int:
        self.finding = Finding(self._digest, verdict, reason, self._position, self._seen)
        return 0


def inspect(layout: Layout, digest: Digest) -> Iterator[int | Finding]:
    """Read content again: yield the bytes of each step, and what was found at the end. Raises as `Inspection.step`."""
    inspection = Inspection(layout, digest)
    while inspection.finding is None:
        yield inspection.step()
    yield inspection.finding


def read_gently(fd: int, position: int) -> memoryview:
    """Return the bytes from `position` on, up to `PIECE`, and leave the page cache as it was; raise `OSError`.

    They are good until this thread calls it again. Fewer come only at the end of the file. Dirty pages stay.
    """
    buffer: memoryview | None = getattr(_buffers, "piece", None)
    if buffer is None:
        buffer = _buffers.piece = memoryview(bytearray(PIECE))
    # No reading ahead: what the kernel brought into memory by itself would look as if somebody wanted it there.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    absent = _absent(fd, position)
    got = 0
    while got < PIECE and (count := os.preadv(fd, [buffer[got:]], position + got)):
        got += count
    for start, stop in absent:
        os.posix_fadvise(fd, start, stop - start, os.POSIX_FADV_DONTNEED)
    return buffer[:got]


def _absent(fd: int, position: int) -> list[tuple[int, int]]:
    """Return which bytes of a piece are not in memory (mincore(2)); where the system does not tell, none.

    A read that does not wait (RWF_NOWAIT) would not do: it makes the kernel fetch the page, and a quick disk has it
    there at once.
    """
    size = min(PIECE, os.fstat(fd).st_size - position)
    if size <= 0 or _MINCORE is None:
        return []
    try:
        with mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=position) as pages:
            marks = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
            address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
            if _MINCORE(ctypes.c_void_p(address), ctypes.c_size_t(size), marks) != 0:
                return []
    except (OSError, ValueError):  # a file system without mmap; a file that is cut off at this moment
        return []
    spans: list[tuple[int, int]] = []
    for number, mark in enumerate(marks):
        start = position + number * mmap.PAGESIZE
        if mark & 1:
            continue
        if spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], start + mmap.PAGESIZE)
        else:
            spans.append((start, start + mmap.PAGESIZE))
    return spans
