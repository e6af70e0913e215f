"""Caches to replay a trace in: by blob, by image, and with all of the future known."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.policies import Order
    from bench.pulls import Trace


@dataclass
class Result:
    """What came of a trace. A hole: a pull finds the manifest, and a blob thrown away since that manifest came."""

    asked: int = 0
    hits: int = 0
    bytes_asked: int = 0
    bytes_hit: float = 0
    pulls: int = 0
    holes: int = 0

    @property
    def byte_hit_ratio(self) -> float:
        """Of the bytes that clients asked for, how many did not come from upstream, in per cent."""
        return 100 * self.bytes_hit / self.bytes_asked

    @property
    def hit_ratio(self) -> float:
        """The same of requests, manifests among them."""
        return 100 * self.hits / self.asked

    @property
    def holed(self) -> float:
        """Pulls that found a hole, in per cent."""
        return 100 * self.holes / self.pulls


def by_blob(trace: Trace, cap: int, make_order: Callable[[Sequence[int]], Order]) -> Result:
    """Replay with each content, manifests too, on its own. What is larger than `cap` bytes is passed through."""
    order, sizes = make_order(trace.sizes), trace.sizes
    here = bytearray(len(sizes))
    came, left = [0] * len(sizes), [-1] * len(sizes)  # by the number of the pull
    result, used = Result(), 0
    for now, (image, blobs) in enumerate(trace.pulls):
        result.pulls += 1
        hole = False
        whole = here[image]
        for content in (image, *blobs):
            size = sizes[content]
            result.asked += 1
            result.bytes_asked += size
            if here[content]:
                result.hits += 1
                result.bytes_hit += size
                order.use(content)
                continue
            hole = hole or bool(whole and left[content] >= came[image])
            if size > cap:
                continue
            while used + size > cap:
                gone = order.pop()
                here[gone] = 0
                left[gone] = now
                used -= sizes[gone]
            order.add(content)
            here[content] = 1
            came[content] = now
            used += size
        result.holes += hole
    return result


def by_image(
    trace: Trace,
    cap: int,
    make_order: Callable[[Sequence[int]], Order],
    *,
    high: float = 1.0,
    low: float = 1.0,
) -> Result:
    """Replay with images that go whole: past `high` (of `cap` bytes) images go until `low`.

    A blob stays as long as an image that is here needs it. It was asked for within the pull of an image, so that this
    image is the one of its repository that was used last: the mirror's rule of who is used comes to one use for a pull.
    """
    cache, result = _Images(trace, make_order), Result()
    sizes = trace.sizes
    for now, (image, blobs) in enumerate(trace.pulls):
        known = cache.here[image]
        lacks = [blob for blob in blobs if not cache.here[blob]]
        asked = sizes[image] + sum(sizes[blob] for blob in blobs)
        lacking = (0 if known else sizes[image]) + sum(sizes[blob] for blob in lacks)
        result.pulls += 1
        result.asked += 1 + len(blobs)
        result.hits += known + len(blobs) - len(lacks)
        result.bytes_asked += asked
        result.bytes_hit += asked - lacking
        result.holes += bool(known) and any(cache.left[blob] >= cache.came[image] for blob in lacks)
        cache.need(image, now)
        if cache.used + lacking > high * cap:
            cache.evict(int(low * cap) - lacking, image, now)
        cache.keep(image, lacks, cap)
    return result


class _Images:
    """Images of which the manifest is here, and the blobs that they need, as far as those were asked for."""

    def __init__(self, trace: Trace, make_order: Callable[[Sequence[int]], Order]) -> None:
        sizes, images = trace.sizes, trace.images
        self.here = bytearray(len(sizes))
        self.came, self.left = [0] * len(sizes), [-1] * len(sizes)  # by the number of the pull
        self.used = 0
        self._sizes, self._images = sizes, images
        self._needed = [0] * len(sizes)  # by how many images
        self._count = 0
        self._order = make_order(
            [sizes[image] + sum(sizes[blob] for blob in blobs) for image, blobs in enumerate(images)]
        )

    def need(self, image: int, now: int) -> None:
        """Note that an image is used; from now on its blobs stay."""
        if self.here[image]:
            self._order.use(image)
            return
        self.came[image] = now
        for blob in self._images[image]:
            self._needed[blob] += 1

    def evict(self, goal: int, spared: int, now: int) -> None:
        """Throw images away until `goal` bytes are used. The `spared` one is in use and does not go at its turn."""
        others, passed = self._count - self.here[spared], False
        while self.used > goal and others:
            gone = self._order.pop()
            if gone == spared:
                passed = True
                continue
            others -= 1
            self.here[gone] = 0
            self.used -= self._sizes[gone]
            for blob in self._images[gone]:
                self._needed[blob] -= 1
                if not self._needed[blob] and self.here[blob]:
                    self.here[blob] = 0
                    self.left[blob] = now
                    self.used -= self._sizes[blob]
        self._count = others + self.here[spared]
        if passed:
            self._order.add(spared)

    def keep(self, image: int, blobs: Sequence[int], cap: int) -> None:
        """Take in what was fetched, as far as it fits."""
        if not self.here[image]:
            self._order.add(image)
            self._count += 1
            self.here[image] = 1
            self.used += self._sizes[image]
        for blob in blobs:
            if self.used + self._sizes[blob] <= cap:
                self.here[blob] = 1
                self.used += self._sizes[blob]


def belady(trace: Trace, cap: int, *, whole: bool) -> Result:
    """Replay with the future known: what is asked for last of all goes first, or is not kept at all.

    `whole` keeps or drops contents whole: a greedy way, which a cache could go, but not the best there is (with
    different sizes that is NP-hard). Otherwise contents are kept byte for byte, so that Belady's MIN is exact: then
    the byte hit ratio is a bound, and no cache that fetches what is asked for, by blob or by image, passes it.
    """
    sizes = trace.sizes
    asked = [content for image, blobs in trace.pulls for content in (image, *blobs)]
    never = len(asked)
    following, last = [never] * len(asked), [never] * len(sizes)
    for at in range(len(asked) - 1, -1, -1):
        following[at] = last[asked[at]]
        last[asked[at]] = at
    result, used = Result(asked=len(asked), pulls=len(trace.pulls)), 0
    kept, due = [0] * len(sizes), [0] * len(sizes)  # bytes, and when they are asked for again
    heap: list[tuple[int, int]] = []  # what is no longer so is passed over
    for content, again in zip(asked, following, strict=True):
        size = sizes[content]
        result.bytes_asked += size
        result.bytes_hit += kept[content]
        result.hits += kept[content] == size
        used -= kept[content]
        kept[content] = 0
        if again == never:
            continue
        while used + size > cap and heap and -heap[0][0] > again:
            when, other = heap[0]
            if due[other] != -when or not kept[other]:
                heapq.heappop(heap)
                continue
            dropped = kept[other] if whole else min(kept[other], used + size - cap)
            kept[other] -= dropped
            used -= dropped
        room = min(size, cap - used)
        if room == size or (room and not whole):
            kept[content], due[content] = room, again
            used += room
            heapq.heappush(heap, (-again, content))
    return result
