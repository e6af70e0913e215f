"""A bundle and what lies beside it get their names together, and nothing else loses its own."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from mirror.airgap.bundle import asking, gathering, writer
from mirror.airgap.bundle.beside import Beside
from mirror.airgap.bundle.forms import Archive, Directory
from mirror.airgap.bundle.parent import manifest_of
from mirror.airgap.bundle.targets import FileTarget, replace
from mirror.cli.main import main
from mirror.errors import MirrorError
from mirror.oci.pattern import ImagePattern
from tests.parts.process import room, run
from tests.unit.airgap.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NGINX = "docker.io/library/nginx"
MIB = 1 << 20


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    with Shelf(tmp_path) as shelf:
        yield shelf


def export(shelf: Shelf, out: Path | str, *arguments: str) -> int:
    with pytest.raises(SystemExit) as raised:
        main(["export", "nginx", "-o", str(out), *arguments, "--config", str(shelf.file)])
    assert isinstance(raised.value.code, int)
    return raised.value.code


@pytest.mark.needs("mount")
def test_there_is_no_bundle_where_its_manifest_has_no_room_beside_it(
    shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shelf.image(NGINX, "1", os.urandom(MIB))
    assert export(shelf, tmp_path / "a.tar") == 0
    size = (tmp_path / "a.tar").stat().st_size
    with room("full") as directory:
        run("mount", "-t", "tmpfs", "-o", f"size={-(-size // 4096) * 4096}", "full", directory)
        assert export(shelf, directory / "a.tar") == 1
        assert "its disk has" in capsys.readouterr().err
        assert list(directory.iterdir()) == []


class _Pulled(Archive):
    """Somebody pulls the plug when all is written."""

    def finish(self) -> tuple[Path, ...]:
        raise MirrorError("no power")


def test_a_crash_between_the_names_leaves_no_manifest_of_another_bundle(shelf: Shelf, tmp_path: Path) -> None:
    shelf.image(NGINX, "1", b"one")
    out, beside = tmp_path / "b.tar", tmp_path / "b.tar.bundle.json"
    assert export(shelf, out) == 0
    old = manifest_of(str(beside)).identity
    shelf.image(NGINX, "2", b"two")
    question = asking.by_patterns(shelf.store, [ImagePattern.parse("nginx")])
    with closing(asyncio.run(gathering.gather(shelf.store, question.asked, gathering.Choice()))) as found:
        plan = writer.plan(found.manifest(), found.runnable, found.bodies)
        files = Beside(out, dict(plan.documents))
        with pytest.raises(MirrorError), closing(files):
            writer.write(plan, _Pulled(FileTarget(out)), shelf.store.blobs.open, written=files.clear)
    assert not beside.exists()
    assert manifest_of(str(out)).identity == old
    assert not list(tmp_path.glob("*.part"))


def test_what_failed_leaves_what_lies_beside_the_bundle_before(shelf: Shelf, tmp_path: Path) -> None:
    layer = shelf.blob(NGINX, b"one")
    shelf.image(NGINX, "1", b"one")
    assert export(shelf, tmp_path / "b.tar") == 0
    before = {path.name: path.read_bytes() for path in tmp_path.glob("b.tar*")}
    shelf.damage(layer)
    assert export(shelf, tmp_path / "b.tar") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.glob("b.tar*")} == before


# --- directories -------------------------------------------------------------------------------------------------


def test_a_directory_that_is_finished_leaves_that_of_the_next_export_alone(tmp_path: Path) -> None:
    first = Directory(tmp_path / "b")
    first.finish()
    second = Directory(tmp_path / "b")
    first.close()
    assert (tmp_path / "b.part").is_dir()
    second.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]


def test_a_link_to_a_directory_stays_one(shelf: Shelf, tmp_path: Path) -> None:
    shelf.image(NGINX, "1", b"one")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for _ in range(2):
        assert export(shelf, f"{tmp_path}/link/") == 0
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real/bundle.json").is_file()
    assert not list(tmp_path.glob("*.part"))


def test_a_directory_is_there_at_every_moment_while_it_is_replaced(tmp_path: Path) -> None:
    name, new = tmp_path / "b", tmp_path / "b.part"
    name.mkdir()
    done, absent = threading.Event(), []

    def look() -> None:
        while not done.is_set():
            if not name.exists():
                absent.append(1)

    looking = threading.Thread(target=look)
    looking.start()
    for number in range(300):
        new.mkdir()
        (new / str(number)).touch()
        replace(new, name)
        assert [path.name for path in name.iterdir()] == [str(number)]
        assert not new.exists()
    done.set()
    looking.join()
    assert not absent


def test_files_that_somebody_has_put_into_a_bundle_stay(
    shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shelf.image(NGINX, "1", b"one")
    assert export(shelf, f"{tmp_path}/b/") == 0
    (tmp_path / "b/README").touch()
    assert export(shelf, f"{tmp_path}/b/") == 2
    assert "b/ holds README, which is no part of a bundle" in capsys.readouterr().err
    assert (tmp_path / "b/README").exists()


@pytest.mark.needs("mount")
def test_a_disk_itself_is_no_directory_for_a_bundle(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    shelf.image(NGINX, "1", b"one")
    with room("disk") as directory:
        run("mount", "-t", "tmpfs", "-o", "size=3m", "disk", directory)
        assert export(shelf, f"{directory}/") == 2
        assert f"name a directory on it, as {directory}/bundle/" in capsys.readouterr().err
        assert export(shelf, f"{directory}/bundle/") == 0
