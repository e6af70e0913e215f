"""Which bytes of a blob are on their way, and which are to come next."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Protocol

from mirror.store.part import CHUNK

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from mirror.store.spans import Spans
    from mirror.upstream.protocol import Urgency

MIB = 1024 * 1024
LARGE = 32 * MIB  # from here on a blob is fetched in ranges
FIRST_RANGE = 8 * MIB
MAX_RANGE = 64 * MIB
RANGE_SECONDS = 2.0  # how long one range should take: a place is given back after each
HALF = MIB  # bytes that are worth a connection of their own, …
HALF_SECONDS = 2.0  # … if the one that has them to bring would take so long for them, …
KNOWN_SECONDS = 0.5  # … as is known after so long


class Here(Protocol):
    """What is here of the blob."""

    size: int | None
    spans: Spans


class Segment:
    """What one connection fetches: the bytes from `at` up to and without `stop` (None: to the end, wherever it is)."""

    __slots__ = ("asked", "at", "begun", "cut", "former", "lane", "since", "start", "stop", "urgency")

    def __init__(self, at: int, stop: int | None) -> None:
        self.start = at  # of what was answered last, …
        self.since = math.inf  # … and when; the monotonic clock
        self.at = at
        self.stop = stop
        self.former: Segment | None = None  # the one whose latter half this is to be, once upstream answers
        self.cut = False  # it ends before the answer does
        self.begun = False  # upstream has answered
        self.asked = time.monotonic()
        self.lane: asyncio.Task[None] | None = None
        self.urgency: Urgency | None = None

    def overlaps(self, start: int, stop: int) -> bool:
        """Say whether some of the bytes from `start` up to and without `stop` are this segment's."""
        return self.at < stop and (self.stop is None or self.stop > start)


class Segments:
    """The segments that are on their way."""

    def __init__(self, here: Here) -> None:
        self._here = here
        self._all: list[Segment] = []
        self._speed = 0.0  # bytes/s of the last large segment

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def add(self, start: int, stop: int | None) -> Segment:
        """Begin a segment."""
        segment = Segment(start, stop)
        self._all.append(segment)
        return segment

    def drop(self, segment: Segment) -> None:
        """End a segment, if it has not been ended already."""
        if segment in self._all:
            self._all.remove(segment)

    def take(self, position: int, stop: int) -> Segment | None:
        """Begin a segment at or after `position`, before `stop`, of what is neither here nor on its way.

        The size of the blob is known.
        """
        size = self._here.size
        assert size is not None  # noqa: S101  # callers see to it
        stop = min(stop, size)
        while (gap := self._here.spans.gap(position, stop)) is not None:
            start, end = gap
            taken = [segment for segment in self._all if segment.overlaps(start, end)]
            inside = [segment for segment in taken if segment.at <= start]
            if not inside:
                end = min([end, *(segment.at for segment in taken)])
                return self.add(start, end if size < LARGE else self.cut(start, end))
            if any(segment.stop is None for segment in inside):
                return None
            position = max(segment.stop or 0 for segment in inside)
        return None

    def split(self) -> Segment | None:
        """Begin a segment for the latter half of what one connection would long be busy with, if there is one.

        That connection goes on as before until the other is answered (`part`).
        """
        size = self._here.size
        halved = [segment.former for segment in self._all]
        longest, most = None, 0
        for segment in self._all:
            left = (segment.stop or size or 0) - segment.at
            if left > most and segment.begun and segment not in halved and left >= 2 * _half(segment):
                longest, most = segment, left
        if longest is None:
            return None
        stop = longest.stop if longest.stop is not None else size
        latter = self.add((longest.at + most // 2) // CHUNK * CHUNK, stop)
        latter.former = longest
        return latter

    def part(self, latter: Segment) -> bool:
        """Hear that upstream answers for the latter half; False where the other connection has got there."""
        former, latter.former = latter.former, None
        if former is None:
            return True
        if former not in self._all:
            return not self._here.spans.covers(latter.at, latter.stop or latter.at)
        if former.at >= latter.at:
            return False
        former.stop, former.cut = latter.at, True
        return True

    def cut(self, start: int, end: int) -> int:
        """Return where a range that begins at `start` should end, at most at `end`."""
        length = min(max(int(self._speed * RANGE_SECONDS), FIRST_RANGE), MAX_RANGE)
        stop = (start + length) // CHUNK * CHUNK  # whole chunks are what the map can mark
        return end if end - stop < FIRST_RANGE // 2 else stop

    def measure(self, count: int, seconds: float) -> None:
        """Learn from a request that brought `count` bytes."""
        if count >= FIRST_RANGE // 2 and seconds > 0:
            self._speed = count / seconds

    def covered(self, position: int) -> bool:
        """Say whether the byte at `position` is here, or some connection is on its way to it."""
        position = self._here.spans.end_of(position)
        if self._here.size is not None and position >= self._here.size:
            return True
        return any(segment.overlaps(position, position + 1) for segment in self._all)


def _half(segment: Segment) -> float:
    """Return the least that is worth taking off a segment, bytes."""
    seconds = time.monotonic() - segment.since
    if seconds < KNOWN_SECONDS:
        return math.inf
    return max(HALF, (segment.at - segment.start) / seconds * HALF_SECONDS)
