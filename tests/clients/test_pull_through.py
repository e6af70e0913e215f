"""Real clients pull through the mirror: cold, warm, and with the upstream stopped."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.clients.ways import REGISTRIES, WAYS, Way
from tests.parts.containers import Skopeo, registries_conf
from tests.parts.process import room

if TYPE_CHECKING:
    from tests.images import Image, Images
    from tests.parts.client import Client
    from tests.parts.mirror import MirrorProcess
    from tests.parts.registry import DockerRegistry

pytestmark = [
    pytest.mark.needs("docker-registry", "mmdebstrap", "skopeo"),
    pytest.mark.slow,
    pytest.mark.timeout(300),  # the first test also builds the images
]


def _wanted(way: Way, mirror: MirrorProcess, pushed: Images) -> dict[str, Image]:
    wanted = {("docker.io", "library/signed:v1"): pushed.signed, ("docker.io", "private/secret:v1"): pushed.secret}
    if "quay.io" in way.registries:
        wanted["quay.io", "org/app:v1"] = pushed.app
    if way.large:
        wanted["docker.io", "library/debian:bookworm"] = pushed.debian
        wanted["docker.io", "library/two:v1"] = pushed.two
        wanted["docker.io", "library/forty:v1"] = pushed.forty
    return {way.name(mirror, *where): image for where, image in wanted.items()}


def _pull(client: Client, wanted: dict[str, Image]) -> None:
    for reference, image in wanted.items():
        client.pull(reference)
        client.check(reference, image)


@pytest.mark.parametrize(
    "way", [pytest.param(way, id=name, marks=pytest.mark.needs(*way.programs)) for name, way in WAYS.items()]
)
def test_a_client_pulls_cold_and_warm_and_with_the_upstream_stopped(
    way: Way, mirror: MirrorProcess, registry: DockerRegistry, pushed: Images
) -> None:
    wanted = _wanted(way, mirror, pushed)
    with ExitStack() as stack:
        client = stack.enter_context(way.start(stack.enter_context(room("client", memory=True)), mirror))
        before = registry.content_gets()
        _pull(client, wanted)
        cold = registry.content_gets()
        assert cold > before

        client.forget()
        _pull(client, dict(list(wanted.items())[:2]))  # of the large ones once more is enough, with nobody to ask
        assert registry.content_gets() == cold

        client.forget()
        registry.terminate()
        stack.callback(registry.start)
        _pull(client, wanted)
        if way.runs:
            debian = way.name(mirror, "docker.io", "library/debian:bookworm")
            assert client.run(debian, "cat", "/etc/mirror-test") == "pulled through\n"
            assert client.run(debian, "cat", "/etc/debian_version").startswith("12.")


def test_a_signature_is_found_beside_its_image_without_the_upstream(
    mirror: MirrorProcess, registry: DockerRegistry, pushed: Images
) -> None:
    wanted = {
        "docker.io/library/signed:v1": pushed.signed,
        f"docker.io/library/signed:{pushed.signature.tag}": pushed.signature,
    }
    with ExitStack() as stack:
        client = Skopeo(stack.enter_context(room("client")), registries_conf(mirror.host, REGISTRIES))
        _pull(client, wanted)
        client.forget()
        registry.terminate()
        stack.callback(registry.start)
        _pull(client, wanted)


@pytest.mark.needs("podman", "runc")
def test_layers_that_the_client_has_already_are_known_to_be_there_without_the_upstream(
    mirror: MirrorProcess, registry: DockerRegistry, pushed: Images
) -> None:
    """A client that has the layers from elsewhere asks for the manifest only; the next one may have none of them."""
    name = "docker.io/private/signed:v1"
    with ExitStack() as stack:
        client = stack.enter_context(WAYS["podman"].start(stack.enter_context(room("client", memory=True)), mirror))
        _pull(client, {"docker.io/library/signed:v1": pushed.signed, name: pushed.signed})
        blobs = pushed.signed.everything() - {pushed.signed.digest}
        registry.wait(lambda: all(registry.gave(f"/v2/private/signed/blobs/{digest}") for digest in blobs))
        client.forget()
        registry.terminate()
        stack.callback(registry.start)
        _pull(client, {name: pushed.signed})
