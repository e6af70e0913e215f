"""What an image consists of, for the platforms that are wanted: manifests, blobs, signatures and other referrers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.airgap.prefetch.outcome import Missing
from mirror.airgap.prefetch.signatures import Signatures
from mirror.cache.parsing import sent
from mirror.errors import ManifestUnknown, MirrorError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirror.airgap.choice import Platforms, ReferrerTypes
    from mirror.airgap.prefetch.asking import Asking
    from mirror.airgap.prefetch.place import Place
    from mirror.oci.descriptor import Descriptor
    from mirror.oci.digest import Digest
    from mirror.oci.manifest import Manifest
    from mirror.oci.name import Reference, Repository, Tag

MOST_MISSING = 100  # parts that are named
ATTESTED = "vnd.docker.reference.digest"  # what an attestation in an index is about (BuildKit, attestation storage)
_DEEPEST = 4  # indexes within indexes; nobody publishes more than two
_MOST = 2000  # manifests of one image, its referrers among them
_AT_ONCE = 4  # of one image
_LEVELS = 2  # what refers to the image, and what refers to that: the signature of an attestation


@dataclass(frozen=True, slots=True)
class Part:
    """One manifest or blob. `of` says for a person what needs it: `linux/arm64`."""

    digest: Digest
    size: int | None  # bytes, where it is known
    of: str


@dataclass(slots=True)
class Anatomy:
    """What is known of an image; it grows while it is looked into."""

    repository: Repository
    digest: Digest | None = None
    media_type: str = ""
    platforms: list[str] = field(default_factory=list)
    manifests: dict[Digest, Part] = field(default_factory=dict)
    here: set[Digest] = field(default_factory=set)  # manifests that were here before
    blobs: dict[Digest, Part] = field(default_factory=dict)
    subjects: list[Part] = field(default_factory=list)  # of which it is asked what refers to them
    tags: dict[Tag, Digest] = field(default_factory=dict)  # of signatures
    referrers: int = 0
    counted: int = 0  # requests
    missing: list[Missing] = field(default_factory=list)
    lacking: int = 0

    def lacks(self, missing: Missing) -> None:
        """Note a part that cannot be had."""
        self.lacking += 1
        if len(self.missing) < MOST_MISSING:
            self.missing.append(missing)

    def lacks_part(self, kind: str, part: Part, error: MirrorError) -> None:
        """Note that a manifest or blob cannot be had."""
        size = "" if part.size is None else f" ({part.size} bytes)"
        self.lacks(Missing(f"the {kind} {part.digest}{size} of {part.of}", str(error), part.digest, part.size))

    @property
    def parts(self) -> Iterable[Part]:
        """All of it."""
        return (*self.manifests.values(), *self.blobs.values())


class Dissection:
    """Looks into one image. What it fetches are manifests alone."""

    def __init__(
        self, asking: Asking, place: Place, repository: Repository, platforms: Platforms, referrers: ReferrerTypes
    ) -> None:
        self._asking = asking
        self._place = place
        self._platforms = platforms
        self._types = referrers
        self._some = asyncio.Semaphore(_AT_ONCE)
        self.anatomy = Anatomy(repository)

    async def run(self, reference: Reference) -> Anatomy:
        """Look into the image; raise `MirrorError` where not even its own manifest can be had, or nothing is wanted.

        All else that cannot be had is `missing`.
        """
        found = self.anatomy
        digest, manifest = await self._manifest(reference, str(found.repository))
        found.digest, found.media_type = digest, manifest.media_type
        found.subjects.append(Part(digest, None, "the image"))
        await self._below(digest, manifest, "the image", depth=0)
        if not self._types.none:
            await self._refer()
        return found

    # --- manifests -------------------------------------------------------------------------------------------------

    async def _manifest(self, reference: Reference, of: str) -> tuple[Digest, Manifest]:
        """Have a manifest, and note it."""
        found = self.anatomy
        answer, counted = await self._asking.manifest(self._place, found.repository, reference)
        manifest = await sent(answer.body, answer.media_type, found.repository)
        found.manifests[answer.digest] = Part(answer.digest, len(answer.body), of)
        found.counted += counted
        if answer.outcome.hit:
            found.here.add(answer.digest)
        return answer.digest, manifest

    async def _below(self, digest: Digest, manifest: Manifest, of: str, *, depth: int) -> None:
        """Note what a manifest names."""
        if not manifest.is_index:
            for blob in manifest.blobs:
                self.anatomy.blobs.setdefault(blob.digest, Part(blob.digest, blob.size, of))
            return
        if depth >= _DEEPEST:
            text = "it lists indexes within indexes without end"
            self.anatomy.lacks(Missing(f"the index {digest} of {of}", text, digest))
            return
        chosen = self._chosen(manifest, of=of if depth else None)
        async with asyncio.TaskGroup() as group:
            for child, name in chosen:
                group.create_task(self._child(child, name, depth=depth + 1))

    def _chosen(self, index: Manifest, *, of: str | None) -> list[tuple[Descriptor, str]]:
        """Return the children that are wanted, and what each is; `of` is what the index is, None: the image itself."""
        here = [child for child in index.manifests if not child.foreign]
        images = [
            child
            for child in here
            if ATTESTED not in child.annotations and (not child.platform or child.platform.known)
        ]
        wanted = [child for child in images if self._platforms.wants(child.platform)]
        if images and not wanted:
            has = ", ".join(dict.fromkeys(str(child.platform) for child in images))
            raise ManifestUnknown(f"it has no image for {self._platforms}; it has {has}")
        digests = {str(child.digest) for child in wanted}
        others = [
            child
            for child in here
            if child not in images and (self._platforms.chosen is None or child.annotations.get(ATTESTED) in digests)
        ]
        named = [(child, str(child.platform) if child.platform else of or "the image") for child in wanted]
        if of is None:
            self.anatomy.platforms += dict.fromkeys(str(child.platform) for child in wanted if child.platform)
            self.anatomy.subjects += [Part(child.digest, None, name) for child, name in named]
        return named + [(child, "an attestation") for child in others]

    async def _child(self, child: Descriptor, of: str, *, depth: int) -> None:
        found = self.anatomy
        if child.digest in found.manifests:
            return
        if len(found.manifests) >= _MOST:
            text = f"an image of more than {_MOST} manifests is taken to be a trap"
            found.lacks(Missing(f"the manifest {child.digest} of {of}", text, child.digest, child.size))
            return
        try:
            async with self._some:
                digest, manifest = await self._manifest(child.digest, of)
            await self._below(digest, manifest, of, depth=depth)
        except MirrorError as error:
            found.lacks_part("manifest", Part(child.digest, child.size, of), error)

    # --- what refers to it -----------------------------------------------------------------------------------------

    async def _refer(self) -> None:
        """Note what refers to the image and its children, and what refers to that."""
        found = self.anatomy
        signatures = Signatures(self._asking, self._place, found, self._types)
        subjects = list(found.subjects)
        for _ in range(_LEVELS):
            known = set(found.manifests)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._of(signatures, subject)) for subject in subjects]
            new = {one.digest: one for task in tasks for one in task.result() if one.digest not in known}
            async with asyncio.TaskGroup() as group:
                for one in new.values():
                    group.create_task(self._child(one, _kind(one), depth=1))
            found.referrers += sum(digest in found.manifests for digest in new)
            subjects = [Part(digest, None, _kind(one)) for digest, one in new.items() if digest in found.manifests]

    async def _of(self, signatures: Signatures, subject: Part) -> list[Descriptor]:
        async with self._some:
            return await signatures.of(subject, self._manifest)


def _kind(referrer: Descriptor) -> str:
    return f"the referrer {referrer.artifact_type}" if referrer.artifact_type else "a referrer"
