"""Taking in what other programs write: OCI image layouts (image-layout.md), and the archives of `docker save`.

They say at their end what they hold, if they say it in any order: so all that comes is staged, as far as the store has
room, and what no image needs is thrown away again. An image must be in the archive as a whole; what lies in the store
by chance is not taken for it.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from mirror.airgap.bundle.closure import Carried, Closure
from mirror.airgap.bundle.docker_archive import docker_images
from mirror.airgap.bundle.expected import blob_digest
from mirror.airgap.bundle.tar import shown
from mirror.errors import BundleRefused, MirrorError
from mirror.oci.manifest import Manifest, ManifestMalformed
from mirror.oci.mediatype import OCI_INDEX
from mirror.oci.name import Tag
from mirror.oci.reference import ImageReference

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mirror.airgap.bundle.bay import Bay
    from mirror.airgap.bundle.closure import Extent
    from mirror.airgap.bundle.docker_archive import DockerImage
    from mirror.airgap.bundle.flow import Arrival
    from mirror.airgap.bundle.outcome import Imported, Terms
    from mirror.airgap.bundle.reader import Entry
    from mirror.oci.descriptor import Descriptor
    from mirror.oci.digest import Digest

_LARGEST_LIST = 4 * 1024 * 1024  # bytes
_FULL_NAME = "io.containerd.image.name"  # containerd, BuildKit, Docker
_REF_NAME = "org.opencontainers.image.ref.name"  # a tag, or what Podman and skopeo make of it: a whole reference
_LISTS = ("index.json", "manifest.json", "oci-layout")
_FOLLOWED = 8  # links to links


class Foreign:
    """One archive, or directory, that no mirror wrote."""

    def __init__(self, terms: Terms, outcome: Imported) -> None:
        """Raise `BundleRefused` where a signature is asked for: there is none."""
        self._terms = terms
        self._outcome = outcome
        self._lists: dict[str, bytes] = {}
        self._files: dict[str, Arrival] = {}  # what is no blob by its name: those of `docker save` before 2023
        self._links: dict[str, str] = {}
        if terms.key is not None:
            raise BundleRefused(
                f"{outcome.label} is no bundle of a mirror (bundle.json is not its first entry), so nothing in it is "
                "signed; import it without --key if you trust where it comes from"
            )

    def receive(self, entries: Iterable[Entry], bay: Bay) -> None:
        """Take all of it in."""
        for entry in entries:
            if entry.target is not None:
                top = "" if entry.hard else posixpath.dirname(entry.name)
                self._links[entry.name] = posixpath.normpath(posixpath.join(top, entry.target))
            elif entry.name in _LISTS:
                self._lists[entry.name] = entry.read(_LARGEST_LIST)
            else:
                self._take(entry, bay)
        bay.drained()
        for arrival in self._files.values():
            bay.name(arrival)

    def images(self, bay: Bay) -> list[Carried]:
        """Return what there is, by name; raise `BundleRefused` where it has no names, or is nothing that is known."""
        tagged = docker_images(self._lists["manifest.json"], self._file) if "manifest.json" in self._lists else []
        if "index.json" in self._lists:
            self._outcome.form = "OCI image layout"
            found = list(self._laid_out(bay, tagged))
        elif tagged:
            self._outcome.form = "docker archive"
            found = [carried for image in tagged for carried in self._synthesized(image, bay)]
        else:
            raise BundleRefused(
                f"{self._outcome.label} is nothing that can be imported: it has neither bundle.json in front, nor "
                "index.json (an OCI image layout), nor manifest.json (docker save)"
            )
        named: dict[str, Carried] = {}
        for image in found:
            if (other := named.setdefault(str(image), image)) != image:
                raise BundleRefused(f"{image} is there twice: as {other.digest} and as {image.digest}")
        return list(named.values())

    def extents(self, images: list[Carried], bay: Bay) -> tuple[dict[Digest, Extent], Closure]:
        """Return what each image consists of; what nobody needs is thrown away."""

        def size(digest: Digest) -> int | None:
            return bay.size(digest) if bay.arrived(digest) else None

        closure = Closure(bay.body, size)
        found: dict[Digest, Extent] = {}
        for image in images:
            if not bay.arrived(image.digest):
                raise BundleRefused(f"{image} is {image.digest}, which is not in {self._outcome.label}")
            found[image.digest] = closure.extent(image, bay.arrived)
        needed = {digest for extent in found.values() for digest in (*extent.manifests, *extent.blobs)}
        bay.keep_only(needed.__contains__)
        return found, closure

    # --- what comes ------------------------------------------------------------------------------------------------

    def _take(self, entry: Entry, bay: Bay) -> None:
        digest = blob_digest(entry.name)
        if digest is None or bay.hold(digest) is None:
            bay.make_room([(digest, entry.size)], f"{self._outcome.label} (at {shown(entry.name)})")
        arrival = bay.take(entry, digest)
        if digest is None:
            self._files[entry.name] = arrival

    def _file(self, path: str) -> Digest | None:
        """Return the digest of what the archive has at a path; links are followed within the archive."""
        for _ in range(_FOLLOWED):
            if path not in self._links:
                break
            path = self._links[path]
        arrival = self._files.get(path)
        return arrival.digest if arrival is not None else blob_digest(path)

    # --- what it is called -----------------------------------------------------------------------------------------

    def _laid_out(self, bay: Bay, tagged: list[DockerImage]) -> Iterator[Carried]:
        try:
            index = Manifest.parse(self._lists["index.json"], OCI_INDEX)
        except ManifestMalformed as error:
            raise BundleRefused(f"index.json of {self._outcome.label} cannot be read: {error}") from None
        for entry in index.manifests:
            names = [name for key in (_FULL_NAME, _REF_NAME) if (name := entry.annotations.get(key))]
            full = next((reference for name in names if (reference := _full(name)) is not None), None)
            if full is not None:
                yield _carried(full, entry)
                continue
            tags = self._tags_of(entry, bay, tagged)
            if tags:
                yield from (_carried(tag, entry) for tag in tags)
            else:
                yield _carried(self._told(next(iter(names[-1:]), None), entry.digest), entry)

    def _tags_of(self, entry: Descriptor, bay: Bay, tagged: list[DockerImage]) -> list[ImageReference]:
        """Return what manifest.json calls the image of an entry that index.json gives no name."""
        body = bay.body(entry.digest)
        for image in tagged:
            if body is not None and str(image.config).encode() in body:
                return [reference for tag in image.tags if (reference := _full(tag)) is not None]
        return []

    def _synthesized(self, image: DockerImage, bay: Bay) -> Iterator[Carried]:
        digest, media_type = image.manifest(bay)
        names = [reference for tag in image.tags if (reference := _full(tag)) is not None]
        for name in names or [self._told(None, digest)]:
            yield Carried(name.repository, name.tag, digest, media_type)

    def _told(self, tag: str | None, digest: Digest) -> ImageReference:
        """Return the name of what has none but a tag, or none at all: the one that the caller has given."""
        given = self._terms.repository
        if given is None:
            raise BundleRefused(
                f"{self._outcome.label} does not say of which repository {tag or digest} is; name it, as "
                "--repository quay.io/org/app"
            )
        if tag is not None:
            try:
                return ImageReference(given.repository, Tag.parse(tag), None)
            except MirrorError as error:
                raise BundleRefused(f"index.json of {self._outcome.label} has a name that is none: {error}") from None
        return ImageReference(given.repository, given.tag, None if given.tag is not None else digest)


def _carried(name: ImageReference, entry: Descriptor) -> Carried:
    return Carried(name.repository, name.tag, entry.digest, entry.media_type)


def _full(name: str) -> ImageReference | None:
    """Read a whole reference; None where it is a tag alone, or nothing that a registry could have."""
    if "/" not in name and ":" not in name:
        return None
    try:
        return ImageReference.parse(name)
    except MirrorError:
        return None
