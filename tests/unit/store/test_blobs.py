from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirror.errors import ContentBroken, NoSpace, StoreError
from mirror.oci.digest import Digest
from mirror.store.blobs import DiskBlobs

if TYPE_CHECKING:
    from mirror.store.io import DiskThreads
    from mirror.store.layout import Layout

BODY = b"a manifest"
DIGEST = Digest.of(BODY)


@pytest.fixture
def blobs(layout: Layout, threads: DiskThreads) -> DiskBlobs:
    return DiskBlobs(layout, threads)


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


async def test_no_descriptors_left_is_an_error_of_the_store_for_those_who_read(
    blobs: DiskBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreError, match="Too many open files"):
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


async def test_throwing_away_spares_what_has_come_in_its_place(
    blobs: DiskBlobs, layout: Layout, tmp_path: Path
) -> None:
    await blobs.put(DIGEST, BODY)
    (tmp_path / "damaged").write_bytes(b"?")
    blobs._throw_away(DIGEST, (tmp_path / "damaged").stat())
    assert layout.blob(DIGEST).exists()
