from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack

import pytest

from mirror.upstream.protocol import Urgency
from mirror.upstream.slots import Slots


class Transfers:
    """Transfers that hold a place until they are told to end."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.order: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.ends: dict[str, asyncio.Event] = {}
        self.urgency: dict[str, Urgency] = {}

    async def begin(self, name: str, *, urgent: bool, image: str | None = None) -> None:
        self.ends[name] = asyncio.Event()
        self.urgency[name] = Urgency(urgent=urgent)
        self.tasks[name] = asyncio.create_task(self._run(name, image))
        await settle()

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await self.tasks[name]
        await settle()

    async def leave(self, name: str) -> None:
        self.tasks[name].cancel()
        await asyncio.gather(self.tasks[name], return_exceptions=True)
        await settle()

    async def finish(self) -> None:
        for event in self.ends.values():
            event.set()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    async def _run(self, name: str, image: str | None) -> None:
        async with self.slots.place(self.urgency[name], image=image):
            self.order.append(name)
            await self.ends[name].wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_read_ahead_holds_six_places_at_most_and_the_urgent_all_eight() -> None:
    transfers = Transfers(Slots())
    for number in range(10):
        await transfers.begin(f"b{number}", urgent=False)
    assert transfers.slots.running == 6
    for number in range(10):
        await transfers.begin(f"u{number}", urgent=True)
    assert transfers.order == ["b0", "b1", "b2", "b3", "b4", "b5", "u0", "u1"]
    await transfers.end("b0")
    assert transfers.order[-1] == "u2"
    await transfers.finish()
    assert transfers.slots.running == transfers.slots.waiting == 0


async def test_the_urgent_overtake_what_waits_without_urgency() -> None:
    transfers = Transfers(Slots(total=1, background=1))
    await transfers.begin("first", urgent=False)
    await transfers.begin("patient", urgent=False)
    await transfers.begin("urgent", urgent=True)
    await transfers.end("first")
    await transfers.end("urgent")
    assert transfers.order == ["first", "urgent", "patient"]
    await transfers.finish()


async def test_what_becomes_urgent_while_it_waits_is_served_at_once() -> None:
    transfers = Transfers(Slots(total=3, background=1))
    for name in ("a", "b", "c"):
        await transfers.begin(name, urgent=False)
    assert transfers.order == ["a"]
    transfers.urgency["c"].raise_()
    await settle()
    assert transfers.order == ["a", "c"]
    await transfers.finish()


async def test_what_becomes_urgent_while_it_runs_makes_room_for_read_ahead() -> None:
    transfers = Transfers(Slots(total=3, background=1))
    await transfers.begin("a", urgent=False)
    await transfers.begin("b", urgent=False)
    assert transfers.order == ["a"]
    transfers.urgency["a"].raise_()
    await settle()
    assert transfers.order == ["a", "b"]
    await transfers.end("a")
    await transfers.begin("c", urgent=False)
    assert transfers.order == ["a", "b"]  # b alone fills the share of what is not urgent
    await transfers.finish()


async def test_one_that_leaves_the_queue_takes_no_place() -> None:
    transfers = Transfers(Slots(total=1, background=1))
    for name in ("a", "b", "c"):
        await transfers.begin(name, urgent=True)
    await transfers.leave("b")
    await transfers.end("a")
    assert transfers.order == ["a", "c"]
    await transfers.finish()
    assert transfers.slots.running == transfers.slots.waiting == 0


async def test_one_that_leaves_as_its_place_comes_gives_it_back() -> None:
    transfers = Transfers(Slots(total=1, background=1))
    for name in ("a", "b", "c"):
        await transfers.begin(name, urgent=True)
    transfers.ends["a"].set()
    await asyncio.sleep(0)  # a ends, and b is granted its place in the same step as it is cancelled
    transfers.tasks["b"].cancel()
    await settle()
    assert "c" in transfers.order
    await transfers.finish()
    assert transfers.slots.running == 0


async def test_no_place_in_time_is_a_timeout_and_takes_none() -> None:
    slots = Slots(total=1, background=1)
    async with slots.place(Urgency(urgent=True)):
        with pytest.raises(TimeoutError):
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(
                    slots.place(Urgency(urgent=True), deadline=asyncio.get_running_loop().time() + 0.01)
                )
    assert slots.running == slots.waiting == 0


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_the_limits_hold_and_no_place_is_lost(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311  no secret
    transfers = Transfers(Slots(total=4, background=2))
    slots = transfers.slots
    for number in range(120):
        name = str(number)
        await transfers.begin(name, urgent=dice.random() < 0.5)
        other = str(dice.randrange(number + 1))
        act = dice.choice(("end", "leave", "raise", "none"))
        if act == "leave":
            transfers.tasks[other].cancel()
        elif act == "end":
            transfers.ends[other].set()
        elif act == "raise":
            transfers.urgency[other].raise_()
        if dice.random() < 0.5:
            await settle()
        assert slots.running <= 4
        assert 0 <= slots._running_background <= 2
    await transfers.finish()
    assert slots.running == slots.waiting == slots._running_background == 0


async def test_an_image_with_many_layers_does_not_keep_another_from_beginning() -> None:
    transfers = Transfers(Slots(total=16, background=12))
    for number in range(20):
        await transfers.begin(f"many{number}", urgent=True, image="many")
    assert transfers.slots.running == 14
    await transfers.begin("one", urgent=True, image="one")
    assert transfers.order[-1] == "one"
    await transfers.begin("two", urgent=True, image="one")
    assert transfers.slots.running == 15
    await transfers.end("many0")
    assert transfers.order[-1] == "one"  # there are no more than 14 places for those that hold some
    await transfers.end("many1")
    assert transfers.order[-1] == "two"  # and of those it has fewer
    await transfers.finish()
    assert not transfers.slots._held


async def test_only_as_many_places_are_used_as_are_said_to_help_and_others_are_kept() -> None:
    slots = Slots(total=16, background=12, limit=8)
    transfers = Transfers(slots)
    for number in range(16):
        await transfers.begin(str(number), urgent=True, image="many")
    assert slots.running == 8
    slots.widen(12)
    await settle()
    assert slots.running == 12
    slots.widen(8)
    await transfers.end("0")
    assert slots.running == 11
    await transfers.finish()
