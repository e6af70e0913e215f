"""The bench that compares what to evict: its policies do what their papers say, and its bound bounds."""

from __future__ import annotations

import pytest

from bench import pulls
from bench.caches import belady, by_blob, by_image
from bench.policies import Gdsf, Lfuda, Lru, Order, S3Fifo, Segmented, Sieve
from bench.pulls import Trace
from bench.trace import CACHES

A, B, C, D, E, F, G = range(7)


def _order(kind: type[Order], sizes: list[int] | None = None) -> Order:
    return kind(sizes or [1] * 7)  # type: ignore[call-arg]


def _fill(order: Order, keys: tuple[int, ...]) -> None:
    for key in keys:
        order.add(key)


def test_lru_drops_what_was_used_longest_ago() -> None:
    order = _order(Lru)
    _fill(order, (A, B, C))
    order.use(A)
    assert [order.pop() for _ in range(3)] == [B, C, A]


def test_sieve_spares_what_was_used_and_goes_on_from_where_it_was() -> None:
    # The example of the paper's figure 4: the hand stays in the middle, newcomers queue behind what it has passed.
    order = _order(Sieve)
    _fill(order, (A, B, C, D, E, F, G))
    for key in (A, B, G):
        order.use(key)
    assert order.pop() == C  # A and B are spared
    order.use(A)
    assert order.pop() == D
    assert [order.pop(), order.pop()] == [E, F]
    order.add(C)
    assert order.pop() == C  # G is spared; who came after it and was not used is next
    assert order.pop() == B  # again from the oldest: A was used since, B was not


def test_s3_fifo_drops_newcomers_first_and_knows_who_comes_back() -> None:
    order = _order(S3Fifo)
    _fill(order, (A, B, C))
    order.use(A)
    order.use(A)
    assert order.pop() == B  # A was used more than once and moves to the main queue
    order.add(B)  # it left lately, and so goes to the main queue at once
    order.add(D)
    assert [order.pop(), order.pop()] == [C, D]
    assert [order.pop(), order.pop()] == [A, B]


def test_gdsf_drops_the_large_and_lets_the_old_age() -> None:
    order = _order(Gdsf, [1, 10, 1, 1, 1, 1, 1])
    _fill(order, (A, B, C))
    order.use(A)
    assert order.pop() == B
    assert order.pop() == C
    order.add(D)  # begins at the age that C left at, and so is level with A, which was used twice
    order.use(D)
    assert order.pop() == A


def test_lfu_with_aging_drops_what_is_used_least_whatever_its_size() -> None:
    order = _order(Lfuda, [1, 10, 1, 1, 1, 1, 1])
    _fill(order, (A, B))
    order.use(B)
    assert order.pop() == A


def test_two_classes_drop_what_was_asked_for_once_first() -> None:
    order = _order(Segmented)
    _fill(order, (A, B, C))
    order.use(A)
    assert [order.pop(), order.pop(), order.pop()] == [B, C, A]


def test_a_shared_blob_stays_until_the_last_image_that_needs_it_goes() -> None:
    #             three manifests, a base that A and B share, a layer of each
    sizes = [0, 0, 0, 10, 1, 1, 10]
    images = [(3, 4), (3, 5), (6,)]
    replayed = [(0, (3, 4)), (1, (3, 5)), (2, (6,)), (1, (3, 5)), (0, (3, 4))]
    result = by_image(Trace(sizes, images, replayed), 21, Lru)
    # A goes when C comes: one byte, the base stays. It comes back, and C goes.
    assert result.bytes_hit == 10 + 11 + 10
    assert result.holes == 0


def test_a_hole_is_a_blob_that_went_before_its_manifest() -> None:
    sizes = [1, 1, 4, 4]
    replayed = [(0, (2,)), (0, ()), (1, (3,)), (0, (2,))]
    trace = Trace(sizes, [(2,), (3,)], replayed)
    assert by_blob(trace, 6, Lru).holes == 1
    assert by_image(trace, 6, Lru).holes == 0


def test_the_bound_is_what_is_best_where_that_can_be_counted() -> None:
    # Two of three blobs of one byte fit: of A B C A B C the best keeps A and B.
    sizes = [0, 1, 1, 1]
    replayed = [(0, (key,)) for key in (1, 2, 3, 1, 2, 3)]
    trace = Trace(sizes, [()], replayed)
    for whole in (True, False):
        assert belady(trace, 2, whole=whole).bytes_hit == 2
    assert by_blob(trace, 2, Lru).bytes_hit == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_no_cache_passes_the_bound_and_images_have_no_holes(seed: int) -> None:
    trace = pulls.make(seed, pulls=1500, images=100)
    cap = trace.total // 10
    results = {name: cache(trace, cap) for name, cache in CACHES.items()}
    bound = belady(trace, cap, whole=False)
    for name, result in results.items():
        assert result.bytes_asked == bound.bytes_asked, name
        assert result.bytes_hit <= bound.bytes_hit * (1 + 1e-9), name
        if "by image" in name:
            assert result.holes == 0, name


def test_a_seed_makes_the_same_trace_each_time() -> None:
    assert pulls.make(7, pulls=300, images=60) == pulls.make(7, pulls=300, images=60)
    assert pulls.make(7, pulls=300, images=60) != pulls.make(8, pulls=300, images=60)
