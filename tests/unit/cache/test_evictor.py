"""Eviction: whole images, in the order of their last use, no more than needed, and nothing in vain."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from mirror import metrics
from mirror.cache.candidates import Candidates
from mirror.errors import NoSpace, StoreError
from mirror.oci.digest import Digest
from mirror.store.changes import Pinned, Used
from tests.unit.cache.stores import MIB, REPO, blob, evictor_of, image, images, left_of, opened, space_of

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.store.store import Store

CAP = 26 * MIB  # some 22 MiB of content, beside the margin and what the store itself takes


async def test_candidates_come_in_the_order_that_all_processes_know(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        made = await images(store, 100, 4096)
        for number in (3, 0, 50):
            store.recent.touch(made[number], 1000.0 + number)
        order = [unit.digest for unit, _ in Candidates(store.graph, store.recent, once=100, again=0)]
    later = [made[0], made[3], made[50]]
    assert order == [digest for digest in made if digest not in later] + later


async def test_a_candidate_is_used_when_its_turn_came_long_ago(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        made = await images(store, 3, 4096)
        store.recent.touch(made[0], 1.5)
        assert [(unit.digest, used) for unit, used in Candidates(store.graph, store.recent, once=100, again=0)] == [
            (made[0], 1.5),
            (made[1], 2.0),
            (made[2], 3.0),
        ]


async def test_what_was_asked_for_in_one_pull_only_goes_before_what_was_asked_for_again(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        made = await images(store, 40, 4096)  # used at 1, 2, …
        loved = made[:20]
        await store.index.apply(*(Used(REPO, digest, 2000.0 + number) for number, digest in enumerate(loved)))
        totals = store.graph.totals()
        assert (totals.once, totals.again) == (20, 20)
        found = Candidates(store.graph, store.recent, once=totals.once, again=totals.again)
        order = [unit.digest for unit, _ in found]
    # Of the newcomers a tenth of all stays until as many of the others have gone.
    assert order[:18] == made[20:38]
    assert order[18:] == [*loved[:2], made[38], *loved[2:11], made[39], *loved[11:]]


async def test_a_second_request_of_the_same_pull_is_no_second_pull(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        made = await images(store, 2, 4096)
        await store.index.apply(Used(REPO, made[0], 1.0 + 599), Used(REPO, made[1], 2.0 + 601))
        assert [unit.digest for unit in store.graph.oldest(9)] == [made[0]]
        assert [unit.digest for unit in store.graph.oldest(9, again=True)] == [made[1]]


async def test_what_is_spared_of_one_kind_leaves_the_other(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        made = await images(store, 10, 4096)
        await store.index.apply(*(Used(REPO, digest, 2000.0) for digest in made[:5]))
        candidates = Candidates(store.graph, store.recent, once=5, again=5)
        seen = []
        for unit, _ in candidates:
            seen.append(unit.digest)
            if unit.digest == made[5]:
                candidates.spared()
    assert set(seen) == {made[5], *made[:5]}


async def test_no_candidate_is_missed_where_others_go_and_move_up(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        made = await images(store, 90, 4096)
        candidates = Candidates(store.graph, store.recent, once=100, again=0)
        seen = []
        for number, (unit, _) in enumerate(candidates):
            seen.append(unit.digest)
            if number % 2:
                assert store.remover.remove(unit.digest) is not None
                candidates.went()
    assert sorted(seen, key=str) == sorted(made, key=str)


async def test_no_candidate_is_missed_where_others_are_used_meanwhile(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        made = await images(store, 70, 4096)
        seen = []
        for unit, _ in Candidates(store.graph, store.recent, once=100, again=0):
            seen.append(unit.digest)
            if len(seen) == 32:  # they are at the end of the list now, and what was behind them is at its head
                await store.index.apply(*(Used(REPO, digest, 1000.0) for digest in seen))
    assert sorted(seen, key=str) == sorted(made, key=str)


async def test_no_more_goes_than_is_needed(tmp_path: Path) -> None:
    with opened(tmp_path, max_size=CAP) as store:
        made = await images(store, 5, 4 * MIB)
        assert 0 < store.room.left() < 3 * MIB
        await space_of(store).reserve(3 * MIB)
        assert left_of(store, made) == [1, 2, 3, 4]
        store.room.landed(3 * MIB)
        store.room.release(3 * MIB)


async def test_several_processes_that_wait_for_room_do_not_each_make_all_of_it(tmp_path: Path) -> None:
    with opened(tmp_path, max_size=CAP) as one, opened(tmp_path, max_size=CAP) as two:
        made = await images(one, 18, MIB)
        before = one.room.left()
        await asyncio.gather(*(space_of(store).reserve(2 * MIB) for store in (one, one, two, two)))
        gone = 18 - len(left_of(one, made))
        assert gone * MIB < 8 * MIB - before + 2 * MIB  # the log of the index grows meanwhile
        for store in (one, one, two, two):
            store.room.landed(2 * MIB)
            store.room.release(2 * MIB)


async def test_what_cannot_fit_evicts_nothing(tmp_path: Path) -> None:
    with opened(tmp_path, max_size=CAP) as store:
        made = await images(store, 5, 4 * MIB)
        await store.index.apply(Pinned(REPO, "v0", 1.0), Pinned(REPO, "v1", 1.0))
        failures = metrics.RESERVE_FAILURES.labels("too large")
        before = failures._value.get()
        for size in (16 * MIB, 100 * MIB):
            with pytest.raises(NoSpace, match=r"storage\.max_size.*mirror pin"):
                await space_of(store).reserve(size)
        assert failures._value.get() == before + 2
        assert left_of(store, made) == [0, 1, 2, 3, 4]
        await space_of(store).reserve(8 * MIB)
        assert left_of(store, made)[:2] == [0, 1]
        store.room.landed(8 * MIB)
        store.room.release(8 * MIB)


async def test_what_somebody_reads_is_passed_over(tmp_path: Path) -> None:
    with opened(tmp_path, max_size=CAP) as store:
        made = await images(store, 5, 4 * MIB)
        file, _ = store.blobs.open(await blob(store, 4 * MIB, 1)) or pytest.fail("it is there")
        with file:
            await space_of(store).reserve(3 * MIB)
        assert left_of(store, made) == [0, 2, 3, 4]
        store.room.landed(3 * MIB)
        store.room.release(3 * MIB)


async def test_where_all_is_in_use_that_is_said(tmp_path: Path) -> None:
    with opened(tmp_path, max_size=CAP) as store:
        made = await images(store, 5, 4 * MIB)
        files = [store.blobs.open(digest) for digest in made]
        with pytest.raises(NoSpace, match="in use"):
            await space_of(store).reserve(3 * MIB)
        assert left_of(store, made) == [0, 1, 2, 3, 4]
        for file in files:
            assert file is not None
            file[0].close()


async def test_nothing_goes_before_it_is_known_what_is_there(tmp_path: Path) -> None:
    with opened(tmp_path, max_size=CAP) as store:
        made = await images(store, 5, 4 * MIB)
        evictor = evictor_of(store, ready=False)
        assert not await evictor.free(3 * MIB)
        assert await evictor.relieve() == 0
        assert left_of(store, made) == [0, 1, 2, 3, 4]


async def test_a_use_that_the_index_has_not_heard_of_counts(tmp_path: Path) -> None:
    with opened(tmp_path, max_size=CAP) as store:
        made = await images(store, 5, 4 * MIB)
        evictor = evictor_of(store)
        evictor._uses.touch(REPO, await blob(store, 4 * MIB, 1))  # the layer of the oldest image
        assert await evictor.free(3 * MIB)
        assert left_of(store, made) == [0, 2, 3, 4]


async def test_relief_goes_on_to_the_low_water_mark_though_the_high_one_is_passed_soon(tmp_path: Path) -> None:
    with opened(tmp_path, max_size=40 * MIB, high=0.6, low=0.3) as store:
        made = await images(store, 30, MIB)
        evictor = evictor_of(store)
        assert store.room.excess() > 0
        freed = await evictor.relieve()
        assert store.room.used <= 12 * MIB < store.room.used + MIB + 8192
        left = left_of(store, made)
        assert left == list(range(30 - len(left), 30))
        assert freed == (30 - len(left)) * (MIB + 4096)


async def test_each_eviction_is_said_with_name_size_and_reason(tmp_path: Path) -> None:
    with opened(tmp_path, max_size=CAP) as store:
        made = await images(store, 5, 4 * MIB)
        with capture_logs() as lines:
            assert await evictor_of(store).free(3 * MIB)
    (line,) = [line for line in lines if line["event"] == "evicted"]
    assert line["images"] == ["docker.io/library/app:v0"]
    assert (line["digest"], line["freed"], line["files"]) == (str(made[0]), 4 * MIB + 4096, 2)
    assert line["reason"] == "full"
    assert line["unused_seconds"] > 10**9


async def test_a_blob_of_no_image_goes_by_its_own_age(tmp_path: Path) -> None:
    with opened(tmp_path, max_size=CAP) as store:
        made = [await image(store, "a", await blob(store, 8 * MIB, 1, at=1.0), at=10.0)]
        lone = [await blob(store, 4 * MIB, 2, at=5.0), await blob(store, 4 * MIB, 3, at=20.0)]
        assert await evictor_of(store).free(9 * MIB)
        assert left_of(store, [*made, *lone]) == [0, 2]


async def test_what_does_not_fit_beside_fills_under_way_evicts_nothing_and_may_fit_later(tmp_path: Path) -> None:
    with opened(tmp_path, max_size=CAP) as store:
        made = await images(store, 2, 4 * MIB)
        space = space_of(store)
        await space.reserve(8 * MIB)
        with pytest.raises(NoSpace, match="in use"):
            await space.reserve(15 * MIB)
        assert left_of(store, made) == [0, 1]
        store.room.landed(8 * MIB)
        space.release(8 * MIB)
        await space.reserve(15 * MIB)
        assert left_of(store, made) == [1]
        store.room.landed(15 * MIB)
        space.release(15 * MIB)


async def test_an_image_that_the_disk_does_not_let_go_keeps_no_other_from_going(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, max_size=CAP) as store, capture_logs() as said:
        made = await images(store, 5, 4 * MIB)
        sick = str(store.layout.blob(made[0]))
        real = os.open

        def broken(path: os.PathLike[str] | str, *rest: int) -> int:
            if os.fspath(path) == sick:
                raise OSError(errno.EIO, os.strerror(errno.EIO), sick)
            return real(path, *rest)

        monkeypatch.setattr(os, "open", broken)
        evictor = evictor_of(store)
        for _ in range(2):
            await evictor.free(store.room.left() + MIB)
        assert left_of(store, made) == [0, 3, 4]
    [warning] = [line for line in said if line["log_level"] == "warning"]
    assert warning["digest"] == str(made[0])
    assert "Input/output error" in warning["error"]


async def test_a_disk_that_lets_nothing_go_is_said_after_some_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, max_size=CAP) as store:
        made = await images(store, 20, MIB)
        tried = []

        def refuse(root: Digest, *, used: float) -> None:
            tried.append((root, used))
            raise StoreError("the disk is mounted read-only")

        monkeypatch.setattr(store.remover, "remove", refuse)
        with pytest.raises(StoreError, match="read-only"):
            await evictor_of(store).free(store.room.left() + MIB)
        assert [root for root, _ in tried] == made[:8]


async def unfinished(store: Store, size: int, seed: int, *, age: float) -> Path:
    """Leave what a fill leaves that upstream has cut off."""
    part = await store.blobs.part(Digest.of(str(seed).encode()))
    assert part.try_lock()
    store.room.reserve(size + 4096)
    part.begin(size)
    store.room.landed(size + 4096)
    store.room.release(size + 4096 - part.allocated())
    store.room.keep(part.allocated())
    part.close()
    path = store.layout.part(part.digest)
    os.utime(path, (time.time() - age, time.time() - age))
    return path


async def test_what_was_cut_off_just_now_goes_where_nothing_else_may(tmp_path: Path) -> None:
    with opened(tmp_path, max_size=CAP) as store:
        [old, young] = [await unfinished(store, 9 * MIB, number, age=age) for number, age in enumerate((120, 60))]
        await space_of(store).reserve(5 * MIB)
        assert (old.exists(), young.exists()) == (False, True)
        store.room.landed(5 * MIB)
        store.room.release(5 * MIB)


async def test_what_was_cut_off_goes_before_what_was_used_later(tmp_path: Path) -> None:
    with opened(tmp_path, max_size=CAP) as store:
        now = time.time()
        made = [
            await image(store, f"v{number}", await blob(store, 4 * MIB, number + 1, at=at), at=at)
            for number, at in enumerate((now - 300, now - 30))
        ]
        left = await unfinished(store, 9 * MIB, 1, age=100)
        evictor = evictor_of(store)
        assert await evictor.free(store.room.left() + MIB)
        assert left_of(store, made) == [1]
        assert left.exists()
        assert await evictor.free(store.room.left() + MIB)
        assert left_of(store, made) == [1]
        assert not left.exists()


async def test_what_is_read_ahead_does_not_push_out_what_was_cut_off_a_moment_ago(tmp_path: Path) -> None:
    with opened(tmp_path, max_size=CAP) as store:
        left = await unfinished(store, 18 * MIB, 1, age=10)
        with pytest.raises(NoSpace):
            await space_of(store).reserve(5 * MIB, urgent=False)
        assert left.exists()


async def test_what_came_since_the_last_count_may_go(tmp_path: Path) -> None:
    with opened(tmp_path, max_size=CAP) as store:
        evictor = evictor_of(store)
        assert evictor.totals().taken == 0
        evictor._count_again = time.monotonic() + 60  # to count took long
        made = await images(store, 5, 4 * MIB)
        assert await evictor.free(store.room.left() + MIB)
        assert left_of(store, made) == [1, 2, 3, 4]
