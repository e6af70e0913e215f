"""The hash of a blob while it comes."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from mirror.cache import running
from mirror.cache.running import RunningHash
from mirror.errors import StoreError
from mirror.oci.digest import Digest
from mirror.store.io import DiskThreads

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = bytes(range(256)) * 64


@pytest.fixture
def threads() -> Iterator[DiskThreads]:
    threads = DiskThreads()
    yield threads
    threads.close()


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


async def _finish(hashing: RunningHash, front: int) -> None:
    while await hashing.step(front):
        pass


async def test_pieces_in_order_are_hashed_from_memory(threads: DiskThreads, fd: int) -> None:
    hashing = RunningHash(Digest.of(CONTENT), fd, threads)
    for start in range(0, len(CONTENT), 1000):
        hashing.feed(CONTENT[start : start + 1000], start)
        await hashing.step(start)
    await _finish(hashing, len(CONTENT))  # the file is empty: what is read from it would be missing
    assert hashing.done == len(CONTENT)
    assert hashing.matches()


async def test_what_came_out_of_order_is_read_from_the_file(threads: DiskThreads, fd: int) -> None:
    hashing = RunningHash(Digest.of(CONTENT), fd, threads)
    os.pwrite(fd, CONTENT, 0)
    hashing.feed(CONTENT[:10], 0)
    hashing.feed(CONTENT[5000:6000], 5000)
    await _finish(hashing, 3000)
    assert hashing.done == 3000
    hashing.feed(CONTENT[3000:4000], 3000)
    await _finish(hashing, len(CONTENT))
    assert hashing.matches()


async def test_a_wrong_byte_shows(threads: DiskThreads, fd: int) -> None:
    hashing = RunningHash(Digest.of(CONTENT), fd, threads)
    hashing.feed(CONTENT[:-1] + b"!", 0)
    await _finish(hashing, len(CONTENT))
    assert hashing.done == len(CONTENT)
    assert not hashing.matches()


async def test_whoever_brings_more_than_can_be_hashed_waits(threads: DiskThreads, fd: int) -> None:
    hashing = RunningHash(Digest.of(CONTENT), fd, threads)
    for number in range(running.QUEUE + 1):
        hashing.feed(bytes(10), number * 10)
    waiting = asyncio.create_task(hashing.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    await hashing.step(0)
    await waiting


async def test_a_file_that_became_shorter_is_an_error_and_keeps_nobody_waiting(threads: DiskThreads, fd: int) -> None:
    hashing = RunningHash(Digest.of(CONTENT), fd, threads)
    with pytest.raises(StoreError):
        await hashing.step(len(CONTENT))
    for number in range(running.QUEUE + 2):
        hashing.feed(bytes(10), hashing._end + number)
    await asyncio.wait_for(hashing.room(), 5)
