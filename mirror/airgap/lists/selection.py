"""Which tags of a repository are meant: by glob, range of versions or regular expression, or by several of these."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from mirror.airgap.lists.expressions import Expression
from mirror.airgap.lists.versions import VersionRange
from mirror.errors import TagInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable

_RANGE = re.compile(r"[<>=^~|, ]")
_GLOB = re.compile(r"[A-Za-z0-9_.*?-]+")
_LONGEST_GLOB = 256
_MOST = 100  # selections in one


@dataclass(frozen=True, slots=True)
class Glob:
    """`v1.*`: `*` is anything, also nothing, and `?` one character."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raise `TagInvalid` where it can match no tag."""
        if not _GLOB.fullmatch(text) or len(text) > _LONGEST_GLOB:
            raise TagInvalid(f"{text[:160]!r} is no tag: letters, digits, '_', '.', '-', and * for anything")
        return cls(text)

    def has(self, tag: str) -> bool:
        """Say whether it means `tag`, in time that grows with the product of the lengths only."""
        star, resumed, at, here = -1, 0, 0, 0
        while here < len(tag):
            if at < len(self.text) and self.text[at] == "*":
                star, resumed = at, here
                at += 1
            elif at < len(self.text) and self.text[at] in ("?", tag[here]):
                at, here = at + 1, here + 1
            elif star >= 0:  # let the last star take one character more
                resumed += 1
                at, here = star + 1, resumed
            else:
                return False
        return not self.text[at:].strip("*")

    def choose(self, tags: Iterable[str]) -> list[str]:
        """Return the tags that are meant, by name."""
        return sorted({tag for tag in tags if self.has(tag)})

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Regular:
    """`/v[0-9]+/`: a regular expression as Go has them (RE2); `^` and `$` tie it to the ends of a tag."""

    expression: Expression

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raise `TagInvalid` with what is wrong."""
        try:
            return cls(Expression(text))
        except ValueError as error:
            raise TagInvalid(str(error)) from None

    def has(self, tag: str) -> bool:
        """Say whether it means `tag`."""
        return self.expression.found_in(tag)

    def choose(self, tags: Iterable[str]) -> list[str]:
        """Return the tags that are meant, by name."""
        return sorted({tag for tag in tags if self.has(tag)})

    def __str__(self) -> str:
        return "/" + str(self.expression).replace(";", "\\x3b").replace("\n", "\\n") + "/"


@dataclass(frozen=True, slots=True)
class Several:
    """Tags that one of `allowed` means (any at all where there is none), all of `required`, and none of `denied`."""

    allowed: tuple[Glob | VersionRange | Regular, ...]
    denied: tuple[Glob | VersionRange | Regular, ...] = ()
    required: tuple[Glob | VersionRange | Regular, ...] = ()

    def has(self, tag: str) -> bool:
        """Say whether it means `tag`."""
        allowed = not self.allowed or any(one.has(tag) for one in self.allowed)
        return allowed and all(one.has(tag) for one in self.required) and not any(one.has(tag) for one in self.denied)

    def choose(self, tags: Iterable[str]) -> list[str]:
        """Return the tags that are meant, by name."""
        return sorted({tag for tag in tags if self.has(tag)})

    def __str__(self) -> str:
        required, denied = (f"&{one}" for one in self.required), (f"!{one}" for one in self.denied)
        return "{" + "; ".join([*map(str, self.allowed), *required, *denied]) + "}"


def is_selection(text: str) -> bool:
    """Say whether what stands behind a reference's colon chooses tags. `1.25` does not: it is a tag."""
    return bool(_RANGE.search(text)) or "*" in text or "?" in text


def read_selection(text: str) -> Glob | VersionRange | Regular | Several:
    """Read what stands behind the colon; raise `TagInvalid`."""
    written = text.strip()
    if not (written.startswith("{") and written.endswith("}")):
        return read_simple(written)
    parts = [part.strip() for part in written[1:-1].split(";") if part.strip()]
    if not parts or len(parts) > _MOST:
        raise TagInvalid(f"between {{ and }} stand 1 to {_MOST} selections, with ; between them")
    marks = [part[0] if part[0] in "!&" and not part.startswith("!=") else "" for part in parts]
    allowed, denied, required = (
        tuple(
            read_simple(part.removeprefix(sign).strip())
            for part, mark in zip(parts, marks, strict=True)
            if mark == sign
        )
        for sign in ("", "!", "&")
    )
    return Several(allowed, denied, required)


def read_simple(text: str) -> Glob | VersionRange | Regular:
    """Read one selection: `/REGULAR EXPRESSION/`, a range, or a glob; raise `TagInvalid`."""
    if len(text) > 1 and text.startswith("/") and text.endswith("/"):
        return Regular.parse(text[1:-1])
    return VersionRange.parse(text) if _RANGE.search(text) else Glob.parse(text)
