from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirror.errors import NoSpace, StoreUnusable
from mirror.oci.digest import Digest
from mirror.store import layout as module
from mirror.store.layout import Layout, file_system
from mirror.store.room import Room
from mirror.store.upgrade import bring_up

if TYPE_CHECKING:
    from collections.abc import Iterator

DIGEST = Digest.of(b"content", "sha512")


def test_opening_makes_what_is_missing_and_leaves_what_is_there(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "data"
    layout = Layout(root)
    (layout.fills / "kept").write_text("x")
    again = Layout(root)
    assert (again.fills / "kept").read_text() == "x"
    assert (root / "VERSION").read_text() == "2\n"
    assert sorted(path.name for path in root.iterdir()) == [
        *["VERSION", "aside.v1", "blobs.v1", "fills.v1"],
        *["keeper.lock", "move.lock", "turns.v2"],
    ]
    assert len(list((root / "blobs.v1" / "sha256").iterdir())) == 256


def test_paths_keep_algorithms_apart(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert layout.blob(DIGEST) == tmp_path / "blobs.v1" / "sha512" / DIGEST.hex[:2] / DIGEST.hex
    assert layout.part(DIGEST) == tmp_path / "fills.v1" / f"sha512-{DIGEST.hex}.part"
    assert layout.damaged(DIGEST) == tmp_path / "aside.v1" / f"sha512-{DIGEST.hex}"
    assert layout.map(DIGEST) == tmp_path / "fills.v1" / f"sha512-{DIGEST.hex}.map"


@pytest.mark.parametrize("text", ["3\n", "0\n", "99999999999999999999", "", "one", "1.1", "\xff", "²"])
def test_a_store_of_another_version_is_refused_with_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "VERSION").write_text(text, encoding="latin-1")
    with pytest.raises(StoreUnusable, match="use the release that wrote it, or another directory"):
        Layout(tmp_path)


def test_many_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    problems: list[Exception] = []
    start = threading.Barrier(8)

    def open_it() -> None:
        start.wait()
        try:
            Layout(tmp_path / "data")
        except StoreUnusable as error:
            problems.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *kinds: str) -> None:
    """Pretend that one after the other of these file systems was mounted over the directory of the test."""
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    lines = ["21 1 0:999 / /elsewhere rw - nfs4 host:/ rw"]
    lines += [f"{at} 1 {number} / / rw,relatime shared:1 - {kind} source rw" for at, kind in enumerate(kinds, 22)]
    path = tmp_path / "mountinfo"
    path.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(module, "MOUNTS", path)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "fuse.sshfs"])
def test_a_network_file_system_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    mounts(tmp_path, monkeypatch, "ext4", kind)
    with pytest.raises(StoreUnusable, match=rf"lies on {kind}, where locks .* cannot be trusted"):
        Layout(tmp_path / "data")


def test_only_the_file_system_of_the_store_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts(tmp_path, monkeypatch, "nfs", "xfs")
    Layout(tmp_path / "data")
    assert file_system(tmp_path) == "xfs"


def test_a_system_that_tells_nothing_of_its_mounts_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOUNTS", tmp_path / "absent")
    Layout(tmp_path / "data")


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(StoreUnusable, match=r"storage\.path .*data cannot be used: File exists; give"):
        Layout(tmp_path / "data")


@pytest.mark.parametrize("name", ["", "fills.v1", "blobs.v1"])
def test_a_directory_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    Layout(tmp_path)
    forbidden = tmp_path / name
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != forbidden)  # root may write everywhere
    with pytest.raises(StoreUnusable, match="is not writable; give the mirror's user write access"):
        Layout(tmp_path)


# --- an older layout -------------------------------------------------------------------------------------------------


def old(root: Path) -> sqlite3.Connection:
    """Make a store as releases of layout 1 left it, and return its index, open."""
    (root / "blobs.v1" / "sha256" / "ab").mkdir(parents=True)
    (root / "fills.v1").mkdir()
    (root / "VERSION").write_text("1\n")
    (root / "journal.v1").write_text('{"journal":1,"name":"x"}\n')
    (root / "blobs.v1" / "sha256" / "ab" / ("ab" * 32)).write_bytes(b"content")
    db = sqlite3.connect(root / "index.sqlite")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE tag (x)")
    return db


def test_a_store_of_layout_1_is_brought_up_in_place_and_loses_nothing(tmp_path: Path) -> None:
    old(tmp_path).close()
    layout = Layout(tmp_path)
    assert (tmp_path / "VERSION").read_text() == "2\n"
    assert layout.aside.is_dir()
    assert (layout.blobs / "sha256" / "ab" / ("ab" * 32)).read_bytes() == b"content"
    assert layout.journal.read_text() == '{"journal":1,"name":"x"}\n'
    Layout(tmp_path)


def test_a_store_that_an_older_release_has_open_is_not_taken_from_it(tmp_path: Path) -> None:
    db = old(tmp_path)
    with pytest.raises(StoreUnusable, match=rf"process {os.getpid()} has the store .* open, .* end that one first"):
        Layout(tmp_path)
    assert (tmp_path / "VERSION").read_text() == "1\n"
    db.execute("INSERT INTO tag VALUES (1)")  # and it goes on undisturbed
    db.commit()
    db.close()
    Layout(tmp_path)
    assert (tmp_path / "VERSION").read_text() == "2\n"


def test_steps_are_taken_one_by_one_and_one_that_was_cut_is_taken_again(tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_text("1\n")
    done: list[str] = []
    failing = True

    def second(root: Path) -> None:
        (root / "half").touch()
        if failing:
            raise OSError(28, os.strerror(28))
        done.append("2 to 3")

    steps = {1: lambda _root: done.append("1 to 2"), 2: second, 3: lambda _root: done.append("3 to 4")}
    with pytest.raises(OSError, match="No space"):
        bring_up(tmp_path, 4, steps)
    assert (tmp_path / "VERSION").read_text() == "2\n"
    failing = False
    bring_up(tmp_path, 4, steps)
    bring_up(tmp_path, 4, steps)
    assert done == ["1 to 2", "2 to 3", "3 to 4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["VERSION", "half"]


def test_many_that_find_an_old_store_at_once_bring_it_up_once(tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_text("1\n")
    done: list[int] = []
    start, never = threading.Barrier(6), threading.Event()

    def step(_: Path) -> None:
        never.wait(0.05)  # long enough for the others to come
        done.append(1)

    def run() -> None:
        start.wait()
        bring_up(tmp_path, 2, {1: step})

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [1]


def test_a_version_that_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreUnusable, match=r"Input/output error; see the disk's health"):
        Layout(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_new_store_takes_no_steps(tmp_path: Path) -> None:
    bring_up(tmp_path, 2, {1: lambda _root: pytest.fail("there is nothing to bring up")})
    assert (tmp_path / "VERSION").read_text() == "2\n"


# --- a disk that cannot ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(directory: Path, options: str) -> Iterator[Path]:
    """Mount a small file system of its own."""
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


@pytest.mark.needs("mount")
@pytest.mark.parametrize("there", [True, False], ids=["a store", "nothing yet"])
def test_a_store_on_a_read_only_mount_is_refused_with_what_to_do(tmp_path: Path, there: bool) -> None:
    with mounted(tmp_path / "disk", "size=4m") as disk:
        if there:
            Layout(disk / "data")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(
            StoreUnusable, match=r"Read-only file system; its file system is mounted read-only: mount it for writing"
        ):
            Layout(disk / "data")


@pytest.mark.needs("mount")
def test_a_full_disk_is_told_as_such_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=4m,nr_inodes=20") as disk:
        for _ in range(2):
            with pytest.raises(StoreUnusable, match=r"No space left on device; free some of the disk, or some of its"):
                Layout(disk / "data")
        subprocess.run(["mount", "-o", "remount,nr_inodes=1000", disk], check=True)
        layout = Layout(disk / "data")
        assert len(list((layout.blobs / "sha256").iterdir())) == 256


@pytest.mark.needs("mount")
def test_an_account_that_a_full_disk_has_no_block_for_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=64k") as disk:
        layout = Layout(disk / "data")
        with pytest.raises(OSError, match="No space"):
            (disk / "other").write_bytes(bytes(1024 * 1024))
        with pytest.raises(StoreUnusable, match=r"the disk that holds .*room\.v2 is full; free some of it"):
            Room(layout, max_size=10**9, min_free=0)
        (disk / "other").unlink()
        room = Room(layout, max_size=10**9, min_free=0)
        with pytest.raises(NoSpace):
            room.reserve(64 * 1024)
        (disk / "other").write_bytes(bytes(disk_free(disk)))
        room.release(0)
        room.found(4096)  # its block is there already
        room.close()


def disk_free(path: Path) -> int:
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def test_a_lock_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.keeper_lock.unlink()
    layout.keeper_lock.mkdir()
    with pytest.raises(StoreUnusable, match="Is a directory; give the mirror's user write access"):
        Layout(tmp_path)
