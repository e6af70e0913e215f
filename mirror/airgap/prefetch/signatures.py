"""What refers to a manifest: as upstream lists it, or by the tags that cosign and older tools give it.

Distribution specification, "Listing Referrers" and "Unavailable Referrers API"; cosign's `sha256-HEX.sig`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.airgap.prefetch.outcome import Missing
from mirror.errors import MirrorError, UpstreamNotFound
from mirror.oci.descriptor import Descriptor
from mirror.oci.mediatype import OCI_MANIFEST
from mirror.oci.name import Tag

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirror.airgap.choice import ReferrerTypes
    from mirror.airgap.prefetch.anatomy import Anatomy, Part
    from mirror.airgap.prefetch.asking import Asking
    from mirror.airgap.prefetch.place import Place
    from mirror.oci.digest import Digest
    from mirror.oci.manifest import Manifest
    from mirror.oci.name import Reference

    Have = Callable[[Reference, str], Awaitable[tuple[Digest, Manifest]]]

_HEX = 64  # digits of a digest that stand in a tag; longer ones are cut off there

# What a tag's suffix stands for, in the media types that a person may name (cosign's specifications).
SUFFIXES = {
    "sig": frozenset(
        {"application/vnd.dev.cosign.simplesigning.v1+json", "application/vnd.dev.cosign.artifact.sig.v1+json"}
    ),
    "att": frozenset({"application/vnd.dsse.envelope.v1+json", "application/vnd.in-toto+json"}),
    "sbom": frozenset({"text/spdx", "text/spdx+json", "application/spdx+json", "application/vnd.cyclonedx+json"}),
}


class Signatures:
    """Finds what refers to the parts of one image. What cannot be found out is `missing`: it may be a signature."""

    def __init__(self, asking: Asking, place: Place, anatomy: Anatomy, types: ReferrerTypes) -> None:
        self._asking = asking
        self._place = place
        self._anatomy = anatomy
        self._types = types

    async def of(self, subject: Part, have: Have) -> list[Descriptor]:
        """Return what refers to `subject`; `have` fetches a manifest and notes it."""
        found: list[Descriptor] = []
        try:
            found += await self._listed(subject, have)
            for suffix, types in SUFFIXES.items():
                if self._types.chosen is None or self._types.chosen & types:
                    found += await self._suffixed(subject, suffix)
        except MirrorError as error:
            what = f"what refers to {subject.of} ({subject.digest})"
            self._anatomy.lacks(Missing(what, str(error), subject.digest))
        return found

    async def _listed(self, subject: Part, have: Have) -> list[Descriptor]:
        try:
            listed = await self._asking.referrers(self._place, self._anatomy.repository, subject.digest)
        except UpstreamNotFound:  # this registry has no such lists; a tag may have one
            listed = await self._by_tag(subject, have)
        return [one for one in listed if self._types.wants(one.artifact_type)]

    async def _by_tag(self, subject: Part, have: Have) -> tuple[Descriptor, ...]:
        tag = Tag(_prefix(subject.digest))
        named = await self._tagged(tag)
        if named is None:
            return ()
        digest, manifest = await have(named, "the list of referrers")
        self._anatomy.tags[tag] = digest
        return manifest.manifests

    async def _suffixed(self, subject: Part, suffix: str) -> list[Descriptor]:
        tag = Tag(f"{_prefix(subject.digest)}.{suffix}")
        named = await self._tagged(tag)
        if named is None:
            return []
        self._anatomy.tags[tag] = named
        return [Descriptor(OCI_MANIFEST, named, None)]

    async def _tagged(self, tag: Tag) -> Digest | None:
        """Return what a tag is, or None where there is none."""
        repository = self._anatomy.repository
        listed = await self._asking.listed(self._place, repository)
        if listed is not None and tag.name not in listed:
            return None
        try:
            digest = await self._asking.said(self._place, repository, tag)
            if digest is None:
                answer, counted = await self._asking.manifest(self._place, repository, tag)
                self._anatomy.counted += counted
                digest = answer.digest
        except UpstreamNotFound:
            return None
        return digest


def _prefix(digest: Digest) -> str:
    return f"{digest.algorithm}-{digest.hex[:_HEX]}"
