"""What is left of each credential's limit, how long it rests, and what of it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from structlog.testing import capture_logs

from mirror import metrics
from mirror.store.dealings import Dealings
from mirror.upstream.accounts import ANONYMOUS, COUNTED, Accounts

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "manifest HEAD"
HOUR = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(clock: Clock) -> Accounts:
    return Accounts("docker.io", "docker.io", book=Dealings(None), clock=clock)


def says(
    remaining: int | str, limit: int | str = 100, window: int = 21600, source: str = "203.0.113.1"
) -> CIMultiDict[str]:
    return CIMultiDict(
        {
            "ratelimit-limit": f"{limit};w={window}",
            "ratelimit-remaining": f"{remaining};w={window}",
            "docker-ratelimit-source": source,
        }
    )


def test_an_exhausted_budget_rests_what_is_counted_until_there_is_something_again(
    accounts: Accounts, clock: Clock
) -> None:
    accounts.note(ANONYMOUS, says(0), 200)
    assert (accounts.rest(ANONYMOUS, COUNTED), accounts.rest(ANONYMOUS, HEAD)) == (HOUR, 0)
    assert accounts.limited(ANONYMOUS, COUNTED, None) == HOUR
    accounts.note(ANONYMOUS, says(3), 200)  # a HEAD that looked
    assert accounts.rest(ANONYMOUS, COUNTED) == 0
    accounts.note(ANONYMOUS, says(0), 200)
    clock.now += HOUR
    assert accounts.rest(ANONYMOUS, COUNTED) == 0  # then it is asked, not believed


def test_a_head_looks_once_a_minute_while_what_is_counted_rests(accounts: Accounts, clock: Clock) -> None:
    assert not accounts.look("a")
    accounts.note("a", says(0), 200)
    assert [accounts.look("a"), accounts.look("a"), accounts.look("b")] == [True, False, False]
    clock.now += 60
    assert accounts.look("a")
    clock.now += 60
    accounts.limited("a", HEAD, 10.0)
    assert not accounts.look("a")


def test_a_429_rests_its_kind_and_a_bare_one_all_kinds_for_a_minute(accounts: Accounts) -> None:
    accounts.note("a", says(50), 429)
    assert accounts.limited("a", COUNTED, 1800.0) == 1800.0
    assert (accounts.rest("a", HEAD), accounts.rest("b", COUNTED)) == (0, 0)
    bare = CIMultiDict({"Retry-After": "1800"})
    accounts.note("b", bare, 429)
    assert accounts.limited("b", COUNTED, 1800.0) == 1800.0
    assert accounts.rest("b", "blob GET") == 60


def test_rests_grow_where_upstream_does_not_say_and_begin_anew_after_an_answer(
    accounts: Accounts, clock: Clock
) -> None:
    rests = []
    for _ in range(8):
        rests.append(round(accounts.limited("a", HEAD, None)))
        clock.now += 61
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60]
    accounts.answered("a", HEAD)
    assert round(accounts.limited("a", HEAD, None)) == 1
    accounts.answered("a", HEAD)  # it was on its way when the rest began
    assert accounts.rest("a", HEAD) > 0


@pytest.mark.parametrize(("wrong", "rest"), [(0.0, 0.2), (1e12, HOUR), (3.0, 3.0)])
def test_a_wrong_retry_after_is_bounded(accounts: Accounts, wrong: float, rest: float) -> None:
    assert accounts.limited("a", COUNTED, wrong) == pytest.approx(rest)


def test_upstream_that_says_zero_again_and_again_is_not_hammered(accounts: Accounts, clock: Clock) -> None:
    rests = []
    for _ in range(6):
        rests.append(accounts.limited("a", HEAD, 0.0))
        clock.now += 61
    assert rests == sorted(rests)
    assert rests[-1] == pytest.approx(16)


def test_a_rest_is_over_when_it_is_over_though_the_clock_stands_still(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("mirror.upstream.rests.time.monotonic", lambda: now)
    accounts.limited("a", HEAD, 1.5)
    now += 1.6
    assert accounts.rest("a", HEAD) == 0


def test_a_clock_that_goes_back_does_not_make_a_rest_longer(accounts: Accounts, clock: Clock) -> None:
    accounts.limited("a", HEAD, 30.0)
    elsewhere = Accounts("docker.io", "docker.io", book=accounts._book, clock=clock)
    assert elsewhere.rest("a", HEAD) == 30
    clock.now -= 24 * HOUR
    assert 29 < accounts.rest("a", HEAD) <= 30
    assert elsewhere.rest("a", HEAD) == 0


@pytest.mark.parametrize(
    ("headers", "share"),
    [
        (says(150), 1.0),
        (says("-5"), None),
        (says("9" * 40), None),
        (says(0, limit=0), None),
        (says(30, window=0), 0.3),
        (says(4, window=999_999_999_999), 0.04),
        (says(0, window=999_999_999_999), 0.0),
        (CIMultiDict({"ratelimit-remaining": "5"}), None),
        (CIMultiDict({"x-ratelimit-limit": "100", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "12"}), 0.0),
        (CIMultiDict({"x-ratelimit-limit": "9", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1000000001"}), 1.0),
    ],
)
def test_headers_that_make_no_sense_limit_nothing(
    accounts: Accounts, headers: CIMultiDict[str], share: float | None
) -> None:
    accounts.note("a", headers, 200)
    assert accounts.share("library/nginx") == share
    assert accounts.rest("a", COUNTED) <= HOUR
    assert (accounts.rest("a", COUNTED) > 0) == (share == 0.0)


@given(st.lists(st.tuples(st.dictionaries(st.sampled_from(list(says(1))), st.text()), st.sampled_from([200, 429]))))
def test_nothing_that_is_sent_breaks_it(answers: list[tuple[dict[str, str], int]]) -> None:
    accounts = Accounts("docker.io", None, book=Dealings(None), clock=Clock())
    for headers, status in answers:
        accounts.note("a", CIMultiDict(headers), status)
        assert 0 <= accounts.rest("a", COUNTED) <= HOUR
    accounts.states()


def test_flipping_windows_are_taken_as_they_come(accounts: Accounts, clock: Clock) -> None:
    accounts.note("a", says(0, window=21600), 200)
    accounts.note("a", says(0, window=60), 200)
    assert accounts.rest("a", COUNTED) == 60
    clock.now += 61
    assert (accounts.rest("a", COUNTED), accounts.share()) == (0, 1.0)


def test_each_mark_is_told_once_and_again_only_after_it_has_recovered() -> None:
    accounts = Accounts("warn.test", "warn.test", book=Dealings(None), clock=Clock())

    def told(*remaining: int) -> list[int]:
        with capture_logs() as logs:
            for each in remaining:
                accounts.note("a", says(each), 200)
        return [entry["less_than_percent"] for entry in logs]

    assert told(100, 51, 50) == []
    assert told(49, 50, 49, 48, 51, 49) == [50]  # a sliding window goes to and fro
    assert told(19, 18, 4, 0) == [20, 5]
    assert told(30, 18) == [20]
    assert told(100, 3) == [5]  # one line, for the narrowest
    counts = {
        mark: metrics.UPSTREAM_RATELIMIT_WARNINGS.labels("warn.test", "a", mark)._value.get()
        for mark in ("50", "20", "5")
    }
    assert counts == {"50": 2, "20": 3, "5": 2}


def test_two_uplinks_are_two_budgets_and_the_latest_counts(accounts: Accounts) -> None:
    with capture_logs() as logs:
        accounts.note("a", says(10, source="203.0.113.1"), 200)
        accounts.note("a", says(90, source="198.51.100.7"), 200)
        accounts.note("a", says(9, source="203.0.113.1"), 200)  # it was told of this one
    assert len(logs) == 1
    [state] = accounts.states()
    assert state.budget is not None
    assert (state.budget.source, state.budget.remaining) == ("203.0.113.1", 9)
    assert [(other.source, other.remaining) for other in state.others] == [("198.51.100.7", 90)]
    for number in range(20):
        accounts.note("a", says(50, source=f"198.51.100.{number}"), 200)
    assert len(accounts.states()[0].others) < 10


def test_the_best_of_the_credentials_that_are_good_counts(accounts: Accounts) -> None:
    accounts.note("a", says(10), 200)
    assert accounts.share("library/nginx") == 0.1
    accounts.note("b", says(100, limit=200), 200)
    assert accounts.share("library/nginx") == 0.5
    assert accounts.best() == accounts.budget("b")
    accounts.set_aside("b", "401 UNAUTHORIZED", 300.0)
    assert accounts.share("library/nginx") == 0.1
    accounts.credentials = lambda repository: ("a", "b", "c") if repository == "acme/app" else ("a",)
    assert accounts.share("acme/app") is None  # nobody knows yet what is left of c
    assert accounts.share("library/nginx") == 0.1


def test_what_a_bound_credential_has_left_is_not_what_others_may_spend(accounts: Accounts) -> None:
    accounts.credentials = lambda repository: (
        ("a", "team") if repository is None else ("team",) if repository.startswith("acme/") else ("a",)
    )
    accounts.note("team", says(100), 200)
    assert accounts.best() == accounts.budget("team")  # nothing is known of another
    accounts.note("a", says(3), 200)
    assert accounts.best() == accounts.best("library/nginx") == accounts.budget("a")
    assert accounts.best("acme/app") == accounts.budget("team")


def test_a_credential_is_set_aside_named_and_used_again_when_its_time_is_over(clock: Clock) -> None:
    accounts = Accounts("aside.test", "aside.test", book=Dealings(None), clock=clock)
    gauge = metrics.UPSTREAM_CREDENTIAL_ASIDE.labels("aside.test", "ci")
    with capture_logs() as logs:
        accounts.set_aside("ci", "it was refused: 401", 300.0)
        accounts.set_aside("ci", "it was refused: 401", 300.0)
    assert [(entry["account"], entry["why"]) for entry in logs] == [("ci", "it was refused: 401")]
    assert (accounts.aside("ci"), gauge._value.get()) == ("it was refused: 401", 1)
    clock.now += 301
    assert (accounts.aside("ci"), gauge._value.get()) == (None, 0)
    accounts.set_aside("ci", "again", 300.0)
    accounts.restored("ci")
    assert accounts.aside("ci") is None


def test_what_is_known_survives_a_restart_and_is_shared(tmp_path: Path, clock: Clock) -> None:
    book = Dealings(tmp_path / "x.sqlite")
    accounts = Accounts("docker.io", "docker.io", book=book, clock=clock)
    accounts.note("a", says(0), 429)
    accounts.limited("a", COUNTED, 1800.0)
    accounts.limited("a", HEAD, 90.0)
    accounts.set_aside("b", "refused", 300.0)
    book.close()
    again = Dealings(tmp_path / "x.sqlite")
    later = Accounts("docker.io", "docker.io", book=again, clock=clock)
    assert later.share("library/nginx") == 0.0
    assert (later.rest("a", COUNTED), later.rest("a", HEAD), later.aside("b")) == (HOUR, 90.0, "refused")
    with capture_logs() as logs:
        later.note("a", says(0), 200)
    assert logs == []  # it was told before the restart
    elsewhere = Accounts("docker.io", "docker.io", book=again, clock=clock, endpoint="mirror.example")
    assert (elsewhere.share(), elsewhere.rest("a", COUNTED)) == (None, 0)
    again.close()


def test_of_upstreams_that_clients_choose_nothing_is_kept_or_measured(clock: Clock) -> None:
    book = Dealings(None)
    before = set(metrics.UPSTREAM_RATELIMIT_LIMIT._metrics)
    accounts = Accounts("stranger.test", None, book=book, clock=clock)
    accounts.note(ANONYMOUS, says(3), 200)
    assert accounts.share() == 0.03
    assert (book.all("budget"), set(metrics.UPSTREAM_RATELIMIT_LIMIT._metrics)) == ({}, before)


def test_until_when_it_rests_is_measured(clock: Clock) -> None:
    accounts = Accounts("rests.test", "rests.test", book=Dealings(None), clock=clock)
    gauge = metrics.UPSTREAM_RESTS_UNTIL.labels("rests.test", "a")
    accounts.note("a", says(0), 429)
    assert gauge._value.get() == clock.now + HOUR
    accounts.note("a", says(1), 200)
    assert gauge._value.get() == 0
    accounts.limited("a", HEAD, 30.0)
    assert gauge._value.get() == clock.now + 30
    clock.now += 31
    accounts.answered("a", HEAD)
    assert gauge._value.get() == 0


def test_what_another_process_writes_at_the_same_time_ends_no_rest(tmp_path: Path, clock: Clock) -> None:
    books = [Dealings(tmp_path / "x.sqlite"), Dealings(tmp_path / "x.sqlite")]
    one, other = (Accounts("docker.io", "docker.io", book=book, clock=clock) for book in books)
    one.limited("a", COUNTED, 90.0)
    other.limited("a", HEAD, 30.0)
    for book in books:
        book.flush()
    assert (one.rest("a", COUNTED), one.rest("a", HEAD)) == (pytest.approx(90.0, abs=1), 30.0)
    for book in books:
        book.close()
