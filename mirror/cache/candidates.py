"""In which order images go: of two kinds (`mirror.store.order`), in each the one that was used longest ago first."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from mirror.store.order import newcomer_goes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.oci.digest import Digest
    from mirror.store.graph import Graph, Unit
    from mirror.store.recent import Recent

_BATCH = 32  # of them read at once


class Candidates:
    """All that may be evicted, what goes first first, each once, by the last word of all processes.

    Reads the disk: use it in a thread.
    """

    def __init__(self, graph: Graph, recent: Recent, *, once: int, again: int) -> None:
        """`once` and `again` are about how many there are that were asked for in one pull only, and again."""
        self._counts = [once, again]
        seen: set[Digest] = set()  # of both: what is asked for again meanwhile changes its kind
        self._kinds = [_Kind(graph, recent, seen, again=again) for again in (False, True)]
        self._last = 0

    def __iter__(self) -> Iterator[tuple[Unit, float]]:
        """Yield what may go, and when it was last used, in seconds since the epoch."""
        kinds = [iter(kind) for kind in self._kinds]
        while True:
            self._last = 0 if newcomer_goes(*self._counts) else 1
            found = next(kinds[self._last], None)
            if found is None:
                self._last = 1 - self._last
                found = next(kinds[self._last], None)
            if found is None:
                return
            self._counts[self._last] = max(0, self._counts[self._last] - 1)
            yield found

    def went(self) -> None:
        """Hear that the last one was removed."""
        self._kinds[self._last].went()

    def spared(self) -> None:
        """Hear that the last one was used too recently to go: so were all that follow of its kind."""
        self._kinds[self._last].end()


class _Kind:
    """All of one kind, least recently used first.

    The index hears of uses some seconds late; `Recent` knows of them at once. What was used since the index heard of it
    waits for its turn.
    """

    def __init__(self, graph: Graph, recent: Recent, seen: set[Digest], *, again: bool) -> None:
        self._graph = graph
        self._recent = recent
        self._again = again
        self._ended = False
        self._at = 0  # how far down the list of the index
        self._seen = seen
        self._later: list[tuple[float, str, Unit]] = []

    def __iter__(self) -> Iterator[tuple[Unit, float]]:
        for unit in self._listed():
            used = max(unit.used, self._recent.last(unit.digest))
            yield from self._before(unit.used)
            if used > unit.used:
                heapq.heappush(self._later, (used, str(unit.digest), unit))
            else:
                yield unit, used
        yield from self._before(float("inf"))

    def went(self) -> None:
        """Hear that one was removed: the list is shorter by one."""
        self._at = max(0, self._at - 1)

    def end(self) -> None:
        """Yield no more."""
        self._ended = True

    def _before(self, used: float) -> Iterator[tuple[Unit, float]]:
        while self._later and self._later[0][0] <= used and not self._ended:
            at, name, unit = heapq.heappop(self._later)
            again = self._recent.last(unit.digest)
            if again > at:
                heapq.heappush(self._later, (again, name, unit))
            else:
                yield unit, at

    def _listed(self) -> Iterator[Unit]:
        twice = False
        while not self._ended:
            batch = self._graph.oldest(_BATCH, skip=self._at, again=self._again)
            if not batch:
                if twice or self._at == 0:
                    return
                twice, self._at = True, 0  # what moved up meanwhile was skipped
                continue
            for unit in batch:
                if self._ended:
                    return
                self._at += 1
                if unit.digest not in self._seen:
                    self._seen.add(unit.digest)
                    yield unit
