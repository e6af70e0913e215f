"""In which order things are thrown away: LRU in one or two classes, SIEVE, S3-FIFO, GDSF; keys are small numbers.

Written from the papers: SIEVE (Zhang and others, NSDI 2024), S3-FIFO (Yang and others, SOSP 2023), GDSF (Cherkasova,
HPL-98-69R1, 1998; with the size as the cost it is LFU with dynamic aging, which is after bytes rather than requests).
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Order(Protocol):
    """Keys that are here, and which of them goes first."""

    def add(self, key: int) -> None:
        """Take in a key that is not here."""

    def use(self, key: int) -> None:
        """Note that a key that is here was asked for."""

    def pop(self) -> int:
        """Take out the key that goes first. There is one."""


class Lru(Order):
    """The least recently used goes first."""

    def __init__(self, _sizes: Sequence[int]) -> None:
        self._keys: OrderedDict[int, None] = OrderedDict()

    def add(self, key: int) -> None:
        """See `Order.add`."""
        self._keys[key] = None

    def use(self, key: int) -> None:
        """See `Order.use`."""
        self._keys.move_to_end(key)

    def pop(self) -> int:
        """See `Order.pop`."""
        return self._keys.popitem(last=False)[0]


class Segmented(Order):
    """What was asked for in one pull only goes before what was asked for again; in both the least recently used first.

    The newcomers keep a tenth of the places: else the first to come would be the last to get in. Segmented LRU
    (Karedla and others, 1994) and 2Q (Johnson and Shasha, VLDB 1994) are of this kind.
    """

    def __init__(self, _sizes: Sequence[int]) -> None:
        self._once: OrderedDict[int, None] = OrderedDict()
        self._again: OrderedDict[int, None] = OrderedDict()

    def add(self, key: int) -> None:
        """See `Order.add`."""
        self._once[key] = None

    def use(self, key: int) -> None:
        """See `Order.use`."""
        if key in self._again:
            self._again.move_to_end(key)
        else:
            del self._once[key]
            self._again[key] = None

    def pop(self) -> int:
        """See `Order.pop`."""
        once = len(self._once)
        newcomer = once and (once * 9 >= len(self._again))
        return (self._once if newcomer else self._again).popitem(last=False)[0]


class Sieve(Order):
    """A queue in the order of arrival; a hand goes from old to new, and spares what was used since it passed."""

    def __init__(self, sizes: Sequence[int]) -> None:
        end = len(sizes)  # a ring through one key that is none
        self._older, self._newer = list(range(end + 1)), list(range(end + 1))
        self._end = self._hand = end
        self._used = bytearray(end)

    def add(self, key: int) -> None:
        """See `Order.add`."""
        end = self._end
        newest = self._older[end]
        self._older[key], self._newer[key] = newest, end
        self._newer[newest] = self._older[end] = key
        self._used[key] = 0

    def use(self, key: int) -> None:
        """See `Order.use`."""
        self._used[key] = 1

    def pop(self) -> int:
        """See `Order.pop`."""
        hand = self._hand
        while hand == self._end or self._used[hand]:
            if hand != self._end:
                self._used[hand] = 0
            hand = self._newer[hand]
        older, newer = self._older[hand], self._newer[hand]
        self._newer[older], self._older[newer] = newer, older
        self._hand = newer
        return hand


class S3Fifo(Order):
    """A small queue of newcomers (10 % of the bytes), a main one, and the names of who left the small one lately."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self._small: OrderedDict[int, None] = OrderedDict()
        self._main: OrderedDict[int, None] = OrderedDict()
        self._ghosts: OrderedDict[int, None] = OrderedDict()
        self._bytes = [0, 0]  # in the small queue, in the main one
        self._used = bytearray(len(sizes))

    def add(self, key: int) -> None:
        """See `Order.add`."""
        self._used[key] = 0
        if key in self._ghosts:
            del self._ghosts[key]
            self._put(self._main, 1, key)
        else:
            self._put(self._small, 0, key)

    def use(self, key: int) -> None:
        """See `Order.use`."""
        self._used[key] = min(3, self._used[key] + 1)

    def pop(self) -> int:
        """See `Order.pop`."""
        while True:
            small, main = self._bytes
            if self._small and (small * 10 >= small + main or not self._main):
                key = self._take(self._small, 0)
                if self._used[key] <= 1:
                    self._ghosts[key] = None
                    while len(self._ghosts) > max(1, len(self._main)):
                        self._ghosts.popitem(last=False)
                    return key
                self._used[key] = 0
                self._put(self._main, 1, key)
            else:
                key = self._take(self._main, 1)
                if not self._used[key]:
                    return key
                self._used[key] -= 1
                self._put(self._main, 1, key)

    def _put(self, queue: OrderedDict[int, None], which: int, key: int) -> None:
        queue[key] = None
        self._bytes[which] += self._sizes[key]

    def _take(self, queue: OrderedDict[int, None], which: int) -> int:
        key, _ = queue.popitem(last=False)
        self._bytes[which] -= self._sizes[key]
        return key


class Gdsf(Order):
    """What is used seldom, and large, goes first; who comes later starts higher."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._worth = [1e6 / max(1, size) for size in sizes]  # of one use
        self._age = 0.0
        self._uses: dict[int, int] = {}
        self._rank: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []  # what is no longer so is passed over

    def add(self, key: int) -> None:
        """See `Order.add`."""
        self._uses[key] = 0
        self.use(key)

    def use(self, key: int) -> None:
        """See `Order.use`."""
        self._uses[key] += 1
        rank = self._rank[key] = self._age + self._uses[key] * self._worth[key]
        heapq.heappush(self._heap, (rank, key))

    def pop(self) -> int:
        """See `Order.pop`."""
        while True:
            rank, key = heapq.heappop(self._heap)
            if self._rank.get(key) == rank:
                del self._rank[key], self._uses[key]
                self._age = rank
                return key


class Lfuda(Gdsf):
    """The same with the size as the cost: what is used seldom goes first."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__(sizes)
        self._worth = [1.0] * len(sizes)
