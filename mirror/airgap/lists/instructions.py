"""The lines of a Dockerfile as instructions: continued lines joined, comments and heredocs left away."""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Of a Dockerfile: comments and blank lines, then its first instruction.
BEGINNING = re.compile(r"(?:[ \t\r]*(?:#[^\n]*)?\n)*[ \t]*(?:FROM|ARG)[ \t]+[^\s:]", re.IGNORECASE)

_DIRECTIVE = re.compile(r"#[ \t]*([A-Za-z][A-Za-z0-9]*)[ \t]*=[ \t]*(\S.*)")
_DIRECTIVES = frozenset({"syntax", "escape", "check"})
_WORD = re.compile(r"(?:[^\s\"']|\"[^\"]*\"|'[^']*'|[\"'])+")
_NAME = re.compile(r"\s*(?:ONBUILD\s+)*(\S+)\s*", re.IGNORECASE)
_FLAG = re.compile(r"--([a-z]+)(?:=(\S*))?(?:\s+|$)")
_HEREDOC = re.compile(r"\d*<<(-?)([\"']?)([^\s\"'<]+)\2")
_WITH_HEREDOC = frozenset({"RUN", "COPY", "ADD"})
_LONGEST = 100_000  # characters of an instruction that are looked at; nothing of interest comes behind them


@dataclass(frozen=True, slots=True)
class Instruction:
    """`NAME --flag=value rest`, on the line on which it begins. `ONBUILD` is taken away."""

    name: str  # upper case
    rest: str  # behind the flags
    line: int
    flags: dict[str, str] = field(default_factory=dict)
    mounts: tuple[str, ...] = ()  # of `--mount`, which may be repeated

    @property
    def words(self) -> list[str]:
        """What stands behind the flags, taken apart at blanks that are not in quotes."""
        return _WORD.findall(self.rest)


def directives(text: str) -> dict[str, tuple[str, int]]:
    """Return the parser directives and their lines: comments at the very top, each once."""
    found: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(text[:_LONGEST].split("\n"), 1):
        match = _DIRECTIVE.fullmatch(line.strip())
        if match is None or match[1].lower() not in _DIRECTIVES:
            if number == 1 and line.startswith("#!"):
                continue
            break
        found.setdefault(match[1].lower(), (match[2].strip(), number))
    return found


def instructions(text: str, escape: str) -> Iterator[Instruction]:
    """Yield the instructions; `escape` is the character that continues a line."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    ends = _Ends(lines)
    number = 0
    while number < len(lines):
        begin = number + 1
        parts: list[str] = []
        while number < len(lines):
            line = lines[number].strip()
            number += 1
            # Comments and blank lines within a continued instruction are passed over (with a warning, by builders).
            if line.startswith("#") or (not line and parts):
                continue
            continued = line.endswith(escape)
            parts.append(line[:-1] if continued else line)
            if not continued:
                break
        found = _instruction(" ".join(parts)[:_LONGEST], begin)
        if found is not None:
            if found.name in _WITH_HEREDOC:
                number = ends.behind(found, number)
            yield found


def _instruction(text: str, line: int) -> Instruction | None:
    found = _NAME.match(text)
    if found is None:
        return None
    flags: dict[str, str] = {}
    mounts: list[str] = []
    at = found.end()
    while flag := _FLAG.match(text, at):
        if flag[1] == "mount":
            mounts.append(flag[2] or "")
        else:
            flags[flag[1]] = flag[2] or ""
        at = flag.end()
    return Instruction(found[1].upper(), text[at:].strip(), line, flags, tuple(mounts))


class _Ends:
    """The lines at which heredocs can end, by their text."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines
        self.places: dict[bool, dict[str, list[int]]] = {}  # by whether tabs before the text are taken away

    def behind(self, found: Instruction, number: int) -> int:
        """Return the index of the line behind the heredocs of an instruction; one without an end is none."""
        for text in found.words:
            heredoc = _HEREDOC.fullmatch(text)
            if heredoc is None:
                continue
            places = self._by_text(stripped=bool(heredoc[1])).get(heredoc[3], [])
            following = bisect.bisect_left(places, number)
            if following < len(places):
                number = places[following] + 1
        return number

    def _by_text(self, *, stripped: bool) -> dict[str, list[int]]:
        if stripped not in self.places:
            places: dict[str, list[int]] = {}
            for number, line in enumerate(self.lines):
                places.setdefault(line.lstrip("\t") if stripped else line, []).append(number)
            self.places[stripped] = places
        return self.places[stripped]
