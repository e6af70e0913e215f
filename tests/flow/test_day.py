"""Some hours of a small cluster before an upstream that limits; `python -m bench day` plays a day of a large one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench import cluster, day

if TYPE_CHECKING:
    from pathlib import Path

SEED = 7
MORNING = cluster.Scale(
    nodes=20, night_nodes=3, night=11 * cluster.HOUR, hourly=2, moving=12, fixed=2, pinned=1, new=1, daemons=2,
    deployments=13, crons=3, begin=9 * cluster.HOUR, end=11.25 * cluster.HOUR, limit=20,
)  # fmt: skip


async def test_nothing_that_was_pulled_before_fails_on_a_morning_that_needs_twice_the_limit(tmp_path: Path) -> None:
    """A train of releases, new nodes and a restart of the mirror, where 14 of 20 requests are left for six hours."""
    morning = cluster.make(SEED, MORNING)
    tally, asked = await day.play(morning, tmp_path / "store", day.OURS)
    assert tally.failed_known == 0, tally.examples
    assert asked.counted_worst <= MORNING.limit
    assert asked.abused == tally.backwards == 0
    assert tally.stale, "the morning asks for more than there is"
    plain, refused = await day.model(morning)
    assert plain.failed_known, "a cache that asks for whatever is new fails on this morning"
    assert asked.refused < refused.refused / 100


@pytest.mark.parametrize("seed", [1, 6])
def test_a_day_is_the_same_for_the_same_seed_and_needs_more_than_the_limit(seed: int) -> None:
    made = cluster.make(seed)
    assert made == cluster.make(seed) != cluster.make(seed + 1)
    assert len(made.running) == 200
    assert sum(image.repo.startswith("moving/") for image in made.images) == 40
    wanted: dict[tuple[object, ...], float] = {}
    for pull in made.pulls:
        image = made.images[pull.image]
        if image.born > 0 or image.version(pull.at):
            version = pull.image, image.version(pull.at)
            wanted.setdefault(version, pull.at)
            wanted.setdefault((*version, made.is_arm(pull.node)), pull.at)
    times = sorted(wanted.values())
    window = made.scale.window
    assert max(sum(at <= other < at + window for other in times) for at in times) > made.scale.limit
