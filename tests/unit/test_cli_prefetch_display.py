"""What a prefetch shows: the figures that it adds up, the lines in a pipe, the picture on terminals of any width."""

from __future__ import annotations

import io
import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from mirror.airgap.prefetch.outcome import (
    Amount,
    Begun,
    Came,
    Ended,
    Expanded,
    Fetched,
    Planned,
    Resolved,
    Resumed,
    Waiting,
)
from mirror.airgap.wanted import Wanted
from mirror.cli.display import Lines, Screen, shortened, show_seconds
from mirror.cli.tally import Rate, Tally
from mirror.oci.digest import Digest
from mirror.oci.name import Repository, Tag
from mirror.upstream.budget import Budget

if TYPE_CHECKING:
    from mirror.airgap.prefetch.outcome import Event

MIB = 1024 * 1024
LONG = "registry.example:5000/a/very/long/name/of/a/repository/that/nobody/can/show/whole/prometheus"


def planned(name: str, to_fetch: int, *, failure: str | None = None) -> Planned:
    wanted = Wanted(Repository("quay.io", name), Tag("v1"))
    amount = Amount(1, 2, to_fetch)
    return Planned(wanted, Digest.of(name.encode()), whole=amount, to_fetch=amount, failure=failure)


def fetched(name: str, to_fetch: int, came: int, *, failure: str | None = None) -> Fetched:
    return Fetched(planned(name, to_fetch), Amount(1, 2, came) if came else Amount(), failure=failure)


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def tally(clock: Time) -> Tally:
    return Tally(clock)


def tell(tally: Tally, *events: Event) -> None:
    for event in events:
        tally.hear(event)


# --- the figures -----------------------------------------------------------------------------------------------------


def test_what_was_expected_is_put_right_by_what_came(tally: Tally) -> None:
    one = planned("one", 10 * MIB)
    tell(tally, Expanded(3), Begun(one.reference), Resolved(one), Came(one.reference, 4 * MIB))
    assert (tally.expected, tally.came, tally.ended, tally.complete) == (10 * MIB, 4 * MIB, 0, False)
    # The rest came meanwhile for a client of the mirror.
    tell(tally, Ended(fetched("one", 10 * MIB, 6 * MIB)))
    assert (tally.expected, tally.came, tally.ended) == (6 * MIB, 6 * MIB, 1)
    two = planned("two", 5 * MIB)
    tell(tally, Begun(two.reference), Resolved(two), Came(two.reference, MIB), Came(two.reference, -MIB))
    tell(tally, Ended(fetched("two", 5 * MIB, 0, failure="upstream said 404")))
    assert (tally.expected, tally.came, tally.failed, tally.running) == (6 * MIB, 6 * MIB, 1, {})
    # One that fails before anything is known of it is known, too: nothing more is to be expected of it.
    tell(tally, Begun("quay.io/three:v1"), Ended(fetched("three", 0, 0, failure="no such tag")))
    assert (tally.complete, tally.ended, tally.failed) == (True, 3, 2)


def test_the_time_that_is_left_takes_unknown_images_for_average_ones(tally: Tally, clock: Time) -> None:
    assert tally.left(100.0) is None, "nothing is known yet"
    one = planned("one", 10 * MIB)
    tell(tally, Expanded(4), Begun(one.reference), Resolved(one), Came(one.reference, 2 * MIB))
    tally.rate()
    clock.now += 2
    tell(tally, Came(one.reference, 2 * MIB))
    rate = tally.rate()
    assert rate == MIB
    assert tally.left(rate) == 36.0
    assert tally.left(0.0) is None


def test_a_rate_is_that_of_the_last_seconds_and_never_below_zero() -> None:
    rate = Rate()
    assert rate.of(0, 0.0) == 0.0
    assert rate.of(1000, 1.0) == 1000.0
    for second in range(2, 40):
        found = rate.of(1000, float(second))
    assert found == 0.0
    assert rate.of(0, 41.0) == 0.0, "what had come was thrown away"


# --- in a pipe -------------------------------------------------------------------------------------------------------


def test_each_image_is_one_line_and_failures_go_to_standard_error(
    tally: Tally, clock: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = Lines(tally, results=True)
    lines.hear(Expanded(3))
    for name, came, failure in (("one", 3 * MIB, None), ("two", 0, None), ("three", 0, "quay.io answered 404")):
        lines.hear(Begun(f"quay.io/{name}:v1"))
        clock.now += 65
        lines.hear(Ended(fetched(name, came, came, failure=failure)))
    out, err = capsys.readouterr()
    assert out == "fetched  quay.io/one:v1  3.0 MiB in 1 min 5 s\nhere     quay.io/two:v1\n"
    assert err == "failed   quay.io/three:v1: quay.io answered 404\n"


def test_a_plan_has_a_table_and_no_lines_but_for_failures(tally: Tally, capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(tally, results=True)
    lines.hear(Ended(planned("one", MIB)))
    lines.hear(Ended(planned("two", 0, failure="no such tag")))
    assert capsys.readouterr() == ("", "failed   quay.io/two:v1: no such tag\n")


def test_a_wait_is_told_with_its_end(tally: Tally, capsys: pytest.CaptureFixture[str]) -> None:
    until = time.time() + 600
    Lines(tally, results=True).hear(Waiting("docker.io", until, "80 of 100 requests are left"))
    at = time.strftime("%H:%M:%S", time.localtime(until))
    assert capsys.readouterr().err == f"waiting  docker.io: 80 of 100 requests are left; it goes on at {at}\n"


def test_a_reader_that_has_seen_enough_does_not_stop_the_work(tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    pipe = os.fdopen(writing, "w")
    monkeypatch.setattr(sys, "stdout", pipe)
    monkeypatch.setattr(sys, "stderr", pipe)
    lines = Lines(tally, results=True)
    lines.hear(Ended(fetched("one", MIB, MIB)))
    lines.hear(Ended(fetched("two", 0, 0, failure="no such tag")))
    assert tally.ended == 2
    with suppress(BrokenPipeError):
        pipe.close()


# --- on a terminal ---------------------------------------------------------------------------------------------------


def picture(tally: Tally, width: int, height: int = 24, budgets: dict[str, Budget] | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    screen = Screen(tally, lambda: budgets or {}, console)
    with console.capture() as seen:
        console.print(screen.render())
    return seen.get().splitlines()


def running(tally: Tally, clock: Time) -> None:
    one, two = planned("org/prometheus", 10 * MIB), planned(LONG, 10 * MIB)
    tell(tally, Expanded(200), Begun(one.reference), Begun(two.reference), Resolved(one))
    tally.rate()
    clock.now += 1
    tell(tally, Came(one.reference, 5 * MIB))


def test_a_wide_terminal_shows_name_bar_bytes_and_rate_and_all_of_it_below(tally: Tally, clock: Time) -> None:
    running(tally, clock)
    budget = Budget(at=0.0, limit=100, remaining=76)
    lines = picture(tally, 120, budgets={"docker.io": budget})
    assert lines[0].startswith("quay.io/org/prometheus:v1 ")
    assert "━" in lines[0]
    assert "5.0 MiB of 10.0 MiB" in lines[0]
    assert lines[0].rstrip().endswith("/s")
    assert "asking" in lines[1]
    assert lines[2] == "0/200 images, 5.0 MiB of 10.0 MiB+, 5.0 MiB/s, about 6 min 39 s left"
    assert lines[3] == "left: docker.io 76 of 100"


@pytest.mark.parametrize("width", [20, 30, 40, 59, 60, 80, 99, 100, 200])
def test_no_line_is_wider_than_the_terminal_or_folds(width: int, tally: Tally, clock: Time) -> None:
    running(tally, clock)
    tell(tally, Waiting("docker.io", time.time() + 100, "the limit is reached"))
    lines = picture(tally, width, budgets={"docker.io": Budget(at=0.0, limit=100, remaining=76)})
    assert len(lines) == 5
    assert max(map(len, lines)) <= width
    if width >= 40:
        assert lines[0].split()[0].endswith("prometheus:v1")
        assert "5.0 MiB of 10.0 MiB" in lines[0]
        assert lines[1].split()[0].endswith("prometheus:v1"), "the end of a name says most"


def test_no_more_images_are_shown_than_there_are_lines(tally: Tally) -> None:
    tell(tally, Expanded(64), *(Begun(f"quay.io/app{number}:v1") for number in range(64)))
    lines = picture(tally, 80, height=12)
    assert len(lines) <= 12
    assert lines[-2].startswith("and ")
    assert lines[-2].endswith(" more")


def test_a_plan_shows_what_would_come_and_no_rate(tally: Tally, clock: Time) -> None:
    running(tally, clock)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with console.capture() as seen:
        console.print(Screen(tally, dict, console, plan=True).render())
    assert seen.get().splitlines()[-1] == "0/200 images, 10.0 MiB+ to fetch"


def test_a_wait_is_counted_down_until_it_is_over(tally: Tally) -> None:
    tell(tally, Waiting("docker.io", time.time() + 3725.4, "80 of 100 requests are left"))
    assert picture(tally, 80)[0] == "docker.io: 80 of 100 requests are left; it goes on in 1 h 2 min"
    tell(tally, Resumed("docker.io"))
    assert picture(tally, 80) == ["0, 0 bytes of 0 bytes+, 0 bytes/s"]


def test_a_name_is_cut_at_its_beginning() -> None:
    assert shortened("quay.io/org/app:v1", 18) == "quay.io/org/app:v1"
    assert shortened("quay.io/org/app:v1", 10) == "…rg/app:v1"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-3, "0 s"), (0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_a_time_is_shown_in_at_most_two_units(seconds: float, shown: str) -> None:
    assert show_seconds(seconds) == shown
