"""Bundles are taken by the tools that people have, without ours: what they load is what was pushed."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.parts.containerd import Containerd
from tests.parts.containers import Podman, Skopeo, registries_conf
from tests.parts.docker import Dockerd
from tests.parts.mirror import MirrorProcess
from tests.parts.process import ProgramError, room, run
from tests.parts.token_server import PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.images import Image, Images
    from tests.parts.registry import DockerRegistry

pytestmark = [
    pytest.mark.needs("docker-registry", "mmdebstrap", "skopeo"),
    pytest.mark.slow,
    pytest.mark.timeout(300),  # the first test also builds the images
]

DEBIAN, TWO, SIGNED, APP = (
    "docker.io/library/debian:bookworm",
    "docker.io/library/two:v1",
    "docker.io/library/signed:v1",
    "quay.io/org/app:v1",
)
AMD64 = "linux/amd64"


@dataclass(frozen=True)
class Bundles:
    """What was exported beside the running mirror that had pulled it."""

    all: Path  # five images, one without a tag, and a signature
    one: Path  # one image of one platform
    sparse: Path  # one of two platforms; its index as it was
    rewritten: Path  # the same with an index made anew
    tree: Path  # the first as a directory


@pytest.fixture(scope="module")
def bundles(registry: DockerRegistry, pushed: Images) -> Iterator[Bundles]:
    config = {
        "upstreams": {
            "docker.io": {"url": registry.url, "username": USER, "password": PASSWORD},
            "quay.io": {"url": registry.url},
        }
    }
    with room("export") as directory, MirrorProcess(directory, config) as mirror:
        skopeo = Skopeo(directory, registries_conf(mirror.host, ("docker.io", "quay.io")))
        signature = f"docker.io/library/signed:{pushed.signature.tag}"
        forty = f"docker.io/library/forty@{pushed.forty.digest}"
        for reference in (DEBIAN, TWO, SIGNED, signature, APP, forty):
            skopeo.pull(reference)

        def export(out: str, *arguments: str) -> Path:
            run(sys.executable, "-m", "mirror", "export", *arguments, "-o", directory / out, "--config", mirror.file)
            return directory / out

        (directory / "tree").mkdir()
        yield Bundles(
            export("all.tar", "*"),
            export("one.tar", DEBIAN),
            export("sparse.tar", TWO, "--platform", AMD64),
            export("rewritten.tar", TWO, "--platform", AMD64, "--index", "rewrite"),
            export("tree", "*"),
        )


def _same(got_id: str, got_layers: list[str], image: Image) -> None:
    assert got_id.removeprefix("sha256:") == image.configs[AMD64].removeprefix("sha256:")
    assert tuple(got_layers) == image.diff_ids[AMD64]


@pytest.mark.needs("dockerd", "docker", "runc")
def test_docker_load_takes_every_image_and_does_not_stumble_over_a_signature(bundles: Bundles, pushed: Images) -> None:
    with room("docker", memory=True) as directory, Dockerd(directory) as docker:
        said = docker.load(bundles.all)
        assert said.count("Loaded image: ") == 4
        for name, image in ((DEBIAN, pushed.debian), (TWO, pushed.two), (SIGNED, pushed.signed), (APP, pushed.app)):
            got = docker.inspect(name)
            _same(got["Id"], got["RootFS"]["Layers"], image)
        untagged = docker.inspect(pushed.forty.configs[AMD64])  # which gets no name
        _same(untagged["Id"], untagged["RootFS"]["Layers"], pushed.forty)
        assert docker.run(DEBIAN, "cat", "/etc/mirror-test") == "pulled through\n"


@pytest.mark.needs("dockerd", "docker", "runc")
def test_docker_load_takes_one_platform_of_an_index(bundles: Bundles, pushed: Images) -> None:
    with room("docker", memory=True) as directory, Dockerd(directory) as docker:
        docker.load(bundles.sparse)
        got = docker.inspect(TWO)
        _same(got["Id"], got["RootFS"]["Layers"], pushed.two)


@pytest.mark.needs("containerd", "ctr", "runc")
@pytest.mark.parametrize("options", [(), ("--all-platforms",)], ids=["", "all-platforms"])
def test_ctr_imports_every_image_with_its_own_digest(
    options: tuple[str, ...], bundles: Bundles, pushed: Images
) -> None:
    with room("ctr", memory=True) as directory, Containerd(directory) as containerd:
        containerd.load(bundles.all, *options)
        forty = f"docker.io/library/forty@{pushed.forty.digest}"
        assert set(containerd.named()) == {DEBIAN, TWO, SIGNED, APP, forty}, "a signature would be unpacked, and fail"
        for name, image in ((DEBIAN, pushed.debian), (TWO, pushed.two), (APP, pushed.app), (forty, pushed.forty)):
            containerd.check(name, image)
        assert containerd.run(DEBIAN, "cat", "/etc/mirror-test") == "pulled through\n"


@pytest.mark.needs("containerd", "ctr", "runc")
def test_ctr_imports_an_index_of_which_a_platform_is_absent_unless_it_insists_on_all(
    bundles: Bundles, pushed: Images
) -> None:
    with room("ctr", memory=True) as directory, Containerd(directory) as containerd:
        # As k3s imports.
        with pytest.raises(ProgramError, match="not found"):
            containerd.load(bundles.sparse, "--all-platforms")
        containerd.load(bundles.sparse)
        containerd.check(TWO, pushed.two)
        containerd.load(bundles.rewritten, "--all-platforms")
        assert containerd.named()[TWO] != pushed.two.digest


@pytest.mark.needs("podman", "runc")
def test_podman_load_takes_every_image(bundles: Bundles, pushed: Images) -> None:
    with room("podman", memory=True) as directory:
        podman = Podman(directory)
        podman.load(bundles.all)
        for name, image in ((DEBIAN, pushed.debian), (TWO, pushed.two), (SIGNED, pushed.signed), (APP, pushed.app)):
            got = podman.inspect(name)
            _same(got["Id"], got["RootFS"]["Layers"], image)
        assert podman.run(DEBIAN, "cat", "/etc/mirror-test") == "pulled through\n"
        podman.forget()
        # Of a single image podman reads the layout, and so has its digests too.
        podman.load(bundles.one)
        podman.check(DEBIAN, pushed.debian)


def test_skopeo_copies_by_name_from_either_kind_of_archive_and_from_a_directory(
    bundles: Bundles, pushed: Images
) -> None:
    with ExitStack() as stack:
        skopeo = Skopeo(stack.enter_context(room("skopeo")))
        for source in (f"oci-archive:{bundles.all}:{TWO}", f"oci:{bundles.tree}:{TWO}"):
            skopeo.copy(source, "--all", "--preserve-digests")
            skopeo.check(source, pushed.two)
        # As an archive of Docker's it has layers without compression, so its digests are others.
        skopeo.copy(f"docker-archive:{bundles.all}:{APP}")
        skopeo.copy(f"oci-archive:{bundles.one}", "--preserve-digests")  # a single image needs no name
        skopeo.check(f"oci-archive:{bundles.one}", pushed.debian)
        skopeo.copy(f"docker-archive:{bundles.one}")
        skopeo.copy(f"oci-archive:{bundles.rewritten}", "--all", "--preserve-digests")
        with pytest.raises(ProgramError, match="no such file"):
            skopeo.copy(f"oci-archive:{bundles.sparse}", "--all")
