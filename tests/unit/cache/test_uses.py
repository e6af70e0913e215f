"""Uses reach the index in batches, and all processes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirror.cache import uses as module
from mirror.cache.uses import Uses
from mirror.errors import StoreError
from mirror.oci.digest import Digest
from mirror.store.changes import Used
from tests.fakes.index import FakeIndex
from tests.unit.cache.stores import REPO, opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirror.store.recent import Recent

A, B = Digest.of(b"a"), Digest.of(b"b")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def recent(tmp_path: Path) -> Iterator[Recent]:
    with opened(tmp_path) as store:
        yield store.recent


async def test_many_uses_of_one_thing_are_told_once_and_the_last_counts(recent: Recent) -> None:
    index, clock = FakeIndex(), Clock()
    uses = Uses(index, recent, clock=clock)
    for second in range(1000):
        clock.now = 100.0 + second
        uses.touch(REPO, A)
    uses.touch(REPO, B)
    assert recent.last(A) == 1099.0
    assert index.applied == []
    await uses.flush()
    assert index.applied == [Used(REPO, A, 1099.0), Used(REPO, B, 1099.0)]
    await uses.flush()
    assert len(index.applied) == 2


async def test_what_a_full_disk_refuses_is_told_later(recent: Recent) -> None:
    index, clock = FakeIndex(), Clock()
    uses = Uses(index, recent, clock=clock)
    uses.touch(REPO, A)
    uses.touch(REPO, B)
    index.trouble = StoreError("the disk is full")
    with pytest.raises(StoreError):
        await uses.flush()
    clock.now = 200.0
    uses.touch(REPO, A)
    index.trouble = None
    await uses.close()
    assert sorted(index.applied, key=str) == sorted([Used(REPO, A, 200.0), Used(REPO, B, 100.0)], key=str)


async def test_the_rest_is_told_at_the_end(recent: Recent) -> None:
    index = FakeIndex()
    uses = Uses(index, recent, clock=Clock())
    uses.start()
    uses.touch(REPO, A)
    await uses.close()
    assert index.applied == [Used(REPO, A, 100.0)]


async def test_a_disk_that_refuses_for_long_does_not_fill_the_memory(
    recent: Recent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 10)
    index = FakeIndex()
    index.trouble = StoreError("the disk is full")
    uses = Uses(index, recent)
    uses.start()
    for number in range(100):
        uses.touch(REPO, Digest.of(b"%d" % number))
    index.trouble = None
    await uses.close()
    told = [change.digest for change in index.applied if isinstance(change, Used)]
    assert len(told) < 20
    assert Digest.of(b"99") in told
