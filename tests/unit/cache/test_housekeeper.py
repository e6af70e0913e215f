"""One process of all keeps house, and another goes on when it ends."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from mirror import metrics
from mirror.cache import chores, housekeeper
from mirror.cache.chores import Figures, Neighbours, Relief, Surveys, Tidying
from mirror.cache.housekeeper import Housekeeper
from mirror.errors import StoreError
from mirror.oci.digest import Digest
from mirror.store import compaction
from mirror.store.changes import Lost, Pinned, TagSet
from tests.unit.cache.stores import MIB, REPO, blob, evictor_of, images, left_of, opened, space_of

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Counting:
    """A chore that says how often it was begun, and fails so many times."""

    name = "counting"

    def __init__(self, failures: int = 0) -> None:
        self.begun = 0
        self.works = asyncio.Event()
        self._failures = failures

    async def run(self) -> None:
        self.begun += 1
        if self.begun <= self._failures:
            raise StoreError("the disk is not there")
        self.works.set()
        await asyncio.Event().wait()


async def test_one_keeps_house_and_the_other_goes_on_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeper, "POLL", 0.001)
    mine, theirs = Counting(), Counting()
    one, two = Housekeeper(tmp_path / "lock", [mine]), Housekeeper(tmp_path / "lock", [theirs])
    one.start()
    await asyncio.wait_for(mine.works.wait(), 5)
    two.start()
    await asyncio.sleep(0)
    assert not two.keeping.is_set()
    await one.close()
    await asyncio.wait_for(theirs.works.wait(), 5)
    assert (mine.begun, theirs.begun) == (1, 1)
    await two.close()


async def test_a_chore_that_fails_is_begun_again_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeper, "AGAIN", 0.0)
    failing, other = Counting(failures=3), Counting()
    keeper = Housekeeper(tmp_path / "lock", [failing], everywhere=[other])
    with capture_logs() as lines:
        keeper.start()
        await asyncio.wait_for(failing.works.wait(), 5)
        await keeper.close()
    assert (failing.begun, other.begun) == (4, 1)
    assert [line["chore"] for line in lines] == ["counting"] * 3


async def test_what_is_in_the_store_is_in_the_metrics(tmp_path: Path) -> None:
    with opened(tmp_path, max_size=2**30) as store, capture_logs() as lines:
        await images(store, 3, MIB)
        await store.index.apply(Pinned(REPO, "v0", 1.0))
        keeper = Housekeeper(tmp_path / "lock", [Figures(store, evictor_of(store))])
        metrics.STORE_OLDEST_USE.set(0)
        keeper.start()
        async with asyncio.timeout(5):
            while not metrics.STORE_OLDEST_USE._value.get():  # noqa: ASYNC110  # a gauge tells nobody
                await asyncio.sleep(0.001)
        await keeper.close()
        assert metrics.STORE_IMAGES._value.get() == 3
        assert metrics.STORE_CONTENTS._value.get() == 6
        assert metrics.STORE_PINNED._value.get() == MIB + 4096
        assert metrics.STORE_OLDEST_USE._value.get() == 2.0
        assert metrics.STORE_CAPACITY._value.get() == store.room.cap
    assert [line for line in lines if "pinned" in line["event"]] == []


async def test_pins_that_leave_little_room_are_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores, "FIGURES", 0.001)
    with opened(tmp_path, max_size=25 * MIB) as store, capture_logs() as lines:
        await images(store, 5, 4 * MIB)
        await store.index.apply(*(Pinned(REPO, f"v{number}", 1.0) for number in range(5)))
        keeper = Housekeeper(tmp_path / "lock", [Figures(store, evictor_of(store))])
        keeper.start()
        async with asyncio.timeout(5):
            while not lines:  # noqa: ASYNC110  # a log tells nobody
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        await keeper.close()
    assert len(lines) == 1
    assert "mirror pin --list" in lines[0]["event"]


async def test_relief_that_is_in_vain_is_said_once_and_rests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores, "IN_VAIN", 0.001)
    with opened(tmp_path, max_size=25 * MIB, high=0.5, low=0.4) as store, capture_logs() as lines:
        made = await images(store, 5, 4 * MIB)
        await store.index.apply(*(Pinned(REPO, f"v{number}", 1.0) for number in range(5)))
        keeper = Housekeeper(tmp_path / "lock", [Relief(store, space_of(store), evictor_of(store))])
        keeper.start()
        async with asyncio.timeout(5):
            while not lines:  # noqa: ASYNC110  # a log tells nobody
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        await keeper.close()
        assert left_of(store, made) == [0, 1, 2, 3, 4]
    assert len(lines) == 1


_DIES = """
import os, sys
from pathlib import Path
from tests.unit.cache.stores import opened
with opened(Path(sys.argv[1])) as store:
    store.room.reserve(10**6)
    os._exit(9)
"""


async def test_a_store_that_a_process_has_not_closed_is_looked_through(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        await store.count()
        stray = Digest.of(b"who knows")
        store.layout.blob(stray).write_bytes(b"who knows")
        surveys = Surveys(store)
        await surveys.see()
        assert store.graph.content(stray) is None, "where all has ended well nothing is looked at"
        before = metrics.SURVEY_SECONDS._sum.get()
        dead = await asyncio.create_subprocess_exec(sys.executable, "-c", _DIES, str(tmp_path))
        assert await dead.wait() == 9
        assert store.room.excess() == 0
        assert not store.counted
        await surveys.see()
        assert store.counted
        assert store.graph.content(stray) is not None
        assert metrics.SURVEY_SECONDS._sum.get() > before
        assert store.room.balance().content == 4096


async def test_another_mirror_on_the_directory_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores, "FIGURES", 0.001)
    with opened(tmp_path) as ours, opened(tmp_path) as worker, opened(tmp_path) as theirs, opened(tmp_path):
        ours.room.serve(1000)
        worker.room.serve(1000)
        theirs.room.serve(2000)
        keeper = Housekeeper(tmp_path / "lock", [], everywhere=[Neighbours(ours, 1000)])
        with capture_logs() as lines:
            keeper.start()
            async with asyncio.timeout(5):
                while not lines:  # noqa: ASYNC110  # a log tells nobody
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)
            await keeper.close()
    assert [line["pid"] for line in lines] == [2000]


async def test_after_a_crash_the_whole_index_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores, "SURVEY_LOOK", 0.001)
    with opened(tmp_path) as store:
        await store.count()
        checks: list[bool] = []
        right = store.index.check
        monkeypatch.setattr(store.index, "check", lambda: checks.append(right()))
        keeper = Housekeeper(tmp_path / "lock", [Surveys(store)])
        keeper.start()
        for _ in range(2):
            dead = await asyncio.create_subprocess_exec(sys.executable, "-c", _DIES, str(tmp_path))
            assert await dead.wait() == 9
            assert store.room.excess() == 0
            async with asyncio.timeout(10):
                while not store.counted:  # noqa: ASYNC110  # a book tells nobody
                    await asyncio.sleep(0.001)
        await keeper.close()
        assert checks == [True]


async def test_the_journal_is_written_anew_within_the_room_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chores, "TIDY", 0.001)
    monkeypatch.setattr(compaction, "GROWTH", 1000)
    with opened(tmp_path) as store:
        (digest,) = await images(store, 1, 4096)
        for second in range(100):
            await store.index.apply(TagSet(REPO, "v0", digest, float(second)))
        before = store.layout.journal.stat().st_size
        keeper = Housekeeper(tmp_path / "lock", [Tidying(store)])
        keeper.start()
        async with asyncio.timeout(10):
            while store.layout.journal.stat().st_size > before // 4:  # noqa: ASYNC110  # a file tells nobody
                await asyncio.sleep(0.001)
        await keeper.close()
        balance = store.room.balance()
        assert (balance.held, balance.outstanding) == (0, 0)
        assert store.index.tag(REPO, "v0") is not None


async def test_what_nobody_goes_on_with_or_heals_goes_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores, "TIDY", 0.001)
    with opened(tmp_path) as store:
        await store.survey()
        digest = await blob(store, 8192, 1)
        assert store.blobs.set_aside(digest)
        await store.index.apply(Lost(digest))
        (store.layout.aside / f"{digest.algorithm}-{digest.hex}.new").touch()  # a crash between two steps
        (store.layout.fills / "cut off.part").touch()
        paths = [store.layout.damaged(digest), *store.layout.fills.iterdir()]
        for path in paths:
            os.utime(path, (1.0, 1.0))
        keeper = Housekeeper(tmp_path / "lock", [Tidying(store)])
        keeper.start()
        async with asyncio.timeout(10):
            while [*store.layout.aside.iterdir(), *store.layout.fills.iterdir()]:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.001)
        await keeper.close()
        assert store.room.balance().content == 0
