"""The repositories of the fake upstream: what it holds, and how a test puts it there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mirror.oci.digest import Digest
from tests.fakes.content import Content, Pattern, Plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@dataclass
class Manifest:
    """A manifest as it goes out; the header says `media_type`."""

    media_type: str
    content: Plain

    @property
    def document(self) -> Any:
        """The parsed body; None where it is not JSON."""
        try:
            return json.loads(self.content.body)
        except (ValueError, RecursionError):
            return None


@dataclass
class Shelf:
    """One repository."""

    manifests: dict[str, Manifest] = field(default_factory=dict)
    blobs: dict[str, Content] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


def platform_of(text: str) -> dict[str, str]:
    """`linux/arm64/v8` as an image index writes it."""
    return dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))


class Library:
    """Content by repository. The repositories' names have no namespace: a registry does not know its own."""

    def __init__(self) -> None:
        self.shelves: dict[str, Shelf] = {}

    def shelf(self, repo: str) -> Shelf:
        """Return the repository, making it where it is not."""
        return self.shelves.setdefault(repo, Shelf())

    def add_blob(self, repo: str, body: bytes, *, algorithm: str = "sha256") -> Digest:
        """Put `body` into `repo`."""
        return self._keep(repo, Plain(body, algorithm))

    def add_pattern_blob(self, repo: str, size: int, seed: int = 0) -> Digest:
        """Put `size` bytes into `repo` that are made as they are sent."""
        return self._keep(repo, Pattern(size, seed))

    def add_false_blob(self, repo: str, digest: Digest, body: bytes) -> None:
        """Put `body` into `repo` under a digest that is not its own."""
        self.shelf(repo).blobs[str(digest)] = Plain(body)

    def _keep(self, repo: str, content: Content) -> Digest:
        self.shelf(repo).blobs[str(content.digest)] = content
        return content.digest

    def add_manifest(
        self,
        repo: str,
        body: bytes | Mapping[str, Any],
        media_type: str = OCI_MANIFEST,
        *,
        tag: str | None = None,
        digest: Digest | None = None,
        algorithm: str = "sha256",
    ) -> Digest:
        """Put a manifest into `repo`, under its own digest unless a (false) one is given."""
        content = Plain(body if isinstance(body, bytes) else json.dumps(body).encode(), algorithm)
        digest = digest or content.digest
        self.shelf(repo).manifests[str(digest)] = Manifest(media_type, content)
        if tag is not None:
            self.shelf(repo).tags[tag] = str(digest)
        return digest

    def add_image(
        self,
        repo: str,
        tag: str | None = None,
        *,
        layers: Iterable[bytes | Digest] = (b"a layer",),
        platform: str = "linux/amd64",
        docker: bool = False,
        subject: Digest | None = None,
        artifact_type: str | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> Digest:
        """Put an image into `repo`: layers (new, or there already), a config that names the platform, a manifest."""
        digests = [layer if isinstance(layer, Digest) else self.add_blob(repo, layer) for layer in layers]
        config = {
            **platform_of(platform),
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [str(digest) for digest in digests]},
        }
        body = json.dumps(config).encode()
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST if docker else OCI_MANIFEST,
            "config": {
                "mediaType": DOCKER_CONFIG if docker else OCI_CONFIG,
                "digest": str(self.add_blob(repo, body)),
                "size": len(body),
            },
            "layers": [
                {
                    "mediaType": DOCKER_LAYER if docker else OCI_LAYER,
                    "digest": str(digest),
                    "size": self.shelf(repo).blobs[str(digest)].size,
                }
                for digest in digests
            ],
        }
        if artifact_type is not None:
            manifest["artifactType"] = artifact_type
        if annotations is not None:
            manifest["annotations"] = dict(annotations)
        if subject is not None:
            manifest["subject"] = self.descriptor(repo, subject)
        return self.add_manifest(repo, manifest, manifest["mediaType"], tag=tag)

    def add_artifact(
        self, repo: str, subject: Digest | None, payload: bytes, *, artifact_type: str, tag: str | None = None
    ) -> Digest:
        """Put an artifact into `repo` that refers to `subject`: an empty config and one layer."""
        self.add_blob(repo, b"{}")
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": {"mediaType": OCI_EMPTY, "digest": str(Digest.of(b"{}")), "size": 2},
            "layers": [{"mediaType": artifact_type, "digest": str(self.add_blob(repo, payload)), "size": len(payload)}],
        }
        if subject is not None:
            manifest["subject"] = self.descriptor(repo, subject)
        return self.add_manifest(repo, manifest, tag=tag)

    def add_index(
        self,
        repo: str,
        tag: str | None = None,
        *,
        manifests: Iterable[Digest | tuple[Digest, str | None]],
        docker: bool = False,
    ) -> Digest:
        """Put an index of manifests that are in `repo`; the platform is the config's, unless one is given."""
        entries = []
        for child in manifests:
            digest, platform = child if isinstance(child, tuple) else (child, self.platform(repo, child))
            entry = self.descriptor(repo, digest)
            if platform is not None:
                entry["platform"] = platform_of(platform)
            entries.append(entry)
        media_type = DOCKER_LIST if docker else OCI_INDEX
        body = {"schemaVersion": 2, "mediaType": media_type, "manifests": entries}
        return self.add_manifest(repo, body, media_type, tag=tag)

    def descriptor(self, repo: str, digest: Digest) -> dict[str, Any]:
        """Return the descriptor of a manifest of `repo`, as an index or a subject holds it."""
        manifest = self.shelf(repo).manifests[str(digest)]
        return {"mediaType": manifest.media_type, "digest": str(digest), "size": manifest.content.size}

    def platform(self, repo: str, digest: Digest) -> str | None:
        """Return the platform that the config of an image says."""
        document = self.shelf(repo).manifests[str(digest)].document
        config = self.shelf(repo).blobs.get(document.get("config", {}).get("digest", ""))
        if config is None:
            return None
        said = json.loads(config.read(0, config.size))
        return "/".join(said[key] for key in ("os", "architecture", "variant") if key in said) or None

    def blobs_of(self, repo: str, digest: Digest) -> list[Digest]:
        """Return config and layers of an image, or of all images of an index, each once."""
        document = self.shelf(repo).manifests[str(digest)].document
        found: dict[Digest, None] = {}
        for child in document.get("manifests", ()):
            found.update(dict.fromkeys(self.blobs_of(repo, Digest.parse(child["digest"]))))
        for entry in (document.get("config"), *document.get("layers", ())):
            if entry is not None:
                found[Digest.parse(entry["digest"])] = None
        return list(found)

    def manifest(self, repo: str, reference: str) -> Manifest | None:
        """Return what a tag or digest names."""
        shelf = self.shelves.get(repo, Shelf())
        return shelf.manifests.get(shelf.tags.get(reference, reference))

    def content(self, repo: str, digest: Digest) -> bytes:
        """Return a whole blob."""
        content = self.shelf(repo).blobs[str(digest)]
        pieces = []
        offset = 0
        while offset < content.size:
            pieces.append(content.read(offset, content.size))
            offset += len(pieces[-1])
        return b"".join(pieces)

    def retag(self, repo: str, tag: str, digest: Digest) -> None:
        """Let a tag name another manifest."""
        self.shelf(repo).tags[tag] = str(digest)

    def remove_tag(self, repo: str, tag: str) -> None:
        """Take a tag away."""
        del self.shelf(repo).tags[tag]

    def remove_blob(self, repo: str, digest: Digest) -> None:
        """Take a blob away."""
        del self.shelf(repo).blobs[str(digest)]

    def remove_manifest(self, repo: str, digest: Digest) -> None:
        """Take a manifest and its tags away."""
        shelf = self.shelf(repo)
        del shelf.manifests[str(digest)]
        shelf.tags = {tag: named for tag, named in shelf.tags.items() if named != str(digest)}

    def referrers(self, repo: str, digest: str) -> list[dict[str, Any]]:
        """Return the descriptors of what has `digest` as its subject."""
        found = []
        for own, manifest in self.shelves.get(repo, Shelf()).manifests.items():
            document = manifest.document
            if not isinstance(document, dict) or (document.get("subject") or {}).get("digest") != digest:
                continue
            entry = self.descriptor(repo, Digest.parse(own))
            kind = document.get("artifactType") or (document.get("config") or {}).get("mediaType")
            if kind is not None:
                entry["artifactType"] = kind
            if "annotations" in document:
                entry["annotations"] = document["annotations"]
            found.append(entry)
        return found
