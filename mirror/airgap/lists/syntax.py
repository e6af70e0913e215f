r"""The regular expressions that skopeo, regsync, image-syncer and oc-mirror take, as trees: the syntax of RE2.

What RE2 and Go's `regexp` refuse (backreferences, looking around) is refused here too. What they have beyond what a
name of an image can hold (Unicode classes, `\Q…\E`) is refused with a reason (github.com/google/re2/wiki/Syntax).
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

_LONGEST = 1_000  # characters
_DEEPEST = 60  # groups in groups
_MOST_REPEATS = 1_000  # as RE2

EVERY = frozenset(map(chr, range(128))) - {"\n"}
_WORD = frozenset(string.ascii_letters + string.digits + "_")
_CLASSES = {
    "d": frozenset(string.digits),
    "w": _WORD,
    "s": frozenset("\t\n\f\r "),
}
_POSIX = {
    "alnum": frozenset(string.ascii_letters + string.digits),
    "alpha": frozenset(string.ascii_letters),
    "ascii": frozenset(map(chr, range(128))),
    "blank": frozenset("\t "),
    "cntrl": frozenset([*map(chr, range(32)), "\x7f"]),
    "digit": frozenset(string.digits),
    "graph": frozenset(map(chr, range(33, 127))),
    "lower": frozenset(string.ascii_lowercase),
    "print": frozenset(map(chr, range(32, 127))),
    "punct": frozenset(string.punctuation),
    "space": frozenset("\t\n\v\f\r "),
    "upper": frozenset(string.ascii_uppercase),
    "word": _WORD,
    "xdigit": frozenset(string.hexdigits),
}
_CONTROLS = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_PLACES = {"^": "begin", "$": "end"}
_ASSERTIONS = {"A": "begin", "z": "end", "b": "boundary", "B": "inside"}
_COUNTED = re.compile(r"\{([0-9]{1,9})(,([0-9]{1,9})?)?\}")
_GROUP = re.compile(r"\?P?<[A-Za-z0-9_]{1,100}>|\?([imsU]{0,9})(?:-([imsU]{1,9}))?([:)])")
_HEX = re.compile(r"x(?:([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]{1,6})\})")


@dataclass(frozen=True, slots=True)
class Some:
    """One character of a set."""

    characters: frozenset[str]


@dataclass(frozen=True, slots=True)
class Where:
    """No character, but a place: `begin`, `end`, at a word's `boundary`, or `inside` (not at one)."""

    place: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """One behind the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """The same again, from `least` to `most` times; None: without an end."""

    part: Node
    least: int
    most: int | None


Node = Some | Where | Sequence | Choice | Repeat

_FLAGS: Node = Sequence(())  # what `(?i)` alone is


def parse(text: str) -> Node:
    """Read an expression; raise `ValueError` with what is wrong, and where."""
    if len(text) > _LONGEST:
        raise ValueError(f"the regular expression has {len(text)} characters, more than the {_LONGEST} that are read")
    return _Parser(text).whole()


class _Parser:
    """Recursive descent; `at` is where it is, `fold` whether `(?i)` holds there."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self.fold = False

    def whole(self) -> Node:
        tree = self._choice()
        if self.at < len(self.text):
            raise self._wrong("a ) without a (")
        return tree

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"the regular expression {self.text[:120]!r} has {what}, at character {self.at + 1}")

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _take(self) -> str:
        character = self._peek()
        if not character:
            raise self._wrong("an end too early")
        self.at += 1
        return character

    def _choice(self) -> Node:
        parts = [self._sequence()]
        while self._peek() == "|":
            self.at += 1
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._peek() not in ("", "|", ")"):
            atom = self._atom()
            if atom is _FLAGS and self._bounds() is not None:
                raise self._wrong("flags that are repeated")
            parts.append(self._repeats(atom))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _repeats(self, part: Node) -> Node:
        bounds = self._bounds()
        if bounds is None:
            return part
        if self._peek() == "?":  # lazy: it finds the same, only shorter
            self.at += 1
        if self._bounds() is not None:
            raise self._wrong("a repetition of a repetition; put the first one into (?:…)")
        return Repeat(part, *bounds)

    def _bounds(self) -> tuple[int, int | None] | None:
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if found := simple.get(self._peek()):
            self.at += 1
            return found
        counted = _COUNTED.match(self.text, self.at)
        if counted is None:
            return None
        least = int(counted[1])
        most = least if counted[2] is None else None if counted[3] is None else int(counted[3])
        if max(least, most or 0) > _MOST_REPEATS or (most is not None and most < least):
            raise self._wrong(f"the impossible repetition {counted[0]}")
        self.at = counted.end()
        return least, most

    def _atom(self) -> Node:
        character = self._take()
        if character == "(":
            return self._group()
        if character in "*+?":
            self.at -= 1
            raise self._wrong(f"a {character} with nothing before it")
        if place := _PLACES.get(character):
            return Where(place)
        if character == "\\" and (place := _ASSERTIONS.get(self._peek())):
            self.at += 1
            return Where(place)
        if character == ".":
            return Some(EVERY)
        one = {"[": self._set, "\\": self._escaped}.get(character)
        return Some(self._folded(one() if one else frozenset(character)))

    def _group(self) -> Node:
        fold = self.fold
        if self._peek() == "?":
            found = _GROUP.match(self.text, self.at)
            if found is None:
                raise self._wrong("a group that RE2 does not have (looking around is not read)")
            self.at = found.end()
            if "i" in (found[1] or ""):
                self.fold = True
            if "i" in (found[2] or ""):
                self.fold = False
            if found[3] == ")":  # `(?i)` holds until the end of the group around it
                return _FLAGS
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self._wrong(f"more than {_DEEPEST} groups in each other")
        inner = self._choice()
        if self._peek() != ")":
            raise self._wrong("a ( without a )")
        self.at += 1
        self.depth -= 1
        self.fold = fold
        return inner

    def _folded(self, characters: frozenset[str]) -> frozenset[str]:
        return characters | {c.swapcase() for c in characters if c.isascii()} if self.fold else characters

    def _escaped(self) -> frozenset[str]:
        """Read what follows a backslash."""
        character = self._take()
        if found := _CLASSES.get(character):
            return found
        if found := _CLASSES.get(character.lower()):
            return frozenset(map(chr, range(128))) - found
        if control := _CONTROLS.get(character):
            return frozenset(control)
        if character == "x" and (code := _HEX.match(self.text, self.at - 1)):
            self.at = code.end()
            return frozenset(chr(min(int(code[1] or code[2], 16), 0x10FFFF)))
        if character.isascii() and character.isalnum():
            self.at -= 2
            raise self._wrong(f"a \\{character}, which is not read")
        return frozenset(character)

    def _set(self) -> frozenset[str]:
        """Read `[…]` behind its bracket."""
        negated = self._peek() == "^"
        if negated:
            self.at += 1
        characters: set[str] = set()
        first = True
        while first or self._peek() != "]":
            first = False
            low = self._member()
            if self._peek() != "-" or self.text[self.at + 1 : self.at + 2] in ("]", ""):
                characters |= low
                continue
            self.at += 1
            high = self._member()
            if len(low) != 1 or len(high) != 1 or ord(min(low)) > ord(min(high)):
                raise self._wrong("a range in [] that is none")
            # Names of images are ASCII: a range that goes beyond it is cut there.
            characters |= set(map(chr, range(ord(min(low)), min(ord(min(high)), 127) + 1)))
        self.at += 1
        # As in RE2, [^a] is more than `.`: a new line is one of them.
        folded = self._folded(frozenset(characters))
        return frozenset(map(chr, range(128))) - folded if negated else folded

    def _member(self) -> frozenset[str]:
        if self.text.startswith("[:", self.at) and (end := self.text.find(":]", self.at)) > 0:
            name = self.text[self.at + 2 : end]
            found = _POSIX.get(name.removeprefix("^"))
            if found is None:
                raise self._wrong(f"the class [:{name[:20]}:], which is none")
            self.at = end + 2
            return frozenset(map(chr, range(128))) - found if name.startswith("^") else found
        character = self._take()
        return self._escaped() if character == "\\" else frozenset(character)
