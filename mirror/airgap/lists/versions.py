"""Ranges of semantic versions (semver.org, and npm's rules for ranges), for the tags of a repository."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from semver import Version

from mirror.errors import TagInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LONGEST = 256  # characters of a range
_MOST_DIGITS = 5  # of a tag that is one number: a longer one is a date or the number of a build

# `+` may not stand in a tag; Helm writes `_` for it. Leading zeros are let through: Ubuntu's 22.04 is a version too.
_TAG = re.compile(
    r"v?(\d{1,18})(?:\.(\d{1,18}))?(?:\.(\d{1,18}))?(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:[+_][\w.-]+)?", re.ASCII
)
_PART = r"(?:\d{1,18}|[xX*])"
_PARTIAL = rf"v?({_PART})(?:\.({_PART}))?(?:\.({_PART}))?(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?"
_COMPARATOR = re.compile(rf"(>=|<=|!=|~>|>|<|=|\^|~)?[ ]*{_PARTIAL}(?=[ ]|$)", re.ASCII)
_HYPHEN = re.compile(rf"{_PARTIAL} +- +{_PARTIAL}", re.ASCII)
_PRE = re.compile(r"(?:^| )pre$")
_FIRST = "0"  # the least of all pre-releases: `<2.0.0-0` leaves those of 2.0.0 out

_Numbers = list[int]
_Comparators = list[tuple[str, Version]]


def version_of(tag: str) -> Version | None:
    """Return the version that a tag is: `v1.2.3`, `1.2` (which is 1.2.0), `1.2.3-rc.1`; None where it is none."""
    match = _TAG.fullmatch(tag)
    if match is None:
        return None
    major, minor, patch, pre = match.groups()
    if minor is None and len(major) > _MOST_DIGITS:
        return None
    return Version(int(major), int(minor or 0), int(patch or 0), pre)


@dataclass(frozen=True, slots=True)
class VersionRange:
    """`>=1.2 <2`, `^1.2`, `~1.2`, `1.2 - 1.4`, several joined by `||`; commas count as blanks.

    As for npm a pre-release is meant only where the range names one of the same version, unless it ends with the word
    `pre`: `>=1.2 pre` takes `1.25-alpine` too. Tags that are no version are never meant; what follows `+` (in a tag
    `_`) is ignored.
    """

    text: str
    alternatives: tuple[tuple[tuple[str, Version], ...], ...]
    pre: tuple[bool, ...]  # of each alternative, whether all pre-releases between its bounds are meant

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a range; raise `TagInvalid`."""
        if len(text) > _LONGEST:
            raise TagInvalid(f"the range {text[:60]!r}… is longer than {_LONGEST} characters")
        written = " ".join(text.replace(",", " ").split())
        if not written:
            raise TagInvalid("a range of versions is empty; one looks like >=1.2 <2")
        parts = [part.strip() for part in written.split("||")]
        alternatives = tuple(tuple(_comparators(_PRE.sub("", part))) for part in parts)
        return cls(written, alternatives, tuple(bool(_PRE.search(part)) for part in parts))

    def has(self, tag: str) -> bool:
        """Say whether a tag is a version in the range."""
        version = version_of(tag)
        return version is not None and any(
            _within(version, comparators, pre=pre) for comparators, pre in zip(self.alternatives, self.pre, strict=True)
        )

    def choose(self, tags: Iterable[str]) -> list[str]:
        """Return the tags in the range, lowest version first."""
        found = {tag: version for tag in tags if self.has(tag) and (version := version_of(tag)) is not None}
        return sorted(found, key=lambda tag: (found[tag], tag))

    def __str__(self) -> str:
        return self.text


def _within(version: Version, comparators: tuple[tuple[str, Version], ...], *, pre: bool) -> bool:
    if not all(_meets(version, operator, bound) for operator, bound in comparators):
        return False
    if pre or version.prerelease is None:
        return True
    return any(
        bound.prerelease is not None and bound.to_tuple()[:3] == version.to_tuple()[:3] for _, bound in comparators
    )


def _meets(version: Version, operator: str, bound: Version) -> bool:
    order = version.compare(bound)
    match operator:
        case ">=":
            return order >= 0
        case ">":
            return order > 0
        case "<=":
            return order <= 0
        case "<":
            return order < 0
        case "!=":
            return order != 0
        case _:
            return order == 0


def _comparators(text: str) -> _Comparators:
    """Turn one alternative into simple comparisons."""
    if hyphen := _HYPHEN.fullmatch(text):
        low, high = hyphen.groups()[:4], hyphen.groups()[4:]
        return [*_simple(">=", *_read(low)), *_simple("<=", *_read(high))]
    found: _Comparators = []
    at = 0
    while at < len(text):
        match = _COMPARATOR.match(text, at)
        if match is None:
            raise TagInvalid(f"{text[at : at + 60]!r} is no range of versions; one looks like >=1.2 <2, ^1.2 or ~1.2.3")
        found.extend(_simple(match[1] or "=", *_read(match.groups()[1:])))
        at = match.end()
        while text[at : at + 1] == " ":
            at += 1
    return found or [(">=", Version(0))]


def _read(parts: Iterable[str | None]) -> tuple[_Numbers, str | None]:
    """Return the numbers that are given, up to the first that is left open, and the pre-release."""
    *numbers, pre = parts
    given = list(_given(numbers))
    return given, pre if len(given) == len(numbers) else None


def _given(numbers: Iterable[str | None]) -> Iterator[int]:
    for number in numbers:
        if number is None or not number.isdigit():
            return
        yield int(number)


def _simple(operator: str, numbers: _Numbers, pre: str | None) -> _Comparators:
    """Write a comparison with a partial version as comparisons with whole ones (npm, "Advanced Range Syntax")."""
    if not numbers:  # `*`
        nothing = operator in (">", "<", "!=")
        return [("<", Version(0, 0, 0, _FIRST))] if nothing else [(">=", Version(0))]
    low, last = _version(numbers, pre), len(numbers) - 1
    match operator:
        case "^":
            place = next((place for place, number in enumerate(numbers) if number), last)
            return [(">=", low), ("<", _above(numbers, place))]
        case "~" | "~>":
            return [(">=", low), ("<", _above(numbers, min(1, last)))]
        case _ if len(numbers) == 3:  # noqa: PLR2004  # major, minor, patch
            return [(operator, low)]
        case "!=":
            raise TagInvalid("!= takes a whole version, such as !=1.2.3")
    partial: dict[str, _Comparators] = {
        "=": [(">=", low), ("<", _above(numbers, last))],
        ">=": [(">=", low)],
        ">": [(">=", _above(numbers, last, pre=None))],
        "<=": [("<", _above(numbers, last))],
        "<": [("<", _version(numbers, _FIRST))],
    }
    return partial[operator]


def _above(numbers: _Numbers, place: int, pre: str | None = _FIRST) -> Version:
    """Return the first version whose number at `place` is the next one."""
    return _version([*numbers[:place], numbers[place] + 1], pre)


def _version(numbers: _Numbers, pre: str | None) -> Version:
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return Version(major, minor, patch, pre)
