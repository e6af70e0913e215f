"""What one bundle has beyond another, by what both say of themselves: their manifests are enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirror.airgap.bundle.manifest import BundledImage, BundleManifest


@dataclass(frozen=True, slots=True)
class Change:
    """One name. `before` is None where the first bundle does not have it, `after` where the second does not."""

    before: BundledImage | None
    after: BundledImage | None
    image: BundledImage  # the latter, or the former where that is None

    @property
    def kind(self) -> str:
        """`added`, `removed` or `changed`."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is different. Sizes are in bytes."""

    changes: tuple[Change, ...]  # by name
    unchanged: int  # names
    new: int  # bytes of contents that the first has not, whether the second carries them or not
    gone: int  # bytes of contents that the second has no use for
    carried: int  # bytes that the second carries
    again: int  # bytes of those that the first carries too
    absent: int  # contents that neither carries: a bundle before the first has to bring them
    continues: bool  # the second names the first as its parent


def compare(first: BundleManifest, second: BundleManifest) -> Comparison:
    """Compare two bundles."""
    before = {image.reference: image for image in first.images}
    after = {image.reference: image for image in second.images}
    changes = tuple(
        Change(before.get(name), after.get(name), after.get(name) or before[name])
        for name in sorted(before.keys() | after.keys())
        if _meaning(before.get(name)) != _meaning(after.get(name))
    )
    had = {content.digest: content for content in first.contents}
    has = {content.digest: content for content in second.contents}
    return Comparison(
        changes=changes,
        unchanged=len(after) - sum(change.after is not None for change in changes),
        new=sum(content.size for digest, content in has.items() if digest not in had),
        gone=sum(content.size for digest, content in had.items() if digest not in has),
        carried=sum(content.size for content in second.carried),
        again=sum(content.size for content in second.carried if (old := had.get(content.digest)) and old.carried),
        absent=sum(
            not content.carried and not (digest in had and had[digest].carried) for digest, content in has.items()
        ),
        continues=second.parent == first.identity,
    )


def _meaning(image: BundledImage | None) -> tuple[str, tuple[str, ...]] | None:
    return (image.digest, image.platforms) if image is not None else None
