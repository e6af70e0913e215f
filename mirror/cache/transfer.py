"""One blob's bytes from upstream: which range next, over how many connections, and what to do when one breaks.

Small blobs come in one request. Large ones come as bounded ranges, in order from where a client waits, so that
nothing is fetched twice and connections stay usable. Further connections are tried where one is what limits the speed,
and kept only if they help. Where everything is on its way already, and slowly, a further one takes the latter half of
what another would be busy with for longest.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from mirror.cache.segments import LARGE, MIB, Segments
from mirror.cache.source import ENDLESS
from mirror.errors import UpstreamBroken, UpstreamError, UpstreamLimited, UpstreamUnavailable
from mirror.upstream.protocol import Urgency

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from mirror.cache.segments import Segment
    from mirror.store.spans import Spans
    from mirror.upstream.protocol import BlobBody

MAX_LANES = 8
FAR_LANES = 4  # of them, that go to offsets which clients ask for before the rest has got there
TICK = 0.25  # seconds between two looks at the speed
SETTLE_TICKS = 3  # how many of them a new connection gets before it is judged
REST_TICKS = 40  # how many pass after a connection that did not help
HELPS = 0.5  # of what the others bring on average, what a further connection must add to stay
SLOW = 4.0  # seconds that a blob of which all is on its way must still take for a further connection to be tried
FAST = 128 * MIB  # bytes/s above which this machine, not the connection, is what limits the speed
GIVE_UP = 120.0  # seconds of failures without a byte between them after which a transfer fails
NOT_BEGUN = 10.0  # the same where no byte came at all: those who wait are better served by another registry
IN_VAIN = 1.0  # seconds without an answer after which a connection probably waits for a place


class Target(Protocol):
    """What a transfer works for."""

    size: int | None
    spans: Spans

    @property
    def namespace(self) -> str:
        """The upstream."""
        ...

    def open(self, start: int, stop: int | None, urgency: Urgency) -> AbstractAsyncContextManager[BlobBody]:
        """Ask upstream for bytes; neither offset given (0, None): for the whole, without a Range."""
        ...

    async def begin(self, size: int | None) -> None:
        """Hear the size from upstream, before the first byte lands; raise `UpstreamBroken` where it changed."""
        ...

    async def land(self, piece: bytes, offset: int) -> int:
        """Store bytes; return how many of them were not here yet."""
        ...

    def wanted(self) -> list[int]:
        """Return the offsets that other processes' readers wait for."""
        ...


class Transfer:
    """Fetches what is missing of one blob. `run` returns when every byte has landed."""

    def __init__(self, target: Target, urgency: Urgency, *, expected: int | None, first: int, plain: bool) -> None:
        """`expected` is the descriptor's size, if known; `first` where the first client wants to begin.

        `plain` says to ask without a Range, but to go on from a break.
        """
        self._target = target
        self._urgency = urgency
        self._expected = expected
        self._first = first
        self._plain = plain
        self._single = plain  # one connection only
        self._segments = Segments(target)
        self._lanes: set[asyncio.Task[None]] = set()
        self._allowed = 1  # connections at once
        self._demands: dict[object, tuple[int, int]] = {}
        self._ended = False  # a body of unknown size has come to its end
        self._moved = 0  # bytes
        self._failures = 0  # since the last byte
        self._failing_since = 0.0
        self._lies = 0

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
                self._hurry()
        finally:
            pacer.cancel()
            for lane in self._lanes:
                lane.cancel()
            await asyncio.gather(pacer, *self._lanes, return_exceptions=True)

    @property
    def under_way(self) -> bool:
        """Whether something is still to come."""
        return not self._complete()

    # --- what clients wait for -----------------------------------------------------------------------------------

    def demand(self, reader: object, position: int, stop: int) -> None:
        """Hear that `reader` waits for the bytes from `position`: they come first."""
        self._demands[reader] = (position, stop)
        if self._size is not None and not self._segments.covered(position):
            self._spare(position)

    def leave(self, reader: object) -> None:
        """Hear that `reader` waits no more."""
        self._demands.pop(reader, None)

    def _hurry(self) -> None:
        """Where only further connections are left, and they wait for a place, what waits for them is urgent."""
        if self._urgency.urgent and not any(segment.begun for segment in self._segments):
            for segment in self._segments:
                if segment.urgency is not None:
                    segment.urgency.raise_()

    def _spare(self, position: int) -> None:
        """Send a connection to a far offset now, rather than when the ones at work are through with their ranges."""
        free = not self._single and self._lanes and len(self._lanes) < FAR_LANES
        if free and (segment := self._segments.take(position, ENDLESS)) is not None:
            self._lanes.add(asyncio.create_task(self._lane(self._urgency, segment)))

    # --- what comes next -----------------------------------------------------------------------------------------

    @property
    def _size(self) -> int | None:
        return self._target.size

    def _complete(self) -> bool:
        if self._size is None:
            return self._ended
        return self._target.spans.covers(0, self._size)

    def _claim(self) -> Segment | None:
        """Choose what a free connection fetches: where a client is held up, else on from there, else from the front."""
        if self._size is None:
            return self._claim_first()
        self._take_over()
        segment = self._take()
        return segment if segment is not None or self._single else self._segments.split()

    def _take(self) -> Segment | None:
        """Choose among what is not on its way."""
        size = self._size
        assert size is not None  # noqa: S101  # the caller sees to it
        blocked = [(reader, spot) for reader, spot in self._demands.items() if not self._segments.covered(spot[0])]
        ahead = list(self._demands.items())
        for reader, (position, stop) in blocked + ahead:
            segment = self._segments.take(position, stop)
            if segment is not None:
                self._demands[reader] = self._demands.pop(reader)  # turn and turn about
                return segment
        for position in [*self._target.wanted(), 0]:
            segment = self._segments.take(position, size)
            if segment is not None:
                return segment
        return None

    def _take_over(self) -> None:
        """Free the ranges whose connections still wait for a place: a connection that is free now is sooner there."""
        own = asyncio.current_task()
        since = time.monotonic() - IN_VAIN  # what was just asked for is on its way, and would come twice
        for segment in [one for one in self._segments if not one.begun and one.asked < since and one.former is None]:
            lane = segment.lane
            if lane is not None and lane is not own and len(self._segments) > 1:
                self._segments.drop(segment)
                lane.cancel()

    def _claim_first(self) -> Segment | None:
        if self._segments or self._ended:
            return None
        expected = self._expected
        if self._plain or (expected is not None and expected < LARGE):
            return self._segments.add(0, None)
        if expected is None:
            return self._segments.add(0, LARGE)
        start = self._first if self._first < expected else 0
        return self._segments.add(start, self._segments.cut(start, expected))

    # --- connections ---------------------------------------------------------------------------------------------

    def _spawn(self, urgency: Urgency) -> Segment | None:
        segment = self._claim()
        if segment is not None:
            self._lanes.add(asyncio.create_task(self._lane(urgency, segment)))
        return segment

    async def _lane(self, urgency: Urgency, segment: Segment | None) -> None:
        while segment is not None:
            segment.lane, segment.urgency = asyncio.current_task(), urgency
            try:
                await self._fetch(segment, urgency)
            finally:
                self._segments.drop(segment)
            if len(self._lanes) > self._allowed:
                return
            segment = self._claim()

    async def _fetch(self, segment: Segment, urgency: Urgency) -> None:
        """Fetch one segment, going on from where it broke."""
        while not await self._attempt(segment, urgency):
            pass

    async def _attempt(self, segment: Segment, urgency: Urgency) -> bool:
        """Say whether the segment is done; raise where going on is of no use."""
        segment.begun = False
        segment.asked = time.monotonic()
        try:
            return await self._receive(segment, urgency)
        except (UpstreamUnavailable, UpstreamLimited) as error:
            if segment.stop is not None and segment.at >= segment.stop:
                return True
            await self._bear(error, answered=segment.begun)
        except UpstreamBroken as error:
            if segment.begun or not self._moved or self._lies:
                raise
            self._lies += 1  # one mad answer does not condemn what has come
            await self._bear(error)
        return False

    async def _receive(self, segment: Segment, urgency: Urgency) -> bool:
        """Make one request and take its body; say whether the segment is done."""
        whole = segment.at == 0 and (self._plain or segment.stop is None)
        async with self._target.open(segment.at, None if whole else segment.stop, urgency) as body:
            segment.begun, segment.start, segment.since = True, segment.at, time.monotonic()
            if not body.ranged and not whole:
                self._single, self._allowed = True, 1
                if len(self._lanes) > 1:
                    return True  # the one stream that this host gives is better used by who has it already
                segment.at = 0
            elif body.ranged and body.size is None and self._size is None and segment.stop is not None:
                self._plain = self._single = True  # a part of nobody knows how much
                segment.at, segment.stop = 0, None
                return False
            if not self._segments.part(segment):
                return True
            await self._target.begin(body.size)
            self._confine(segment, body)
            came = await self._take_in(segment, body)
        if segment.stop is None:
            self._ended = True
        elif segment.at < segment.stop and not self._rest_is_here(segment):
            await self._bear_short(came)
            return False
        self._segments.measure(came, time.monotonic() - segment.asked)
        return True

    async def _take_in(self, segment: Segment, body: BlobBody) -> int:
        """Store what comes, as far as the segment goes; return how many bytes came."""
        came = 0
        async for piece in body.pieces():
            fits = piece if segment.stop is None else piece[: segment.stop - segment.at]
            self._progress(await self._target.land(fits, segment.at))
            segment.at += len(fits)
            came += len(fits)
            over = segment.cut and segment.stop is not None and segment.at >= segment.stop
            if over or len(fits) < len(piece) or self._rest_is_here(segment):
                break
        return came

    def _rest_is_here(self, segment: Segment) -> bool:
        """Say whether a stream that could not be begun where it should has come to what is here already."""
        stop = segment.stop
        return stop is not None and segment.at < stop and self._target.spans.covers(segment.at, stop)

    async def _bear_short(self, came: int) -> None:
        """A body without a length has ended early, which looks like its end: a break, or else the size is wrong."""
        namespace = self._target.namespace
        text = f"{namespace} ended a body after {came} bytes, before the end of what was asked for"
        if not came:
            raise UpstreamBroken(text, namespace=namespace)
        await self._bear(UpstreamUnavailable(text, namespace=namespace))

    def _confine(self, segment: Segment, body: BlobBody) -> None:
        size = self._size
        if not body.ranged or (size is not None and (segment.stop is None or segment.stop > size)):
            segment.stop = size

    def _progress(self, fresh: int) -> None:
        self._moved += fresh
        if fresh:  # what had come before does not show that upstream gets any further
            self._failures = 0

    async def _bear(self, error: UpstreamError, *, answered: bool = True) -> None:
        """After a break: go on at once, then ever later; raise where nothing came at all, or not for too long."""
        now = time.monotonic()
        if self._failures == 0:
            self._failing_since = now
        self._failures += 1
        if not self._moved and ((self._size is None and not answered) or now - self._failing_since > NOT_BEGUN):
            raise error
        if now - self._failing_since > GIVE_UP:
            raise error
        if self._failures > 1:
            await asyncio.sleep(max(min(0.1 * 2**self._failures, 5.0), min(error.retry_after or 0.0, 30.0)))

    # --- how many connections ------------------------------------------------------------------------------------

    async def _pace(self) -> None:
        """Try a further connection where that may help; keep it if it does."""
        while True:
            before = await self._measure(SETTLE_TICKS)
            if not self._worth_trying(before):
                continue
            segment = self._spawn(Urgency(urgent=False))
            if segment is None:
                continue
            self._allowed += 1
            before = await self._until_begun(segment, before)
            await self._measure(1)  # it gets going
            after = await self._measure(SETTLE_TICKS)
            if after < before * (1 + HELPS / (self._allowed - 1)):
                self._allowed -= 1
                await self._measure(REST_TICKS)

    async def _until_begun(self, segment: Segment, speed: float) -> float:
        """Wait until a further connection is answered; return the speed shortly before (`speed`, as far as known)."""
        speeds = deque([speed, speed], SETTLE_TICKS + 1)
        while not segment.begun and segment in self._segments:
            speeds.append(await self._measure(1))
        speeds.pop()
        return sum(speeds) / len(speeds)

    def _worth_trying(self, speed: float) -> bool:
        if self._size is None or self._single or not self._urgency.urgent or self._allowed >= MAX_LANES:
            return False
        left = self._size - self._target.spans.total()
        return 0 < speed < FAST and (self._size >= LARGE or left > SLOW * speed)

    async def _measure(self, ticks: int) -> float:
        """Return the speed over some ticks, bytes/s, and look meanwhile for what other processes' readers want."""
        moved, begun = self._moved, time.monotonic()
        for _ in range(ticks):
            await asyncio.sleep(TICK)
            if self._size is not None:
                for position in self._target.wanted():
                    if not self._segments.covered(position):
                        self._spare(position)
        return (self._moved - moved) / (time.monotonic() - begun)
