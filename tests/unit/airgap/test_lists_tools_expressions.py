"""Regular expressions of lists: what RE2 would find, and never more time than the text is worth."""

from __future__ import annotations

import contextlib
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.airgap.lists.constraints import from_regsync, from_skopeo
from mirror.airgap.lists.expressions import Expression
from mirror.airgap.lists.selection import read_selection
from mirror.errors import TagInvalid


@pytest.mark.parametrize(
    ("expression", "found", "missed"),
    [
        ("", ["", "v1"], []),
        ("v1", ["v1", "av1b"], ["v", "1v"]),
        ("^v1$", ["v1"], ["v1.0", "av1"]),
        ("^a|b$", ["ax", "xb"], ["xax"]),
        (r"^1\.2[67]-alpine$", ["1.26-alpine"], ["1x26-alpine", "1.28-alpine"]),
        (r"^\d+(\.\d+){1,2}$", ["1.2", "1.2.3"], ["1", "1.2.3.4"]),
        ("^a{3}$", ["aaa"], ["aa", "aaaa"]),
        ("^a{2,}$", ["aa", "aaaaa"], ["a"]),
        ("^a{,2}$", ["a{,2}"], ["a", "aa"]),
        ("^(?:ab)*?c?$", ["", "abab", "ababc"], ["aba"]),
        ("^(?P<major>[0-9]+)-(?<minor>x)$", ["10-x"], ["-x"]),
        (r"^[^\W_]+$", ["abc1"], ["a-b", "a_b"]),
        ("^[]a]+$", ["a]"], ["b"]),
        ("^[a-]+$", ["a-"], ["b"]),
        ("^[[:alpha:][:digit:].]+$", ["a1."], ["a-1"]),
        ("^[[:^digit:]]$", ["a"], ["1"]),
        ("(?i)^RC$", ["rc", "Rc"], ["r"]),
        ("^(?i:a)B$", ["AB", "aB"], ["ab"]),
        (r"\brc\b", ["1-rc", "rc.1"], ["arc", "rc1"]),
        (r"a\Bb", ["ab"], ["a-b"]),
        (r"^\x41\x{42}\t?$", ["AB"], ["ab"]),
        (r"\A1\z", ["1"], ["11"]),
    ],
)
def test_an_expression_finds_what_it_means(expression: str, found: list[str], missed: list[str]) -> None:
    compiled = Expression(expression)
    assert [text for text in found if not compiled.found_in(text)] == []
    assert [text for text in missed if compiled.found_in(text)] == []


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("(", "without a"),
        (")", r"a \) without a \("),
        ("[a", "an end too early"),
        ("a**", "repetition of a repetition"),
        ("*a", "with nothing before it"),
        ("a{3,2}", "impossible repetition"),
        ("a{1001}", "impossible repetition"),
        ("[b-a]", "range"),
        ("[[:nothing:]]", "is none"),
        (r"(a)\1", r"a \\1, which is not read"),
        (r"\pL", r"a \\p, which is not read"),
        ("(?=a)", "looking around"),
        ("(?!a)", "looking around"),
        ("(?i)*", "flags"),
        ("(" * 70 + ")" * 70, "groups in each other"),
        ("a" * 1001, "more than the 1000"),
        ("((a{100}){100}){100}", "too large"),
        ("((((){1000}){1000}){1000})", "too large"),
    ],
)
def test_what_is_no_expression_is_refused_with_the_reason(expression: str, reason: str) -> None:
    begun = time.process_time()
    with pytest.raises(ValueError, match=reason):
        Expression(expression)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("expression", ["^(a+)+$", "(a|a)*b", "(a*)*$b", "(.*){1,30}x.*.*.*$", "(a|aa)+c"])
def test_no_expression_takes_more_time_than_the_text_is_long(expression: str) -> None:
    compiled = Expression(expression)
    begun = time.process_time()
    for _ in range(20):
        assert not compiled.found_in("a" * 128 + "!")
    assert time.process_time() - begun < 1


_ATOMS = [
    "a",
    "b",
    "1",
    "-",
    ".",
    r"\d",
    r"\w",
    "[a-c]",
    "[^a]",
    r"\.",
    "^",
    "$",
    r"\b",
    "(a|b)",
    "(?:a1)*",
    "a?",
    "b+",
]
_EXPRESSIONS = st.lists(st.sampled_from([*_ATOMS, "a{1,2}", "(?i:A)", r"\D", r"\S", "|"]), max_size=6).map("".join)


@settings(deadline=None)
@given(_EXPRESSIONS, st.text("ab1-._AB", max_size=8))
def test_an_expression_finds_what_python_finds(expression: str, text: str) -> None:
    # In Python `$` also stands before a new line at the end; there is none in these texts.
    assert Expression(expression).found_in(text) == (re.search(expression, text, re.ASCII) is not None)


@given(st.text("ab1|()[]{}*+?^$.\\-:=!<>P,;#x \n", max_size=20), st.text("ab1-.", max_size=8))
def test_any_text_is_an_expression_or_refused(expression: str, text: str) -> None:
    with contextlib.suppress(ValueError):
        assert Expression(expression).found_in(text) in (True, False)


TAGS = [
    "1",
    "1.2",
    "1.2.3",
    "1.2.3-rc.1",
    "1.3.0-beta.2",
    "1.25-alpine",
    "v1.4",
    "2.0.0-rc.1",
    "2.0",
    "22.04",
    "latest",
]


@pytest.mark.parametrize(
    ("constraint", "expected"),  # as Masterminds/semver 3.5 finds them
    [
        ("*", ["1", "1.2", "1.2.3", "v1.4", "2.0", "22.04"]),
        ("1.2.3", ["1.2.3"]),
        ("=1.2", ["1.2", "1.2.3"]),
        ("1.x", ["1", "1.2", "1.2.3", "v1.4"]),
        ("~1", ["1", "1.2", "1.2.3", "v1.4"]),
        ("~>1.2", ["1.2", "1.2.3"]),
        ("^1.2.3", ["1.2.3", "v1.4"]),
        (">= 1.2.0 < 2", ["1.2", "1.2.3", "v1.4"]),
        ("=>1.4,=<2.0", ["v1.4", "2.0"]),
        ("1.2 - 1.4", ["1.2", "1.2.3", "v1.4"]),
        ("<=1.2 || >=22", ["1", "1.2", "1.2.3", "22.04"]),
        (">= 1.4.0-0", ["v1.4", "1.25-alpine", "2.0.0-rc.1", "2.0", "22.04"]),
        ("~1.2-0", ["1.2", "1.2.3-rc.1", "1.2.3"]),
        (">1-0", ["2.0.0-rc.1", "2.0", "22.04"]),
        ("<=1.2-0", ["1", "1.2", "1.2.3-rc.1", "1.2.3"]),
        ("<2 >=1-0", ["1", "1.2", "1.2.3-rc.1", "1.2.3", "1.3.0-beta.2", "1.25-alpine", "v1.4", "2.0.0-rc.1"]),
        (">1, >=1-0", ["2.0.0-rc.1", "2.0", "22.04"]),
        (">=1.2, !=1.2.3", ["1.2", "v1.4", "2.0", "22.04"]),
        (">=1.2, !=1.2.x", ["v1.4", "2.0", "22.04"]),
    ],
)
def test_a_constraint_admits_what_it_admits_in_skopeo(constraint: str, expected: list[str]) -> None:
    assert sorted(read_selection(from_skopeo(constraint)).choose(TAGS)) == sorted(expected)


@pytest.mark.parametrize(
    ("written", "expected"),  # as regclient finds them: pre-releases are versions like any other
    [
        (">=1.2", ["1.2", "1.2.3-rc.1", "1.2.3", "1.3.0-beta.2", "v1.4", "1.25-alpine", "2.0.0-rc.1", "2.0", "22.04"]),
        ("^1.2.3", ["1.2.3", "1.3.0-beta.2", "v1.4", "1.25-alpine", "2.0.0-rc.1"]),
        ("~1", ["1"]),  # which it takes for ~1.0
        ("1.2", ["1.2"]),
        (">1.2.3-rc.1 <=1.4", ["1.2.3", "1.3.0-beta.2", "v1.4"]),
        ("^0.0.3", []),
    ],
)
def test_a_range_admits_what_it_admits_in_regsync(written: str, expected: list[str]) -> None:
    assert sorted(read_selection(from_regsync(written)).choose(TAGS)) == sorted(expected)


@pytest.mark.parametrize("text", ["", "newest", "1.2.3.4", ">=", "1 ||", "a" * 600, "||" * 40, ">1 << 2", "!=1 || 2"])
def test_what_is_no_constraint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"skopeo|whole version"):
        from_skopeo(text)


@pytest.mark.parametrize("text", ["", "newest", "1.x", ">= 1", "1 || 2", "a" * 600])
def test_what_is_no_range_of_regsync_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="range"):
        from_regsync(text)


@given(st.text("0123.vxX*<>=~^!|-, rc", max_size=30))
def test_any_text_is_a_constraint_or_refused(text: str) -> None:
    for translate in (from_skopeo, from_regsync):
        try:
            selection = read_selection(translate(text))
        except (ValueError, TagInvalid):
            continue
        assert set(selection.choose(TAGS)) <= set(TAGS)
