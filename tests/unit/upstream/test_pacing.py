"""What the blobs of one upstream may take of the line: bytes a second, and connections as far as they help."""

from __future__ import annotations

import asyncio
import time

import pytest

from mirror.upstream import governor
from mirror.upstream.governor import Governor
from mirror.upstream.pacing import Pacing
from mirror.upstream.protocol import Urgency

KIB = 1024


async def busy(rate: int) -> Pacing:
    """Return a line that does not lie idle."""
    pacing = Pacing("up.test", max_rate=rate)
    await pacing.came(rate // 8, "a/former", Urgency(urgent=True))
    return pacing


class Taking:
    """Transfers that take what they are given, until they are stopped."""

    def __init__(self, pacing: Pacing) -> None:
        self._pacing = pacing
        self._tasks: list[asyncio.Task[None]] = []
        self._moved = asyncio.Event()
        self.had: dict[str, int] = {}

    def begin(self, name: str, image: str, connections: int, *, urgent: bool = True) -> None:
        self.had[name] = 0
        for _ in range(connections):
            self._tasks.append(asyncio.create_task(self._take(name, image, Urgency(urgent=urgent))))

    async def until(self, amount: int) -> dict[str, int]:
        """Stop when all together have had `amount` bytes; return what each had."""
        async with asyncio.timeout(10):
            while sum(self.had.values()) < amount:
                self._moved.clear()
                await self._moved.wait()
        await self._stop()
        return self.had

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, name: str, image: str, urgency: Urgency) -> None:
        while True:
            await self._pacing.came(KIB, image, urgency)
            self.had[name] += KIB
            self._moved.set()


async def test_two_images_get_half_each_however_many_layers_each_has() -> None:
    taking = Taking(await busy(2000 * KIB))
    taking.begin("many", "a/many", 12)
    taking.begin("one", "a/one", 1)
    had = await taking.until(600 * KIB)
    assert had["one"] == pytest.approx(had["many"], rel=0.1)


async def test_what_a_client_waits_for_goes_before_what_is_read_ahead_without_stopping_it() -> None:
    taking = Taking(await busy(2000 * KIB))
    taking.begin("ahead", "a/other", 12, urgent=False)
    taking.begin("waited for", "a/one", 1)
    had = await taking.until(600 * KIB)
    assert 4 < had["waited for"] / had["ahead"] < 12


async def test_the_rate_holds_and_an_idle_line_is_not_made_up_for() -> None:
    pacing = Pacing("up.test", max_rate=1000 * KIB)
    await pacing.came(KIB, "a/one", Urgency(urgent=True))
    await asyncio.sleep(0.3)  # nothing to wait for: the line lies idle
    taking = Taking(pacing)
    began = time.monotonic()
    taking.begin("all", "a/one", 3)
    await taking.until(400 * KIB)
    assert time.monotonic() - began > 0.25  # 400 KiB at 1000 KiB/s, less a tenth of a second's worth


async def test_a_transfer_that_is_broken_off_while_it_waits_holds_up_nobody() -> None:
    pacing = await busy(100 * KIB)
    gone = asyncio.create_task(pacing.came(1000 * KIB, "a/one", Urgency(urgent=True)))
    await asyncio.sleep(0)
    gone.cancel()
    async with asyncio.timeout(2):
        await pacing.came(KIB, "a/two", Urgency(urgent=True))


class Line:
    """A governor before a line that gives `each` bytes/s to each connection, and `most` in all."""

    def __init__(self, each: float, most: float, *, total: int = 16, rate: int | None = None) -> None:
        self.governor = Governor(total)
        self.governor.begin(0.0)
        self._each, self._most, self._rate = each, most, rate
        self._now = self._moved = 0.0
        self.peak = 0

    def run(self, seconds: float, wanted: int = 100) -> int:
        for _ in range(int(seconds * 4)):
            running = min(wanted, self.governor.limit)
            self.peak = max(self.peak, running)
            self._now += 0.25
            self._moved += 0.25 * min(running * self._each, self._most)
            self.governor.look(self._now, int(self._moved), running=running, most=self._rate)
        return self.governor.limit


def test_more_connections_are_used_while_the_sum_grows_with_them() -> None:
    assert Line(400 * KIB, 1e9).run(8) == 16


def test_connections_that_do_not_help_are_given_back_and_tried_ever_more_rarely() -> None:
    line = Line(1e6, 4e6)
    assert line.run(4) == governor.BASE
    assert line.peak == 12
    tried = []
    for _ in range(120):
        line.peak = 0
        line.run(1)
        tried.append(line.peak > governor.BASE)
    assert 0 < sum(tried) < 20


def test_never_more_than_are_configured_and_no_attempt_where_the_rate_is_reached() -> None:
    assert Line(400 * KIB, 1e9, total=10).run(30) == 10
    assert Line(400 * KIB, 1e9, total=4).run(30) == 4
    paced = Line(1e6, 4e6, rate=4_000_000)
    paced.run(60)
    assert paced.peak == governor.BASE


def test_an_upstream_that_sends_nothing_gets_no_further_connections() -> None:
    line = Line(0, 1e9)
    line.run(60)
    assert line.peak == governor.BASE
