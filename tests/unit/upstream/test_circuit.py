"""A circuit by itself; what the endpoints make of it is in `tests/flow/test_endpoints.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirror.store.dealings import Dealings
from mirror.upstream import circuit as circuits
from mirror.upstream.circuit import BLOB, FIRST_PAUSE, LIED_PAUSE, LONGEST_PAUSE, TRIAL, Circuit

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "manifest"


class At:
    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> At:
    return At()


@pytest.fixture(autouse=True)
def even(monkeypatch: pytest.MonkeyPatch) -> None:
    """No jitter: the pauses are compared."""
    monkeypatch.setattr(circuits, "_JITTER", (1.0, 1.0))


@pytest.fixture
def circuit(clock: At) -> Circuit:
    return Circuit("docker.io", "cache.test", book=Dealings(None), clock=clock)


def half_open(circuit: Circuit, clock: At) -> None:
    clock.now = circuit.due
    assert circuit.wants_probe()
    circuit.probed(None)
    assert circuit.state == "half-open"


def test_one_failure_is_borne_and_a_second_in_a_row_is_not(circuit: Circuit) -> None:
    circuit.failed(BLOB, "no connection")
    assert circuit.admits(BLOB)
    circuit.succeeded(BLOB)
    circuit.failed(BLOB, "no connection")
    assert circuit.admits(BLOB)
    circuit.failed(BLOB, "no connection")
    assert (circuit.state, circuit.admits(BLOB)) == ("open", False)


def test_one_that_says_nothing_for_seconds_is_not_asked_twice(circuit: Circuit) -> None:
    circuit.failed(MANIFEST, "it did not answer", at_once=True)
    assert not circuit.admits(MANIFEST)


def test_that_manifests_come_does_not_excuse_that_blobs_do_not(circuit: Circuit, clock: At) -> None:
    circuit.failed(BLOB, "the transfer broke off")
    circuit.succeeded(MANIFEST)
    circuit.failed(BLOB, "the transfer broke off")
    assert circuit.state == "open"
    half_open(circuit, clock)
    assert not circuit.admits(MANIFEST)
    circuit.succeeded(MANIFEST)
    assert circuit.state == "half-open"
    assert circuit.admits(BLOB)


def test_no_request_goes_there_before_a_probe_has_been_answered_and_then_one_at_a_time(
    circuit: Circuit, clock: At
) -> None:
    circuit.failed(BLOB, "nothing came", at_once=True)
    assert not circuit.wants_probe()
    clock.now += FIRST_PAUSE + 1
    assert not circuit.admits(BLOB)
    assert circuit.wants_probe()
    assert not circuit.wants_probe(), "one at a time"
    circuit.probed(None)
    assert circuit.admits(BLOB)
    circuit.begin(BLOB)
    assert not circuit.admits(BLOB), "one at a time"
    circuit.spared()
    assert circuit.admits(BLOB)
    circuit.begin(BLOB)
    clock.now += TRIAL + 1  # whoever tried has died of it
    assert circuit.admits(BLOB)
    circuit.succeeded(BLOB)
    assert circuit.state == "closed"


def test_pauses_grow_as_long_as_it_fails_and_are_short_again_after_it_went_well(circuit: Circuit, clock: At) -> None:
    circuit.failed(BLOB, "nothing came", at_once=True)
    pauses = [circuit.due - clock.now]
    for _ in range(3):
        half_open(circuit, clock)
        circuit.failed(BLOB, "nothing came")
        pauses.append(circuit.due - clock.now)
    for _ in range(6):
        clock.now = circuit.due
        assert circuit.wants_probe()
        circuit.probed("no connection")
    assert pauses == pytest.approx([FIRST_PAUSE * 2**number for number in range(4)])
    assert circuit.due - clock.now == pytest.approx(LONGEST_PAUSE)
    half_open(circuit, clock)
    circuit.succeeded(BLOB)
    circuit.failed(BLOB, "nothing came", at_once=True)
    assert circuit.due - clock.now == pytest.approx(FIRST_PAUSE)


def test_one_that_lied_is_left_alone_for_minutes_and_a_404_does_not_clear_it(circuit: Circuit, clock: At) -> None:
    circuit.lied("wrong")
    assert circuit.due - clock.now == pytest.approx(LIED_PAUSE)
    circuit.succeeded(BLOB)
    circuit.lied("wrong")  # what was on its way changes nothing
    assert circuit.due - clock.now == pytest.approx(LIED_PAUSE)
    half_open(circuit, clock)
    circuit.begin(BLOB)
    circuit.answered(BLOB)
    assert circuit.state == "half-open"
    circuit.lied("wrong again")
    assert circuit.due - clock.now == pytest.approx(2 * LIED_PAUSE)


def test_a_trial_that_comes_to_its_end_does_not_make_the_next_lie_a_first_one(circuit: Circuit, clock: At) -> None:
    """All of a body has come before anybody knows what it was."""
    circuit.lied("wrong")
    half_open(circuit, clock)
    circuit.begin(BLOB)
    circuit.succeeded(BLOB)
    assert circuit.admits(BLOB)
    circuit.succeeded(BLOB)  # others come to their end meanwhile
    circuit.lied("wrong again")
    assert circuit.due - clock.now == pytest.approx(2 * LIED_PAUSE)
    half_open(circuit, clock)
    circuit.succeeded(BLOB)
    clock.now += LIED_PAUSE
    circuit.succeeded(BLOB)  # it has been right for as long as it was left alone
    circuit.lied("once more")
    assert circuit.due - clock.now == pytest.approx(LIED_PAUSE)


def test_a_clock_that_was_set_back_does_not_close_an_endpoint_off_for_days(circuit: Circuit, clock: At) -> None:
    circuit.failed(BLOB, "nothing came", at_once=True)
    clock.now -= 30 * 86_400
    assert circuit.wants_probe()


def test_what_one_process_has_found_out_others_and_the_next_one_go_by(tmp_path: Path, clock: At) -> None:
    path = tmp_path / "dealings"
    one, other = Dealings(path), Dealings(path)
    first, second = (Circuit("docker.io", "cache.test", book=book, clock=clock) for book in (one, other))
    assert second.admits(BLOB)
    first.lied("wrong")
    one.flush()
    assert not second.admits(BLOB)
    for book in (one, other):
        book.close()
    again = Dealings(path)
    assert not Circuit("docker.io", "cache.test", book=again, clock=clock).admits(BLOB)
    assert Circuit("quay.io", "cache.test", book=again, clock=clock).admits(BLOB)
    again.close()
