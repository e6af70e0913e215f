"""Bundles made by hand: right ones, and every kind of wrong one. The program's own writer has its own tests."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mirror.airgap.bundle.manifest import BundledImage, BundleManifest, Content

if TYPE_CHECKING:
    from pathlib import Path

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
SIGNATURE = "application/vnd.dev.cosign.artifact.sig.v1+json"

Entries = list[tuple[str, bytes]]


def digest_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def blob_path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


@dataclass
class Cargo:
    """Images, with all that they consist of."""

    images: list[BundledImage] = field(default_factory=list)
    bodies: dict[str, tuple[bytes, str]] = field(default_factory=dict)  # by digest, with media types of manifests

    def blob(self, body: bytes) -> dict[str, Any]:
        digest = digest_of(body)
        self.bodies.setdefault(digest, (body, ""))
        return {"digest": digest, "size": len(body)}

    def manifest(self, document: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(document).encode()
        digest = digest_of(body)
        self.bodies[digest] = (body, document["mediaType"])
        return {"mediaType": document["mediaType"], "digest": digest, "size": len(body)}

    def image(
        self, *layers: bytes, architecture: str = "amd64", subject: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Add an image, and return its descriptor."""
        diffs = [digest_of(layer) for layer in layers]
        config = {"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": diffs}}
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, **self.blob(json.dumps(config).encode())},
            "layers": [{"mediaType": OCI_LAYER, **self.blob(layer)} for layer in layers],
        }
        if subject is not None:
            document |= {"subject": subject, "artifactType": SIGNATURE}
        return self.manifest(document)

    def index(self, **platforms: dict[str, Any]) -> dict[str, Any]:
        """Add an index of images by architecture, and return its descriptor."""
        entries = [
            {**entry, "platform": {"os": "linux", "architecture": architecture}}
            for architecture, entry in platforms.items()
        ]
        return self.manifest({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})

    def name(self, reference: str, entry: dict[str, Any], subject: str = "") -> str:
        """Give what a descriptor describes a name, and return its digest."""
        self.images.append(BundledImage(reference, entry["digest"], entry["mediaType"], (), subject))
        digest: str = entry["digest"]
        return digest

    def manifest_of(self, without: frozenset[str] = frozenset(), parent: str | None = None) -> BundleManifest:
        """Return what `bundle.json` is to say; what the bundle before had is not carried."""
        contents = [
            Content(digest, len(body), media_type, digest not in without)
            for digest, (body, media_type) in self.bodies.items()
        ]
        return BundleManifest(tuple(sorted(self.images)), tuple(sorted(contents)), parent)

    def entries(self, without: frozenset[str] = frozenset(), parent: str | None = None) -> Entries:
        """Return the files of the bundle, in their order."""
        blobs = [(blob_path(digest), body) for digest, (body, _) in self.bodies.items() if digest not in without]
        kinds = {blob_path(digest): media_type for digest, (_, media_type) in self.bodies.items()}
        blobs.sort(key=lambda entry: (not kinds[entry[0]], entry[0]))
        return [("bundle.json", self.manifest_of(without, parent).dump()), *self.layout(), *blobs]

    def layout(self, *, names: bool = True) -> Entries:
        """Return what makes it an OCI image layout."""
        manifests = []
        for image in self.images:
            entry: dict[str, Any] = {
                "mediaType": image.media_type,
                "digest": image.digest,
                "size": len(self.bodies[image.digest][0]),
            }
            if names:
                entry["annotations"] = {"io.containerd.image.name": image.reference}
            manifests.append(entry)
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
        return [("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), ("index.json", json.dumps(index).encode())]

    def blobs(self) -> Entries:
        return [(blob_path(digest), body) for digest, (body, _) in sorted(self.bodies.items())]


def tar(entries: Entries, *members: tarfile.TarInfo, format_: int = tarfile.USTAR_FORMAT) -> bytes:
    """Return a tar archive of these files, without padding behind its end; `members` come first, without content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as archive:
        for member in members:
            archive.addfile(member)
        for name, body in entries:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return out.getvalue().rstrip(b"\0") + end_of(out.getvalue())


def end_of(archive: bytes) -> bytes:
    """Return what is left of the last block, and the two blocks of zeros that are the end."""
    return bytes(-len(archive.rstrip(b"\0")) % 512 + 1024)


def gzipped(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


def spread(entries: Entries, directory: Path) -> Path:
    """Write them as files."""
    for name, body in entries:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return directory


def small() -> Cargo:
    """Return two platforms of one image, a second image that shares a layer, and a signature."""
    cargo = Cargo()
    base = b"base layer " * 500
    index = cargo.index(
        amd64=cargo.image(base, b"amd64 " * 900), arm64=cargo.image(base, b"arm64 " * 900, architecture="arm64")
    )
    cargo.name("docker.io/library/app:1.0", index)
    other = cargo.image(base, b"other " * 300)
    cargo.name("quay.io/org/other:v2", other)
    signature = cargo.image(b"signature", subject=other)
    cargo.name(f"quay.io/org/other@{signature['digest']}", signature, subject=other["digest"])
    return cargo
