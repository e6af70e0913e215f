from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirror.errors import StoreError
from mirror.oci.digest import Digest
from mirror.store import aside as module
from mirror.store.locks import share
from tests.unit.store.stocked import blob, book, on_disk, opened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.store.store import Store

DAY = 24 * 3600


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "data") as one:
        yield one


async def damaged(store: Store, seed: str, *, age: float = 0.0) -> Digest:
    digest = await blob(store, seed)
    assert store.blobs.set_aside(digest)
    then = time.time() - age
    os.utime(store.layout.damaged(digest), (then, then))
    return digest


async def test_damaged_content_can_be_looked_at_and_waits_for_its_healing(store: Store) -> None:
    old, new = await damaged(store, "old", age=60), await damaged(store, "new")
    assert store.layout.damaged(old).read_bytes() == (b"old" * 10_000)[:10_000]
    assert store.aside.waiting() == [new, old]
    assert store.aside.taken() == book(store) == on_disk(store) > 20_000
    await blob(store, "old")
    assert store.aside.waiting() == [new]


async def test_what_is_healed_or_a_week_old_is_thrown_away(store: Store) -> None:
    healed, old, young = (
        await damaged(store, "healed"),
        await damaged(store, "old", age=8 * DAY),
        await damaged(store, "young", age=6 * DAY),
    )
    await blob(store, "healed")
    store.aside.tidy()
    assert [store.layout.damaged(digest).exists() for digest in (healed, old, young)] == [False, False, True]
    assert book(store) == on_disk(store)


async def test_content_that_is_damaged_again_takes_the_place_of_the_first(store: Store) -> None:
    first = await damaged(store, "one")
    assert await damaged(store, "one") == first
    assert len(list(store.layout.aside.iterdir())) == 1
    assert book(store) == on_disk(store)


async def test_few_files_keep_their_bytes_and_all_their_names(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FILES", 2)
    monkeypatch.setattr(module, "MOST_MARKS", 4)
    digests = [await damaged(store, str(number), age=60.0 - number) for number in range(5)]
    store.aside.tidy()
    sizes = [path.stat().st_size if path.exists() else None for path in map(store.layout.damaged, digests)]
    assert sizes == [None, 0, 0, 10_000, 10_000]
    assert store.aside.waiting() == digests[:0:-1]
    assert book(store) == on_disk(store)


async def test_no_more_than_a_hundredth_of_the_cap_keeps_its_bytes(tmp_path: Path) -> None:
    with opened(tmp_path / "small", max_size=3_000_000) as store:
        digests = [await damaged(store, str(number), age=60.0 - number) for number in range(4)]
        store.aside.tidy()
        assert store.aside.taken() <= 30_000
        assert store.aside.waiting() == digests[::-1]
        assert book(store) == on_disk(store)


async def test_bytes_are_freed_oldest_first_and_the_names_stay(store: Store) -> None:
    digests = [await damaged(store, str(number), age=60.0 - number) for number in range(3)]
    before = store.aside.taken()
    freed = store.aside.clear(1)
    assert 0 < freed < before
    assert [store.layout.damaged(digest).stat().st_size for digest in digests] == [0, 10_000, 10_000]
    assert freed + store.aside.clear(10**9) == before
    assert store.aside.clear(1) == 0
    assert store.aside.waiting() == digests[::-1]
    assert book(store) == on_disk(store) == 0


async def test_a_disk_that_has_no_room_for_a_mark_keeps_nothing_else_from_going(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await damaged(store, "one", age=60)
    two = await damaged(store, "two")
    touch = Path.touch

    def full(path: Path, mode: int = 0o666) -> None:
        if one.hex in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        touch(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", full)
        assert store.aside.clear(10**9) > 10_000
    assert [store.layout.damaged(digest).stat().st_size for digest in (one, two)] == [10_000, 0]
    assert book(store) == on_disk(store)


async def test_what_somebody_still_reads_does_not_count_as_freed(store: Store) -> None:
    one = await damaged(store, "one")
    with store.layout.damaged(one).open("rb") as file:
        assert share(file.fileno())
        assert store.aside.clear(1) == 0
    assert store.aside.clear(1) > 0


async def test_files_that_are_not_ours_are_thrown_away(store: Store) -> None:
    (store.layout.aside / "core").write_bytes(b"x" * 5000)
    store.aside.tidy()
    assert list(store.layout.aside.iterdir()) == []


async def test_a_store_that_is_gone_is_said_so(store: Store) -> None:
    away = store.layout.root.with_name("away")
    store.layout.root.rename(away)
    with pytest.raises(StoreError, match="bring the disk back"):
        store.aside.waiting()
    with pytest.raises(StoreError, match="bring the disk back"):
        store.blobs.set_aside(Digest.of(b"one"))
    away.rename(store.layout.root)
