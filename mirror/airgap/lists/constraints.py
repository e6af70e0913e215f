"""Constraints on versions as skopeo and regsync mean them, written as ranges of ours.

The rules differ from npm's, which `versions.py` has, where a list would silently lose images: regsync's `>=1.2` takes
`1.25-alpine`, and skopeo's `>=1.2-0` every pre-release. The word `pre` says that in a range of ours.
- skopeo: github.com/Masterminds/semver, version 3, `constraints.go`.
- regsync: github.com/regclient/regclient, `internal/semver`.
"""

from __future__ import annotations

import itertools
import re

_LONGEST = 512  # characters, as Masterminds/semver
_MOST_GROUPS = 32  # the same

_PRE = r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?"
_PARTIAL = rf"v?([0-9]{{1,18}}|[xX*])(?:\.([0-9]{{1,18}}|[xX*]))?(?:\.([0-9]{{1,18}}|[xX*]))?{_PRE}"
_COMPARISON = re.compile(rf"(!=|=>|=<|~>|>=|<=|=|>|<|~|\^|)\s*{_PARTIAL}(?=[\s,]|$)")
_BETWEEN = re.compile(r"\s*,\s*|\s+|$")
_SPAN = re.compile(rf"({_PARTIAL})\s+-\s+({_PARTIAL})")
_OPERATORS = {"=>": ">=", "=<": "<=", "~>": "~", "": "="}

_Numbers = tuple[str | None, ...]

_REGSYNC = re.compile(rf"(>=|<=|>|<|=|\^|~|)v?([0-9]{{1,18}}(?:\.[0-9]{{1,18}}){{0,2}}){_PRE}")


def from_skopeo(text: str) -> str:
    """Return the selection of ours for a constraint of `images-by-semver`; raise `ValueError` with what is wrong."""
    if len(text) > _LONGEST or text.count("||") >= _MOST_GROUPS:
        raise ValueError(f"the constraint {text[:60]!r}… is longer than skopeo takes")
    written = _SPAN.sub(lambda found: f">={found[1]}, <={found[6]} ", text)
    groups = [_group(group.strip()) for group in written.split("||")]
    if not any(excluded for _, excluded in groups):
        return " || ".join(admitted for admitted, _ in groups)
    if len(groups) > 1:
        raise ValueError("beside || a != takes a whole version, such as !=1.2.3")
    admitted, excluded = groups[0]
    return "{" + "; ".join([admitted, *(f"!{one} pre" for one in excluded)]) + "}"


def _group(text: str) -> tuple[str, list[str]]:
    """Write what stands between two `||`: a range, and the incomplete versions that it leaves out.

    A pre-release in one comparison lets those of all versions in.
    """
    comparisons: list[tuple[str, _Numbers, str | None]] = []
    at = 0
    while at < len(text):
        found = _COMPARISON.match(text, at)
        between = found and _BETWEEN.match(text, found.end())
        if found is None or between is None:
            break
        comparisons.append((_OPERATORS.get(found[1], found[1]), found.groups()[1:4], found[5]))
        at = between.end()
    if at < len(text) or not at:
        raise ValueError(f"{text[at : at + 60]!r} is no constraint that skopeo knows; one looks like >= 1.2, < 2")
    with_pre = any(pre is not None for _, _, pre in comparisons)
    parts: list[str] = []
    excluded: list[str] = []
    for operator, numbers, pre in comparisons:
        if operator == "!=" and len(_given(numbers)) < len(numbers):
            excluded.append(_comparison("~", numbers, None))
        else:
            parts.append(_comparison(operator, numbers, pre or ("" if with_pre else None)))
    admitted = parts or ["=*"]
    return " ".join([*admitted, "pre"] if with_pre else admitted), excluded


def _comparison(operator: str, numbers: _Numbers, pre: str | None) -> str:
    """Write one comparison. `pre` is empty where only others beside it name a pre-release."""
    given = _given(numbers)
    if not given:
        return f"{operator}*"
    low = ".".join([*given, *["0"] * (3 - len(given))]) + (f"-{pre}" if pre else "")
    if len(given) == len(numbers) or operator in (">=", "<"):
        return f"{operator}{low}"
    if pre is None or (not pre and operator != ">"):
        return f"{operator}{'.'.join(given)}"
    above = _above(given, operator)
    match operator:
        case "<=":
            return f"<{above}"
        case ">":
            return f">={above}"
        case _:
            return f">={low} <{above}"


def _given(numbers: _Numbers) -> list[str]:
    """Return the numbers of a version up to the first that is left open."""
    return list(itertools.takewhile(str.isdecimal, (number or "" for number in numbers)))


def _above(given: list[str], operator: str) -> str:
    """Return the first version, pre-releases included, that is above all of an incomplete one."""
    place = len(given) - 1
    if operator == "^":
        place = next((at for at, number in enumerate(given) if int(number)), place)
    raised = [*given[:place], str(int(given[place]) + 1)]
    return ".".join([*raised, *["0"] * (3 - len(raised))]) + "-0"


def from_regsync(text: str) -> str:
    """Return the range of ours for one of `semverRange`; raise `ValueError` with what is wrong.

    A version may have fewer than three numbers there; pre-releases are versions like any other.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"the range {text[:60]!r}… is longer than {_LONGEST} characters")
    parts = []
    for word in text.split():
        found = _REGSYNC.fullmatch(word)
        if found is None:
            raise ValueError(f"{word[:60]!r} is no range that regsync knows; one looks like >=1.2.0 <2.0.0")
        operator, numbers, pre = found.groups()
        major, minor, patch = [*map(int, numbers.split(".")), 0, 0][:3]
        low = f"{major}.{minor}.{patch}" + (f"-{pre}" if pre else "")
        if operator == "~":
            parts += [f">={low}", f"<{major}.{minor + 1}.0"]
        elif operator == "^":
            above = (major + 1, 0, 0) if major else (0, minor + 1, 0) if minor else (0, 0, patch + 1)
            parts += [f">={low}", "<" + ".".join(map(str, above))]
        else:
            parts.append(f"{operator or '='}{low}")
    if not parts:
        raise ValueError("the range is empty; one looks like >=1.2.0 <2.0.0")
    return " ".join([*parts, "pre"])
