"""The files of a bundle beside `bundle.json`: an OCI image layout, a `docker load` archive and names for containerd.

OCI image specification, image-layout.md; moby, image/spec/v1.2.md, "Combined Image JSON + Filesystem Changeset Format"
(`manifest.json`); containerd, images/annotations.go.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mirror.oci.mediatype import OCI_INDEX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.airgap.bundle.constituents import Runnable
    from mirror.airgap.bundle.manifest import BundleManifest

LAYOUT = "oci-layout"
INDEX = "index.json"
DOCKER = "manifest.json"
FILES = (LAYOUT, INDEX, DOCKER)

_CONTAINERD_NAME = "io.containerd.image.name"
_REFERENCE_NAME = "org.opencontainers.image.ref.name"


def path_of(digest: str) -> str:
    """Return where content lies: `blobs/ALGORITHM/HEX`."""
    return f"blobs/{digest.replace(':', '/')}"


def layout_files(manifest: BundleManifest, runnable: Mapping[str, Runnable]) -> list[tuple[str, bytes]]:
    """Return the names of these files and what is in them, in their order.

    `runnable` has what `docker load` is to make of a reference. There is no `manifest.json` where it would name
    nothing that is carried: then `docker load` says so, and does not load nothing without a word.
    """
    files = [(LAYOUT, document({"imageLayoutVersion": "1.0.0"})), (INDEX, document(_index(manifest)))]
    images = _docker(manifest, runnable)
    return [*files, (DOCKER, document(images))] if images else files


def _index(manifest: BundleManifest) -> dict[str, Any]:
    """Return an index with an entry for each name; the same descriptor may be there twice (image-layout.md).

    What is no container's image has no name there, unless there is nothing else: `ctr images import` unpacks all that
    has one, and fails over a signature or a chart (seen: 1.6.20). It is there without one, for tools that follow
    `subject`.
    """
    sizes = {content.digest: content.size for content in manifest.contents}
    only_artifacts = not any(image.platforms for image in manifest.images)
    entries: list[dict[str, Any]] = []
    unnamed: set[str] = set()
    for image in manifest.images:
        entry: dict[str, Any] = {"mediaType": image.media_type, "digest": image.digest, "size": sizes[image.digest]}
        if only_artifacts or (image.platforms and not image.subject):
            entry["annotations"] = {_CONTAINERD_NAME: image.reference, _REFERENCE_NAME: image.reference}
        elif image.digest in unnamed:
            continue
        else:
            unnamed.add(image.digest)
        entries.append(entry)
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}


def _docker(manifest: BundleManifest, runnable: Mapping[str, Runnable]) -> list[dict[str, Any]]:
    """Return the images that `docker load` takes, those of which all is carried, with all names of each."""
    carried = {content.digest for content in manifest.carried}
    named: dict[Runnable, list[str]] = {}
    for reference, image in sorted(runnable.items()):
        if {str(image.config), *map(str, image.layers)} <= carried:
            tags = named.setdefault(image, [])
            if "@" not in reference:
                tags.append(reference)
    return [
        {
            "Config": path_of(str(image.config)),
            "RepoTags": tags or None,
            "Layers": [path_of(str(layer)) for layer in image.layers],
        }
        for image, tags in named.items()
    ]


def document(value: object) -> bytes:
    """Write it, the same bytes for the same content."""
    return json.dumps(value, separators=(",", ":")).encode()
