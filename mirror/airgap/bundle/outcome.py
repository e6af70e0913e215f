"""What an import did, or would do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.config.units import show_bytes
from mirror.errors import BundleRefused

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mirror.airgap.bundle.closure import Carried
    from mirror.airgap.bundle.manifest import Content
    from mirror.oci.reference import ImageReference

NEW, MOVED, UNCHANGED, LEFT_OUT = "new", "moved", "unchanged", "left out"


@dataclass(frozen=True, slots=True)
class Terms:
    """What the caller of an import wants."""

    key: Path | None = None  # a public key, or an allowed_signers file: what nobody of them signed is refused
    repository: ImageReference | None = None  # of images that the archive gives no repository
    partial: bool = False  # take what is whole, where the parent is missing
    expire: bool = False  # tags grow old as those from upstream do
    pin: bool = True
    dry: bool = False  # change nothing


@dataclass(frozen=True, slots=True)
class ImportedImage:
    """One name. `state` is one of `new`, `moved` (the tag was another image here), `unchanged` and `left out`."""

    image: Carried
    size: int  # bytes of all that it consists of, as far as it is here
    state: str
    platforms: tuple[str, ...] = ()


@dataclass(slots=True)
class Imported:
    """All that came of one bundle. Counts are of manifests and blobs, sizes in bytes."""

    label: str
    form: str = "bundle"
    identity: str | None = None
    parent: str | None = None
    signed: bool = False
    signer: str | None = None  # None where no key was asked for
    images: list[ImportedImage] = field(default_factory=list)
    brought: int = 0
    brought_size: int = 0
    here: int = 0
    here_size: int = 0
    missing: tuple[Content, ...] = ()
    room: int | None = None  # bytes that the store has left without evicting anything; only of a dry run

    def count(self, size: int, *, new: bool) -> None:
        """Count one manifest or blob."""
        if new:
            self.brought += 1
            self.brought_size += size
        else:
            self.here += 1
            self.here_size += size


class ParentMissing(BundleRefused):
    """The bundle goes on from another one, of which something is not here. `missing` is what."""

    def __init__(self, label: str, parent: str | None, missing: Sequence[Content]) -> None:
        size = sum(content.size for content in missing)
        super().__init__(
            f"{label} carries only what is new since the bundle {parent or 'before it'}, and {len(missing)} of the "
            f"contents that are due from there ({show_bytes(size)}) are not here: import that one first, or take "
            "what is whole by --partial"
        )
        self.missing = tuple(missing)
        self.parent = parent
