"""Spans against a model: a set of offsets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mirror.store.spans import Spans

_SPAN = st.tuples(st.integers(0, 40), st.integers(0, 12)).map(lambda span: (span[0], span[0] + span[1]))


def _made(added: list[tuple[int, int]]) -> tuple[Spans, set[int]]:
    spans, model = Spans(), set[int]()
    for start, stop in added:
        spans.add(start, stop)
        model.update(range(start, stop))
    return spans, model


@given(st.lists(_SPAN, max_size=12))
def test_spans_hold_what_was_added_and_neither_touch_nor_overlap(added: list[tuple[int, int]]) -> None:
    spans, model = _made(added)
    held = list(spans)
    assert {offset for start, stop in held for offset in range(start, stop)} == model
    assert all(start < stop for start, stop in held)
    assert all(before[1] < after[0] for before, after in pairwise(held))
    assert spans.total() == len(model)
    assert spans.end() == max(model, default=-1) + 1


@given(st.lists(_SPAN, max_size=12), st.integers(0, 60), st.integers(0, 60))
def test_gaps_and_ends_are_those_of_the_model(added: list[tuple[int, int]], offset: int, limit: int) -> None:
    spans, model = _made(added)
    end = offset
    while end in model:
        end += 1
    assert spans.end_of(offset) == end
    assert spans.covers(offset, limit) == (end >= limit)
    missing = [at for at in range(offset, limit) if at not in model]
    gap = spans.gap(offset, limit)
    if not missing:
        assert gap is None
        return
    stop = missing[0]
    while stop < limit and stop not in model:
        stop += 1
    assert gap == (missing[0], stop)


@given(st.lists(_SPAN, max_size=12), _SPAN)
def test_around_tells_what_a_span_would_become_part_of(added: list[tuple[int, int]], span: tuple[int, int]) -> None:
    spans, _ = _made(added)
    start, stop = span
    if start == stop:
        return
    run = spans.around(start, stop)
    spans.add(start, stop)
    assert run in list(spans)


def test_nothing_is_left_after_clear() -> None:
    spans, _ = _made([(1, 5), (9, 12)])
    spans.clear()
    assert list(spans) == []
    assert spans.gap(0, 3) == (0, 3)
