"""Real clients pull images that the mirror cannot keep: larger than its cap, they are streamed."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests import images
from tests.clients.ways import WAYS, Way
from tests.parts.mirror import MirrorProcess
from tests.parts.process import room
from tests.parts.token_server import PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.images import Image
    from tests.parts.registry import DockerRegistry

CAP = 10 << 20
NAME = "private/larger:v1"  # and not everybody's: what is streamed is asked for with the mirror's credentials


@pytest.fixture(scope="module")
def larger(registry: DockerRegistry) -> Iterator[Image]:
    """An image of two layers, one of them more than twice the cap."""
    with room("larger") as directory:
        layout = images.Layout(directory / "layout")
        layers = [layout.add_huge_layer(CAP * 5 // 2), layout.add_huge_layer(1 << 20, seed=3)]
        image, _ = layout.add_image("larger", layers)
        images.push(layout.path, "larger", registry.host, NAME, user=USER, password=PASSWORD)
        shutil.rmtree(layout.path)
        yield image


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.needs("docker-registry", "mmdebstrap", "skopeo")
@pytest.mark.parametrize(
    "way",
    [
        pytest.param(WAYS[name], id=name, marks=pytest.mark.needs(*WAYS[name].programs))
        for name in ("podman", "skopeo", "dockerd-registry-mirrors", "containerd-hosts-default")
    ],
)
def test_a_client_pulls_an_image_that_is_larger_than_the_cap(way: Way, larger: Image, registry: DockerRegistry) -> None:
    config = {
        "upstreams": {"docker.io": {"url": registry.url, "username": USER, "password": PASSWORD}, "quay.io": False},
        "storage": {"max_size": f"{CAP}B"},
    }
    with room("mirror") as directory, MirrorProcess(directory, config) as mirror:
        with room("client", memory=True) as own, way.start(own, mirror) as client:
            for _ in range(2):
                client.pull(f"docker.io/{NAME}")
                client.check(f"docker.io/{NAME}", larger)
                client.forget()
        said = (directory / "mirror.log").read_text()
        kept = sum(path.stat().st_blocks * 512 for path in mirror.store.rglob("*") if path.is_file())
    assert "not kept: streamed" in said
    assert kept <= CAP
