"""Ten images go to a site without an uplink: fetched, written to a file, carried, taken in, and pulled by real clients.

What each client has in the end is, digest for digest, what was pushed to the real registry on the other side.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.images import Layout, debian_layer, layer_of
from tests.parts.certificate import certificate
from tests.parts.containerd import Containerd, default_hosts
from tests.parts.containers import Podman, registries_conf
from tests.parts.docker import Dockerd
from tests.parts.island import Island
from tests.parts.mirror import MirrorProcess
from tests.parts.process import room, run
from tests.parts.pushing import Pusher
from tests.parts.registry import DockerRegistry
from tests.parts.token_server import PASSWORD, USER, TokenServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.images import Image

pytestmark = [
    pytest.mark.needs("docker-registry", "mmdebstrap", "ssh-keygen"),
    pytest.mark.slow,
    pytest.mark.timeout(300),  # the first test also builds the images
]

AMD64, ARM64 = PLATFORMS = ("linux/amd64", "linux/arm64")
PLACES = [("docker.io", f"air/app{n}") for n in range(8)] + [("quay.io", f"gap/app{n}") for n in range(2)]
SYSTEMS = 3  # so many of the ten are systems that run
SBOM = "application/spdx+json"
MIB = 1 << 20


@dataclass(frozen=True)
class Carried:
    """One of the ten: an image of two platforms, with an attestation, a signature, and an SBOM that refers to it."""

    registry: str
    repository: str
    image: Image
    signature: str  # its tag
    sbom: str  # its digest
    listing: str  # the tag of the list of what refers to the image
    everything: frozenset[str] = field(repr=False)  # the digests of all that

    @property
    def name(self) -> str:
        return f"{self.registry}/{self.repository}:v1"


class Maker:
    """Makes images and pushes them. All of one platform share a layer, and the systems one that is a true system."""

    def __init__(self, layout: Layout, pusher: Pusher) -> None:
        self._layout = layout
        self._pusher = pusher
        self._system = layout.add_layer(debian_layer())
        self._shared = {platform: layout.add_huge_layer(4 * MIB, seed=n) for n, platform in enumerate(PLATFORMS)}

    def make(self, n: int) -> Carried:
        registry, repository = PLACES[n]
        layout, push = self._layout, self._pusher.push
        children = []
        for seed, platform in enumerate(PLATFORMS, len(PLATFORMS) * (n + 1)):
            layers = [self._system] if n < SYSTEMS and platform == AMD64 else []
            layers += [self._shared[platform], layout.add_huge_layer(MIB + n % 3 * MIB, seed=seed)]
            layers.append(layout.add_layer(layer_of({"etc/mirror-test": f"{n} for {platform}\n".encode()})))
            children.append(layout.add_image(None, layers, platform=platform))
        image = layout.add_index(f"app{n}", children, attest=True)
        signature = layout.add_signature(image)
        sbom = layout.add_referrer(image, SBOM, json.dumps({"spdxVersion": "SPDX-2.3", "name": repository}).encode())
        # The registry has no list of referrers of its own: whoever pushes keeps one under a tag.
        listing, index = layout.add_listing(image, [sbom])
        everything = push(repository, image.digest, "v1") | push(repository, signature.digest, signature.tag)
        everything |= push(repository, sbom["digest"]) | push(repository, index, listing)
        return Carried(registry, repository, image, signature.tag, sbom["digest"], listing, frozenset(everything))


@dataclass(frozen=True)
class Cargo:
    """What was carried, and what it should be."""

    ten: list[Carried]
    bundle: Path  # signed; the public key is beside it, as `ops.pub`


@pytest.fixture(scope="module")
def cargo() -> Iterator[Cargo]:
    """Ten images that were in a registry. It is gone, and so is the mirror that fetched them."""
    with room("carried") as carried:
        key, bundle = carried / "ops", carried / "ten.tar"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ops@site.example", "-f", key)
        with ExitStack() as stack:
            directory = stack.enter_context(room("near", memory=True))
            cert_file, key_file = certificate(directory)
            tokens = stack.enter_context(TokenServer(cert_file, key_file))
            registry = stack.enter_context(DockerRegistry(directory, realm=tokens.url, cert_file=cert_file))
            layout = Layout(directory / "layout")
            with Pusher(layout.path, registry, [repository for _, repository in PLACES]) as pusher:
                ten = list(map(Maker(layout, pusher).make, range(len(PLACES))))
            config, wanted = directory / "mirror.yaml", directory / "images.txt"
            hub = {"url": registry.url, "username": USER, "password": PASSWORD}
            storage = {"path": str(directory / "store"), "min_free": "0B"}
            upstreams = {"docker.io": hub, "quay.io": {"url": registry.url}}
            config.write_text(json.dumps({"storage": storage, "upstreams": upstreams}))
            wanted.write_text("# what the other side needs\n" + "".join(f"{one.name}\n" for one in ten))
            mirror("prefetch", "--from", wanted, "--config", config)
            mirror("export", "--from", wanted, "-o", bundle, "--sign", "--key", key, "--config", config)
        yield Cargo(ten, bundle)


@dataclass(frozen=True)
class Site:
    """The other side: a mirror that has nothing but what was carried, where no route leads out."""

    island: Island
    mirror: MirrorProcess
    uplink: socket.socket  # where it would dial

    @contextmanager
    def client(self, name: str) -> Iterator[Path]:
        """Be there, with a directory for a client. That nobody asked upstream is seen at the end."""
        with room(name, memory=True) as directory, self.island.inside():
            yield directory
        with pytest.raises(BlockingIOError):
            self.uplink.accept()[0].close()


@pytest.fixture(scope="module")
def site(cargo: Cargo) -> Iterator[Site]:
    """Everything is taken in beside a mirror that runs there already."""
    with ExitStack() as stack:
        island, directory = stack.enter_context(Island()), stack.enter_context(room("far"))
        with island.inside():
            uplink = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            uplink.setblocking(False)
            url = f"http://127.0.0.1:{uplink.getsockname()[1]}"
            server = {"offline": True, "fallback": False}
            config = {"server": server, "upstreams": {"docker.io": {"url": url}, "quay.io": {"url": url}}}
            far = stack.enter_context(MirrorProcess(directory, config))
            mirror("import", cargo.bundle, "--key", cargo.bundle.with_name("ops.pub"), "--config", far.file)
        yield Site(island, far, uplink)


def mirror(*arguments: str | Path) -> None:
    run(sys.executable, "-m", "mirror", *arguments)


def test_all_that_was_pushed_is_served_digest_for_digest_with_signatures_and_referrers(
    site: Site, cargo: Cargo
) -> None:
    with site.client("walk"):
        for one in cargo.ten:
            base = f"{site.mirror.url}/v2/{one.registry}/{one.repository}"
            for kind in ("", f"?artifactType={quote(SBOM, safe='')}"):
                listed = json.loads(content(f"{base}/referrers/{one.image.digest}{kind}"))["manifests"]
                assert one.sbom in [entry["digest"] for entry in listed]
            got = pulled(base, "v1")
            assert one.image.digest in got
            for more in (one.signature, one.sbom, one.listing):
                got |= pulled(base, more)
            assert got == one.everything


def pulled(base: str, reference: str) -> set[str]:
    """Get a manifest and all that it lists; return the digests of what came."""
    body = content(f"{base}/manifests/{reference}")
    digests = {digest_of(body)}
    document = json.loads(body)
    for child in document.get("manifests", ()):
        digests |= pulled(base, child["digest"])
    for blob in [document["config"], *document["layers"]] if "config" in document else []:
        digests.add(digest_of(content(f"{base}/blobs/{blob['digest']}")))
    return digests


def content(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own
        return bytes(answer.read())


def digest_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


@pytest.mark.needs("dockerd", "docker", "runc")
def test_docker_pulls_them_by_registry_mirror_and_by_path(site: Site, cargo: Cargo) -> None:
    with site.client("docker") as directory, Dockerd(directory, mirrors=[site.mirror.url]) as docker:
        for one in cargo.ten:
            # Docker keeps one platform under a name and digest: the other one is pulled by another name.
            other = f"{site.mirror.host}/{one.name}"
            name = one.name if one.registry == "docker.io" else other.replace("127.0.0.1", "localhost")
            for reference, platform in ((name, AMD64), (other, ARM64)):
                docker.pull(reference, platform)
                docker.check(reference, one.image, platform)
        assert docker.run(cargo.ten[0].name, "cat", "/etc/mirror-test") == f"0 for {AMD64}\n"


@pytest.mark.needs("podman", "runc")
def test_podman_pulls_them(site: Site, cargo: Cargo) -> None:
    with site.client("podman") as directory:
        podman = Podman(directory, registries_conf(site.mirror.host, ("docker.io", "quay.io")))
        for platform in (ARM64, AMD64):
            podman.pull(*(one.name for one in cargo.ten), platform=platform)
            for one in cargo.ten:
                podman.check(one.name, one.image, platform)
        assert podman.run(cargo.ten[1].name, "cat", "/etc/mirror-test") == f"1 for {AMD64}\n"


@pytest.mark.needs("containerd", "ctr", "runc")
def test_containerd_pulls_them_and_imports_every_platform_from_the_signed_file_itself(site: Site, cargo: Cargo) -> None:
    hosts = {"_default": default_hosts(site.mirror.url)}
    with site.client("ctr") as directory, Containerd(directory, hosts=hosts) as containerd:
        for one in cargo.ten:
            containerd.pull(one.name, *PLATFORMS)
        check_containerd(containerd, cargo)
        containerd.forget()
        containerd.load(cargo.bundle, "--all-platforms")
        check_containerd(containerd, cargo)


def check_containerd(containerd: Containerd, cargo: Cargo) -> None:
    assert containerd.named() == {one.name: one.image.digest for one in cargo.ten}
    wanted = [one.image.everything(platform) for one in cargo.ten for platform in PLATFORMS]
    assert containerd.contents() >= set.union(*wanted)
    assert containerd.run(cargo.ten[2].name, "cat", "/etc/mirror-test") == f"2 for {AMD64}\n"
