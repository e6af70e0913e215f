"""Images for the real clients: an OCI image layout on disk that `skopeo` pushes from.

The Debian image is real, built once by `mmdebstrap` and kept under `MIRROR_TEST_CACHE`, or in the user's cache.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import tarfile
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mirror.oci.digest import Digest
from tests.parts.process import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
SIGNATURE = "application/vnd.dev.cosign.simplesigning.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
SUITE = "bookworm"

# What containers' base images leave out as well; it halves the time that every unpacking takes.
_LEFT_OUT = [
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
    "/usr/share/zoneinfo/*",
]
# As the machine itself installs packages; without either mmdebstrap falls back on its own default.
_SOURCES = [Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")]


def cache_directory() -> Path:
    """Return where things are kept that take long to build."""
    path = Path(os.environ.get("MIRROR_TEST_CACHE") or Path.home() / ".cache" / "registry-mirror-tests")
    path.mkdir(parents=True, exist_ok=True)
    return path


def debian_layer() -> Path:
    """Return a gzipped tar of a Debian system, built if it is not there yet."""
    kept = cache_directory() / f"debian-{SUITE}-1.tar.gz"
    if kept.exists():
        return kept
    work = kept.with_suffix(f".{os.getpid()}")
    sources = next((source for source in _SOURCES if source.exists() and source.stat().st_size), None)
    run(
        "mmdebstrap",
        "--variant=essential",
        "--format=tar",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
        SUITE,
        work,
        *([sources] if sources else []),
        within=300,
    )
    zipped = work.with_suffix(".gz")
    with work.open("rb") as plain, zipped.open("wb") as file, _gzip(file) as packed:
        shutil.copyfileobj(plain, packed, 1 << 20)
    work.unlink()
    zipped.rename(kept)
    return kept


def _gzip(to: IO[bytes]) -> gzip.GzipFile:
    return gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=to, mtime=0)


def _platform(text: str) -> dict[str, str]:
    return dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))


def layer_of(files: Mapping[str, bytes]) -> bytes:
    """Return a gzipped tar of files by path; the same bytes each time."""
    packed = io.BytesIO()
    with _gzip(packed) as zipped, tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, body in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            entry.mode = 0o755
            tar.addfile(entry, io.BytesIO(body))
    return packed.getvalue()


@dataclass(frozen=True)
class Image:
    """What was built under one tag, for comparing it with what a client got."""

    tag: str
    digest: str  # of the manifest or index that the tag names
    manifests: Mapping[str, str] = field(default_factory=dict)  # platform -> digest; the only one for a plain image
    configs: Mapping[str, str] = field(default_factory=dict)  # platform -> digest
    layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # platform -> digests, as they are sent
    diff_ids: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # platform -> digests of the unpacked layers

    def everything(self, platform: str = "linux/amd64") -> set[str]:
        """Return all digests that a pull of one platform brings."""
        return {self.digest, self.manifests[platform], self.configs[platform], *self.layers[platform]}


class Layout:
    """An OCI image layout (image-layout.md) that is being filled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self._entries: list[dict[str, Any]] = []
        self._diff_ids: dict[str, str] = {}

    def add_blob(self, body: bytes, media_type: str) -> dict[str, Any]:
        """Store bytes; return their descriptor."""
        digest = Digest.of(body)
        (self.path / "blobs/sha256" / digest.hex).write_bytes(body)
        return {"mediaType": media_type, "digest": str(digest), "size": len(body)}

    def add_layer(self, layer: bytes | Path) -> dict[str, Any]:
        """Store a gzipped tar; return its descriptor."""
        if isinstance(layer, bytes):
            descriptor = self.add_blob(layer, OCI_LAYER)
        else:
            with layer.open("rb") as file:
                name = hashlib.file_digest(file, "sha256").hexdigest()
            blob = self.path / "blobs/sha256" / name
            if not blob.exists():
                shutil.copyfile(layer, blob)
            descriptor = {"mediaType": OCI_LAYER, "digest": f"sha256:{name}", "size": layer.stat().st_size}
        hasher = hashlib.sha256()
        with gzip.open(layer if isinstance(layer, Path) else io.BytesIO(layer)) as plain:
            while piece := plain.read(1 << 20):
                hasher.update(piece)
        self._diff_ids[descriptor["digest"]] = f"sha256:{hasher.hexdigest()}"
        return descriptor

    def add_huge_layer(self, size: int, *, seed: int = 2) -> dict[str, Any]:
        """Store a plain tar with one file of `size` bytes, whole MiB, that do not compress; return its descriptor."""
        block = random.Random(seed).randbytes(1 << 20)  # noqa: S311 - content, not a secret
        entry = tarfile.TarInfo("huge")
        entry.size = size
        hasher = hashlib.sha256()
        unnamed = self.path / "blobs/unnamed"
        with unnamed.open("wb") as file:
            pieces = (number.to_bytes(8, "big") + block[8:] for number in range(size >> 20))
            for piece in chain([entry.tobuf()], pieces, [bytes(2 * tarfile.BLOCKSIZE)]):
                hasher.update(piece)
                file.write(piece)
        digest = f"sha256:{hasher.hexdigest()}"
        unnamed.rename(self.path / "blobs/sha256" / hasher.hexdigest())
        self._diff_ids[digest] = digest
        return {"mediaType": OCI_LAYER.removesuffix("+gzip"), "digest": digest, "size": size + 3 * tarfile.BLOCKSIZE}

    def add_image(
        self, tag: str | None, layers: Iterable[dict[str, Any]], *, platform: str = "linux/amd64"
    ) -> tuple[Image, dict[str, Any]]:
        """Store config and manifest of an image; return what it is, and its descriptor."""
        layers = list(layers)
        diff_ids = [self._diff_ids[layer["digest"]] for layer in layers]
        config = {
            **_platform(platform),
            "created": "2026-01-01T00:00:00Z",
            "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "the tests"} for _ in layers],
        }
        written = self.add_blob(json.dumps(config).encode(), OCI_CONFIG)
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": written, "layers": layers}
        descriptor = self.add_blob(json.dumps(manifest).encode(), OCI_MANIFEST)
        self._name(tag, descriptor)
        image = Image(
            tag or "",
            descriptor["digest"],
            {platform: descriptor["digest"]},
            {platform: written["digest"]},
            {platform: tuple(layer["digest"] for layer in layers)},
            {platform: tuple(diff_ids)},
        )
        return image, descriptor

    def add_index(self, tag: str, images: Iterable[tuple[Image, dict[str, Any]]], *, attest: bool = False) -> Image:
        """Store an index of images, each of one platform; with `attest` the first has an attestation beside it."""
        entries = []
        manifests: dict[str, str] = {}
        configs: dict[str, str] = {}
        layers: dict[str, tuple[str, ...]] = {}
        diff_ids: dict[str, tuple[str, ...]] = {}
        for image, descriptor in images:
            (platform,) = image.manifests
            entries.append({**descriptor, "platform": _platform(platform)})
            manifests |= image.manifests
            configs |= image.configs
            layers |= image.layers
            diff_ids |= image.diff_ids
        if attest:
            entries.append(self._attestation(entries[0]["digest"]))
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        descriptor = self.add_blob(json.dumps(index).encode(), OCI_INDEX)
        self._name(tag, descriptor)
        return Image(tag, descriptor["digest"], manifests, configs, layers, diff_ids)

    def _attestation(self, of: str) -> dict[str, Any]:
        # As BuildKit writes it: an image of no platform whose layer is an in-toto statement.
        statement = self.add_blob(b'{"_type":"https://in-toto.io/Statement/v0.1"}', "application/vnd.in-toto+json")
        config = {
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [statement["digest"]]},
        }
        written = self.add_blob(json.dumps(config).encode(), OCI_CONFIG)
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": written, "layers": [statement]}
        return {
            **self.add_blob(json.dumps(manifest).encode(), OCI_MANIFEST),
            "platform": {"architecture": "unknown", "os": "unknown"},
            "annotations": {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": of},
        }

    def add_signature(self, of: Image) -> Image:
        """Store a signature as cosign does: under the tag `sha256-HEX.sig`, with the image as its subject."""
        tag = of.digest.replace(":", "-") + ".sig"
        payload = {
            "critical": {
                "identity": {"docker-reference": "library/signed"},
                "image": {"docker-manifest-digest": of.digest},
                "type": "cosign container image signature",
            },
            "optional": None,
        }
        layer = self.add_blob(json.dumps(payload).encode(), SIGNATURE)
        layer["annotations"] = {"dev.cosignproject.cosign/signature": "MEUCIQ=="}
        rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
        config = self.add_blob(
            json.dumps({"architecture": "", "os": "", "config": {}, "rootfs": rootfs}).encode(), OCI_CONFIG
        )
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config,
            "layers": [layer],
            "subject": self._descriptor(of.digest),
        }
        descriptor = self.add_blob(json.dumps(manifest).encode(), OCI_MANIFEST)
        self._name(tag, descriptor)
        anywhere = "linux/amd64"
        return Image(
            tag,
            descriptor["digest"],
            {anywhere: descriptor["digest"]},
            {anywhere: config["digest"]},
            {anywhere: (layer["digest"],)},
        )

    def add_referrer(self, of: Image, kind: str, body: bytes) -> dict[str, Any]:
        """Store an artifact whose subject is the image, as ORAS does; return its descriptor, as registries list it."""
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": kind,
            "config": self.add_blob(b"{}", EMPTY),
            "layers": [self.add_blob(body, kind)],
            "subject": self._descriptor(of.digest),
        }
        return {**self.add_blob(json.dumps(manifest).encode(), OCI_MANIFEST), "artifactType": kind}

    def add_listing(self, of: Image, referrers: Iterable[dict[str, Any]]) -> tuple[str, str]:
        """Store a list of referrers for a registry without that endpoint; return the tag that it has there, and digest.

        distribution-spec 1.1, "Referrers Tag Schema".
        """
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(referrers)}
        return of.digest.replace(":", "-"), self.add_blob(json.dumps(index).encode(), OCI_INDEX)["digest"]

    def _descriptor(self, digest: str) -> dict[str, Any]:
        body = (self.path / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()
        return {"mediaType": json.loads(body)["mediaType"], "digest": digest, "size": len(body)}

    def _name(self, tag: str | None, descriptor: dict[str, Any]) -> None:
        if tag is not None:
            self._entries.append({**descriptor, "annotations": {"org.opencontainers.image.ref.name": tag}})
        index = {"schemaVersion": 2, "manifests": self._entries}
        (self.path / "index.json").write_text(json.dumps(index))


@dataclass(frozen=True)
class Images:
    """All that the real clients pull, in one layout."""

    path: Path
    debian: Image
    two: Image  # an index of two platforms and an attestation
    forty: Image  # 40 layers
    app: Image  # of another registry
    signed: Image
    secret: Image  # lies in a repository that wants a password
    signature: Image


def build(path: Path) -> Images:
    """Build everything but the huge image into a layout at `path`."""
    layout = Layout(path)
    debian_base = layout.add_layer(debian_layer())
    note = layout.add_layer(layer_of({"etc/mirror-test": b"pulled through\n"}))
    debian = layout.add_image("debian", [debian_base, note])
    arm = layout.add_image(None, [layout.add_layer(layer_of({"etc/arch": b"arm64\n"}))], platform="linux/arm64/v8")
    amd = layout.add_image(None, [debian_base, layout.add_layer(layer_of({"etc/arch": b"amd64\n"}))])
    two = layout.add_index("two", [amd, arm], attest=True)
    forty = layout.add_image(
        "forty",
        [layout.add_layer(layer_of({f"layers/{number}": b"%d\n" % number * 1000})) for number in range(40)],
    )
    signed = layout.add_image("signed", [layout.add_layer(layer_of({"etc/signed": b"yes\n"}))])
    signature = layout.add_signature(signed[0])
    app = layout.add_image("app", [layout.add_layer(layer_of({"etc/app": b"yes\n"}))])
    secret = layout.add_image("secret", [layout.add_layer(layer_of({"etc/secret": b"yes\n"}))])
    return Images(path, debian[0], two, forty[0], app[0], signed[0], secret[0], signature)


def push(layout: Path, tag: str, host: str, target: str, *, user: str, password: str) -> None:
    """Push one tag of a layout to `host/target`, with all its platforms, digest for digest."""
    run(
        "skopeo", "copy", "--all", "--preserve-digests", "--quiet",
        "--dest-tls-verify=false", "--dest-creds", f"{user}:{password}",
        f"oci:{layout}:{tag}", f"docker://{host}/{target}",
    )  # fmt: skip
