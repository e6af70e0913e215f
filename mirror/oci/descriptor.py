"""Descriptors (image specification, descriptor.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.oci.mediatype import is_foreign

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.oci.digest import Digest
    from mirror.oci.platform import Platform


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What one piece of content says of another. It is a claim: it gives an expected size, and no right to the content.

    `size` is in bytes, None where the manifest does not say (schema 1).
    """

    media_type: str
    digest: Digest
    size: int | None
    urls: tuple[str, ...] = ()
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    artifact_type: str | None = None

    @property
    def foreign(self) -> bool:
        """Whether clients fetch it from `urls` and not from a registry; the mirror neither needs nor dials those."""
        return bool(self.urls) or is_foreign(self.media_type)
