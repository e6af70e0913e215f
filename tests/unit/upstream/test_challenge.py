from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.upstream.challenge import Challenge, first, parse_challenges


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            ['Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'],
            [("bearer", {
                "realm": "https://auth.docker.io/token",
                "service": "registry.docker.io",
                "scope": "repository:a/b:pull,push",
            })],
        ),
        (['Basic realm="x", Bearer realm="https://r/t"'], [("basic", {"realm": "x"}), ("bearer", {"realm": "https://r/t"})]),
        (['BEARER REALM="r"', "basic"], [("bearer", {"realm": "r"}), ("basic", {})]),
        (["Bearer realm=https://r/t,service=nvcr.io"], [("bearer", {"realm": "https://r/t", "service": "nvcr.io"})]),
        ([r'Bearer realm="a\"b\\c"'], [("bearer", {"realm": 'a"b\\c'})]),
        (['Bearer realm = "r" , service = "s"'], [("bearer", {"realm": "r", "service": "s"})]),
        (["Negotiate abc/+=, Basic realm=x"], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (['Bearer realm="r",,scope="s"'], [("bearer", {"realm": "r", "scope": "s"})]),
        (['Bearer realm="r'], [("bearer", {"realm": ""})]),
        (['Bearer realm="first",realm="second"'], [("bearer", {"realm": "first"})]),
        ([""], []),
        ([",,;;="], []),
    ],
)  # fmt: skip
def test_every_form_of_challenge_is_read(headers: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(c.scheme, dict(c.parameters)) for c in parse_challenges(headers)] == expected


def test_a_bearer_without_a_realm_cannot_be_answered() -> None:
    basic = Challenge("basic")
    assert first([Challenge("bearer"), basic], "bearer") is None
    assert first([Challenge("bearer"), basic], "basic") is basic


def test_scopes_are_split_at_spaces_and_commas_stay_inside() -> None:
    (challenge,) = parse_challenges(
        ['Bearer realm="r",scope="repository:a:pull,push repository:b:pull",error="insufficient_scope"']
    )
    assert challenge.scopes == ("repository:a:pull,push", "repository:b:pull")
    assert challenge.insufficient


@given(st.lists(st.text(), max_size=4))
def test_no_header_whatever_raises(headers: list[str]) -> None:
    parse_challenges(headers)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,8}", fullmatch=True),
        st.text(st.characters(codec="ascii", exclude_categories=["Cc"])),
        min_size=1,
    )
)
def test_what_is_quoted_is_read_back(parameters: dict[str, str]) -> None:
    def quote(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    header = "Bearer " + ", ".join(f"{name}={quote(value)}" for name, value in parameters.items())
    assert parse_challenges([header]) == (Challenge("bearer", parameters),)
