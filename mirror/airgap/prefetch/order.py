"""What a prefetch is told beside the images: which parts of them, how many at once, how much of a limit it may use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.airgap.choice import Platforms, ReferrerTypes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class Order:
    """What the command says."""

    platforms: Platforms = field(default_factory=Platforms)
    referrers: ReferrerTypes = field(default_factory=ReferrerTypes)
    jobs: int = 4  # images at once
    fail_fast: bool = False  # stop at the first image that fails
    pin: bool = False  # keep each image from eviction as soon as it is whole
    # The share of each upstream's rate limit that may be used up, by whomever: 0.2 of 100 requests goes on while more
    # than 80 of them remain, and waits then.
    budget: float = 1.0
    # `REPOSITORY:TAG` -> digest. Upstream is not asked what tags are; a tag that is not in it fails, and selections
    # choose from it.
    locked: Mapping[str, Digest] | None = None
    amend: bool = False  # what is not in `locked` is asked for, and selections choose from what upstream has

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError(f"jobs is {self.jobs}; at least one image has to be fetched at a time")
        if not 0 < self.budget <= 1:
            raise ValueError(f"budget is {self.budget}; it is a share of the limit, more than 0 and at most 1")
