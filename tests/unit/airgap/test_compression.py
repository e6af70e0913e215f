"""Bundles that are packed: what is read, what is refused, and that a few bytes do not become gigabytes."""

from __future__ import annotations

import gzip
import io
import os
import random
import threading
import tracemalloc
from typing import TYPE_CHECKING, BinaryIO, cast

import pytest
import zstandard

from mirror.airgap.bundle.compression import LARGEST_WINDOW, compressing, decompressed
from mirror.errors import BundleRefused

if TYPE_CHECKING:
    from collections.abc import Callable

NOISE = random.Random(5).randbytes(300_000)  # noqa: S311  # layers, as far as packing goes
MIXED = NOISE + bytes(500_000) + b"layers and more layers, " * 20_000


def packed(data: bytes, step: int = 65_536) -> bytes:
    target = io.BytesIO()
    writer = compressing(target)
    for start in range(0, len(data), step):
        assert writer.write(memoryview(data)[start : start + step]) == len(data[start : start + step])
    writer.finish()
    return target.getvalue()


def unpacked(data: bytes) -> bytes:
    return decompressed(io.BytesIO(data)).read()


def zstd(data: bytes, **options: int) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)  # type: ignore[arg-type]


SKIPPABLE = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"words"


@pytest.mark.parametrize(
    "pack",
    [
        packed,
        zstd,
        lambda data: zstd(data, level=19, write_checksum=1),
        lambda data: zstd(data[:100]) + SKIPPABLE + zstd(data[100:]) + SKIPPABLE,
        lambda data: SKIPPABLE + zstd(data),
        lambda data: zstd(b"") + zstd(data) + zstd(b""),
        gzip.compress,
        lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:]),
        lambda data: data,
    ],
    ids=["ours", "zstd", "zstd -19", "frames", "skippable first", "empty frames", "gzip", "members", "plain"],
)
@pytest.mark.parametrize("data", [MIXED, b"", b"x", bytes(200_000)], ids=["mixed", "empty", "one", "zeros"])
def test_what_the_usual_programs_pack_is_read(pack: Callable[[bytes], bytes], data: bytes) -> None:
    assert unpacked(pack(data)) == data


@pytest.mark.parametrize("pack", [packed, gzip.compress, bytes], ids=["zstd", "gzip", "plain"])
def test_a_pipe_that_gives_little_at_a_time_is_read(pack: Callable[[bytes], bytes]) -> None:
    body = pack(MIXED)
    reading, writing = os.pipe()

    def feed() -> None:
        with open(writing, "wb", buffering=0) as pipe:  # noqa: PTH123  # a descriptor
            pipe.write(body[:1])
            pipe.write(body[1:3])
            pipe.writelines(body[start : start + 50_000] for start in range(3, len(body), 50_000))

    feeding = threading.Thread(target=feed)
    feeding.start()
    with open(reading, "rb", buffering=0) as pipe:  # noqa: PTH123  # the same
        assert decompressed(cast("BinaryIO", pipe)).read() == MIXED
    feeding.join()


def test_a_plain_file_stays_itself_and_can_be_rewound() -> None:
    file = io.BytesIO(b"ahead" + NOISE)
    file.seek(5)
    assert decompressed(file) is file
    assert file.tell() == 5


def test_the_same_bytes_give_the_same_archive_however_they_are_written() -> None:
    assert packed(MIXED) == packed(MIXED) == packed(MIXED, 999)


@pytest.mark.parametrize("pack", [packed, zstd, gzip.compress], ids=["ours", "zstd", "gzip"])
def test_a_cut_anywhere_is_seen(pack: Callable[[bytes], bytes]) -> None:
    body = pack(MIXED)
    cuts = {*range(5, 60), *range(100, len(body), 4096), *range(len(body) - 12, len(body))}
    for cut in sorted(cuts):
        with pytest.raises(BundleRefused, match="cut off"):
            unpacked(body[:cut])


def test_a_changed_byte_does_not_give_the_same_bytes_and_is_mostly_seen() -> None:
    for pack in (packed, gzip.compress):
        body = pack(MIXED)
        rolls = random.Random(7)  # noqa: S311  # which byte
        for _ in range(150):
            position = rolls.randrange(4, len(body))
            changed = body[:position] + bytes([body[position] ^ 1 << rolls.randrange(8)]) + body[position + 1 :]
            try:
                seen = unpacked(changed)
            except BundleRefused:
                continue
            assert seen == MIXED  # a byte that does not matter, as the time in a gzip header


def test_what_follows_a_frame_and_is_none_is_refused() -> None:
    with pytest.raises(BundleRefused, match="damaged"):
        unpacked(packed(NOISE) + b"garbage")
    with pytest.raises(BundleRefused, match="damaged"):
        unpacked(gzip.compress(NOISE) + b"garbage")


def header(window: int) -> bytes:
    """The beginning of a frame that claims a window of 2**`window` bytes."""
    return b"\x28\xb5\x2f\xfd\x00" + bytes([window - 10 << 3])


def test_a_window_that_takes_too_much_memory_is_refused_before_it_is_taken() -> None:
    raw = (3 << 3 | 1).to_bytes(3, "little") + b"abc"
    assert LARGEST_WINDOW == 1 << 27
    assert unpacked(header(27) + raw) == b"abc"
    for window in (28, 31):
        with pytest.raises(BundleRefused, match="--long=27"):
            unpacked(header(window) + raw)
    with pytest.raises(BundleRefused, match="too much memory"):
        unpacked(header(41) + raw)


def test_a_frame_that_needs_a_dictionary_is_refused() -> None:
    words = [b"layer %d of image %d" % (number, number % 7) for number in range(2000)]
    dictionary = zstandard.train_dictionary(4096, words)
    with pytest.raises(BundleRefused, match="dictionary"):
        unpacked(zstandard.ZstdCompressor(dict_data=dictionary).compress(words[3]))


@pytest.mark.parametrize("kind", ["zstd", "gzip"])
def test_a_bomb_takes_no_more_memory_than_it_is_asked_for(kind: str) -> None:
    """A gigabyte of zeros is some kilobytes of zstd, a megabyte of gzip."""
    if kind == "zstd":
        block = (131_072 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"  # 128 KiB of one byte, in four
        body = header(20) + block * 8192 + (1).to_bytes(3, "little")
        whole = 1 << 30
    else:
        body = gzip.compress(bytes(64 << 20))
        whole = 64 << 20
    stream = decompressed(io.BytesIO(body))
    tracemalloc.start()
    try:
        assert len(stream.read(100)) == 100
        read = 100
        while piece := stream.read(1 << 20):
            read += len(piece)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read == whole
    assert most < 8 << 20


@pytest.mark.parametrize(
    ("magic", "program"), [(b"\xfd7zXZ\x00", "xz"), (b"BZh9", "bzip2"), (b"\x04\x22\x4d\x18", "lz4")]
)
def test_another_packer_is_named_and_how_to_unpack(magic: bytes, program: str) -> None:
    with pytest.raises(BundleRefused, match=f"{program} -d"):
        decompressed(io.BytesIO(magic + NOISE))
