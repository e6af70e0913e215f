"""What a prefetch says: of each image what it is and what became of it, and while it works what happens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirror.airgap.wanted import Wanted
    from mirror.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class Amount:
    """So many manifests, blobs and bytes; the bytes are those of both."""

    manifests: int = 0
    blobs: int = 0
    bytes: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.manifests + other.manifests, self.blobs + other.blobs, self.bytes + other.bytes)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.manifests - other.manifests, self.blobs - other.blobs, self.bytes - other.bytes)


@dataclass(frozen=True, slots=True)
class Missing:
    """One part of an image that could not be had."""

    what: str  # for a person: `the blob sha256:… (12 bytes) of linux/arm64`, `the list of tags`
    reason: str  # a sentence
    digest: Digest | None = None
    size: int | None = None  # bytes, where it is known

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Planned:
    """What one image is, and what fetching it would take.

    Content that several images of one prefetch need counts as to be fetched with the first of them, so that sums are
    right; with the others it counts as `shared`. `whole` is `here`, `shared` and `to_fetch`.
    """

    wanted: Wanted  # one image: a selection has become the tags that it chose
    digest: Digest | None = None  # None: it could not be resolved
    media_type: str = ""
    platforms: tuple[str, ...] = ()  # of the image that an index lists, those that were chosen; empty for one image
    referrers: int = 0  # signatures and the like that come with it
    whole: Amount = field(default_factory=Amount)  # all that it needs, its referrers with it
    here: Amount = field(default_factory=Amount)  # of that, what was here before
    shared: Amount = field(default_factory=Amount)  # of that, what comes with an image before it
    to_fetch: Amount = field(default_factory=Amount)
    counted: int = 0  # GETs of manifests that were made: what Docker Hub counts against its limit
    waited: float = 0.0  # seconds for upstream: for its limits to allow more, or for an answer after it failed
    missing: tuple[Missing, ...] = ()  # at most 100
    lacking: int = 0  # how many there are in all
    failure: str | None = None  # a sentence; None: nothing is wrong

    @property
    def reference(self) -> str:
        """As a line of a list that can be read again."""
        return str(self.wanted)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What became of one image. It is whole, with its referrers, unless there is a `failure`."""

    planned: Planned  # as it was before anything but manifests was fetched
    came: Amount = field(default_factory=Amount)  # what was fetched for it; not what came with another image
    waited: float = 0.0  # seconds, see `Planned.waited`
    missing: tuple[Missing, ...] = ()  # at most 100
    lacking: int = 0  # how many there are in all
    pinned: bool = False
    failure: str | None = None

    @property
    def reference(self) -> str:
        """As a line of a list that can be read again."""
        return self.planned.reference

    @property
    def wanted(self) -> Wanted:
        """One image: a selection has become the tags that it chose."""
        return self.planned.wanted

    @property
    def digest(self) -> Digest | None:
        """What it is; None: it could not be resolved."""
        return self.planned.digest

    @property
    def counted(self) -> int:
        """See `Planned.counted`."""
        return self.planned.counted

    @property
    def platforms(self) -> tuple[str, ...]:
        """See `Planned.platforms`."""
        return self.planned.platforms


@dataclass(frozen=True, slots=True)
class Expanded:
    """It is known which images are wanted: so many, selections chosen from. Said once, before any image begins."""

    images: int


@dataclass(frozen=True, slots=True)
class Begun:
    """Work on an image begins."""

    reference: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """It is known what an image needs; said before its blobs are fetched, and not where it fails before that.

    The sum of `planned.to_fetch.bytes` and `planned.here.bytes` over all of these is the total that is known so far.
    """

    planned: Planned


@dataclass(frozen=True, slots=True)
class Came:
    """So many bytes more of `to_fetch` of an image are here."""

    reference: str
    count: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Work on an image has ended, well or not. A plan's end is a `Planned`.

    Said once for each image; and once more at the very end for one of which something was lost again.
    """

    outcome: Planned | Fetched


@dataclass(frozen=True, slots=True)
class Waiting:
    """An upstream's limit is reached, or it does not answer: it is waited until `until` (seconds since the epoch).

    Said again where it is no better then. Images of other upstreams go on.
    """

    namespace: str
    until: float
    reason: str  # a sentence


@dataclass(frozen=True, slots=True)
class Resumed:
    """The wait for an upstream is over."""

    namespace: str


Event = Expanded | Begun | Resolved | Came | Ended | Waiting | Resumed
