"""Caches behind caches: real clients at the end of a chain, until the last link alone is left."""

from __future__ import annotations

import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.clients.ways import REGISTRIES
from tests.images import Image, Layout, layer_of
from tests.parts.containerd import Containerd, default_hosts
from tests.parts.containers import Podman, Skopeo, registries_conf
from tests.parts.mirror import MirrorProcess
from tests.parts.process import room, run
from tests.parts.registry import DockerRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from email.message import Message
    from pathlib import Path
    from typing import Any

    from tests.parts.client import Client

pytestmark = [
    pytest.mark.needs("docker-registry", "skopeo", "podman", "runc", "containerd", "ctr"),
    pytest.mark.slow,
    pytest.mark.timeout(120),
]

NAME = "library/app"
ASK_EACH_TIME = [{"match": "**", "ttl": "0s"}]


@dataclass(frozen=True)
class Site:
    """The first registry of a chain, what it holds, and who has been started."""

    first: DockerRegistry
    image: Image  # an index of two platforms
    signature: Image  # of it
    stack: ExitStack
    rooms: Path

    def registry(self, name: str, *, behind: str | None = None) -> DockerRegistry:
        return self.stack.enter_context(DockerRegistry(_made(self.rooms / name), behind=behind))

    def mirror(self, name: str, upstreams: Mapping[str, Any]) -> MirrorProcess:
        config = {"upstreams": upstreams, "freshness": ASK_EACH_TIME}
        return self.stack.enter_context(MirrorProcess(_made(self.rooms / name), config))

    @contextmanager
    def clients(self, mirror: MirrorProcess) -> Iterator[tuple[list[Client], Skopeo]]:
        """Podman and skopeo, which name the registry in the path, and containerd, which names it in `?ns=`."""
        with ExitStack() as stack:
            told = registries_conf(mirror.host, REGISTRIES)
            skopeo = Skopeo(stack.enter_context(room("skopeo")), told)
            containerd = Containerd(
                stack.enter_context(room("containerd", memory=True)), hosts={"_default": default_hosts(mirror.url)}
            )
            podman = Podman(stack.enter_context(room("podman", memory=True)), told)
            yield [podman, skopeo, stack.enter_context(containerd)], skopeo

    def everything(self) -> set[str]:
        """The digests of all that is asked for by digest alone."""
        blobs = {blob for of in (self.image, self.signature) for layers in of.layers.values() for blob in layers}
        configs = {*self.image.configs.values(), *self.signature.configs.values()}
        return blobs | configs | set(self.image.manifests.values())

    def sent_by_first(self, digest: str) -> int:
        return sum(
            access.method == "GET" and access.status == 200 and access.path.split("?")[0].endswith(digest)
            for access in self.first.accesses()
        )


@pytest.fixture
def site() -> Iterator[Site]:
    """A registry that holds an image of two platforms with its signature, small ones, and nothing behind it yet."""
    with room("chain") as rooms, ExitStack() as stack:
        layout = Layout(rooms / "layout")
        shared = layout.add_layer(layer_of({"usr/shared": b"shared\n" * 50_000}))
        children = [
            layout.add_image(None, [shared, layout.add_layer(layer_of({"etc/arch": arch.encode()}))], platform=arch)
            for arch in ("linux/amd64", "linux/arm64")
        ]
        image = layout.add_index("app", children)
        signature = layout.add_signature(image)
        first = stack.enter_context(DockerRegistry(_made(rooms / "first")))
        for tag, target in (("app", f"{NAME}:v1"), (signature.tag, f"{NAME}:{signature.tag}")):
            run(
                "skopeo", "copy", "--all", "--preserve-digests", "--quiet", "--dest-tls-verify=false",
                f"oci:{layout.path}:{tag}", f"docker://{first.host}/{target}",
            )  # fmt: skip
        yield Site(first, image, signature, stack, rooms)


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def _pull(site: Site, clients: list[Client], skopeo: Skopeo, namespace: str = "docker.io") -> None:
    """Let each client get the image, one also its signature, compare all of it, and forget it."""
    reference = f"{namespace}/{NAME}:v1"
    for client in clients:
        client.pull(reference)
        client.check(reference, site.image)
    signature = f"{namespace}/{NAME}:{site.signature.tag}"
    skopeo.pull(signature)
    skopeo.check(signature, site.signature)
    for client in clients:
        client.forget()


def _ask(mirror: MirrorProcess, method: str, what: str, namespace: str) -> tuple[Message, bytes]:
    url = f"{mirror.url}/v2/{NAME}/{what}?ns={namespace}"
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=30) as response:  # noqa: S310 - ours
        return response.headers, response.read()


def test_images_come_through_two_docker_registries_and_the_mirror_and_stay_when_both_are_gone(site: Site) -> None:
    second = site.registry("second", behind=site.first.url)
    mirror = site.mirror("mirror", {"docker.io": {"url": second.url}})
    layer = site.image.layers["linux/arm64"][1]
    assert int(_ask(mirror, "HEAD", f"blobs/{layer}", "docker.io")[0]["Content-Length"])  # only the first has it yet
    with site.clients(mirror) as (clients, skopeo):
        _pull(site, clients, skopeo)
        asked = second.content_gets()
        _pull(site, clients, skopeo)
        assert second.content_gets() == asked, "what is here is asked for again"
        site.first.terminate()
        _pull(site, clients, skopeo)
        second.terminate()
        _pull(site, clients, skopeo)


def test_images_come_through_two_mirrors_once_and_stay_when_all_before_the_last_are_gone(site: Site) -> None:
    """The nearer mirror knows by `?ns=` alone that it is not its default upstream that is meant, which is not there."""
    nearer = site.mirror("nearer", {"docker.io": {"url": "http://127.0.0.1:1"}, "quay.io": {"url": site.first.url}})
    mirror = site.mirror("mirror", {"quay.io": {"url": nearer.url, "ns": True}})
    layer = site.image.layers["linux/arm64"][1]
    assert int(_ask(mirror, "HEAD", f"blobs/{layer}", "quay.io")[0]["Content-Length"])
    with site.clients(mirror) as (clients, skopeo):
        _pull(site, clients, skopeo, "quay.io")
        sent = {digest: site.sent_by_first(digest) for digest in site.everything() - {layer}}
        assert set(sent.values()) == {1}, sent
        _pull(site, clients, skopeo, "quay.io")
        assert {digest: site.sent_by_first(digest) for digest in sent} == sent
        site.first.terminate()
        _pull(site, clients, skopeo, "quay.io")
        warning = _ask(mirror, "GET", "manifests/v1", "quay.io")[0]["Warning"]
        assert warning, "that the nearer mirror could not ask is passed on"
        nearer.terminate()
        _pull(site, clients, skopeo, "quay.io")
