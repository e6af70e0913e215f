"""Which bytes of a blob are on their way, and which are to come next."""

from __future__ import annotations

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


class Here(Protocol):
    """What is here of the blob."""

    size: int | None
    spans: Spans


class Segment:
    """What one connection fetches: the bytes from `at` up to and without `stop` (None: to the end, wherever it is)."""

    __slots__ = ("asked", "at", "begun", "lane", "stop", "urgency")

    def __init__(self, at: int, stop: int | None) -> None:
        self.at = at
        self.stop = stop
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
