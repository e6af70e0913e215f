"""All that reads in the background keeps one pace, and what cannot be put aside is said."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from mirror.cache.check import Checker, Pace
from mirror.errors import StoreError
from mirror.store.changes import Checked
from tests.unit.cache.stores import MIB, blob, image, opened

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.oci.digest import Digest


async def test_readers_share_one_pace() -> None:
    pace = Pace(10_000_000)
    began = time.monotonic()

    async def read() -> None:
        for _ in range(5):
            await pace.turn()
            pace.read(100_000)

    await asyncio.gather(read(), read())
    await pace.turn()
    assert time.monotonic() - began > 0.09


async def test_at_no_rate_nobody_reads_until_there_is_one() -> None:
    pace = Pace(0)
    waiting = [asyncio.create_task(pace.turn()) for _ in range(2)]
    await asyncio.wait(waiting, timeout=0.01)
    assert not any(task.done() for task in waiting)
    pace.set(1)
    await asyncio.wait_for(asyncio.gather(*waiting), 5)
    pace.read(1000)
    slow = asyncio.create_task(pace.turn())
    await asyncio.wait([slow], timeout=0.01)
    assert not slow.done()
    pace.set(1000)  # whoever waits for a slow one does not wait that out
    await asyncio.wait_for(slow, 5)


async def test_a_disk_that_takes_nothing_back_is_said_and_the_index_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as store:
        layer = await blob(store, MIB, 5)
        await image(store, "v1", layer, at=1.0)
        path = store.layout.blob(layer)
        path.chmod(0o644)
        path.write_bytes(b"wrong")
        checker = Checker(store, Pace(2**40), 1.0)

        def refuse(digest: Digest, seen: object) -> bool:
            raise StoreError(f"{digest}: read-only {type(seen).__name__}")

        with monkeypatch.context() as broken, capture_logs() as lines:
            broken.setattr(store.aside, "take", refuse)
            with pytest.raises(StoreError):
                await checker.check(layer)
        (line,) = lines
        assert (line["log_level"], line["images"]) == ("error", ["docker.io/library/app:v1"])
        assert not checker.rejected.is_set()
        assert store.graph.content(layer) is not None
        assert await checker.check(layer) is None
        assert checker.rejected.is_set()
        assert store.graph.content(layer) is None


async def test_what_is_right_is_the_callers_to_record(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        layer = await blob(store, MIB, 1, at=5.0)
        checker = Checker(store, Pace(2**40), 10.0, clock=lambda: 100.0)
        assert checker.before == 90.0
        assert await checker.check(layer) == Checked(layer, 100.0)
        content = store.graph.content(layer)
        assert content is not None
        assert content.checked == 5.0
