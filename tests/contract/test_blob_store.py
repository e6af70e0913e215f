"""What every `mirror.store.blobs.BlobStore` keeps to: the one on disk, and the fake in memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mirror.errors import ContentBroken
from mirror.oci.digest import Digest
from mirror.store.aside import Aside
from mirror.store.blobs import DiskBlobs
from mirror.store.io import DiskThreads
from mirror.store.layout import Layout
from mirror.store.room import Room
from tests.fakes.blobs import FakeBlobs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirror.store.blobs import BlobStore

BODY = bytes(range(256)) * 100
DIGEST = Digest.of(BODY)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


@pytest.fixture(params=["disk", "fake"])
def blobs(request: pytest.FixtureRequest, layout: Layout) -> Iterator[BlobStore]:
    if request.param == "fake":
        yield FakeBlobs(layout)
        return
    threads, room = DiskThreads(), Room(layout, max_size=2**30, min_free=0)
    disk = DiskBlobs(layout, threads, Aside(layout, room))
    yield disk
    threads.close()
    disk.close()
    room.close()


def spoil(blobs: BlobStore, layout: Layout) -> None:
    """Change one byte behind the store's back."""
    wrong = b"\xff" + BODY[1:]
    if isinstance(blobs, FakeBlobs):
        blobs.bodies[DIGEST] = wrong
    else:
        layout.blob(DIGEST).chmod(0o600)
        layout.blob(DIGEST).write_bytes(wrong)


async def test_what_was_never_put_is_not_there(blobs: BlobStore) -> None:
    assert blobs.open(DIGEST) is None
    assert blobs.size(DIGEST) is None
    assert await blobs.read(DIGEST) is None


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("body", [b"", b"x", BODY])
async def test_what_was_put_is_read_byte_for_byte(blobs: BlobStore, body: bytes, algorithm: str) -> None:
    digest = Digest.of(body, algorithm)
    await blobs.put(digest, body)
    assert blobs.size(digest) == len(body)
    assert await blobs.read(digest) == body
    opened = blobs.open(digest)
    assert opened is not None
    with opened[0] as file:
        assert opened[1] == len(body)
        assert file.read() == body
        assert file.fileno() >= 0


async def test_each_reader_has_its_own_place_in_the_content(blobs: BlobStore) -> None:
    await blobs.put(DIGEST, BODY)
    one, two = blobs.open(DIGEST), blobs.open(DIGEST)
    assert one is not None
    assert two is not None
    with one[0] as first, two[0] as second:
        first.seek(100)
        assert second.read(3) == BODY[:3]
        assert first.read(3) == BODY[100:103]


async def test_putting_the_same_content_again_changes_nothing(blobs: BlobStore) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(blobs.put(DIGEST, BODY))
    await blobs.put(DIGEST, BODY)
    assert await blobs.read(DIGEST) == BODY


async def test_putting_says_what_it_takes_on_disk_also_the_second_time(blobs: BlobStore) -> None:
    taken = await blobs.put(DIGEST, BODY)
    assert taken >= len(BODY)
    assert await blobs.put(DIGEST, BODY) == taken


async def test_of_all_that_put_the_same_one_brings_it(blobs: BlobStore) -> None:
    body, came = b"z" * 9000, list[int]()
    taken = await asyncio.gather(*(blobs.put(Digest.of(body), body, came.append) for _ in range(10)))
    assert came == [taken[0]]
    assert set(taken) == {taken[0]}


async def test_damaged_content_is_not_given_out_and_can_be_put_again(blobs: BlobStore, layout: Layout) -> None:
    await blobs.put(DIGEST, BODY)
    spoil(blobs, layout)
    with pytest.raises(ContentBroken, match=DIGEST.hex):
        await blobs.read(DIGEST)
    assert blobs.size(DIGEST) is None
    assert await blobs.read(DIGEST) is None
    await blobs.put(DIGEST, BODY)
    assert await blobs.read(DIGEST) == BODY


async def test_what_is_put_aside_is_not_there_until_it_is_put_again(blobs: BlobStore) -> None:
    assert not blobs.set_aside(DIGEST)
    await blobs.put(DIGEST, BODY)
    opened = blobs.open(DIGEST)
    assert opened is not None
    assert blobs.set_aside(DIGEST)
    assert not blobs.set_aside(DIGEST)
    assert (blobs.open(DIGEST), blobs.size(DIGEST)) == (None, None)
    with opened[0] as file:
        assert file.read() == BODY, "whoever is sent it now goes on"
    await blobs.put(DIGEST, BODY)
    assert await blobs.read(DIGEST) == BODY


async def test_content_that_came_in_parts_is_whole_once_it_is_committed(blobs: BlobStore) -> None:
    part = await blobs.part(DIGEST)
    try:
        assert part.try_lock()
        part.begin(len(BODY))
        part.write(BODY, 0, (0, len(BODY)))
        assert blobs.size(DIGEST) is None
        part.commit(len(BODY))
    finally:
        part.close()
    assert blobs.size(DIGEST) == len(BODY)
    assert await blobs.read(DIGEST) == BODY
