"""Compressed bundles: zstd and gzip in, told by their first bytes, in bounded memory; zstd out, always the same bytes.

A bundle comes from a stick that anybody may have written. So a few bytes must not become gigabytes in memory (each read
gives what it was asked for, a zstd frame is unpacked block by block), and a stream that was cut is seen as such.
"""

from __future__ import annotations

import gzip
import io
import zlib
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

import zstandard

from mirror.errors import BundleRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import WriteableBuffer

LEVEL = 3  # layers are compressed already; more would cost time and gain nothing
LARGEST_WINDOW = 128 * 1024 * 1024  # bytes; what `zstd --long` writes, and what a hostile frame makes us allocate

_BUFFER = 1024 * 1024
_MAGIC = 4  # bytes; the longest that is looked for, of what may be read
_ZSTD = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x50\x2a\x4d\x18"  # the lowest of sixteen, RFC 8878 §3.1.2
_GZIP = b"\x1f\x8b"
_OTHERS = {b"\xfd7zXZ\x00": "xz", b"BZh": "bzip2", b"\x04\x22\x4d\x18": "lz4"}  # -> the program that unpacks it
_FRAME_HEADER = 18  # bytes at most, RFC 8878 §3.1.1.1
_BLOCK_HEADER = 3  # bytes, RFC 8878 §3.1.1.2
_RLE = 1  # the block type whose content is one byte


class Writer(Protocol):
    """Where bytes go: a file, standard output, parts."""

    def write(self, data: bytes, /) -> object:
        """Take all of `data`."""
        ...


class CompressingWriter:
    """Compresses to zstd what is written. What is below stays open; without `finish` the stream has no end."""

    def __init__(self, file: Writer) -> None:
        self._file = file
        # One thread: the output then depends on nothing but the input.
        compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, threads=0)
        self._compressing = compressor.compressobj()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take all of `data`; return its length in bytes."""
        if packed := self._compressing.compress(data):
            self._file.write(packed)
        return memoryview(data).nbytes

    def finish(self) -> None:
        """Write what is left, and the end of the stream."""
        self._file.write(self._compressing.flush())


def compressing(file: Writer) -> CompressingWriter:
    """Return a writer that compresses into `file`; call its `finish` at the end."""
    return CompressingWriter(file)


def decompressed(file: BinaryIO) -> BinaryIO:
    """Return what `file` holds, unpacked if its first bytes say that it is packed.

    Reading raises `BundleRefused` where the stream is damaged, cut off, or needs more memory than is right. The end of
    the stream is only checked when it is read up to there. The result cannot be rewound, unless it is `file` itself.
    """
    beginning = _read_up_to(file, max(map(len, _OTHERS)))
    for magic, program in _OTHERS.items():
        if beginning.startswith(magic):
            raise BundleRefused(f"this is packed by {program}, which is not read; unpack it first: {program} -d FILE")
    if file.seekable():
        file.seek(-len(beginning), io.SEEK_CUR)
        source = file
    else:
        source = _buffered(_Replayed(beginning, file))
    if beginning.startswith(_GZIP):
        return _buffered(_Gunzipped(source))
    if _is_zstd(beginning[:_MAGIC]):
        return _buffered(_Pieces(_unpacked(source)))
    return source


def _is_zstd(magic: bytes) -> bool:
    return magic == _ZSTD or _is_skippable(magic)


def _is_skippable(magic: bytes) -> bool:
    return len(magic) == _MAGIC and magic[1:] == _SKIPPABLE[1:] and magic[0] & 0xF0 == _SKIPPABLE[0]


def _buffered(raw: io.RawIOBase) -> BinaryIO:
    return cast("BinaryIO", io.BufferedReader(raw, _BUFFER))


def _read_up_to(file: BinaryIO, size: int) -> bytes:
    """Read `size` bytes, fewer only at the end: a pipe gives what it has."""
    pieces: list[bytes] = []
    while size > 0 and (piece := file.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


# --- zstd ----------------------------------------------------------------------------------------------------------


def _unpacked(file: BinaryIO) -> Iterator[bytes]:
    """Yield what the frames of `file` hold, one block (128 KiB at most) at a time."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
    while magic := _read_up_to(file, _MAGIC):
        if _is_skippable(magic):
            _skip(file, int.from_bytes(_exactly(file, 4), "little"))
        elif magic == _ZSTD:
            yield from _frame(file, decompressor)
        elif len(magic) < _MAGIC:
            raise _cut()
        else:
            raise BundleRefused("the zstd stream is damaged: what follows a frame is none; copy the file again")


def _frame(file: BinaryIO, decompressor: zstandard.ZstdDecompressor) -> Iterator[bytes]:
    """Unpack a frame whose magic number was read (RFC 8878 §3.1.1)."""
    header = _ZSTD + _exactly(file, 2)
    try:
        header += _exactly(file, zstandard.frame_header_size(header + bytes(_FRAME_HEADER)) - len(header))
        parameters = zstandard.get_frame_parameters(header)
    except zstandard.ZstdError as error:
        raise _damaged(error) from None
    if parameters.dict_id:
        raise BundleRefused("the zstd stream needs a dictionary, which no bundle does; pack it again without one")
    if parameters.window_size > LARGEST_WINDOW:
        raise BundleRefused(
            f"the zstd stream needs a window of {parameters.window_size} bytes, which is more than {LARGEST_WINDOW}; "
            f"pack it again with zstd --long=27, or less"
        )
    unpacking = decompressor.decompressobj()
    last = False
    try:
        yield unpacking.decompress(header)
        while not last:
            block = _exactly(file, _BLOCK_HEADER)
            bits = int.from_bytes(block, "little")
            last = bool(bits & 1)
            block += _exactly(file, 1 if bits >> 1 & 3 == _RLE else bits >> 3)
            yield unpacking.decompress(block)
        if parameters.has_checksum:
            yield unpacking.decompress(_exactly(file, 4))
    except zstandard.ZstdError as error:
        raise _damaged(error) from None
    if not unpacking.eof:
        raise BundleRefused("the zstd stream is damaged: a frame does not end where it says; copy the file again")


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = _read_up_to(file, size)
    if len(data) < size:
        raise _cut()
    return data


def _skip(file: BinaryIO, size: int) -> None:
    while size > 0:
        size -= len(_exactly(file, min(size, _BUFFER)))


def _cut() -> BundleRefused:
    return BundleRefused("the file is cut off: its zstd stream does not end; copy it again")


def _damaged(error: Exception) -> BundleRefused:
    return BundleRefused(f"the zstd stream is damaged ({error}); copy the file again")


# --- streams -------------------------------------------------------------------------------------------------------


class _Source(io.RawIOBase):
    """Something that can be read once, from front to back."""

    def readable(self) -> bool:
        return True


class _Pieces(_Source):
    """What an iterator yields, as a stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces = pieces
        self._piece = memoryview(b"")

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._piece = memoryview(piece)
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._piece))
        target[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count


class _Replayed(_Source):
    """A stream that cannot be rewound, with what was read of it in front again."""

    def __init__(self, beginning: bytes, rest: BinaryIO) -> None:
        super().__init__()
        self._beginning = beginning
        self._rest = rest

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer).cast("B")
        piece = self._beginning[: len(target)] or self._rest.read(len(target))
        self._beginning = self._beginning[len(target) :]
        target[: len(piece)] = piece
        return len(piece)


class _Gunzipped(_Source):
    """A gzip stream, unpacked (RFC 1952); several members are one after another."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._unpacking = gzip.GzipFile(fileobj=file, mode="rb")

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer).cast("B")
        try:
            piece = self._unpacking.read1(len(target))
        except EOFError:
            raise BundleRefused("the file is cut off: its gzip stream does not end; copy it again") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise BundleRefused(f"the gzip stream is damaged ({error}); copy the file again") from None
        target[: len(piece)] = piece
        return len(piece)
