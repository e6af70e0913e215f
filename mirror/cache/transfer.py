"""One blob's bytes from upstream: which range next, over how many connections, and what to do when one breaks.

Small blobs come in one request. Large ones come as bounded ranges, in order from where a client waits, so that nothing is
fetched twice and connections stay usable. A second, third and fourth connection is tried where one is what limits the
speed, and kept only if it helps.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

from mirror.cache.source import ENDLESS
from mirror.errors import UpstreamBroken, UpstreamLimited, UpstreamUnavailable
from mirror.store.part import CHUNK
from mirror.upstream.protocol import Urgency

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from mirror.store.spans import Spans
    from mirror.upstream.protocol import BlobBody

MIB = 1024 * 1024
LARGE = 32 * MIB  # from here on a blob is fetched in ranges
FIRST_RANGE = 8 * MIB
MAX_RANGE = 64 * MIB
RANGE_SECONDS = 2.0  # how long one range should take: a place is given back after each
MAX_LANES = 4
TICK = 0.25  # seconds between two looks at the speed
SETTLE_TICKS = 3  # how many of them a new connection gets before it is judged
REST_TICKS = 40  # how many pass after a connection that did not help
HELPS = 1.2  # by how much the speed must grow for a further connection to stay
FAST = 128 * MIB  # bytes/s above which this machine, not the connection, is what limits the speed
GIVE_UP = 120.0  # seconds without a byte, all retries included, after which a fill that had begun fails


class Target(Protocol):
    """What a transfer works for."""

    size: int | None
    spans: Spans

    def open(self, start: int, stop: int | None, urgency: Urgency) -> AbstractAsyncContextManager[BlobBody]:
        """Ask upstream for bytes; neither offset given (0, None): for the whole, without a Range."""
        ...

    async def begin(self, size: int | None) -> None:
        """Hear the size from upstream, before the first byte lands; raise `UpstreamBroken` where it changed."""
        ...

    async def land(self, piece: bytes, offset: int) -> None:
        """Store bytes."""
        ...

    def wanted(self) -> list[int]:
        """Return the offsets that other processes' readers wait for."""
        ...


class _Segment:
    """What one connection fetches: the bytes from `at` up to and without `stop` (None: to the end, wherever it is)."""

    __slots__ = ("at", "begun", "lane", "stop")

    def __init__(self, at: int, stop: int | None) -> None:
        self.at = at
        self.stop = stop
        self.begun = False  # the body has started to come
        self.lane: asyncio.Task[None] | None = None


class Transfer:
    """Fetches what is missing of one blob. `run` returns when every byte has landed."""

    def __init__(self, target: Target, urgency: Urgency, *, expected: int | None, first: int, ranges: bool) -> None:
        """`expected` is the descriptor's size, if known; `first` where the first client wants to begin."""
        self._target = target
        self._urgency = urgency
        self._expected = expected
        self._first = first
        self._ranges = ranges
        self._segments: list[_Segment] = []
        self._lanes: set[asyncio.Task[None]] = set()
        self._allowed = 1  # connections at once
        self._demands: dict[object, tuple[int, int]] = {}
        self._ended = False  # a body of unknown size has come to its end
        self._moved = 0  # bytes
        self._last_move = time.monotonic()
        self._speed = 0.0  # bytes/s of the last segment
        self._failures = 0

    async def run(self) -> None:
        """Raise what upstream raises, once there is no use in going on."""
        pacer = asyncio.create_task(self._pace())
        try:
            while not self._complete():
                if not self._lanes:
                    self._spawn(self._urgency)
                done, _ = await asyncio.wait(self._lanes, return_when=asyncio.FIRST_COMPLETED)
                self._lanes -= done
                for lane in done:
                    if not lane.cancelled():  # its range was taken over
                        lane.result()
        finally:
            pacer.cancel()
            for lane in self._lanes:
                lane.cancel()
            await asyncio.gather(pacer, *self._lanes, return_exceptions=True)

    # --- what clients wait for -----------------------------------------------------------------------------------

    def demand(self, reader: object, position: int, stop: int) -> None:
        """Hear that `reader` waits for the bytes from `position`: they come first."""
        self._demands[reader] = (position, stop)
        if self._size is not None and not self._covered(position):
            self._spare(position)

    def leave(self, reader: object) -> None:
        """Hear that `reader` waits no more."""
        self._demands.pop(reader, None)

    def _spare(self, position: int) -> None:
        """Send a connection to a far offset now, rather than when the ones at work are through with their ranges."""
        free = self._ranges and self._lanes and len(self._lanes) < MAX_LANES
        if free and (segment := self._take(position, ENDLESS)) is not None:
            self._lanes.add(asyncio.create_task(self._lane(self._urgency, segment)))

    # --- what comes next -----------------------------------------------------------------------------------------

    @property
    def _size(self) -> int | None:
        return self._target.size

    def _complete(self) -> bool:
        if self._size is None:
            return self._ended
        return self._target.spans.covers(0, self._size)

    def _claim(self) -> _Segment | None:
        """Choose what a free connection fetches next: where a client is held up, else on from there, else from the front."""
        if self._size is None:
            return self._claim_first()
        self._take_over()
        blocked = [(reader, spot) for reader, spot in self._demands.items() if not self._covered(spot[0])]
        ahead = list(self._demands.items())
        for reader, (position, stop) in blocked + ahead:
            segment = self._take(position, stop)
            if segment is not None:
                self._demands[reader] = self._demands.pop(reader)  # turn and turn about
                return segment
        for position in [*self._target.wanted(), 0]:
            segment = self._take(position, self._size)
            if segment is not None:
                return segment
        return None

    def _take_over(self) -> None:
        """Free the ranges whose connections still wait for a place: a connection that is free now is sooner there."""
        own = asyncio.current_task()
        for segment in [one for one in self._segments if not one.begun]:
            lane = segment.lane
            if lane is not None and lane is not own and len(self._segments) > 1:
                self._segments.remove(segment)
                lane.cancel()

    def _claim_first(self) -> _Segment | None:
        if self._segments:
            return None
        expected = self._expected
        if not self._ranges or (expected is not None and expected < LARGE):
            return self._add(0, None)
        start = self._first if expected is None or self._first < expected else 0
        stop = start + (LARGE if expected is None else FIRST_RANGE)
        return self._add(start, stop if expected is None else min(stop, expected))

    def _take(self, position: int, stop: int) -> _Segment | None:
        """Claim a range at or after `position` that is neither here nor on its way."""
        size = self._size
        assert size is not None  # noqa: S101  # callers see to it
        stop = min(stop, size)
        while (gap := self._target.spans.gap(position, stop)) is not None:
            start, end = gap
            taken = [segment for segment in self._segments if _overlaps(segment, start, end)]
            inside = [segment for segment in taken if segment.at <= start]
            if not inside:
                end = min([end, *(segment.at for segment in taken)])
                return self._add(start, end if size < LARGE else self._cut(start, end))
            if any(segment.stop is None for segment in inside):
                return None
            position = max(segment.stop or 0 for segment in inside)
        return None

    def _cut(self, start: int, end: int) -> int:
        length = min(max(int(self._speed * RANGE_SECONDS), FIRST_RANGE), MAX_RANGE)
        stop = (start + length) // CHUNK * CHUNK  # whole chunks are what the map can mark
        return end if end - stop < FIRST_RANGE // 2 else stop

    def _add(self, start: int, stop: int | None) -> _Segment:
        segment = _Segment(start, stop)
        self._segments.append(segment)
        return segment

    def _covered(self, position: int) -> bool:
        """Say whether the byte at `position` is here, or some connection is on its way to it."""
        position = self._target.spans.end_of(position)
        if self._size is not None and position >= self._size:
            return True
        return any(_overlaps(segment, position, position + 1) for segment in self._segments)

    # --- connections ---------------------------------------------------------------------------------------------

    def _spawn(self, urgency: Urgency) -> bool:
        segment = self._claim()
        if segment is None:
            return False
        self._lanes.add(asyncio.create_task(self._lane(urgency, segment)))
        return True

    async def _lane(self, urgency: Urgency, segment: _Segment | None) -> None:
        while segment is not None:
            segment.lane = asyncio.current_task()
            try:
                await self._fetch(segment, urgency)
            finally:
                if segment in self._segments:
                    self._segments.remove(segment)
            if len(self._lanes) > self._allowed:
                return
            segment = self._claim()

    async def _fetch(self, segment: _Segment, urgency: Urgency) -> None:
        """Fetch one segment, going on from where it broke."""
        while not await self._attempt(segment, urgency):
            pass

    async def _attempt(self, segment: _Segment, urgency: Urgency) -> bool:
        """Say whether the segment is done; raise where going on is of no use."""
        whole = not self._ranges or (segment.at == 0 and segment.stop is None)
        if whole:
            segment.at = 0
        begun = time.monotonic()
        came = 0
        try:
            async with self._target.open(segment.at, None if whole else segment.stop, urgency) as body:
                if not body.ranged and not whole:
                    self._ranges = False
                    if len(self._lanes) > 1:
                        return True  # the one stream that this host gives is better used by who has it already
                    segment.at = body.start
                segment.begun = True
                await self._target.begin(body.size)
                self._confine(segment, body)
                async for piece in body.pieces():
                    fits = piece if segment.stop is None else piece[: segment.stop - segment.at]
                    await self._target.land(fits, segment.at)
                    segment.at += len(fits)
                    came += len(fits)
                    self._progress(len(fits))
                    if len(fits) < len(piece):
                        break
        except (UpstreamUnavailable, UpstreamLimited) as error:
            if segment.stop is not None and segment.at >= segment.stop:
                return True
            await self._bear(error)
            return False
        if segment.stop is None:
            self._ended = True
        elif segment.at < segment.stop:
            raise UpstreamBroken(
                f"{came} bytes came where {came + segment.stop - segment.at} were asked for", namespace=""
            )
        took = time.monotonic() - begun
        if came >= FIRST_RANGE // 2 and took > 0:
            self._speed = came / took
        return True

    def _confine(self, segment: _Segment, body: BlobBody) -> None:
        size = self._size
        if not body.ranged or (size is not None and (segment.stop is None or segment.stop > size)):
            segment.stop = size

    def _progress(self, count: int) -> None:
        self._moved += count
        self._last_move = time.monotonic()
        self._failures = 0

    async def _bear(self, error: UpstreamUnavailable | UpstreamLimited) -> None:
        """After a break: go on at once, then ever later; raise where nothing came at all, or nothing has for too long."""
        nothing_yet = self._size is None and self._moved == 0
        if nothing_yet or time.monotonic() - self._last_move > GIVE_UP:
            raise error
        self._failures += 1
        if self._failures > 1:
            await asyncio.sleep(max(min(0.1 * 2**self._failures, 5.0), min(error.retry_after or 0.0, 30.0)))

    # --- how many connections ------------------------------------------------------------------------------------

    async def _pace(self) -> None:
        """Try a further connection where that may help; keep it if it does."""
        while True:
            before = await self._measure(SETTLE_TICKS)
            if not self._worth_trying(before):
                continue
            self._allowed += 1
            if not self._spawn(Urgency(urgent=False)):
                self._allowed -= 1
                continue
            await self._measure(1)  # it opens, it asks
            after = await self._measure(SETTLE_TICKS)
            if after < before * HELPS:
                self._allowed -= 1
                await self._measure(REST_TICKS)

    def _worth_trying(self, speed: float) -> bool:
        large = self._size is not None and self._size >= LARGE
        return large and self._ranges and self._urgency.urgent and self._allowed < MAX_LANES and 0 < speed < FAST

    async def _measure(self, ticks: int) -> float:
        """Return the speed over some ticks, bytes/s, and look meanwhile for what other processes' readers want."""
        moved, begun = self._moved, time.monotonic()
        for _ in range(ticks):
            await asyncio.sleep(TICK)
            if self._size is not None:
                for position in self._target.wanted():
                    if not self._covered(position):
                        self._spare(position)
        return (self._moved - moved) / (time.monotonic() - begun)


def _overlaps(segment: _Segment, start: int, stop: int) -> bool:
    return segment.at < stop and (segment.stop is None or segment.stop > start)
