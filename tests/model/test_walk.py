"""The store as a whole: a random walk beside a simple model, with processes killed on the way.

`make soak` kills a thousand times: `SOAK_KILLS` says how often, `SOAK_SEED` where it begins.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.fakes.registry import FakeRegistry
from tests.model.owed import Owed
from tests.model.walk import Walk

if TYPE_CHECKING:
    from pathlib import Path

_KILLS = 5  # of one walk
_ALL = int(os.environ.get("SOAK_KILLS", "15"))
_FIRST = int(os.environ.get("SOAK_SEED", "1"))
_STEPS = 4  # between two kills
_SEEDS = range(_FIRST, _FIRST + (_ALL + _KILLS - 1) // _KILLS)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", _SEEDS)
async def test_whatever_happens_the_cap_holds_and_what_is_served_is_whole(seed: int, tmp_path: Path) -> None:
    async with FakeRegistry() as upstream:
        walk = Walk(tmp_path, upstream, random.Random(seed), workers=(1, 3)[seed % 2])  # noqa: S311 - no secret
        owed = Owed(walk)
        try:
            await walk.start()
            for _ in range(_KILLS):
                for _ in range(_STEPS):
                    await walk.step()
                await walk.kill()
                await owed.check()
            await walk.damage()
            await walk.pull_all()
            await walk.pull_giant()
            await owed.check()
            # A walk in which these did not happen would have tried nothing.
            events = set(walk.events())
            assert {"evicted", "not kept: streamed from upstream to each client that asks"} <= events, sorted(events)
        except BaseException:
            print(f"seed {seed}:\n" + "\n".join(walk.said[-80:]))  # noqa: T201 - for whoever sees it fail
            print(walk.log())  # noqa: T201 - the same
            raise
        finally:
            await walk.close()
