from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mirror.errors import StoreUnusable
from mirror.oci.digest import Digest
from mirror.store import layout as module
from mirror.store.layout import Layout, file_system

DIGEST = Digest.of(b"content", "sha512")


def test_opening_makes_what_is_missing_and_leaves_what_is_there(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "data"
    layout = Layout(root)
    (layout.fills / "kept").write_text("x")
    again = Layout(root)
    assert (again.fills / "kept").read_text() == "x"
    assert (root / "VERSION").read_text() == "1\n"
    assert sorted(path.name for path in root.iterdir()) == ["VERSION", "blobs.v1", "fills.v1"]
    assert len(list((root / "blobs.v1" / "sha256").iterdir())) == 256


def test_paths_keep_algorithms_apart(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert layout.blob(DIGEST) == tmp_path / "blobs.v1" / "sha512" / DIGEST.hex[:2] / DIGEST.hex
    assert layout.part(DIGEST) == tmp_path / "fills.v1" / f"sha512-{DIGEST.hex}.part"
    assert layout.map(DIGEST) == tmp_path / "fills.v1" / f"sha512-{DIGEST.hex}.map"


@pytest.mark.parametrize("text", ["2\n", "", "one", "1.1", "\xff"])
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
