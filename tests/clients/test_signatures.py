"""Signatures and attestations come through the mirror complete, whatever rules say of tags, and with upstream gone."""

from __future__ import annotations

import base64
import json
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests import images
from tests.parts.containers import Podman, Skopeo, registries_conf
from tests.parts.mirror import MirrorProcess
from tests.parts.process import room, run
from tests.parts.token_server import PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.images import Image
    from tests.parts.registry import DockerRegistry

pytestmark = [
    pytest.mark.needs("docker-registry", "mmdebstrap", "skopeo", "openssl", "unshare"),
    pytest.mark.slow,
    pytest.mark.timeout(300),  # the first test also builds the images
]

REPO = "docker.io/library/trusted"
# Whoever verifies signatures has to name digests, and what tags mean has to be old: of signatures neither is wanted.
PULLS = [{"allow": "docker.io/library/**", "require_digest": True, "min_age": "3d"}, {"deny": "**"}]


@dataclass(frozen=True)
class Signed:
    """An image that is signed as cosign does it, and what verifies that."""

    image: Image
    public_key: Path


@pytest.fixture(scope="module")
def signed(workroom: Path, registry: DockerRegistry) -> Signed:
    """Push an index with an attestation; it and the image in it are signed."""
    layout = images.Layout(workroom / "signed")
    key, public = workroom / "cosign.key", workroom / "cosign.pub"
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
    run("openssl", "ec", "-in", key, "-pubout", "-out", public)
    child = layout.add_image(None, [layout.add_layer(images.layer_of({"etc/trusted": b"yes\n"}))])
    image = layout.add_index("v1", [child], attest=True)
    tags = ["v1", *(_sign(layout, key, digest) for digest in (image.digest, child[0].digest))]
    for tag in tags:
        images.push(layout.path, tag, registry.host, f"library/trusted:{tag}", user=USER, password=PASSWORD)
    return Signed(image, public)


def _sign(layout: images.Layout, key: Path, digest: str) -> str:
    """Store a signature of `digest`; return its tag."""
    payload = {
        "critical": {
            "identity": {"docker-reference": REPO},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        },
        "optional": None,
    }
    text, signature = layout.path / "payload", layout.path / "payload.sig"
    text.write_text(json.dumps(payload))
    run("openssl", "dgst", "-sha256", "-sign", key, "-out", signature, text)
    layer = layout.add_blob(text.read_bytes(), images.SIGNATURE)
    layer["annotations"] = {"dev.cosignproject.cosign/signature": base64.b64encode(signature.read_bytes()).decode()}
    rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
    config = {"architecture": "", "os": "", "config": {}, "rootfs": rootfs}
    written = layout.add_blob(json.dumps(config).encode(), images.OCI_CONFIG)
    manifest = {"schemaVersion": 2, "mediaType": images.OCI_MANIFEST, "config": written, "layers": [layer]}
    tag = digest.replace(":", "-") + ".sig"
    layout._name(tag, layout.add_blob(json.dumps(manifest).encode(), images.OCI_MANIFEST))
    return tag


def _attaching(root: Path) -> Path:
    """Have `/etc/containers` say that signatures are tags beside their image; return `root`."""
    told = root / "etc/containers/registries.d/default.yaml"
    told.parent.mkdir(parents=True)
    told.write_text("default-docker:\n  use-sigstore-attachments: true\n")
    return root


@pytest.fixture(scope="module")
def mirror(registry: DockerRegistry) -> Iterator[MirrorProcess]:
    """A mirror whose rule wants digests, and tags that are old."""
    config = {
        "upstreams": {"docker.io": {"url": registry.url, "username": USER, "password": PASSWORD}},
        "pulls": PULLS,
        "freshness": [{"match": "**", "ttl": "0s"}],
    }
    with room("mirror") as directory, MirrorProcess(directory, config) as process:
        yield process
        print(process.said())  # noqa: T201 - pytest shows it where the test failed


def test_skopeo_copies_every_signature_with_its_image_under_every_rule_and_with_the_upstream_gone(
    mirror: MirrorProcess, registry: DockerRegistry, signed: Signed
) -> None:
    """What it copied is verified here: Debian's skopeo and podman are built without that."""
    with ExitStack() as stack:
        directory = stack.enter_context(room("client"))
        client = Skopeo(directory, registries_conf(mirror.host, ["docker.io"]), root=_attaching(directory / "laid"))

        def copy(to: Path) -> dict[str, bytes]:
            client.copy_with_signatures(f"{REPO}@{signed.image.digest}", to)
            _verify(to, "", signed.image.digest, signed.public_key)
            (child,) = signed.image.manifests.values()
            _verify(to, f"{child.removeprefix('sha256:')}.", child, signed.public_key)
            return {path.name: path.read_bytes() for path in to.iterdir()}

        cold = copy(directory / "cold")
        attached = _attached(mirror.url, signed.image.digest)
        registry.terminate()
        stack.callback(registry.start)
        assert copy(directory / "gone") == cold
        assert _attached(mirror.url, signed.image.digest) == attached


@pytest.mark.needs("podman", "runc")
def test_podman_pulls_with_attachments_where_a_signature_that_cannot_be_had_would_fail_it(
    mirror: MirrorProcess, registry: DockerRegistry, signed: Signed
) -> None:
    reference = f"{REPO}@{signed.image.digest}"
    with ExitStack() as stack:
        directory = stack.enter_context(room("client", memory=True))
        client = Podman(directory, registries_conf(mirror.host, ["docker.io"]), root=_attaching(directory / "laid"))
        client.pull(reference)
        client.check(reference, signed.image)
        client.forget()
        registry.terminate()
        stack.callback(registry.start)
        client.pull(reference)
        client.check(reference, signed.image)


def _verify(directory: Path, prefix: str, digest: str, key: Path) -> None:
    """See that a signature lies beside what was copied (`dir:` of containers/image), and that it is one of `digest`."""
    head, _, body = (directory / f"{prefix}signature-1").read_bytes().partition(b"\n")
    assert head == b"\0sigstore-json"
    found = json.loads(body)
    payload, signature = directory.parent / "payload", directory.parent / "signature"
    payload.write_bytes(base64.b64decode(found["payload"]))
    signature.write_bytes(base64.b64decode(found["annotations"]["dev.cosignproject.cosign/signature"]))
    assert json.loads(payload.read_bytes())["critical"]["image"] == {"docker-manifest-digest": digest}
    run("openssl", "dgst", "-sha256", "-verify", key, "-signature", signature, payload)


def _attached(url: str, digest: str) -> dict[str, bytes]:
    """Read an index's attestation through the mirror, as `docker buildx imagetools` does; return all that it is."""
    found: dict[str, bytes] = {}

    def read(kind: str, name: str) -> Any:
        with urllib.request.urlopen(f"{url}/v2/library/trusted/{kind}/{name}", timeout=30) as response:  # noqa: S310 - our own
            found[name] = response.read()
        return json.loads(found[name])

    (child,) = [
        entry["digest"]
        for entry in read("manifests", digest)["manifests"]
        if entry.get("annotations", {}).get("vnd.docker.reference.type") == "attestation-manifest"
    ]
    manifest = read("manifests", child)
    for part in (manifest["config"], *manifest["layers"]):
        read("blobs", part["digest"])
    return found
