from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.upstream.backoff import delay, parse_retry_after


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7),
        (" 7 ", 7),
        ("0.5", 0.5),
        ("999999999999999999999", 3600),
        ("Sat, 21 Nov 2026 10:00:30 GMT", 30),
        ("Sat, 21 Nov 2026 09:00:00 GMT", 0),
        ("Sat, 21 Nov 2099 09:00:00 GMT", 3600),
        ("Sat, 21 Nov 2026 10:00:30 -0000", 30),
        ("-3", None),
        ("soon", None),
        ("", None),
        ("\u0663", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_at_most_an_hour(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, now=1_795_255_200.0) == seconds


@given(st.text())
def test_no_retry_after_whatever_raises(header: str) -> None:
    seconds = parse_retry_after(header)
    assert seconds is None or 0 <= seconds <= 3600


def test_delays_grow_and_differ() -> None:
    assert all(0.1 <= delay(0) <= 0.3 and 0.9 <= delay(2) <= 2.7 for _ in range(50))
    assert len({delay(1) for _ in range(5)}) > 1
