"""What upstreams say of their rate limits, in each one's way of saying it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from mirror.upstream.budget import Budget, parse_budget

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            {
                "ratelimit-limit": "100;w=21600",
                "ratelimit-remaining": "76;w=21600",
                "docker-ratelimit-source": "192.0.2.7",
            },
            {"limit": 100, "remaining": 76, "window": 21600, "source": "192.0.2.7"},
        ),
        (
            {"RateLimit-Limit": "600", "RateLimit-Remaining": "599", "RateLimit-Reset": "1700000060"},
            {"limit": 600, "remaining": 599, "resets_at": 1_700_000_060.0},
        ),
        (
            {
                "X-RateLimit-Limit": "5000",
                "X-RateLimit-Remaining": "4999",
                "X-RateLimit-Reset": "1700003600",
                "X-RateLimit-Resource": "core",
            },
            {"limit": 5000, "remaining": 4999, "resets_at": 1_700_003_600.0, "source": "core"},
        ),
        (
            {"RateLimit-Limit": "100, 100;w=60", "RateLimit-Remaining": "5", "RateLimit-Reset": "30"},
            {"limit": 100, "remaining": 5, "window": 60, "resets_at": NOW + 30},
        ),
        (
            {"RateLimit-Policy": '"default";q=100;w=60, "daily";q=9;w=86400', "RateLimit": '"default";r=50;t=30'},
            {"limit": 100, "remaining": 50, "window": 60, "resets_at": NOW + 30},
        ),
        (
            {"RateLimit": "limit=100, remaining=50, reset=5", "RateLimit-Policy": "100;w=10"},
            {"limit": 100, "remaining": 50, "window": 10, "resets_at": NOW + 5},
        ),
        ({"RateLimit-Remaining": "0"}, {"remaining": 0}),
    ],
)
def test_each_way_of_saying_it_is_understood(headers: dict[str, str], expected: dict[str, Any]) -> None:
    assert parse_budget(CIMultiDict(headers), status=200, now=NOW) == Budget(at=NOW, **expected)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"RateLimit-Limit": "many"},
        {"RateLimit-Limit": "-1", "RateLimit-Remaining": "1.5"},
        {"RateLimit-Limit": "9" * 40},
        {"Retry-After": "30"},  # not of a 429: about something else
    ],
)
def test_what_says_nothing_is_nothing(headers: dict[str, str]) -> None:
    assert parse_budget(CIMultiDict(headers), status=200, now=NOW) is None


def test_a_429_says_when_to_come_back() -> None:
    assert parse_budget(CIMultiDict({"Retry-After": "30"}), status=429, now=NOW) == Budget(at=NOW, retry_after=30.0)


def test_a_source_that_is_no_word_is_left_out() -> None:
    headers = CIMultiDict({"ratelimit-limit": "1", "docker-ratelimit-source": "a\nb"})
    found = parse_budget(headers, status=200, now=NOW)
    assert found is not None
    assert found.source is None


@given(
    st.dictionaries(st.sampled_from(["RateLimit", "RateLimit-Policy", "RateLimit-Limit", "RateLimit-Reset"]), st.text())
)
def test_nothing_that_is_sent_breaks_it(headers: dict[str, str]) -> None:
    parse_budget(CIMultiDict(headers), status=429, now=NOW)
