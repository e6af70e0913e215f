"""The room of one prefetch: what its images may take of the store, and what becomes of that where one fails."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.fakes.faults import Status
from tests.flow.prefetching import Site, site
from tests.parts.process import room, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock

MIB = 1024 * 1024


@pytest.fixture
async def here(upstream: FakeRegistry, tmp_path: Path, clock: Clock) -> AsyncIterator[Site]:
    async with site(upstream, tmp_path / "store", clock, storage={"max_size": "32MiB"}) as opened:
        yield opened


def add(upstream: FakeRegistry, tag: str, *seeds: int) -> None:
    layers = [upstream.add_pattern_blob("library/app", 8 * MIB, seed=seed) for seed in seeds]
    upstream.add_image("library/app", tag, layers=layers)


async def test_an_image_that_does_not_come_leaves_its_room_to_others(upstream: FakeRegistry, here: Site) -> None:
    add(upstream, "gone", 1, 2)
    add(upstream, "b", 3)
    add(upstream, "c", 4, 5)
    for seed in (1, 2):
        digest = upstream.add_pattern_blob("library/app", 8 * MIB, seed=seed)
        upstream.fault(kind="blob", digest=str(digest), then=Status(404))
    fetched = await here.fetch("app:gone", "app:b", "app:c", jobs=1)
    assert [one.failure is None for one in fetched] == [False, True, True], [one.failure for one in fetched]


async def test_what_came_of_an_image_that_failed_keeps_its_room(upstream: FakeRegistry, here: Site) -> None:
    add(upstream, "half", 1, 2)
    add(upstream, "b", 3)
    add(upstream, "c", 4, 5)
    lost = upstream.add_pattern_blob("library/app", 8 * MIB, seed=2)
    upstream.fault(kind="blob", digest=str(lost), then=Status(404))
    fetched = await here.fetch("app:half", "app:b", "app:c", jobs=1)
    assert [one.failure is None for one in fetched] == [False, True, False]
    assert "of which this prefetch" in str(fetched[2].failure)


async def test_a_manifest_that_the_disk_does_not_give_fails_no_other_image(upstream: FakeRegistry, here: Site) -> None:
    for tag in "ab":
        upstream.add_image("library/app", tag, layers=[tag.encode()])
    [fetched] = await here.fetch("app:a")
    assert fetched.digest is not None
    path = here.store.layout.blob(fetched.digest)
    path.unlink()
    path.symlink_to(path.name)  # it leads nowhere, for root as well
    again = await here.fetch("app:a", "app:b")
    assert [one.failure is None for one in again] == [False, True]
    assert "cannot be used" in str(again[0].failure)


@pytest.mark.needs("mount")
async def test_a_full_disk_is_told_of_before_a_counted_request_is_made_in_vain(
    upstream: FakeRegistry, clock: Clock
) -> None:
    for tag in "abcd":
        upstream.add_image("library/app", tag, layers=[tag.encode()])
    with room("full") as directory:
        run("mount", "-t", "tmpfs", "-o", "size=8m", "full", directory)
        async with site(upstream, directory / "store", clock, storage={"max_size": "1GiB"}) as here:
            [fetched] = await here.fetch("app:a")
            assert fetched.failure is None
            here.store.dealings.flush()
            disk = os.statvfs(directory)
            (directory / "others").write_bytes(bytes(disk.f_bavail * disk.f_frsize - 8192))
            failed = await here.fetch("app:b", "app:c", "app:d")
            assert all("do not fit" in str(one.failure) or "full" in str(one.failure) for one in failed)
            assert upstream.count(kind="manifest", method="GET") == 1
            (directory / "others").unlink()
            clock.advance(10)
            fetched_after = await here.fetch("app:b", "app:c", "app:d")
            assert [one.failure for one in fetched_after] == [None] * 3
            assert here.store.room.balance().held == 0
