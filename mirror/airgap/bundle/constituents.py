"""What one image consists of: the manifests, blobs and platforms that are taken, of those that it lists."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.airgap.bundle.holding import Lacking
from mirror.airgap.choice import Platforms
from mirror.oci.digest import Digest
from mirror.oci.mediatype import DOCKER_MANIFEST, OCI_MANIFEST
from mirror.oci.platform import Platform

if TYPE_CHECKING:
    from mirror.airgap.bundle.holding import Holding
    from mirror.oci.descriptor import Descriptor
    from mirror.oci.manifest import Manifest
    from mirror.oci.name import Repository

_CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_LAYERS = ("application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar")
_ATTESTED = "vnd.docker.reference.digest"  # the annotation by which BuildKit says what an attestation is of
_FIRST = "linux/amd64"  # what `docker load` gets of several, where nobody says which
_DEEPEST = 4  # indexes within indexes
_LONGEST = 255  # characters of a platform's name


@dataclass(frozen=True, slots=True)
class Runnable:
    """An image as `docker load` takes it: a configuration, and layers in their order."""

    config: Digest
    layers: tuple[Digest, ...]


@dataclass(slots=True)
class Constituents:
    """An image, as it is taken. Sizes are in bytes."""

    digest: Digest
    media_type: str
    manifests: dict[Digest, tuple[str, int]] = field(default_factory=dict)  # media type, size
    blobs: dict[Digest, int] = field(default_factory=dict)
    bodies: dict[Digest, bytes] = field(default_factory=dict)  # of manifests that are made here: the store has none
    runnable: dict[str, Runnable] = field(default_factory=dict)  # by platform, in the order of the index
    platforms: list[str] = field(default_factory=list)
    subjects: list[Digest] = field(default_factory=list)  # what others may refer to: itself, and its images
    types: set[str] = field(default_factory=set)  # what it is, if it is an artifact
    left_out: list[str] = field(default_factory=list)  # sentences

    def add(self, other: Constituents) -> None:
        """Take in all of a child."""
        self.manifests |= other.manifests
        self.blobs |= other.blobs
        self.bodies |= other.bodies
        self.subjects += other.subjects
        self.left_out += other.left_out

    def chosen(self, platforms: Platforms | None) -> Runnable | None:
        """Return the one for `docker load`, which takes one: of the platform named first, or the usual one."""
        named = platforms.chosen if platforms is not None else None
        for wish in named or (Platform.parse(_FIRST),):
            for name, image in self.runnable.items():
                if wants(Platforms((wish,)), name):
                    return image
        return next(iter(self.runnable.values()), None)


class Following:
    """Follows manifests to what they need.

    `platforms` None takes those that are wholly here; else each that is chosen, and listed, has to be. By `rewrite` an
    index is made anew where it lists more than what is taken.
    """

    def __init__(self, holding: Holding, platforms: Platforms | None, *, rewrite: bool = False) -> None:
        self._holding = holding
        self._platforms = platforms
        self._rewrite = rewrite
        self._known: dict[Digest, Constituents | Lacking] = {}

    async def image(self, repository: Repository, digest: Digest) -> Constituents:
        """Return what an image needs; raise `Lacking` where something of it is not here."""
        self._known.clear()
        return await self._tree(repository, digest, 0)

    async def _tree(self, repository: Repository, digest: Digest, depth: int) -> Constituents:
        # An index may list another one many times, and that another one: each is looked into once.
        known = self._known.get(digest)
        if known is None:
            try:
                known = await self._follow(repository, digest, depth)
            except Lacking as error:
                known = error
            self._known[digest] = known
        if isinstance(known, Lacking):
            raise known
        return known

    async def _follow(self, repository: Repository, digest: Digest, depth: int) -> Constituents:
        manifest, body = await self._holding.manifest(repository, digest, hold=depth == 0)
        found = Constituents(digest, manifest.media_type, subjects=[digest])
        found.manifests[digest] = manifest.media_type, len(body)
        if not manifest.is_index:
            await self._single(repository, manifest, found)
            return found
        if depth > _DEEPEST:
            raise Lacking(f"it has indexes within indexes, more than {_DEEPEST} deep")
        taken = await self._images(repository, manifest, found, depth)
        await self._attestations(repository, manifest, found, depth, taken)
        if self._rewrite and taken != {child.digest: child.digest for child in manifest.children}:
            return _rewritten(found, body, taken)
        return found

    async def _single(self, repository: Repository, manifest: Manifest, found: Constituents) -> None:
        blobs = manifest.blobs
        sizes = {blob.digest: self._holding.size(repository, blob.digest) for blob in blobs}
        lacking = [digest for digest, size in sizes.items() if size is None]
        if lacking:
            raise Lacking(f"{len(lacking)} of its {len(blobs)} blobs are not here, {lacking[0]} among them")
        found.blobs = {digest: size for digest, size in sizes.items() if size is not None}
        found.types = {
            kind for kind in (manifest.referrer_type, *(layer.media_type for layer in manifest.layers)) if kind
        }
        if manifest.config is None or manifest.config.media_type not in _CONFIGS or manifest.artifact_type:
            return
        platform, diff_ids = _configured(await self._holding.document(manifest.config.digest))
        if platform:
            found.platforms = [platform]
        layers = manifest.layers
        plain = all(layer.media_type.startswith(_LAYERS) and not layer.foreign for layer in layers)
        if plain and len(layers) == diff_ids and manifest.media_type in (OCI_MANIFEST, DOCKER_MANIFEST):
            found.runnable[platform] = Runnable(manifest.config.digest, tuple(layer.digest for layer in layers))

    async def _images(
        self, repository: Repository, index: Manifest, found: Constituents, depth: int
    ) -> dict[Digest, Digest]:
        """Take the images of an index that are wanted; return their digests as they are listed, and as they are now."""
        taken: dict[Digest, Digest] = {}
        listed = [child for child in index.platform_children if _ATTESTED not in child.annotations]
        for child in listed:
            if child.digest in taken or (self._platforms is not None and not self._platforms.wants(child.platform)):
                continue
            name = _shown(str(child.platform)) if child.platform is not None else ""
            try:
                image = await self._tree(repository, child.digest, depth + 1)
            except Lacking as error:
                if self._platforms is not None:
                    raise Lacking(f"{name}: {error}" if name else str(error)) from None
                if self._holding.size(repository, child.digest) is not None:
                    found.left_out.append(f"{name or child.digest} is only partly here: {error}")
                continue
            found.add(image)
            taken[child.digest] = image.digest
            names = [name] if name else image.platforms
            found.platforms += [one for one in names if one not in found.platforms]
            for platform, runnable in image.runnable.items():
                found.runnable.setdefault(name or platform, runnable)
        if listed and not taken:
            offered = ", ".join(_shown(str(child.platform)) for child in listed if child.platform is not None)
            raise Lacking(
                "none of its platforms is wholly here"
                if self._platforms is None
                else f"there is no image of it for {self._platforms}, but for {offered or 'no platform'}"
            )
        self._note_absent(listed, found)
        return taken

    async def _attestations(
        self, repository: Repository, index: Manifest, found: Constituents, depth: int, taken: dict[Digest, Digest]
    ) -> None:
        """Take what attests the images that are taken, and is here: clients never need it to pull."""
        images = {str(digest) for digest in taken}
        for child in index.manifests:
            if child.digest in taken or (_ATTESTED not in child.annotations and child in index.platform_children):
                continue
            if child.annotations.get(_ATTESTED, next(iter(images), None)) not in images:
                continue
            try:
                attestation = await self._tree(repository, child.digest, depth + 1)
            except Lacking as error:
                if self._holding.size(repository, child.digest) is not None:
                    found.left_out.append(f"an attestation is only partly here: {error}")
                continue
            found.add(attestation)
            taken[child.digest] = attestation.digest

    def _note_absent(self, listed: list[Descriptor], found: Constituents) -> None:
        """Say which platforms are chosen and not offered by an image that offers others."""
        for wish in (self._platforms.chosen or ()) if self._platforms is not None else ():
            if not any(child.platform is None or Platforms((wish,)).wants(child.platform) for child in listed):
                found.left_out.append(f"there is no image of it for {wish}")


def wants(platforms: Platforms, name: str) -> bool:
    """Say whether a platform is wanted by its name, which may be of anything."""
    words = name.split("/", 2)
    return len(words) > 1 and platforms.wants(Platform(*words))


def _rewritten(found: Constituents, body: bytes, taken: dict[Digest, Digest]) -> Constituents:
    """Return an index that lists what is taken, and nothing else. It is not what upstream signed."""
    document = json.loads(body)
    listed = []
    for entry in document["manifests"]:
        now = taken.get(Digest.parse(entry["digest"]))
        if now is not None:
            listed.append(entry | {"digest": str(now), "size": found.manifests[now][1]})
    document["manifests"] = listed
    new = json.dumps(document, separators=(",", ":")).encode()
    old, found.digest = found.digest, Digest.of(new)
    del found.manifests[old]
    found.manifests[found.digest] = found.media_type, len(new)
    found.bodies[found.digest] = new
    found.subjects.remove(old)  # what refers to the old one says nothing of this one
    return found


def _configured(body: bytes | None) -> tuple[str, int]:
    """Return the platform that a configuration tells, and of how many layers (image specification, config.md)."""
    try:
        document = json.loads(body or b"")
        words = [document.get(key) for key in ("os", "architecture", "variant")]
        diff_ids = document["rootfs"]["diff_ids"]
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):  # what a registry serves may be anything
        return "", -1
    platform = "/".join(word for word in words if isinstance(word, str) and word)
    return _shown(platform), len(diff_ids) if isinstance(diff_ids, list) else -1


def _shown(platform: str) -> str:
    """Return a platform's name as a bundle's manifest takes it; empty for what is no name."""
    return platform if len(platform) <= _LONGEST and platform.isprintable() else ""
