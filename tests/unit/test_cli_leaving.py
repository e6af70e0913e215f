"""The files that commands leave behind: whole or as before, with the mode and the link that were there."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import typer

from mirror.cli.leaving import leave, writable
from mirror.errors import MirrorError


def test_a_new_file_is_as_any_that_a_person_makes(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        leave(tmp_path / "new.txt", "text\n")
    finally:
        os.umask(before)
    assert (tmp_path / "new.txt").read_text() == "text\n"
    assert (tmp_path / "new.txt").stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["new.txt"]  # noqa: PTH208  # hidden ones too


def test_a_file_that_is_there_keeps_its_mode_and_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("before")
    (tmp_path / "real.txt").chmod(0o600)
    (tmp_path / "link.txt").symlink_to("real.txt")
    leave(tmp_path / "link.txt", "after")
    assert (tmp_path / "link.txt").readlink() == Path("real.txt")
    assert (tmp_path / "real.txt").read_text() == "after"
    assert (tmp_path / "real.txt").stat().st_mode & 0o777 == 0o600


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    leave(pipe, "text")
    reader.join()
    assert read == ["text"]
    assert pipe.is_fifo()


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lock").write_text("before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MirrorError, match="lock cannot be written: No space left"):
        leave(tmp_path / "lock", "after")
    assert (tmp_path / "lock").read_text() == "before"
    assert os.listdir(tmp_path) == ["lock"]  # noqa: PTH208  # hidden ones too


def test_what_can_hardly_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    writable("--lock", None)
    writable("--lock", tmp_path / "new.lock")
    for path, reason in ((tmp_path, "is a directory"), (tmp_path / "no" / "x", "make it first")):
        with pytest.raises(typer.BadParameter, match=reason):
            writable("--lock", path)
