"""Places, allowances and outages by a clock that nobody waits for."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import pytest

from mirror.airgap.prefetch.allowance import Allowance
from mirror.airgap.prefetch.order import Order
from mirror.airgap.prefetch.outage import PATIENCE, Outage
from mirror.airgap.prefetch.outcome import Resumed, Waiting
from mirror.airgap.prefetch.place import Place
from mirror.airgap.prefetch.timing import Timing
from mirror.errors import UpstreamUnavailable
from mirror.upstream.budget import Budget

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirror.airgap.prefetch.outcome import Event


class Hand:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = time.time()
        self.slept: list[float] = []
        self.timing = Timing(lambda: self.now, self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class Registry:
    """An upstream as far as an allowance looks at it: it says its budget with every answer."""

    namespace = "docker.io"

    def __init__(self, hand: Hand, limit: int, remaining: int, *, resets_in: float | None = None) -> None:
        self.hand = hand
        self.limit = limit
        self.remaining = remaining
        self.resets_at = None if resets_in is None else hand.now + resets_in
        self.budget: Budget | None = None
        self.heads = 0

    def answer(self, *, counted: bool) -> None:
        self.remaining -= counted
        self.budget = Budget(self.hand.now, self.limit, self.remaining, 21600.0, self.resets_at)

    async def learn(self) -> None:
        self.heads += 1
        if self.resets_at is not None and self.hand.now >= self.resets_at:
            self.remaining, self.resets_at = self.limit, None
        self.answer(counted=False)


async def ask(allowance: Allowance, registry: Registry, place: Place) -> None:
    async with allowance.counted(place, registry.learn):
        await asyncio.sleep(0)
        registry.answer(counted=True)


def allowance(registry: Registry, share: float, heard: list[Event]) -> Allowance:
    return Allowance(cast("Any", registry), share, heard.append, registry.hand.timing)


@pytest.mark.parametrize("jobs", [1, 3, 16])
async def test_what_is_left_of_a_share_is_never_overdrawn_however_many_ask_at_once(jobs: int) -> None:
    hand, heard = Hand(), list[Any]()
    registry = Registry(hand, limit=100, remaining=100)
    gate = allowance(registry, 0.3, heard)
    places = asyncio.Semaphore(jobs)
    lowest: list[int] = []

    async def part(place: Place) -> None:
        await ask(gate, registry, place)
        lowest.append(registry.remaining)

    async def image() -> None:
        async with Place(places, hand.timing) as place:
            await asyncio.gather(part(place), part(place))

    tasks = [asyncio.create_task(image()) for _ in range(40)]
    for _ in range(2000):
        await asyncio.sleep(0)
    assert len(lowest) == 30
    assert registry.remaining == 70
    registry.remaining = 100
    for _ in range(2000):
        await asyncio.sleep(0)
    assert registry.remaining == 70
    registry.remaining = 100
    await asyncio.gather(*tasks)
    assert min(lowest) == 70
    assert any(isinstance(event, Resumed) for event in heard)


async def test_where_upstream_says_when_it_waits_until_then() -> None:
    hand, heard = Hand(), list[Any]()
    registry = Registry(hand, limit=60, remaining=0, resets_in=90)
    gate = allowance(registry, 1.0, heard)
    await registry.learn()
    began = hand.now
    async with Place(asyncio.Semaphore(1), hand.timing) as place:
        await ask(gate, registry, place)
    assert hand.slept == [90]
    assert [event.until for event in heard if isinstance(event, Waiting)] == [began + 90]
    assert place.waited == 90


async def test_an_upstream_that_tells_no_limits_is_never_waited_for() -> None:
    hand, heard = Hand(), list[Any]()
    registry = Registry(hand, limit=0, remaining=0)
    gate = allowance(registry, 0.1, heard)
    looked: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(0)  # noqa: E731  # it says nothing
    async with Place(asyncio.Semaphore(1), hand.timing) as place:
        for _ in range(100):
            async with gate.counted(place, looked):
                pass
    assert (hand.slept, heard) == ([], [])


async def test_rests_grow_where_a_429_says_no_time_and_begin_anew_after_an_answer() -> None:
    hand = Hand()
    gate = allowance(Registry(hand, 1, 1), 1.0, [])
    async with Place(asyncio.Semaphore(1), hand.timing) as place:
        for _ in range(7):
            gate.limited(None)
            gate.limited(None)  # of a request that was under way: it makes nothing longer
            await gate.rested(place)
        assert hand.slept == [30, 60, 120, 240, 480, 600, 600]
        gate.answered()
        gate.limited(None)
        await gate.rested(place)
        gate.limited(0.0)
        await gate.rested(place)
    assert hand.slept[-2:] == [30, 1]


async def test_a_place_is_given_up_while_all_wait_and_taken_again_once() -> None:
    hand, places = Hand(), asyncio.Semaphore(1)
    first, second = asyncio.Event(), asyncio.Event()
    async with Place(places, hand.timing) as place:

        async def wait(event: asyncio.Event) -> None:
            async with place.given_up():
                await event.wait()

        tasks = [asyncio.create_task(wait(event)) for event in (first, second)]
        await asyncio.sleep(0)
        assert not places.locked()
        first.set()
        await tasks[0]
        assert not places.locked()
        second.set()
        await tasks[1]
        assert places.locked()
    assert not places.locked()
    await asyncio.wait_for(places.acquire(), 1)
    assert places.locked()  # it was one place all the time


async def test_who_is_cancelled_while_it_waits_leaves_the_places_as_they_were() -> None:
    hand, places = Hand(), asyncio.Semaphore(1)

    async def work() -> None:
        async with Place(places, hand.timing) as place, place.given_up():
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await places.acquire()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert places.locked()
    places.release()
    assert places._value == 1


def test_an_outage_ends_for_all_and_is_looked_at_again() -> None:
    hand, heard = Hand(), list[Any]()
    outage = Outage("docker.io", heard.append, hand.timing)
    error = UpstreamUnavailable("no route", namespace="docker.io")
    outage.answered()
    tries = 0
    while (pause := outage.silent(error, tries, outage.answers)) is not None:
        hand.now += pause
        tries += 1
    assert PATIENCE <= sum(15 for _ in range(tries)) + 20 <= PATIENCE + 60
    with pytest.raises(UpstreamUnavailable, match="not asked for, since no route"):
        outage.check()
    hand.now += 31
    outage.check()
    outage.answered()
    outage.check()
    assert isinstance(heard[-1], Resumed)


def test_what_fails_while_others_are_answered_is_given_up_sooner() -> None:
    hand = Hand()
    outage = Outage("docker.io", lambda _: None, hand.timing)
    error = UpstreamUnavailable("it broke", namespace="docker.io")
    pauses = []
    for tries in range(10):
        answers = outage.answers
        outage.answered()
        pauses.append(outage.silent(error, tries, answers))
        if pauses[-1] is None:
            break
    assert pauses == [1, 4, 15, None]


@pytest.mark.parametrize("wrong", [{"jobs": 0}, {"budget": 0.0}, {"budget": 1.5}])
def test_an_order_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Order(**wrong)


class Said:
    """An upstream that has said this of its limit."""

    namespace = "docker.io"

    def __init__(self, *budgets: Budget) -> None:
        self._budgets = list(budgets)

    @property
    def budget(self) -> Budget:
        return self._budgets.pop(0) if len(self._budgets) > 1 else self._budgets[0]


async def test_a_limit_of_nothing_that_is_answered_all_the_same_is_no_limit() -> None:
    hand = Hand()
    upstream = Said(Budget(hand.now, limit=0, remaining=0))
    allowance = Allowance(cast("Any", upstream), 1.0, list[Any]().append, hand.timing)
    async with asyncio.timeout(5), Place(asyncio.Semaphore(1), hand.timing) as place, allowance.counted(place, never):
        assert hand.slept == []


async def test_where_the_limit_is_not_said_the_share_is_of_the_most_that_remained() -> None:
    hand = Hand()
    left = iter(range(99, 0, -1))
    upstream = Said(Budget(hand.now, remaining=100))
    made = 0

    async def learn() -> None:
        pass

    async def sleep(_: float) -> None:
        raise _Waited

    timing = Timing(hand.timing.clock, sleep)
    allowance = Allowance(cast("Any", upstream), 0.2, list[Any]().append, timing)

    with suppress(_Waited):
        async with Place(asyncio.Semaphore(1), hand.timing) as place, asyncio.timeout(5):
            while True:
                async with allowance.counted(place, learn):
                    made += 1
                    upstream._budgets = [Budget(hand.now, remaining=next(left))]
    assert made == 20


class _Waited(Exception):
    pass


async def never() -> None:
    raise AssertionError
