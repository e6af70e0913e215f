from __future__ import annotations

import asyncio
import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirror.errors import ContentBroken, NoSpace, StoreError
from mirror.oci.digest import Digest
from mirror.store import blobs as module
from mirror.store import holds
from mirror.store.aside import Aside
from mirror.store.blobs import DiskBlobs
from mirror.store.locks import seize, share, unnaming
from mirror.store.room import Room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirror.store.io import DiskThreads
    from mirror.store.layout import Layout

BODY = b"a manifest"
DIGEST = Digest.of(BODY)


@pytest.fixture
def aside(layout: Layout) -> Iterator[Aside]:
    room = Room(layout, max_size=2**30, min_free=0)
    yield Aside(layout, room)
    room.close()


@pytest.fixture
def blobs(layout: Layout, threads: DiskThreads, aside: Aside) -> Iterator[DiskBlobs]:
    disk = DiskBlobs(layout, threads, aside)
    yield disk
    disk.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  # another thread does it
            await asyncio.sleep(0.001)


def left_over(layout: Layout) -> list[Path]:
    return list(layout.fills.iterdir())


async def test_content_is_a_read_only_file_where_the_layout_says(blobs: DiskBlobs, layout: Layout) -> None:
    await blobs.put(DIGEST, BODY)
    path = layout.blob(DIGEST)
    assert path.read_bytes() == BODY
    assert stat.S_IMODE(path.stat().st_mode) & 0o222 == 0
    assert left_over(layout) == []


def die_in_put(blobs: DiskBlobs, monkeypatch: pytest.MonkeyPatch, step: str) -> int:
    child = os.fork()
    if child == 0:
        if step == "fsync":
            monkeypatch.setattr(os, "fsync", lambda _fd: os._exit(9))
        monkeypatch.setattr(Path, "rename", lambda *_: os._exit(9))
        try:
            blobs._put(DIGEST, BODY)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("step", ["fsync", "rename"])
async def test_a_crash_at_any_step_leaves_no_half_blob(
    blobs: DiskBlobs, layout: Layout, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The process dies: not even what cleans up runs."""
    assert die_in_put(blobs, monkeypatch, step) == 9
    assert blobs.size(DIGEST) is None
    assert [path.suffix for path in left_over(layout)] == [".put"]
    await blobs.put(DIGEST, BODY)
    assert await blobs.read(DIGEST) == BODY


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, NoSpace), (errno.EDQUOT, NoSpace), (errno.EIO, StoreError), (errno.EROFS, StoreError)],
)
async def test_a_disk_that_refuses_is_said_so_and_nothing_is_left_behind(
    blobs: DiskBlobs, layout: Layout, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StoreError]
) -> None:
    def refuse(_fd: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(kind, match="disk") as caught:
            await blobs.put(DIGEST, BODY)
    assert type(caught.value) is kind
    assert left_over(layout) == []
    assert blobs.size(DIGEST) is None
    await blobs.put(DIGEST, BODY)
    assert blobs.size(DIGEST) == len(BODY)


@pytest.mark.parametrize("taken_back", [True, False])
async def test_a_name_that_may_not_last_is_taken_back_or_counted(
    blobs: DiskBlobs, monkeypatch: pytest.MonkeyPatch, *, taken_back: bool
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    came: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(module, "sync_directory", refuse)
        if not taken_back:
            patch.setattr(Path, "unlink", refuse)
        with pytest.raises(StoreError):
            await blobs.put(DIGEST, BODY, came.append)
    assert (blobs.size(DIGEST) is None) is taken_back
    assert came == ([] if taken_back else [4096])


async def test_no_descriptors_left_is_an_error_of_the_store_for_those_who_read(
    blobs: DiskBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreError, match=r"Too many open files.*ulimit -n"):
        blobs.open(DIGEST)
    with pytest.raises(StoreError, match="Too many open files"):
        await blobs.read(DIGEST)


async def test_one_changed_byte_is_noticed(blobs: DiskBlobs, layout: Layout) -> None:
    await blobs.put(DIGEST, BODY)
    path = layout.blob(DIGEST)
    path.chmod(0o600)
    path.write_bytes(b"A" + BODY[1:])
    with pytest.raises(ContentBroken, match="damaged on disk"):
        await blobs.read(DIGEST)


def seizable(path: Path) -> bool:
    """Say whether another process could have the file alone."""
    with path.open("rb") as file:
        return seize(file.fileno())


async def test_damage_that_was_replaced_meanwhile_is_not_put_aside(
    blobs: DiskBlobs, aside: Aside, layout: Layout, tmp_path: Path
) -> None:
    await blobs.put(DIGEST, BODY)
    (tmp_path / "damaged").write_bytes(b"?")
    assert not aside.take(DIGEST, (tmp_path / "damaged").stat())
    assert layout.blob(DIGEST).exists()


async def test_what_somebody_is_about_to_unlink_is_not_here(blobs: DiskBlobs, layout: Layout) -> None:
    await blobs.put(DIGEST, BODY)
    blobs.known(DIGEST)
    with layout.blob(DIGEST).open("rb") as evictor:
        assert seize(evictor.fileno())
        assert blobs.open(DIGEST) is None
        assert await blobs.read(DIGEST) is None
    assert await blobs.read(DIGEST) == BODY


async def test_what_is_unlinked_while_it_is_opened_is_not_here(
    blobs: DiskBlobs, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    await blobs.put(DIGEST, BODY)

    def late(fd: int) -> bool:
        layout.blob(DIGEST).unlink()
        return share(fd)

    monkeypatch.setattr(module, "share", late)
    assert blobs.open(DIGEST) is None


async def test_what_is_read_cannot_be_unlinked_until_the_last_duplicate_is_closed(
    blobs: DiskBlobs, layout: Layout
) -> None:
    await blobs.put(DIGEST, BODY)
    blobs.known(DIGEST)
    opened = blobs.open(DIGEST)
    assert opened is not None
    with os.fdopen(os.dup(opened[0].fileno())):
        opened[0].close()
        assert not seizable(layout.blob(DIGEST))
    assert seizable(layout.blob(DIGEST))


async def test_what_is_put_cannot_be_unlinked_until_the_index_knows_it(blobs: DiskBlobs, layout: Layout) -> None:
    await blobs.put(DIGEST, BODY)
    await blobs.put(DIGEST, BODY)  # another one, who finds it here
    assert not seizable(layout.blob(DIGEST))
    blobs.known(DIGEST)
    assert not seizable(layout.blob(DIGEST)), "the index does not have it from the other one yet"
    blobs.known(DIGEST)
    assert seizable(layout.blob(DIGEST))
    blobs.known(DIGEST)


async def test_what_is_put_and_never_told_of_is_let_go(
    blobs: DiskBlobs, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holds, "_LONGEST", -1.0)
    await blobs.put(DIGEST, BODY)
    await blobs.put(Digest.of(b"other"), b"other")
    assert seizable(layout.blob(DIGEST))


async def test_what_is_put_while_it_is_evicted_is_there_afterwards(blobs: DiskBlobs, layout: Layout) -> None:
    await blobs.put(DIGEST, BODY)
    blobs.known(DIGEST)
    with unnaming(layout), layout.blob(DIGEST).open("rb") as evictor:
        assert seize(evictor.fileno())
        putting = asyncio.create_task(blobs.put(DIGEST, BODY))
        await until(lambda: left_over(layout) != [])
        layout.blob(DIGEST).unlink()
        assert not putting.done()
    await putting
    assert await blobs.read(DIGEST) == BODY


async def test_content_whose_name_may_not_last_is_said_not_to_be_stored(
    blobs: DiskBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(module, "sync_directory", refuse)
    with pytest.raises(StoreError, match="health"):
        await blobs.put(DIGEST, BODY)
    assert blobs.size(DIGEST) is None


async def test_a_store_that_is_gone_is_said_so(blobs: DiskBlobs, layout: Layout) -> None:
    layout.root.rename(layout.root.with_name("elsewhere"))
    with pytest.raises(StoreError, match=r"unmounted or removed .* bring the disk back"):
        await blobs.put(DIGEST, BODY)
    with pytest.raises(StoreError, match="bring the disk back"):
        await blobs.part(DIGEST)
    assert blobs.open(DIGEST) is None
