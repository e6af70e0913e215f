"""`$NAME` and `${NAME:-default}`, as compose files and Dockerfiles have them (docs.docker.com/reference).

A variable that is not given counts as unset. Where an image's name then would have a hole, the name is unknown: nothing
else than what the person gives is looked at, so that a list means the same on every machine.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mirror.airgap.lists.selection import Glob

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST = 4096  # characters of a text, and of what it becomes
_DEEPEST = 20  # defaults in defaults
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-+?]|##?|%%?")


class Unknown(Exception):
    """A text whose variables cannot be filled in; `str` is a sentence for a person."""


def fill_in(text: str, values: Mapping[str, str], *, escape: str, quotes: bool = False) -> str:
    """Return `text` with its variables filled in; `escape` before a `$` keeps it (`$` itself in compose files).

    With `quotes` those of a shell are taken away, and nothing is filled in between single ones, as in Dockerfiles.

    Raise `Unknown` where one is not given and has no default, and where the notation is another.
    """
    if len(text) > _LONGEST:
        raise Unknown(f"it is longer than {_LONGEST} characters")
    reader = _Reader(text, values, escape, quotes=quotes)
    return reader.until_end()


class _Reader:
    def __init__(self, text: str, values: Mapping[str, str], escape: str, *, quotes: bool) -> None:
        self.text = text
        self.values = values
        self.escape = escape
        self.quotes = quotes
        self.at = 0
        self.depth = 0

    def until_end(self) -> str:
        return self._words("")

    def _words(self, end: str) -> str:
        """Read up to the character `end`, or the end of the text; raise `Unknown` if something in it is."""
        made: list[str] = []
        while self.at < len(self.text):
            character = self.text[self.at]
            if end and character == end:
                return self._checked(made)
            if self.text.startswith(f"{self.escape}$", self.at):
                made.append("$")
                self.at += 2
            elif self.quotes and character in "\"'":
                made.append(self._quoted(character))
            elif character == "$":
                made.append(self._variable())
            else:
                made.append(character)
                self.at += 1
        if end:
            raise Unknown("a ${ has no } behind it")
        return self._checked(made)

    def _quoted(self, quote: str) -> str:
        """Pass over a quotation mark; single ones keep what stands between them."""
        self.at += 1
        end = self.text.find("'", self.at) if quote == "'" else -1
        if end < 0:
            return ""
        kept, self.at = self.text[self.at : end], end + 1
        return kept

    def _checked(self, made: list[str]) -> str:
        text = "".join(made)
        if len(text) > _LONGEST:
            raise Unknown(f"filled in it is longer than {_LONGEST} characters")
        return text

    def _variable(self) -> str:
        braced = self.text.startswith("${", self.at)
        name = _NAME.match(self.text, self.at + (2 if braced else 1))
        if name is None:
            if braced:
                raise Unknown("what stands behind ${ is no name of a variable")
            self.at += 1
            return "$"
        self.at = name.end()
        if not braced:
            return self._given(name[0])
        if self.text.startswith("}", self.at):
            self.at += 1
            return self._given(name[0])
        return self._with_operator(name[0])

    def _with_operator(self, name: str) -> str:
        found = _OPERATOR.match(self.text, self.at)
        if found is None:
            raise Unknown(f"the notation of ${{{name}…}} is not read; write the value out")
        self.at = found.end()
        begin = self.at
        value = self.values.get(name)
        unset = not value if found[0].startswith(":") else value is None
        operator = found[0].removeprefix(":")
        # What is not used may have variables that nobody gave.
        used = {"-": unset, "+": not unset, "?": False}.get(operator, True)
        word = self._nested() if used else self._skipped(begin)
        if operator == "-":
            return word if unset else value or ""
        if operator == "+":
            return "" if unset else word
        if operator == "?":
            return self._given(name) if not unset else self._missing(name)
        return _trimmed(self._given(name), operator, word)

    def _nested(self) -> str:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Unknown("its defaults are nested too deeply")
        word = self._words("}")
        self.depth -= 1
        self.at += 1
        return word

    def _skipped(self, begin: int) -> str:
        """Pass over a word, with the braces in it."""
        open_braces = 1
        for at in range(begin, len(self.text)):
            if self.text[at] == "{" and self.text[at - 1] == "$":
                open_braces += 1
            elif self.text[at] == "}":
                open_braces -= 1
                if not open_braces:
                    self.at = at + 1
                    return ""
        raise Unknown("a ${ has no } behind it")

    def _given(self, name: str) -> str:
        value = self.values.get(name)
        return self._missing(name) if value is None else value

    def _missing(self, name: str) -> str:
        raise Unknown(f"the value of {name[:80]} is not known; give it by --arg {name[:80]}=VALUE")


def _trimmed(value: str, operator: str, pattern: str) -> str:
    """Take a beginning (`#`) or an end (`%`) that matches the pattern away: the shortest, the longest if doubled."""
    glob = Glob(pattern)
    backwards = operator.startswith("%")
    sizes = range(len(value) + 1)
    for size in reversed(sizes) if operator in ("##", "%%") else sizes:
        cut = len(value) - size if backwards else size
        if glob.has(value[cut:] if backwards else value[:cut]):
            return value[:cut] if backwards else value[cut:]
    return value
