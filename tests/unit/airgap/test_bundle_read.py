"""Reading the entries of a bundle: archives of every dialect, directories, pipes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import threading
from typing import TYPE_CHECKING

import pytest

from mirror.airgap.bundle.reader import entries
from mirror.airgap.bundle.source import Source, Stopped, bundles, open_source
from mirror.errors import BundleRefused
from tests.parts.bundles import Entries, gzipped, small, spread, tar

if TYPE_CHECKING:
    from pathlib import Path

FILES: Entries = [("bundle.json", b"{}\n"), ("blobs/sha256/" + "a" * 64, b"x" * 3_000_000), ("empty", b"")]
LONG = "d/" * 70 + "n" * 120  # neither a name of 100 characters nor one with a prefix of 155


def read(source: Source, *, links: bool = False) -> Entries:
    with source:
        return [(entry.name, b"".join(entry.chunks())) for entry in entries(source, links=links)]


def read_bytes(body: bytes, *, links: bool = False) -> Entries:
    return read(Source("test", file=io.BytesIO(body)), links=links)


@pytest.mark.parametrize("dialect", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_every_dialect_of_tar_is_read(dialect: int) -> None:
    assert read_bytes(tar(FILES, format_=dialect)) == FILES


@pytest.mark.parametrize("dialect", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_long_name_is_read_whole(dialect: int) -> None:
    assert read_bytes(tar([(LONG, b"body"), ("next", b"2")], format_=dialect)) == [(LONG, b"body"), ("next", b"2")]


@pytest.mark.parametrize("dialect", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_size_beyond_8_gib_is_read(dialect: int) -> None:
    info = tarfile.TarInfo("large")
    info.size = 9 * 2**30
    header = info.tobuf(format=dialect)
    [entry] = [next(iter(entries(Source("test", file=io.BytesIO(header)))))]
    assert entry.size == 9 * 2**30


def test_what_gnu_tar_writes_of_a_directory_is_read(tmp_path: Path) -> None:
    spread(FILES, tmp_path / "in")
    archive = subprocess.run(["tar", "-C", str(tmp_path / "in"), "-c", "."], check=True, capture_output=True).stdout
    assert sorted(read_bytes(archive)) == sorted(FILES)


def test_entries_that_are_not_read_are_passed_over() -> None:
    source = Source("test", file=io.BytesIO(tar(FILES)))
    assert [entry.name for entry in entries(source)] == [name for name, _ in FILES]


def test_a_directory_gives_the_files_of_a_bundle_in_the_order_of_a_bundle(tmp_path: Path) -> None:
    cargo = small().entries()
    spread(cargo, tmp_path)
    (tmp_path / ".DS_Store").write_bytes(b"a desktop was here")
    found = read(open_source([str(tmp_path)]))
    assert sorted(found) == sorted(cargo)
    assert [name for name, _ in found[:3]] == ["bundle.json", "oci-layout", "index.json"]


def test_a_packed_archive_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bundle.tar.gz"
    path.write_bytes(gzipped(tar(FILES)))
    assert read(open_source([str(path)])) == FILES


def test_parts_are_read_in_their_order_however_they_are_named(tmp_path: Path) -> None:
    body = tar(FILES)
    for number in range(4):
        (tmp_path / f"b.tar.{number + 1:03}").write_bytes(body[number * 1_000_000 : (number + 1) * 1_000_000])
    parts = [str(path) for path in sorted(tmp_path.iterdir(), reverse=True)]
    assert read(open_source(parts)) == FILES
    assert read(open_source([str(tmp_path / "b.tar")])) == FILES  # the parts alone are there


def test_a_named_pipe_is_read_and_given_up_when_asked(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writing = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(tar(FILES),))
    writing.start()
    assert read(open_source([str(tmp_path / "pipe")])) == FILES
    writing.join()

    # Opened for both, so that it has a writer that writes nothing.
    keeping = os.open(tmp_path / "pipe", os.O_RDWR)
    try:
        with open_source([str(tmp_path / "pipe")], lambda: True) as source, pytest.raises(Stopped):
            next(entries(source))
    finally:
        os.close(keeping)


def test_standard_input_is_read(tmp_path: Path) -> None:
    code = (
        "from mirror.airgap.bundle.reader import entries; from mirror.airgap.bundle.source import open_source\n"
        "print([entry.name for entry in entries(open_source(['-']))])"
    )
    path = tmp_path / "bundle.tar"
    path.write_bytes(tar([("one", b"1"), ("two", b"2")]))
    with path.open("rb") as file:
        told = subprocess.run([sys.executable, "-c", code], stdin=file, check=True, capture_output=True, text=True)
    assert told.stdout == "['one', 'two']\n"


def test_what_a_command_is_given_is_sorted_into_bundles() -> None:
    given = ["b/april.tar.002", "march.tar", "a/april.tar.001", "april.tar.sha256", "-", "dir"]
    assert bundles(given) == [["b/april.tar.002", "a/april.tar.001", "april.tar.sha256"], ["march.tar"], ["-"], ["dir"]]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match=r"none\.tar cannot be read: No such file"):
        open_source([str(tmp_path / "none.tar")])


def test_links_are_given_out_only_where_asked_for() -> None:
    link = tarfile.TarInfo("a/layer.tar")
    link.type, link.linkname = tarfile.SYMTYPE, "../b/layer.tar"
    archive = tar([("b/layer.tar", b"body")], link)
    with pytest.raises(BundleRefused, match=r"'a/layer\.tar' is a symbolic link"):
        read_bytes(archive)
    source = Source("test", file=io.BytesIO(archive))
    found = {entry.name: entry.target for entry in entries(source, links=True)}
    assert found == {"a/layer.tar": "../b/layer.tar", "b/layer.tar": None}
