"""What the tools that people have write is taken in: `docker save`, `podman save`, skopeo's archives and layouts."""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts.bundles import Cargo, blob_path, digest_of, tar
from tests.parts.containers import Podman
from tests.parts.docker import Dockerd
from tests.parts.mirror import MirrorProcess
from tests.parts.process import room, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

NAME = "quay.io/org/app:7"
LAYERS = (tar([("etc/one", b"1" * 3000)]), tar([("etc/two", b"2" * 3000)]))


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, str]:
    """An archive that every tool loads, made by hand, and the digest of its config: what the image is for all."""
    cargo = Cargo()
    digest = cargo.name(NAME, cargo.image(*LAYERS))
    document = json.loads(cargo.bodies[digest][0])
    config: str = document["config"]["digest"]
    paths = [blob_path(layer["digest"]) for layer in document["layers"]]
    listed = json.dumps([{"Config": blob_path(config), "RepoTags": [NAME], "Layers": paths}]).encode()
    path = tmp_path / "made.tar"
    path.write_bytes(tar([*cargo.layout(), ("manifest.json", listed), *cargo.blobs()]))
    return path, config


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[MirrorProcess]:
    with MirrorProcess(tmp_path, {"server": {"offline": True}}) as started:
        yield started


def imported(mirror: MirrorProcess, path: Path, *more: str) -> Any:
    """Import it, and return the manifest that is served then."""
    run(sys.executable, "-m", "mirror", "import", path, *more, "--config", mirror.file)
    with urllib.request.urlopen(f"{mirror.url}/v2/quay.io/org/app/manifests/7", timeout=10) as reply:  # noqa: S310
        document = json.load(reply)
    for entry in (document["config"], *document["layers"]):
        with urllib.request.urlopen(f"{mirror.url}/v2/quay.io/org/app/blobs/{entry['digest']}", timeout=10) as reply:  # noqa: S310
            assert digest_of(reply.read()) == entry["digest"]
    return document


@pytest.mark.needs("dockerd", "docker")
def test_what_docker_saves_is_taken_in(made: tuple[Path, str], mirror: MirrorProcess, tmp_path: Path) -> None:
    with room("docker") as directory, Dockerd(directory) as daemon:
        daemon.load(made[0])
        daemon.save(tmp_path / "saved.tar", NAME)
    document = imported(mirror, tmp_path / "saved.tar")
    assert document["config"]["digest"] == made[1]
    assert [layer["digest"] for layer in document["layers"]] == list(map(digest_of, LAYERS))


@pytest.mark.needs("podman")
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_what_podman_saves_is_taken_in(
    form: str, made: tuple[Path, str], mirror: MirrorProcess, tmp_path: Path
) -> None:
    with room("podman") as directory:
        podman = Podman(directory)
        podman.load(made[0])
        podman.save(tmp_path / "saved.tar", NAME, form)
        podman.forget()
    assert len(imported(mirror, tmp_path / "saved.tar")["layers"]) == len(LAYERS)


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize(
    ("target", "more"),
    [
        ("docker-archive:{}:" + NAME, ()),
        ("oci-archive:{}:" + NAME, ()),
        ("oci-archive:{}:7", ("--repository", "quay.io/org/app")),
        ("oci:{}:" + NAME, ()),
        ("oci:{}", ("--repository", NAME)),
    ],
)
def test_what_skopeo_copies_is_taken_in(
    target: str, more: tuple[str, ...], made: tuple[Path, str], mirror: MirrorProcess, tmp_path: Path
) -> None:
    source = f"docker-archive:{made[0]}"
    run("skopeo", "--insecure-policy", "copy", "--quiet", source, target.format(tmp_path / "out"))
    assert len(imported(mirror, tmp_path / "out", *more)["layers"]) == len(LAYERS)
