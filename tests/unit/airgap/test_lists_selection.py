from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.airgap.lists.references import read_reference
from mirror.airgap.lists.selection import Glob, Regular, Several, read_selection
from mirror.airgap.lists.versions import VersionRange, version_of
from mirror.errors import TagInvalid

fuzz = settings(max_examples=100, deadline=None, derandomize=True)

TAGS = [
    "latest",
    "v1.0.0",
    "v1.2.0",
    "v1.2.3",
    "v1.2.4-rc.1",
    "v1.10.0",
    "v2.0.0-alpha",
    "v2.0.0",
    "1.2.3-alpine",
    "edge",
]


def chosen(text: str) -> list[str]:
    return read_selection(text).choose(TAGS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v1.*", ["v1.0.0", "v1.10.0", "v1.2.0", "v1.2.3", "v1.2.4-rc.1"]),
        ("*", sorted(TAGS)),
        ("v1.2.?", ["v1.2.0", "v1.2.3"]),
        ("*.0", ["v1.0.0", "v1.10.0", "v1.2.0", "v2.0.0"]),
        ("v*2*3", ["v1.2.3"]),
        ("?atest", ["latest"]),
        ("v3*", []),
        (">=1.2 <2", ["v1.2.0", "v1.2.3", "v1.10.0"]),
        (">=v1.2, <v2", ["v1.2.0", "v1.2.3", "v1.10.0"]),
        ("^1.2", ["v1.2.0", "v1.2.3", "v1.10.0"]),
        ("~1.2", ["v1.2.0", "v1.2.3"]),
        ("~1.2.4-rc.0", ["v1.2.4-rc.1"]),
        ("1.2 - 1.4", ["v1.2.0", "v1.2.3"]),
        ("<1.2 || >=2", ["v1.0.0", "v2.0.0"]),
        (">=2.0.0-0", ["v2.0.0-alpha", "v2.0.0"]),
        (">=1.2 !=1.2.3", ["v1.2.0", "v1.10.0", "v2.0.0"]),
        ("/^v1\\.[0-9]+\\.0$/", ["v1.0.0", "v1.10.0", "v1.2.0"]),
        ("/rc/", ["v1.2.4-rc.1"]),
        ("{v1.*; ^2; !*-rc*; !/10/}", ["v1.0.0", "v1.2.0", "v1.2.3", "v2.0.0"]),
        ("{!v*; !*-alpine}", ["edge", "latest"]),
    ],
)
def test_a_selection_means_the_tags_that_it_says(text: str, expected: list[str]) -> None:
    assert chosen(text) == expected


# The examples of npm's own documentation (docs.npmjs.com, "semver", "Ranges" and "Advanced Range Syntax").
@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">=1.2.7 <1.3.0", ["1.2.7", "1.2.8", "1.2.99"], ["1.2.6", "1.3.0", "1.1.0"]),
        ("1.2.7 || >=1.2.9 <2.0.0", ["1.2.7", "1.2.9", "1.4.6"], ["1.2.8", "2.0.0"]),
        (">1.2.3-alpha.3", ["1.2.3-alpha.7", "1.2.3", "3.4.5"], ["3.4.5-alpha.9", "1.2.3-alpha.3"]),
        ("1.2.3 - 2.3.4", ["1.2.3", "2.3.4"], ["1.2.2", "2.3.5"]),
        ("1.2 - 2.3.4", ["1.2.0"], ["1.1.9"]),
        ("1.2.3 - 2.3", ["2.3.9"], ["2.4.0", "2.4.0-0"]),
        ("1.2.3 - 2", ["2.9.9"], ["3.0.0", "3.0.0-0"]),
        ("*", ["0.0.0", "9.9.9"], ["1.0.0-0"]),
        ("1.x", ["1.0.0", "1.9.9"], ["0.9.9", "2.0.0"]),
        ("1.2.x", ["1.2.0"], ["1.3.0", "1.1.9"]),
        ("=1.2", ["1.2.9"], ["1.3.0"]),
        ("~1.2.3", ["1.2.3", "1.2.9"], ["1.3.0", "1.3.0-0", "1.2.2"]),
        ("~1", ["1.0.0", "1.9.0"], ["2.0.0"]),
        ("~>1.2", ["1.2.9"], ["1.3.0"]),
        ("~0.2.3", ["0.2.9"], ["0.3.0"]),
        ("~1.2.3-beta.2", ["1.2.3-beta.4", "1.2.4"], ["1.2.4-beta.2", "1.2.3-beta.1"]),
        ("^1.2.3", ["1.9.9"], ["2.0.0", "2.0.0-0", "1.2.2"]),
        ("^0.2.3", ["0.2.9"], ["0.3.0"]),
        ("^0.0.3", ["0.0.3"], ["0.0.4"]),
        ("^1.2.3-beta.2", ["1.2.3-beta.4", "1.9.0"], ["1.2.4-beta.2"]),
        ("^1.2.x", ["1.9.0"], ["1.1.9", "2.0.0"]),
        ("^0.0.x", ["0.0.9"], ["0.1.0"]),
        ("^0.0", ["0.0.9"], ["0.1.0"]),
        ("^0.x", ["0.9.9"], ["1.0.0"]),
        (">1.2", ["1.3.0"], ["1.2.9"]),
        ("<=1.2", ["1.2.9"], ["1.3.0", "1.3.0-0"]),
        ("<1.2", ["1.1.9"], ["1.2.0", "1.2.0-0"]),
        (">=1", ["1.0.0"], ["0.9.9"]),
        (">*", [], ["0.0.0", "1.0.0"]),
        (">= 1.2  < 2", ["1.2.0"], ["2.0.0"]),
        (">=2.0.0-a ^1", [], ["2.0.0-b", "1.9.0", "2.0.0"]),
        (">=2.0.0-a <2", [], ["2.0.0-b"]),
        ("1.2.3+build", ["1.2.3"], ["1.2.4"]),
    ],
)
def test_a_range_means_what_it_means_to_npm(text: str, inside: list[str], outside: list[str]) -> None:
    versions = VersionRange.parse(text)
    assert [tag for tag in inside if not versions.has(tag)] == []
    assert [tag for tag in outside if versions.has(tag)] == []


@pytest.mark.parametrize(
    ("tag", "version"),
    [
        ("1.2.3", "1.2.3"),
        ("v1.2", "1.2.0"),
        ("7", "7.0.0"),
        ("22.04", "22.4.0"),
        ("1.2.3-rc.1", "1.2.3-rc.1"),
        ("3.9-bookworm", "3.9.0-bookworm"),
        ("1.2.3_build.5", "1.2.3"),
        ("latest", None),
        ("1.2.3.4", None),
        ("20240611", None),
        ("8f3a21c", None),
        ("1.2.3-", None),
        ("vv1", None),
        ("version1", None),
        ("１.2.3", None),  # noqa: RUF001  # a digit, but not one of ASCII
    ],
)
def test_a_tag_is_a_version_or_not(tag: str, version: str | None) -> None:
    found = version_of(tag)
    assert (None if found is None else str(found)) == version


def test_a_range_lists_versions_in_their_order_and_each_once() -> None:
    assert VersionRange.parse(">=1").choose(["1.10", "1.9", "v1.9", "1.9", "2"]) == ["1.9", "v1.9", "1.10", "2"]


@pytest.mark.parametrize(
    "text", [">=", "1.2 -", ">=1.2 <", "a.b <2", ">=1.2.3.4", ">==1", "", " ", "!=1", "|| |", "^" * 400]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(TagInvalid):
        VersionRange.parse(text)


def test_a_selection_takes_no_time_to_speak_of_whatever_it_is() -> None:
    hostile = ["a" * 128, "1." * 60 + "1", "-" * 128]
    begun = time.process_time()
    for text in ("*a" * 60 + "b", "/(a*)*b/", "/(a|a)*(a|aa)+$x/", "*" * 200 + "b", " || ".join(["^1.2"] * 30)):
        assert read_selection(text).choose(hostile) == []
    assert time.process_time() - begun < 2


_WORDS = st.text("v1.0-x*?<>=~^|, !/;{}[]()a+\\", max_size=30)
_SOME_TAGS = st.lists(st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,12}", fullmatch=True), max_size=6)


@fuzz
@given(_WORDS, _SOME_TAGS)
def test_whatever_stands_behind_the_colon_is_a_selection_or_refused(text: str, tags: list[str]) -> None:
    try:
        selection = read_selection(text)
    except TagInvalid:
        return
    found = selection.choose(tags)
    assert set(found) <= set(tags)
    assert len(set(found)) == len(found)
    again = read_selection(str(selection))
    assert again.choose(tags) == found
    assert str(again) == str(selection)


def test_an_expression_with_the_mark_between_selections_can_be_written_among_them() -> None:
    several = Several((Regular.parse("a[;-]b"), Glob("x*")), (Regular.parse(";"),))
    again = read_selection(str(several))
    assert again.choose(["a-b", "a-c", "x1"]) == several.choose(["a-b", "a-c", "x1"]) == ["a-b", "x1"]
    assert str(again) == str(several)


@fuzz
@given(st.sampled_from(["v1.*", ">=1.2 <2", "/a;b/", "{v1.*; !/x/; !=1.2.3}", "^1 || ^2", "1 - 2", r"{/a[\x3b]/}"]))
def test_what_is_written_down_can_be_read_again(text: str) -> None:
    wanted = read_reference(f"quay.io/org/app:{text}", "")
    assert str(read_reference(str(wanted), "")) == str(wanted)


@fuzz
@given(st.text("ab*?", max_size=12), st.text("ab", max_size=12))
def test_a_glob_agrees_with_the_expression_that_it_stands_for(pattern: str, tag: str) -> None:
    import re  # noqa: PLC0415

    expression = "".join({"*": ".*", "?": "."}.get(character, character) for character in pattern)
    assert Glob(pattern).has(tag) == (re.fullmatch(expression, tag) is not None)
