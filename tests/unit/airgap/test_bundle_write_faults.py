"""What can go wrong while a bundle is written: the store is evicted from, disks fail, somebody pulls the plug."""

from __future__ import annotations

import asyncio
import errno
import functools
import io
import json
import os
import resource
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mirror.airgap.bundle import asking, gathering, writer
from mirror.airgap.bundle.forms import Archive, header
from mirror.airgap.bundle.targets import FileTarget
from mirror.cli.main import main
from mirror.errors import StoreError
from mirror.oci.digest import Digest
from mirror.oci.mediatype import OCI_MANIFEST
from mirror.oci.pattern import ImagePattern
from tests.parts.process import room, run
from tests.unit.airgap.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.airgap.bundle.gathering import Gathered

NGINX = "docker.io/library/nginx"
MIB = 1 << 20


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    with Shelf(tmp_path) as shelf:
        yield shelf


def gathered(shelf: Shelf, *patterns: str) -> Gathered:
    question = asking.by_patterns(shelf.store, [ImagePattern.parse(one) for one in patterns])
    return asyncio.run(gathering.gather(shelf.store, question.asked, gathering.Choice()))


def export(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as raised:
        main(["export", *map(str, arguments)])
    assert isinstance(raised.value.code, int)
    return raised.value.code


def test_what_is_gathered_is_not_evicted_before_it_is_written(shelf: Shelf) -> None:
    image = shelf.image(NGINX, "1", b"one")
    index = shelf.index(NGINX, "2", shelf.image(NGINX, None, b"two"))
    found = gathered(shelf, "nginx")
    with closing(found):
        for root in (image, index):
            assert shelf.store.remover.remove(Digest.parse(root["digest"])) is None
    for root in (image, index):
        assert shelf.store.remover.remove(Digest.parse(root["digest"])) is not None


def test_one_open_file_holds_an_image_of_many_manifests(shelf: Shelf) -> None:
    children = [shelf.image(NGINX, None, b"%d" % number) for number in range(4)]
    index = shelf.index(NGINX, "1", *children)
    with closing(gathered(shelf, "nginx")):
        held = [Path(os.readlink(f"/proc/self/fd/{fd}")) for fd in os.listdir("/proc/self/fd") if _is_open(fd)]  # noqa: PTH115, PTH208  # a Path opens one, too
        assert held.count(shelf.file_of(index)) == 1
        assert not {shelf.file_of(child) for child in children} & set(held)
        for one in (*children, index):
            assert shelf.store.remover.remove(Digest.parse(one["digest"])) is None


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_few_descriptors_are_enough_for_many_images(shelf: Shelf, tmp_path: Path) -> None:
    configured = shelf.blob(NGINX, b"{}")
    for number in range(70):
        document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": configured, "layers": [], "n": number}
        shelf.manifest(NGINX, str(number), document)
    words = [sys.executable, "-m", "mirror", "export", "nginx", "-o", tmp_path / "b.tar", "--config", shelf.file]
    few = functools.partial(resource.setrlimit, resource.RLIMIT_NOFILE, (64, 64))
    subprocess.run(words, check=True, preexec_fn=few, stdout=subprocess.DEVNULL)
    assert len(json.loads(Path(f"{tmp_path}/b.tar.bundle.json").read_bytes())["images"]) == 70


def test_an_image_that_goes_before_it_is_gathered_is_missing(shelf: Shelf) -> None:
    image = shelf.image(NGINX, "1", b"one")
    question = asking.by_patterns(shelf.store, [ImagePattern.parse("nginx")])
    assert shelf.store.remover.remove(Digest.parse(image["digest"])) is not None
    with closing(asyncio.run(gathering.gather(shelf.store, question.asked, gathering.Choice()))) as found:
        assert (found.images, [one.reference for one in found.missing]) == ({}, [f"{NGINX}:1"])


class _Sick(io.RawIOBase):
    """A file that the disk does not give."""

    def __init__(self, path: Path, error: int) -> None:
        super().__init__()
        self._file = path.open("rb")
        self._error = error

    def fileno(self) -> int:
        return self._file.fileno()

    def readinto(self, _: Any) -> int:
        raise OSError(self._error, os.strerror(self._error))

    def close(self) -> None:
        self._file.close()
        super().close()


@pytest.mark.parametrize(("error", "raised"), [(errno.EIO, writer.Damaged), (errno.ENOMEM, StoreError)])
def test_what_the_disk_does_not_read_ends_the_export(
    error: int, raised: type[Exception], shelf: Shelf, tmp_path: Path
) -> None:
    shelf.image(NGINX, "1", b"one")
    with closing(gathered(shelf, "nginx")) as found:
        manifest = found.manifest()
        plan = writer.plan(manifest, found.runnable, found.bodies)
        sick = manifest.contents[0]

        def open_(digest: Digest) -> Any:
            return _Sick(shelf.file_of(str(digest)), error), next(
                content.size for content in manifest.contents if content.digest == str(digest)
            )

        assert sick.size
        with pytest.raises(raised):
            writer.write(plan, Archive(FileTarget(tmp_path / "out.tar")), open_)
    assert not list(tmp_path.glob("out.tar*"))


def test_a_plan_says_how_large_the_archive_will_be(shelf: Shelf, tmp_path: Path) -> None:
    shelf.image(NGINX, "1", b"one" * 1000, b"")
    with closing(gathered(shelf, "nginx")) as found:
        plan = writer.plan(found.manifest(), found.runnable, found.bodies)
        writer.write(plan, Archive(FileTarget(tmp_path / "out.tar")), shelf.store.blobs.open)
    assert (tmp_path / "out.tar").stat().st_size == plan.archive_size


def test_a_header_has_room_for_every_name_and_size() -> None:
    long = f"blobs/sha512/{'a' * 128}"
    assert len(header("blobs/sha256/" + "a" * 64, 8 * 1024**3 - 1)) == 512
    assert b"path=" + long.encode() in header(long, 1)
    assert f"size={2**40}".encode() in header("x", 2**40)
    assert header("x", 2**40) == header("x", 2**40)


@pytest.mark.needs("mount")
@pytest.mark.parametrize("out", ["b.tar", "b.tar.zst", "tree/", "b.tar --split 1MiB"])
def test_a_disk_without_room_is_told_of_and_nothing_is_left_on_it(
    out: str, shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    shelf.image(NGINX, "1", os.urandom(4 * MIB))
    with room("full") as directory:
        run("mount", "-t", "tmpfs", "-o", "size=3m", "full", directory)
        name, *options = out.split()
        assert export("nginx", "-o", f"{directory}/{name}", *options, "--config", shelf.file) == 1
        told = capsys.readouterr().err
        # How much is left of what is compressed nobody knows before.
        assert ("cannot be written: No space left" if ".zst" in out else "its disk has 3.0 MiB left") in told
        assert list(directory.iterdir()) == []


def test_a_device_that_takes_no_more_is_told_of(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    shelf.image(NGINX, "1", b"one")
    assert export("nginx", "-o", "/dev/full", "--config", shelf.file) == 1
    assert "/dev/full cannot be written: No space left on device" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be others")
def test_root_writes_a_bundle_for_itself_from_the_store_of_another_user(capsys: pytest.CaptureFixture[str]) -> None:
    with room("users") as directory:
        directory.chmod(0o755)
        with Shelf(directory) as shelf:
            shelf.image(NGINX, "1", b"one")
            damaged = shelf.blob(NGINX, b"two")
            shelf.image(NGINX, "2", b"two")
            shelf.damage(damaged)
        run("chown", "-R", "65534:65534", directory / "store")
        (directory / "mine").mkdir(mode=0o700)
        assert export("nginx:1", "-o", directory / "mine/b.tar", "--config", shelf.file) == 0
        assert (directory / "mine/b.tar").stat().st_uid == 0
        assert export("nginx:2", "-o", directory / "mine/c.tar", "--config", shelf.file) == 1
        assert "is put aside" in capsys.readouterr().err
        owners = {path.stat().st_uid for path in (directory / "store").rglob("*")}
        assert owners == {65534}


def test_an_export_that_is_killed_is_made_whole_by_the_next(shelf: Shelf, tmp_path: Path) -> None:
    layer = os.urandom(8 * MIB)
    for number in range(4):
        shelf.image(NGINX, str(number), bytes([number]) + layer)
    out, part = tmp_path / "b.tar", tmp_path / "b.tar.part"
    words = [sys.executable, "-m", "mirror", "export", "nginx", "-o", out, "--config", shelf.file]
    for size in (0, 20 * MIB):
        with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
            until = time.monotonic() + 30
            while process.poll() is None and not (part.exists() and part.stat().st_size >= size):
                assert time.monotonic() < until
                time.sleep(0.001)
            process.kill()
        assert part.exists() or out.exists()
        out.unlink(missing_ok=True)
    assert export("nginx", "-o", out, "--config", shelf.file) == 0
    first = out.read_bytes()
    assert export("nginx", "-o", out, "--config", shelf.file) == 0
    assert out.read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar", "b.tar.bundle.json", "mirror.yaml", "store"]
    assert len(json.loads(Path(f"{out}.bundle.json").read_bytes())["images"]) == 4
