from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirror.oci.digest import Digest
from mirror.store.part import PartFile
from tests.unit.store.stocked import book, on_disk, opened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.store.store import Store

HOUR = 3600.0
OLD, YOUNG = 8 * 24 * HOUR, 6 * 24 * HOUR


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "data") as one:
        yield one


def left(store: Store, name: str, age: float, *, counted: bool = True) -> Path:
    path = store.layout.fills / name
    path.write_bytes(b"x" * 100_000)
    then = time.time() - age
    os.utime(path, (then, then))
    if counted:
        taken = path.stat().st_blocks * 512
        store.room.reserve(taken)
        store.room.landed(taken)
        store.room.keep(taken)
    return path


async def test_what_nobody_has_gone_on_with_for_a_week_is_thrown_away(store: Store) -> None:
    gone = [left(store, name, OLD) for name in ("a.part", "a.map", "b.map", "c.put")]
    kept = [left(store, name, YOUNG) for name in ("d.part", "d.map", "e.map")]
    kept += [left(store, "f.put", 60), left(store, "g.other", OLD)]
    (store.layout.fills / "directory.part.d").mkdir()
    assert store.leftovers.sweep() == 3, "a map goes with its part"
    assert [path.name for path in gone if path.exists()] == []
    assert [path.name for path in kept if not path.exists()] == []
    assert book(store) == on_disk(store) > 0


async def test_what_somebody_fills_is_not_thrown_away(store: Store) -> None:
    part, marks = left(store, "a.part", OLD), left(store, "a.map", OLD)
    with part.open("rb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        assert store.leftovers.sweep() == 0
        assert store.leftovers.clear(10**9) == 0
        assert store.leftovers.taken() == 0
        assert part.exists()
        assert marks.exists()
    assert store.leftovers.taken() == on_disk(store)


async def test_what_somebody_puts_is_not_thrown_away(store: Store) -> None:
    put = left(store, "a.put", OLD)
    with put.open("rb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_SH)
        assert store.leftovers.sweep() == 0
    assert store.leftovers.sweep() == 1


async def test_under_pressure_the_oldest_goes_and_what_was_cut_off_just_now_stays(store: Store) -> None:
    old, older, young = (
        left(store, "a.part", 3 * HOUR),
        left(store, "b.part", 5 * HOUR),
        left(store, "c.part", 0.5 * HOUR),
    )
    assert store.leftovers.clear(1) > 100_000
    assert [path.exists() for path in (old, older, young)] == [True, False, True]
    assert store.leftovers.clear(10**9) > 100_000
    assert [path.exists() for path in (old, older, young)] == [False, False, True]
    assert book(store) == on_disk(store)


async def test_what_was_left_before_some_time_goes_and_what_is_new_never(store: Store) -> None:
    ages = (300, 200, 100, 5)
    paths = [left(store, f"{age}.part", age) for age in ages]
    assert store.leftovers.clear(1, before=time.time() - 150) > 100_000
    assert [path.exists() for path in paths] == [False, True, True, True]
    assert store.leftovers.clear(10**9, before=time.time() - 150) > 100_000
    assert [path.exists() for path in paths] == [False, False, True, True]
    assert store.leftovers.clear(10**9, before=time.time()) > 100_000
    assert [path.exists() for path in paths] == [False, False, False, True], "it may be a put that is not locked yet"
    assert book(store) == on_disk(store)


async def test_one_that_the_disk_does_not_give_keeps_no_other_from_going(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sick, sound = left(store, "a.part", OLD), left(store, "b.part", OLD - 1)
    unlink = Path.unlink

    def broken(path: Path, *, missing_ok: bool = False) -> None:
        if path == sick:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", broken)
        assert store.leftovers.clear(1) > 100_000
    assert (sick.exists(), sound.exists()) == (True, False)
    assert book(store) == on_disk(store)


async def test_what_a_fill_left_is_counted_with_its_map(store: Store) -> None:
    part = PartFile(store.layout, Digest.of(b"left"))
    part.begin(100_000)
    taken = part.allocated()
    assert part.try_lock()
    assert store.leftovers.taken() == 0
    part.close()
    assert store.leftovers.taken() == taken == on_disk(store)
