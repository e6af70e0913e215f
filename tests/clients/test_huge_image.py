"""One image with a layer of 2 GiB goes through, whole, and the mirror's memory does not notice."""

from __future__ import annotations

import shutil
import tempfile
from typing import TYPE_CHECKING

import pytest

from tests import images
from tests.clients.ways import REGISTRIES
from tests.conftest import in_ci
from tests.parts.containers import Skopeo, registries_conf
from tests.parts.process import room
from tests.parts.token_server import PASSWORD, USER

if TYPE_CHECKING:
    from tests.parts.mirror import MirrorProcess
    from tests.parts.registry import DockerRegistry

SIZE = 2 << 30
ROOM = 5 * SIZE  # bytes on disk: layout, registry, store, what the client got, and some air
MEMORY = 120 << 20


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.needs("docker-registry", "mmdebstrap", "skopeo")
def test_an_image_of_two_gibibytes_goes_through(mirror: MirrorProcess, registry: DockerRegistry) -> None:
    if shutil.disk_usage(tempfile.gettempdir()).free < ROOM:
        say = pytest.fail if in_ci() else pytest.skip
        say(f"needs {ROOM >> 30} GiB of free disk")
    with room("huge") as directory:
        layout = images.Layout(directory / "layout")
        image, _ = layout.add_image("huge", [layout.add_huge_layer(SIZE)])
        images.push(layout.path, "huge", registry.host, "library/huge:v1", user=USER, password=PASSWORD)
        shutil.rmtree(layout.path)
        client = Skopeo(directory, registries_conf(mirror.host, REGISTRIES))
        client.pull("docker.io/library/huge:v1")
        client.check("docker.io/library/huge:v1", image)
    assert mirror.peak_rss < MEMORY
