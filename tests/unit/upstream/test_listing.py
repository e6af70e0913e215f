from __future__ import annotations

import time

import pytest
from yarl import URL

from mirror.upstream.listing import next_page

HERE = URL("https://registry.test/v2/a/tags/list")
N = 64 * 1024  # the longest header that is taken in


@pytest.mark.parametrize(
    "link",
    [
        '</v2/a/tags/list?last=x>; rel="next"',
        "</v2/a/tags/list?last=x>;rel=next",
        '</v2/a/tags/list?last=x>; title="a"; Rel = "prev NEXT"',
        '</first>; rel="first", </v2/a/tags/list?last=x>; rel="next"',
    ],
)
def test_the_next_page_is_found(link: str) -> None:
    assert next_page(HERE, [link]) == URL("https://registry.test/v2/a/tags/list?last=x")


@pytest.mark.parametrize(
    "link", ["", "</x>", '</x>; rel="prev"', '</x>; title="next"', "</x>; rel=nextish", "x; rel=next"]
)
def test_what_names_no_next_page_is_the_last(link: str) -> None:
    assert next_page(HERE, [link]) is None


@pytest.mark.parametrize(
    "link",
    [
        "<" * N,
        "<>" * (N // 2),
        '<a>;rel="' + "next " * (N // 5),
        "<a>" + ';rel="x' * 2000 + "next " * (N // 10),
        "<a>" + ";rel =" * (N // 6),
        "<a>;rel" + " " * N,
    ],
)
def test_a_hostile_header_does_not_hold_up_the_loop(link: str) -> None:
    began = time.process_time()
    next_page(HERE, [link])
    assert time.process_time() - began < 0.5
