"""The images that are asked for, with what refers to them, gathered from the store into what a bundle holds."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mirror.airgap.bundle.asking import Missing
from mirror.airgap.bundle.constituents import Constituents, Following, Runnable, wants
from mirror.airgap.bundle.holding import Holding, Lacking
from mirror.airgap.bundle.manifest import BundledImage, BundleManifest, Content
from mirror.airgap.choice import Platforms, ReferrerTypes
from mirror.errors import DigestInvalid
from mirror.oci.digest import Digest
from mirror.store.referring import Referring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mirror.airgap.bundle.asking import Asked
    from mirror.oci.name import Repository
    from mirror.store.store import Store

_DEEPEST = 3  # a signature of an attestation of an image
_PAGE = 100  # tags of one subject read at once


@dataclass(frozen=True, slots=True)
class Choice:
    """What of an image is asked for; None: whatever of it is here."""

    platforms: Platforms | None = None
    referrers: ReferrerTypes | None = None
    rewrite: bool = False  # indexes list only what is taken


@dataclass(slots=True)
class Gathered:
    """What a bundle is to hold. `close` lets go of what the store keeps for it."""

    holding: Holding
    images: dict[str, BundledImage] = field(default_factory=dict)  # by reference
    manifests: dict[Digest, tuple[str, int]] = field(default_factory=dict)  # media type, bytes
    blobs: dict[Digest, int] = field(default_factory=dict)  # bytes
    bodies: dict[Digest, bytes] = field(default_factory=dict)  # of manifests that the store has not
    runnable: dict[str, Runnable] = field(default_factory=dict)  # for `docker load`, by reference
    missing: list[Missing] = field(default_factory=list)  # asked for, and not wholly here
    left_out: list[str] = field(default_factory=list)  # sentences: what a person should know
    rewritten: bool = False

    def manifest(self, parent: BundleManifest | None = None) -> BundleManifest:
        """Return what the bundle says of itself. What the parent lists is not carried again."""
        there = {content.digest for content in parent.contents} if parent is not None else frozenset[str]()
        sizes = {digest: (size, "") for digest, size in self.blobs.items()}
        sizes |= {digest: (size, kind) for digest, (kind, size) in self.manifests.items()}
        contents = (Content(str(at), size, kind, str(at) not in there) for at, (size, kind) in sizes.items())
        return BundleManifest(
            tuple(sorted(self.images.values())),
            tuple(sorted(contents)),
            parent.identity if parent is not None else None,
            self.rewritten,
        )

    def close(self) -> None:
        """Let go."""
        self.holding.close()


async def gather(
    store: Store, asked: Iterable[Asked], choice: Choice, advance: Callable[[], None] = lambda: None
) -> Gathered:
    """Gather everything; `advance` is called after each name. What is not wholly here is in `missing`, and left out.

    Raise `StoreError` where the store cannot be read.
    """
    holding = Holding(store)
    try:
        with Referring.opened(store.layout) as referring:
            gathering = _Gathering(store, holding, referring, choice)
            for one in asked:
                await gathering.take(one)
                advance()
    except BaseException:
        holding.close()
        raise
    return gathering.found


class _Gathering:
    def __init__(self, store: Store, holding: Holding, referring: Referring, choice: Choice) -> None:
        self._store = store
        self._holding = holding
        self._referring = referring
        self._choice = choice
        self.found = Gathered(holding)

    async def take(self, asked: Asked) -> None:
        """Take one name, with what refers to it."""
        platforms = Platforms(asked.platforms) if asked.platforms else self._choice.platforms
        following = Following(self._holding, platforms, rewrite=self._choice.rewrite)
        try:
            image = await following.image(asked.repository, asked.digest)
        except Lacking as error:
            self.found.missing.append(Missing(asked.reference, str(error), asked.place))
            return
        if platforms is not None and image.platforms and not any(wants(platforms, name) for name in image.platforms):
            image.left_out.append(f"it is for {', '.join(image.platforms)} alone")
        self._add(asked.repository, asked.tag, image, subject=None, platforms=platforms)
        if self._choice.referrers is None or not self._choice.referrers.none:
            await self._take_referrers(asked.repository, image, 0)

    def _add(
        self,
        repository: Repository,
        tag: str | None,
        image: Constituents,
        *,
        subject: Digest | None,
        platforms: Platforms | None = None,
    ) -> None:
        found = self.found
        reference = f"{repository}:{tag}" if tag else f"{repository}@{image.digest}"
        before = found.images.get(reference)
        if before is not None and before.digest != str(image.digest):
            found.missing.append(Missing(reference, f"it is asked for twice: as {before.digest} and as {image.digest}"))
            return
        for digest, kept in image.manifests.items():
            found.manifests.setdefault(digest, kept)
        found.blobs |= {digest: size for digest, size in image.blobs.items() if digest not in found.manifests}
        found.bodies |= image.bodies
        found.rewritten = found.rewritten or bool(image.bodies)
        if image.bodies:
            found.left_out.append(f"{reference}: its index is made anew, as {image.digest}; old digests do not name it")
        found.left_out += [f"{reference}: {sentence}" for sentence in image.left_out]
        runnable = image.chosen(platforms)
        if runnable is not None and subject is None:
            found.runnable[reference] = runnable
        found.images[reference] = BundledImage(
            reference,
            str(image.digest),
            found.manifests[image.digest][0],
            tuple(image.platforms) if before is None else tuple(dict.fromkeys((*before.platforms, *image.platforms))),
            str(subject) if subject is not None else before.subject if before is not None else "",
        )

    # --- what refers to an image -----------------------------------------------------------------------------------

    async def _take_referrers(self, repository: Repository, image: Constituents, depth: int) -> None:
        for subject in dict.fromkeys(image.subjects):
            tagged = list(self._tagged(repository, subject))
            by_tag = {digest for _, digest in tagged}
            listed = [one for one in await self._listed(repository, subject) if one[1] not in by_tag]
            for tag, digest in [*tagged, *listed]:
                reference = f"{repository}:{tag}" if tag else f"{repository}@{digest}"
                known = self.found.images.get(reference)
                if known is not None:
                    self.found.images[reference] = replace(known, subject=known.subject or str(subject))
                    self.found.runnable.pop(reference, None)
                if known is not None or digest == subject:
                    continue
                try:
                    referrer = await Following(self._holding, None).image(repository, digest)
                except Lacking as error:
                    self._note_absent(reference, subject, str(error))
                    continue
                if not self._wanted(referrer):
                    continue
                self._add(repository, tag, referrer, subject=subject)
                if depth < _DEEPEST:
                    await self._take_referrers(repository, referrer, depth + 1)

    def _wanted(self, referrer: Constituents) -> bool:
        return not referrer.types or any(map(self._wants, referrer.types))

    def _wants(self, kind: str) -> bool:
        return self._choice.referrers is None or self._choice.referrers.wants(kind)

    def _note_absent(self, reference: str, subject: Digest, reason: str) -> None:
        if self._choice.referrers is None:
            self.found.left_out.append(f"{reference}, which refers to {subject}, is not wholly here: {reason}")
        else:
            self.found.missing.append(Missing(reference, f"it refers to {subject}, and {reason}"))

    def _tagged(self, repository: Repository, subject: Digest) -> Iterator[tuple[str | None, Digest]]:
        """Yield the tags that say by their name what they refer to (cosign; the specification's fallback)."""
        start = f"{subject.algorithm}-{subject.hex}"
        after = start[:-1]
        while some := self._store.index.tags(repository, after=after, limit=_PAGE):
            for tag in some:
                after = tag
                if tag > start and not tag.startswith(start):
                    return
                said = self._store.index.tag(repository, tag)
                if said is not None and (tag == start or tag.startswith(f"{start}.")):
                    yield tag, said.digest

    async def _listed(self, repository: Repository, subject: Digest) -> list[tuple[str | None, Digest]]:
        """Return what upstream lists as referrers, and what says so itself, each once, in order."""
        found = {digest for digest in self._referring.to(subject) if self._visible(repository, digest)}
        listing = self._store.index.listing(repository, subject)
        body = await self._holding.document(listing.digest) if listing is not None else None
        if body is not None:
            found |= {digest for digest, kind in _listed_in(body) if kind is None or self._wants(kind)}
        return [(None, digest) for digest in sorted(found, key=str)]

    def _visible(self, repository: Repository, digest: Digest) -> bool:
        return self._store.index.standing(repository, digest).visible


def _listed_in(body: bytes) -> Iterator[tuple[Digest, str | None]]:
    """Yield digests and types of a list of referrers, whatever is wrong with the rest of it: upstream wrote it."""
    try:
        entries = json.loads(body)["manifests"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    for entry in entries if isinstance(entries, list) else ():
        try:
            kind = entry.get("artifactType")
            yield Digest.parse(entry["digest"]), kind if isinstance(kind, str) and kind else None
        except (DigestInvalid, KeyError, TypeError, AttributeError):
            continue
