"""A prefetch lives within the limits of upstream, and of the disk."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from mirror.airgap.choice import ReferrerTypes
from mirror.airgap.prefetch.outcome import Resumed, Waiting
from mirror.cache import space
from mirror.store.changes import Pinned
from tests.fakes.faults import Drop, Status
from tests.fakes.registry import FakeRegistry
from tests.flow.prefetching import Site, site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.fakes.answer import Answer
    from tests.fakes.records import Record
    from tests.flow.conftest import Clock

MIB = 1024 * 1024


class Hub(FakeRegistry):
    """Counts GETs of manifests against a limit, as Docker Hub does."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed = 100
        self.remaining = 100

    def answer(self, record: Record) -> Answer:
        counted = record.kind == "manifest" and record.method == "GET"
        if counted and self.remaining <= 0:
            answer = self._refuse_more()
        else:
            self.remaining -= counted
            answer = super().answer(record)
        if record.kind == "manifest":
            answer.headers["ratelimit-limit"] = f"{self.allowed};w=21600"
            answer.headers["ratelimit-remaining"] = f"{self.remaining};w=21600"
        return answer

    def _refuse_more(self) -> Answer:
        from tests.fakes.endpoints import error_  # noqa: PLC0415

        return error_(429, "TOOMANYREQUESTS", "You have reached your pull rate limit")


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub() as fake:
        yield fake


@pytest.fixture
async def here(hub: Hub, tmp_path: Path, clock: Clock) -> AsyncIterator[Site]:
    clock.now = time.time()  # what remains is said at a time of the real clock
    async with site(hub, tmp_path / "store", clock) as opened:
        yield opened


def gets(hub: FakeRegistry) -> int:
    return hub.count(kind="manifest", method="GET")


@pytest.mark.parametrize("jobs", [1, 4])
async def test_a_share_of_the_limit_is_left_to_others(hub: Hub, here: Site, jobs: int) -> None:
    names = [f"app{number}" for number in range(8)]
    for name in names:
        hub.add_image(f"library/{name}", "v1", layers=[name.encode()])
    hub.remaining = 84  # others have had 16 of it
    least: list[int] = []

    async def sleep(_: float) -> None:
        await hub.idle()  # what was under way has long been answered
        least.append(hub.remaining)
        if len(here.slept) >= 3:  # the window has moved on
            hub.remaining = 100

    here.on_sleep = sleep
    fetched = await here.fetch(*(f"{name}:v1" for name in names), budget=0.2, jobs=jobs)
    assert [one.failure for one in fetched] == [None] * 8
    assert gets(hub) == 8
    assert min(least) >= 80
    if jobs > 1:
        return  # an answer that overtakes another one may let it wait earlier
    assert least == [80, 80, 80]
    assert here.slept == [60, 120, 240]
    waits = here.said(Waiting)
    reason = "80 of the 100 requests that docker.io allows remain, and no more than 20% of all may be used"
    assert waits[0].reason == reason
    assert len(here.said(Resumed)) == 1
    assert max(one.waited for one in fetched) == pytest.approx(420, abs=1)


@pytest.mark.parametrize("kept", [0, 20])
async def test_at_the_end_of_the_limit_or_of_what_a_rule_leaves_to_it_it_waits_and_goes_on(
    hub: Hub, here: Site, kept: int
) -> None:
    for number in range(4):
        hub.add_image("library/app", f"v{number}", layers=[b"%d" % number])
    hub.remaining = kept + 2
    if not kept:
        here.cache.thrift.reconfigure(())

    async def sleep(_: float) -> None:
        hub.remaining = 50

    here.on_sleep = sleep
    fetched = await here.fetch(*(f"app:v{number}" for number in range(4)))
    assert [one.failure for one in fetched] == [None] * 4
    if kept:
        told = "docker.io allows remain, and a rule of `budget` keeps 20% of all for what clients wait for"
    else:
        told = "docker.io has given all the requests that its limit allows"
    assert all(wait.reason.endswith(told) for wait in here.said(Waiting))
    assert gets(hub) == 4  # none was asked for in vain
    assert here.slept == [60]


async def test_a_429_is_waited_for_as_long_as_it_says(hub: Hub, here: Site) -> None:
    hub.add_image("library/app", "v1")
    hub.fault(kind="manifest", method="GET", times=1, then=Status(429, "TOOMANYREQUESTS", retry_after=40))

    [fetched] = await here.fetch("app:v1")
    assert fetched.failure is None
    assert [round(seconds) for seconds in here.slept] == [40]
    [waiting] = here.said(Waiting)
    assert waiting.until == pytest.approx(here.clock.now, abs=1)


async def test_a_limit_of_one_upstream_holds_up_no_other(hub: Hub, tmp_path: Path, clock: Clock) -> None:
    clock.now = time.time()
    hub.remaining = 0
    for number in range(3):
        hub.add_image("library/app", f"v{number}")
    async with FakeRegistry() as quay, site({"docker.io": hub, "quay.io": quay}, tmp_path / "store", clock) as here:
        quay.add_image("org/app", "v1", layers=[b"of quay"])

        async def sleep(_: float) -> None:
            await quay.seen(2, kind="blob")  # it goes on meanwhile
            hub.remaining = 100

        here.on_sleep = sleep
        fetched = await here.fetch("app:v0", "app:v1", "app:v2", "quay.io/org/app:v1", jobs=1)
    assert [one.failure for one in fetched] == [None] * 4
    assert here.slept == [60]


@pytest.mark.usefixtures("impatient")
async def test_what_fails_for_a_moment_is_asked_for_again(hub: Hub, here: Site) -> None:
    hub.add_image("library/app", "v1")
    hub.fault(kind="manifest", method="GET", times=2, then=Status(503))
    [fetched] = await here.fetch("app:v1")
    assert fetched.failure is None
    assert len(here.slept) == 2


@pytest.mark.usefixtures("impatient")
async def test_an_upstream_that_never_answers_is_given_up_once_for_all_its_images(hub: Hub, here: Site) -> None:
    await hub.stop()
    fetched = await here.fetch(*(f"app:v{number}" for number in range(50)))
    assert all(one.failure is not None and "docker.io" in one.failure for one in fetched)
    assert sum("not asked for" in (one.failure or "") for one in fetched) >= 46
    assert sum(here.slept) < 4 * 30
    await hub.start()


@pytest.mark.usefixtures("impatient")
async def test_an_upstream_that_only_fails_is_given_up_once_for_all_its_images(hub: Hub, here: Site) -> None:
    for number in range(20):
        hub.add_image("library/app", f"v{number}", layers=[b"%d" % number])
    hub.fault(kind="manifest", after=2, then=Status(503))
    first, *others = await here.fetch(*(f"app:v{number}" for number in range(20)), jobs=1)
    assert first.failure is None
    assert all(one.failure is not None and "it answered 503" in one.failure for one in others)
    assert sum(here.slept) < 120


@pytest.mark.usefixtures("impatient")
async def test_what_is_here_by_its_digest_needs_no_upstream(hub: Hub, here: Site) -> None:
    image = hub.add_image("library/app", "v1")
    none = ReferrerTypes.parse("none")
    await here.fetch("app:v1", referrers=none)
    await hub.stop()
    absent, whole = await here.fetch("app:v2", f"app@{image}", referrers=none, jobs=1)
    assert absent.failure is not None
    assert whole.failure is None
    await hub.start()


@pytest.mark.usefixtures("impatient")
async def test_a_minute_without_an_uplink_costs_no_image(hub: Hub, here: Site) -> None:
    for number in range(6):
        hub.add_image("library/app", f"v{number}", layers=[b"%d" % number])

    hub.fault(kind="manifest", method="HEAD", after=2, times=24, then=Drop())
    fetched = await here.fetch(*(f"app:v{number}" for number in range(6)), jobs=2)
    assert [one.failure for one in fetched] == [None] * 6
    assert sum(here.slept) > 45
    assert here.said(Waiting)[0].reason.startswith("docker.io: ")
    assert here.said(Resumed)


class TestCap:
    @pytest.fixture
    async def here(self, hub: Hub, tmp_path: Path, clock: Clock) -> AsyncIterator[Site]:
        async with site(hub, tmp_path / "store", clock, storage={"max_size": "32MiB"}) as opened:
            yield opened

    def add(self, hub: Hub, *tags: str) -> None:
        for number, tag in enumerate(tags):
            layer = hub.add_pattern_blob("library/app", 8 * MIB, seed=number)
            hub.add_image("library/app", tag, layers=[layer])

    async def test_images_of_one_prefetch_do_not_push_each_other_out(self, hub: Hub, here: Site) -> None:
        self.add(hub, "a", "b", "c", "d")
        fetched = await here.fetch("app:a", "app:b", "app:c", "app:d", jobs=1)
        assert [one.failure is None for one in fetched] == [True, True, True, False]
        assert fetched[3].failure is not None
        assert "raise storage.max_size by " in fetched[3].failure
        assert here.slept == []
        assert all(here.cache.obtaining.here(one.wanted.repository, one.digest) for one in fetched[:3] if one.digest)
        assert hub.count(kind="blob", digest=str(hub.blobs_of("library/app", fetched[3].digest)[1])) == 0  # type: ignore[arg-type]

    async def test_what_is_here_and_wanted_does_not_make_room_for_what_comes_before_it(
        self, hub: Hub, here: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(space, "SPARED", 0.0)
        self.add(hub, "old", "wanted", "new", "newer")
        await here.fetch("app:wanted")
        await here.fetch("app:old")
        fetched = await here.fetch("app:new", "app:newer", "app:wanted", jobs=1)
        assert [one.failure for one in fetched] == [None] * 3
        assert fetched[2].came.bytes == 0

    async def test_what_is_pinned_is_not_counted_twice(self, hub: Hub, here: Site) -> None:
        self.add(hub, "a", "b", "c")
        fetched = await here.fetch("app:a", "app:b", "app:c", pin=True)
        assert [(one.failure, one.pinned) for one in fetched] == [(None, True)] * 3
        again = await here.fetch("app:a", "app:b", "app:c", pin=True)
        assert [(one.failure, one.pinned) for one in again] == [(None, True)] * 3

    async def test_pinned_images_leave_no_room_and_that_is_said(self, hub: Hub, here: Site) -> None:
        self.add(hub, "a", "b", "c", "d")
        repository = (await here.fetch("app:a", "app:b", "app:c"))[0].wanted.repository
        await here.store.index.apply(*(Pinned(repository, tag, 1.0) for tag in "abc"))
        [fetched] = await here.fetch("app:d")
        assert fetched.failure is not None
        assert "what is pinned keep" in fetched.failure

    async def test_what_the_mirror_would_throw_away_at_once_is_not_brought(
        self, hub: Hub, tmp_path: Path, clock: Clock
    ) -> None:
        storage = {"max_size": "32MiB", "high_water": "60%", "low_water": "50%"}
        async with site(hub, tmp_path / "marked", clock, storage=storage) as here:
            self.add(hub, "a", "b", "c")
            fetched = await here.fetch("app:a", "app:b", "app:c", jobs=1)
            assert [one.failure is None for one in fetched] == [True, True, False]
            assert await here.cache.evictor.relieve() == 0
            pinned = await here.fetch("app:a", "app:b", "app:c", pin=True)
            assert [one.failure for one in pinned] == [None] * 3
