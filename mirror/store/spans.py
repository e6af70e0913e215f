"""Which bytes of a blob are here."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Spans:
    """A set of byte offsets, kept as sorted half-open spans that neither touch nor overlap."""

    __slots__ = ("_starts", "_stops")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, start: int, stop: int) -> None:
        """Add the bytes from `start` up to and without `stop`."""
        if start >= stop:
            return
        first = bisect_right(self._starts, start)
        if first and self._stops[first - 1] >= start:
            first -= 1
            start = self._starts[first]
        last = first
        while last < len(self._starts) and self._starts[last] <= stop:
            stop = max(stop, self._stops[last])
            last += 1
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def end_of(self, offset: int) -> int:
        """Return the end of the run that holds `offset`, or `offset` itself where that byte is not here."""
        at = bisect_right(self._starts, offset) - 1
        return max(offset, self._stops[at]) if at >= 0 else offset

    def around(self, start: int, stop: int) -> tuple[int, int]:
        """Return the run that the bytes from `start` up to and without `stop` would be part of, once they were here."""
        at = bisect_right(self._starts, start) - 1
        if at >= 0 and self._stops[at] >= start:
            start = self._starts[at]
        return start, self.end_of(stop)

    def gap(self, offset: int, limit: int) -> tuple[int, int] | None:
        """Return the first gap at or after `offset`, as (start, stop) cut at `limit`, or None."""
        start = self.end_of(offset)
        if start >= limit:
            return None
        following = bisect_right(self._starts, start)
        stop = self._starts[following] if following < len(self._starts) else limit
        return start, min(stop, limit)

    def covers(self, start: int, stop: int) -> bool:
        """Say whether all bytes from `start` up to and without `stop` are here."""
        return self.end_of(start) >= stop

    def end(self) -> int:
        """Return the offset after the last byte that is here; 0 where none is."""
        return self._stops[-1] if self._stops else 0

    def clear(self) -> None:
        """Forget everything."""
        self._starts.clear()
        self._stops.clear()

    def total(self) -> int:
        """Return how many bytes are here."""
        return sum(self._stops) - sum(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._stops, strict=True))
