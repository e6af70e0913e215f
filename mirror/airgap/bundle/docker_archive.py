"""What `docker save` writes: `manifest.json` names configs and layers by their paths in the archive.

Layers are mostly not packed there, so no registry has the image in this form, and it gets a manifest here: always the
same one for the same content.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirror.airgap.bundle.tar import shown
from mirror.errors import BundleRefused
from mirror.oci.digest import Digest
from mirror.oci.mediatype import DOCKER_MANIFEST, OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.airgap.bundle.bay import Bay

_MOST = 10_000  # images of one archive, layers of one image
_CONFIG = "application/vnd.docker.container.image.v1+json"
_PLAIN = "application/vnd.docker.image.rootfs.diff.tar"
_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, slots=True)
class DockerImage:
    """One image of manifest.json; `tags` as written there."""

    tags: tuple[str, ...]
    config: Digest
    layers: tuple[Digest, ...]

    def manifest(self, bay: Bay) -> tuple[Digest, str]:
        """Make its manifest, and take it in; return digest and media type. Raise `BundleRefused`."""
        diffs = _diffs(bay.body(self.config), self.config)
        if len(diffs) != len(self.layers):
            raise BundleRefused(
                f"manifest.json has {len(self.layers)} layers for the image {self.config}, which has {len(diffs)}"
            )
        packed = [_packed(bay, layer) for layer in self.layers]
        for layer, kind, diff in zip(self.layers, packed, diffs, strict=True):
            if kind is None and str(layer) != diff:
                raise BundleRefused(f"the layer {layer} is not the one that the image {self.config} names: {diff}")
        oci = "zstd" in packed  # which Docker's own formats have no type for
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST if oci else DOCKER_MANIFEST,
            "config": _descriptor(_OCI_CONFIG if oci else _CONFIG, self.config, bay),
            "layers": [
                _descriptor(_layer_type(kind, oci=oci), layer, bay)
                for layer, kind in zip(self.layers, packed, strict=True)
            ],
        }
        body = json.dumps(document, separators=(",", ":")).encode()
        digest = Digest.of(body)
        bay.add(digest, body)
        return digest, str(document["mediaType"])


def docker_images(body: bytes, file: Callable[[str], Digest | None]) -> list[DockerImage]:
    """Read manifest.json; `file` returns the digest of what the archive has at a path. Raise `BundleRefused`."""
    try:
        document = json.loads(body)
        found = [
            (
                tuple(map(_text, entry.get("RepoTags") or ())),
                _text(entry["Config"]),
                [*map(_text, entry["Layers"] or ())],
            )
            for entry in document
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise BundleRefused("manifest.json is not what docker save writes") from None
    if len(found) > _MOST or any(len(layers) > _MOST for _, _, layers in found):
        raise BundleRefused(f"manifest.json has more than {_MOST} images, or more than {_MOST} layers in one")
    return [
        DockerImage(tags, _there(config, file), tuple(_there(layer, file) for layer in layers))
        for tags, config, layers in found
    ]


def _there(path: str, file: Callable[[str], Digest | None]) -> Digest:
    digest = file(path)
    if digest is None:
        raise BundleRefused(f"manifest.json names {shown(path)}, which is not in the archive")
    return digest


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _diffs(body: bytes | None, config: Digest) -> list[str]:
    try:
        diffs = json.loads(body or b"")["rootfs"]["diff_ids"]
        return [_text(diff) for diff in diffs or ()]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BundleRefused(f"the config {config} cannot be read as that of an image") from None


def _packed(bay: Bay, layer: Digest) -> str | None:
    head = bay.head(layer, 4) or b""
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


def _layer_type(kind: str | None, *, oci: bool) -> str:
    if oci:
        return _OCI_LAYER if kind is None else f"{_OCI_LAYER}+{kind}"
    return _PLAIN if kind is None else _GZIP


def _descriptor(media_type: str, digest: Digest, bay: Bay) -> dict[str, Any]:
    return {"mediaType": media_type, "size": bay.size(digest), "digest": str(digest)}
