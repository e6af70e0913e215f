"""A look at content is gentle: to the page cache, to whoever evicts, and it never takes one file for another."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import mmap
import os
from typing import TYPE_CHECKING

import pytest

from mirror.errors import StoreError
from mirror.oci.digest import Digest
from mirror.store import inspection
from mirror.store.inspection import PIECE, Finding, Inspection, Verdict, inspect, read_gently
from mirror.store.rejection import images_needing, reject
from tests.unit.cache.stores import MIB, blob, image, opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirror.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path) as store:
        yield store


def found(store: Store, digest: Digest) -> Finding:
    *_, last = inspect(store.layout, digest)
    assert isinstance(last, Finding)
    return last


def resident(fd: int, size: int) -> set[int]:
    """Return the numbers of the pages that are in memory (mincore(2))."""
    with mmap.mmap(fd, size, mmap.MAP_PRIVATE) as pages:
        address = ctypes.c_char.from_buffer(pages)
        marks = (ctypes.c_ubyte * (size // 4096))()
        assert ctypes.CDLL(None).mincore(ctypes.byref(address), ctypes.c_size_t(size), marks) == 0
        del address
    return {number for number, mark in enumerate(marks) if mark & 1}


async def test_what_is_right_is_right_whatever_its_size(store: Store) -> None:
    for size in (8, PIECE - 8, PIECE, PIECE + 8, 3 * PIECE):
        finding = found(store, await blob(store, size, size))
        assert (finding.verdict, finding.size) == (Verdict.RIGHT, size)
    empty = Digest.of(b"")
    await store.blobs.put(empty, b"")
    assert found(store, empty).verdict is Verdict.RIGHT


@pytest.mark.parametrize("change", ["flip", "cut", "grow"])
async def test_what_is_not_what_the_digest_says_is_wrong(change: str, store: Store) -> None:
    digest = await blob(store, 2 * MIB, 1)
    path = store.layout.blob(digest)
    path.chmod(0o644)
    with path.open("r+b") as file:
        if change == "cut":
            file.truncate(MIB)
        else:
            file.seek(2 * MIB - 1 if change == "flip" else 2 * MIB)
            file.write(b"!")
    assert found(store, digest).verdict is Verdict.WRONG


async def test_a_look_leaves_in_memory_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(os.urandom(4 * PIECE))
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    fd = os.open(path, os.O_RDWR)
    if resident(fd, 4 * PIECE):
        pytest.skip("this file system keeps everything in memory")
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(fd, 256 * 1024, 2 * PIECE)
    before = resident(fd, 4 * PIECE)
    again = os.open(path, os.O_RDONLY)
    content = b"".join(bytes(read_gently(again, start)) for start in range(0, 4 * PIECE, PIECE))
    assert before
    assert resident(fd, 4 * PIECE) == before
    assert content == path.read_bytes()
    os.close(again)
    os.close(fd)


async def test_an_image_can_be_evicted_while_it_is_looked_at_and_its_room_is_free(store: Store) -> None:
    layer = await blob(store, 2 * MIB, 1)
    root = await image(store, "v1", layer, at=1.0)
    looking = Inspection(store.layout, layer)
    assert looking.step() == MIB
    assert store.remover.remove(root) is not None
    assert looking.step() == 0
    assert looking.finding is not None
    assert looking.finding.verdict is Verdict.BUSY


async def test_what_has_come_in_its_place_is_not_judged_by_the_bytes_before(store: Store) -> None:
    digest = await blob(store, 2 * MIB, 1)
    path = store.layout.blob(digest)
    right = path.read_bytes()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"!")
    finding = found(store, digest)
    assert finding.verdict is Verdict.WRONG
    looking = Inspection(store.layout, digest)
    looking.step()
    new = path.with_name("new")
    new.write_bytes(right)
    new.rename(path)
    looking.step()
    assert looking.finding is not None
    assert looking.finding.verdict is Verdict.BUSY
    assert not reject(store, finding)
    assert found(store, digest).verdict is Verdict.RIGHT


async def test_the_disk_that_cannot_read_a_file_is_told_from_one_that_is_not_there(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = await blob(store, 2 * MIB, 1)

    def refuse(number: int) -> None:
        def read(*_: object) -> memoryview:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(inspection, "read_gently", read)

    refuse(errno.EIO)
    finding = found(store, digest)
    assert (finding.verdict, finding.reason) == (Verdict.UNREADABLE, "the disk cannot read it: Input/output error")
    refuse(errno.EACCES)
    with pytest.raises(StoreError):
        found(store, digest)
    assert store.graph.content(digest) is not None
    assert reject(store, finding)
    assert store.graph.content(digest) is None
    assert store.layout.damaged(digest).exists()


async def test_what_is_missing_is_taken_out_of_index_and_book(store: Store) -> None:
    layer = await blob(store, 2 * MIB, 1)
    await image(store, "v1", layer, at=1.0)
    before = store.room.balance().content
    store.layout.blob(layer).unlink()
    finding = found(store, layer)
    assert finding.verdict is Verdict.MISSING
    assert images_needing(store.layout, layer) == ("docker.io/library/app:v1",)
    assert reject(store, finding)
    assert store.room.balance().content == before - 2 * MIB
    assert not reject(store, finding)
    assert store.room.balance().content == before - 2 * MIB


async def test_what_was_missing_and_has_come_back_stays(store: Store) -> None:
    layer = await blob(store, 2 * MIB, 1)
    body = store.layout.blob(layer).read_bytes()
    store.layout.blob(layer).unlink()
    finding = found(store, layer)
    store.layout.blob(layer).write_bytes(body)
    assert not await asyncio.to_thread(reject, store, finding)
    assert store.graph.content(layer) is not None
