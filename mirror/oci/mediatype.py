"""Media types of manifests and content (image specification, media-types.md; Docker's manifest formats)."""

from __future__ import annotations

from typing import Final

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
# Left the specification before 1.1 was final; registries still hold what ORAS and cosign pushed by then.
OCI_ARTIFACT: Final = "application/vnd.oci.artifact.manifest.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_SCHEMA1: Final = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"
OCTET_STREAM: Final = "application/octet-stream"

INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
"""What lists manifests, usually one for each platform."""

SCHEMA1: Final = frozenset({DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED})

MANIFESTS: Final = frozenset({OCI_MANIFEST, OCI_ARTIFACT, DOCKER_MANIFEST}) | SCHEMA1
"""What describes a single image or artifact."""

ACCEPT: Final[tuple[str, ...]] = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST, OCI_ARTIFACT)
"""What upstream is asked with.

All current formats are named, since quay.io converts to schema 1 for those who name none. Schema 1 is not among them:
the digest of its signed form is not that of its bytes, so it cannot be stored under what was verified.
"""

# A foreign layer's licence forbids redistribution; it is fetched from its `urls`, by the client.
_FOREIGN: Final = (
    "application/vnd.oci.image.layer.nondistributable.",
    "application/vnd.docker.image.rootfs.foreign.",
)


def bare(content_type: str) -> str:
    """Return a `Content-Type` in lower case and without its parameters (RFC 9110 §8.3.1)."""
    return content_type.partition(";")[0].strip().lower()


def is_foreign(media_type: str) -> bool:
    """Say whether a layer of this type is not to be had from registries (layer.md, "Non-Distributable Layers")."""
    return media_type.startswith(_FOREIGN)
