"""What can go wrong with an upstream, and when.

A rule names the requests that it is for and the faults that befall them. Rules are matched in the order in which they
were declared and the first one that is not used up decides. Offsets are those of the whole content, whatever range is
asked for: `Cut(at_byte=1000)` cuts the answer to `bytes=500-` after 500 bytes and leaves `bytes=2000-` alone.

    up.fault(kind="blob", times=1, then=Stall(at_byte=1000))      # one transfer stops there for ever, the next does not
    up.fault(kind="blob", then=Slow(rate=200))                    # every byte at 200 a second
    up.fault(kind="blob", then=Slow(rate=200, upto=1000))         # a slow start, then as fast as ever
    up.fault(then=Drop(), flapping=Flapping(5, 3))                # five requests pass, three do not, and so on
    up.fault(then=Status(503), flapping=Flapping(60, 30, clock))  # the same in seconds of a clock
    up.fault(kind="manifest", method="HEAD", then=FalseDigest())  # it says the digest of something else
    up.fault(then=Status(429, retry_after=limit.GARBAGE))         # or PAST, YEARS, 0; a limit with windows: `limit`
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from tests.fakes.records import Record


@dataclass(frozen=True)
class Fault:
    """Base of all."""


# Instead of the answer, or before it.


@dataclass(frozen=True)
class Status(Fault):
    """Answer with this status; the body is an OCI error of `code`, unless `body` is given."""

    status: int
    code: str = "UNKNOWN"
    message: str = "the fake upstream was told to fail"
    retry_after: str | int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True)
class Html(Fault):
    """Answer with a page for people, as captive portals and balancers do."""

    status: int = 200


@dataclass(frozen=True)
class Redirect(Fault):
    """Answer with this Location, sent byte for byte."""

    location: str
    status: int = 307


@dataclass(frozen=True)
class Hang(Fault):
    """Never answer; the connection stays open until the client leaves or the fake ends."""


@dataclass(frozen=True)
class Drop(Fault):
    """Close the connection without an answer."""


@dataclass(frozen=True)
class Delay(Fault):
    """Answer after so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Await(Fault):
    """Answer (headers too) once `event` is set."""

    event: asyncio.Event


# To the body of the answer.


@dataclass(frozen=True)
class Cut(Fault):
    """Close the connection before the byte at this offset."""

    at_byte: int


@dataclass(frozen=True)
class Stall(Fault):
    """Send nothing from this offset on, and keep the connection."""

    at_byte: int


@dataclass(frozen=True)
class Slow(Fault):
    """Send at most `rate` bytes a second from one offset up to and without another (None: the end)."""

    rate: float
    from_byte: int = 0
    upto: int | None = None


@dataclass(frozen=True)
class Gate(Fault):
    """Send nothing from this offset on until `event` is set. `Record.sent(n)` says when the answer has come to it."""

    event: asyncio.Event
    at_byte: int = 0


@dataclass(frozen=True)
class Corrupt(Fault):
    """Send another byte than the right one at this offset."""

    at_byte: int


@dataclass(frozen=True)
class Truncate(Fault):
    """End the body at this offset as if that were all of it: a matching Content-Length, or chunked without one."""

    at_byte: int
    chunked: bool = False


@dataclass(frozen=True)
class Extend(Fault):
    """Send so many bytes more than there are, with a Content-Length that says so, or chunked without one."""

    extra: int
    chunked: bool = False


@dataclass(frozen=True)
class WrongLength(Fault):
    """Say a Content-Length that is wrong by `delta`; the body ends where it says, or the connection at the true end."""

    delta: int


# To the headers of the answer.


@dataclass(frozen=True)
class NoLength(Fault):
    """Send no Content-Length: the body is chunked."""


@dataclass(frozen=True)
class NoRange(Fault):
    """Answer 200 with the whole to a Range."""


@dataclass(frozen=True)
class WrongRange(Fault):
    """Answer 206 with a Content-Range that is wrong by `delta` bytes (the body is what was asked for)."""

    delta: int = 1


@dataclass(frozen=True)
class Headers(Fault):
    """Send these headers too; an empty value takes the header away."""

    headers: Mapping[str, str]


@dataclass(frozen=True)
class FalseDigest(Fault):
    """Say in `Docker-Content-Digest` and `ETag` that it is something else."""

    digest: str = f"sha256:{'f' * 64}"


BEFORE = (Delay, Await)
INSTEAD = (Status, Html, Redirect, Hang, Drop)


@dataclass(eq=False)
class Flapping:
    """Well for so long and ill for so long, in turn: seconds of `clock`, or numbers of requests where there is none."""

    well: float
    ill: float
    clock: Callable[[], float] | None = None

    def __post_init__(self) -> None:
        self._begun = self.clock() if self.clock is not None else 0.0

    def ill_now(self, seen: int) -> bool:
        """Say whether it is ill at the `seen`th request that matches, the first is 1."""
        passed = self.clock() - self._begun if self.clock is not None else seen - 1
        return passed % (self.well + self.ill) >= self.well


@dataclass(eq=False)
class Rule:
    """Faults for the requests that match every field that is not None; `fired` counts them."""

    then: tuple[Fault, ...]
    kind: str | None = None
    method: str | None = None
    repo: str | None = None
    reference: str | None = None
    digest: str | None = None
    ranged: bool | None = None
    after: int = 0  # so many matching requests pass first
    times: int | None = None  # so many are hit; None: all
    flapping: Flapping | None = None  # of those that are left, so many in turn
    seen: int = 0
    fired: int = 0

    def hits(self, record: Record) -> bool:
        """Say whether this rule decides on `record`, and count it."""
        if self.times is not None and self.fired >= self.times:
            return False
        wanted = (
            (self.kind, record.kind),
            (self.method, record.method),
            (self.repo, record.repo),
            (self.reference, record.reference),
            (self.digest, record.digest),
            (self.ranged, record.range is not None),
        )
        if any(want is not None and want != have for want, have in wanted):
            return False
        self.seen += 1
        if self.seen <= self.after or (self.flapping and not self.flapping.ill_now(self.seen - self.after)):
            return False
        self.fired += 1
        return True
