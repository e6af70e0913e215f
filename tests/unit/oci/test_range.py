from __future__ import annotations

import pytest

from mirror.errors import RangeInvalid
from mirror.oci.range import content_range, parse_content_range, parse_open_range, parse_range

HUGE = "9" * 5000


@pytest.mark.parametrize(
    ("header", "size", "expected"),
    [
        ("bytes=0-", 10, [(0, 10)]),
        ("bytes=0-9", 10, [(0, 10)]),
        ("bytes=0-0", 10, [(0, 1)]),
        ("bytes=9-", 10, [(9, 10)]),
        ("bytes=5-100", 10, [(5, 10)]),
        ("bytes=-3", 10, [(7, 10)]),
        ("bytes=-100", 10, [(0, 10)]),
        ("Bytes=1-2", 10, [(1, 3)]),
        (" bytes=1-2 ", 10, [(1, 3)]),
        ("bytes=0005-0006", 10, [(5, 7)]),
        (f"bytes=1-{HUGE}", 10, [(1, 10)]),
        (f"bytes=-{HUGE}", 10, [(0, 10)]),
        # several: in the client's order, what does not exist left out
        ("bytes=8-9,0-1", 10, [(8, 10), (0, 2)]),
        ("bytes=0-1 ,\t4-5,, ", 10, [(0, 2), (4, 6)]),
        ("bytes=0-1,20-30", 10, [(0, 2)]),
        ("bytes=0-4,5-9", 10, [(0, 5), (5, 10)]),
    ],
)
def test_satisfiable_ranges_are_sent(header: str, size: int, expected: list[tuple[int, int]]) -> None:
    assert parse_range(header, size) == expected


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (None, 10),
        ("", 10),
        ("bytes", 10),
        ("bytes=", 10),
        ("bytes=,", 10),
        ("bytes=-", 10),
        ("bytes=a-b", 10),
        ("bytes=1", 10),
        ("bytes=1-2-3", 10),
        ("bytes=+1-2", 10),
        ("bytes=٣-٤", 10),
        ("bytes=1 -2", 10),
        ("bytes = 1-2", 10),
        ("items=0-1", 10),
        ("bytes=0-1,x", 10),
        ("bytes=0-1,5-4", 10),
        ("bytes=0-,0-,0-", 10),
        ("bytes=" + ",".join(["0-0"] * 257), 1000),
        # of empty content a range from its beginning is the whole
        ("bytes=0-", 0),
        ("bytes=0-99", 0),
        ("bytes=-5", 0),
    ],
)
def test_the_whole_is_sent_where_a_header_is_missing_or_not_worth_following(header: str | None, size: int) -> None:
    assert parse_range(header, size) is None


def test_as_many_as_256_ranges_are_followed() -> None:
    assert parse_range("bytes=" + ",".join(["0-0"] * 256), 1000) == [(0, 1)] * 256


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ("bytes=10-", 10),
        ("bytes=10-20", 10),
        ("bytes=500-0", 1000),
        ("bytes=-0", 10),
        ("bytes=20-,30-40", 10),
        (f"bytes={HUGE}-", 10),
        ("bytes=1-", 0),
    ],
)
def test_what_lies_beyond_the_end_is_refused_with_the_size(header: str, size: int) -> None:
    with pytest.raises(RangeInvalid) as caught:
        parse_range(header, size)
    assert caught.value.size == size


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-", (0, None)),
        ("bytes=8388608-", (8388608, None)),
        ("bytes=5-9", (5, 10)),
        ("bytes=9-5", None),
        ("bytes=-5", None),
        ("bytes=0-1,3-4", None),
        ("nonsense", None),
        (None, None),
    ],
)
def test_a_range_is_understood_while_the_size_is_unknown(
    header: str | None, expected: tuple[int, int | None] | None
) -> None:
    assert parse_open_range(header) == expected


def test_content_range_goes_out_as_it_comes_in() -> None:
    assert content_range(5, 10, 100) == "bytes 5-9/100"
    assert content_range(5, 10, None) == "bytes 5-9/*"
    assert parse_content_range("bytes 5-9/100") == (5, 10, 100)
    assert parse_content_range(" BYTES 5-9/* ") == (5, 10, None)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes */100",
        "bytes 9-5/100",
        "bytes 5-100/100",
        "bytes 5-9",
        "items 5-9/100",
        "bytes 5-9/-1",
        "bytes=5-9/100",
        f"bytes 5-{HUGE}/*",
    ],
)
def test_a_content_range_that_makes_no_sense_is_refused(header: str) -> None:
    with pytest.raises(ValueError, match="Content-Range"):
        parse_content_range(header)
