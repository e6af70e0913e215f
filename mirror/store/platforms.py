"""The platforms of an image, as its manifests tell: which of them are here, and what they lack."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.oci.manifest import MAX_SIZE, Manifest, ManifestMalformed

if TYPE_CHECKING:
    from mirror.oci.descriptor import Descriptor
    from mirror.oci.digest import Digest
    from mirror.store.inventory import Inventory, Root
    from mirror.store.layout import Layout

_CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")


@dataclass(frozen=True, slots=True)
class HeldPlatform:
    """One platform's image: `lacking` of the `named` blobs are not here; all of them where its manifest is not."""

    name: str  # `linux/amd64`; empty where the image has none
    digest: Digest
    here: bool  # its manifest
    lacking: int
    named: int

    @property
    def whole(self) -> bool:
        """Whether it can be pulled."""
        return self.here and self.lacking == 0


@dataclass(frozen=True, slots=True)
class Shape:
    """What an image's own manifest tells."""

    platforms: tuple[HeldPlatform, ...]
    subject: Digest | None  # what it refers to
    artifact: str | None  # the type of what is no image


class Shapes:
    """Reads the manifests of images."""

    def __init__(self, layout: Layout, inventory: Inventory) -> None:
        self._layout = layout
        self._inventory = inventory

    def of(self, root: Root) -> Shape | None:
        """Return the shape of an image, or None where its manifest went meanwhile, or cannot be read."""
        body = self._read(root.digest)
        if body is None or root.media_type is None:
            return None
        try:
            manifest = Manifest.parse(body, root.media_type)
        except ManifestMalformed:
            return None
        subject = manifest.subject.digest if manifest.subject is not None else None
        if manifest.is_index:
            children = tuple(self._held(_platform_name(child), child.digest) for child in manifest.platform_children)
            return Shape(children, subject, manifest.artifact_type)
        artifact = manifest.artifact_type
        if manifest.config is not None and manifest.config.media_type not in _CONFIGS:
            artifact = artifact or manifest.config.media_type
        name = "" if artifact or manifest.config is None else self._configured(manifest.config)
        return Shape((self._held(name, root.digest),), subject, artifact)

    def _held(self, name: str, digest: Digest) -> HeldPlatform:
        here, lacking, named = self._inventory.lacking(digest)
        return HeldPlatform(name, digest, here, lacking, named)

    def _configured(self, config: Descriptor) -> str:
        """Return the platform that an image's configuration tells (image specification, config.md)."""
        body = self._read(config.digest)
        if body is None:
            return ""
        try:
            document = json.loads(body)
            words = [document.get(key) for key in ("os", "architecture", "variant")]
        except (ValueError, AttributeError, RecursionError):  # what a registry serves may be anything
            return ""
        return "/".join(word for word in words if isinstance(word, str) and word)

    def _read(self, digest: Digest) -> bytes | None:
        try:
            with self._layout.blob(digest).open("rb") as file:
                return file.read(MAX_SIZE)
        except OSError:
            return None


def _platform_name(child: Descriptor) -> str:
    return str(child.platform) if child.platform is not None else ""
