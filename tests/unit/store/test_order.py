"""Which kind goes first, and after how many others an image would."""

from __future__ import annotations

import itertools

import pytest

from mirror.store.order import before, newcomer_goes


@pytest.mark.parametrize(("once", "again"), list(itertools.product((0, 1, 2, 3, 9, 10, 11, 40), (0, 1, 8, 9, 10, 95))))
def test_the_place_of_each_is_where_it_goes(once: int, again: int) -> None:
    left = [once, again]
    places: dict[tuple[bool, int], int] = {}
    while any(left):
        kind = 0 if newcomer_goes(*left) else 1
        places[bool(kind), (once, again)[kind] - left[kind]] = len(places)
        left[kind] -= 1
    assert len(places) == once + again
    for (is_again, index), place in places.items():
        assert before(index, once=once, again=again, is_again=is_again) == place, (is_again, index)


def test_newcomers_keep_a_tenth() -> None:
    assert newcomer_goes(10, 90)
    assert not newcomer_goes(10, 91)
    assert newcomer_goes(1, 0)
    assert not newcomer_goes(0, 1)
