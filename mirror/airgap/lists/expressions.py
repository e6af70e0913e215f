"""Regular expressions over tags and references, in time that grows with the text and never more.

Lists come from strangers, and Python's `re` takes exponential time for some expressions. This one runs all ways through
an expression at once (Thompson 1968; swtch.com/~rsc/regexp/regexp1.html) and remembers steps that it has taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.airgap.lists.syntax import Choice, Repeat, Some, Where, parse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirror.airgap.lists.syntax import Node

_MOST_STATES = 1_000
_MOST_VISITS = 20_000  # while an expression is compiled: `(){1000}` in itself has no states, but takes for ever
_MOST_REMEMBERED = 4_000

_MATCH = -1
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


class Expression:
    """An expression in the syntax of RE2, ready to be looked for."""

    def __init__(self, text: str) -> None:
        """Raise `ValueError` with a reason where `text` is no expression, or too large a one."""
        self.text = text
        program = _Program()
        self._start = program.add(parse(text), _MATCH)
        self._some = program.some
        self._ways = program.ways
        self._places = program.places
        self._steps: dict[tuple[frozenset[int], str, str], frozenset[int] | None] = {}

    def found_in(self, text: str) -> bool:
        """Say whether it matches anywhere in `text`, as Go's `MatchString`: `^` and `$` tie it to the ends."""
        states: frozenset[int] = frozenset()
        before = ""
        for character in (*text, ""):
            behind = self._step(states, before, character)
            if behind is None:
                return True
            states, before = behind, character
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def __str__(self) -> str:
        return self.text

    def _step(self, states: frozenset[int], before: str, character: str) -> frozenset[int] | None:
        """Return the states behind `character` (empty: the end of the text), None if there is a match before it."""
        key = (states, "a" if before in _WORD else before and "-", character)
        if key not in self._steps:
            if len(self._steps) >= _MOST_REMEMBERED:
                self._steps.clear()
            self._steps[key] = self._take(states, before, character)
        return self._steps[key]

    def _take(self, states: Iterable[int], before: str, character: str) -> frozenset[int] | None:
        behind = set()
        seen = set()
        ahead = [self._start, *states]  # it may begin at every place
        while ahead:
            state = ahead.pop()
            if state in seen:
                continue
            seen.add(state)
            if state == _MATCH:
                return None
            if state in self._ways:
                ahead.extend(self._ways[state])
            elif state in self._places:
                place, then = self._places[state]
                if _holds(place, before, character):
                    ahead.append(then)
            else:
                characters, then = self._some[state]
                if character and character in characters:
                    behind.add(then)
        return frozenset(behind)


def _holds(place: str, before: str, after: str) -> bool:
    if place == "begin":
        return not before
    if place == "end":
        return not after
    boundary = (before in _WORD) != (after in _WORD)
    return boundary if place == "boundary" else not boundary


class _Program:
    """The states of an expression. Each is in one of the three tables."""

    def __init__(self) -> None:
        self.some: dict[int, tuple[frozenset[str], int]] = {}
        self.ways: dict[int, tuple[int, ...]] = {}
        self.places: dict[int, tuple[str, int]] = {}
        self._states = 0
        self._visits = 0

    def add(self, node: Node, then: int) -> int:
        """Put `node` before the state `then`; return the state at which it begins."""
        self._visits += 1
        if self._visits > _MOST_VISITS:
            raise _too_large()
        if isinstance(node, Some):
            state = self._state()
            self.some[state] = (node.characters, then)
            return state
        if isinstance(node, Where):
            state = self._state()
            self.places[state] = (node.place, then)
            return state
        if isinstance(node, Choice):
            state = self._state()
            self.ways[state] = tuple(self.add(part, then) for part in node.parts)
            return state
        if isinstance(node, Repeat):
            return self._repeat(node, then)
        for part in reversed(node.parts):
            then = self.add(part, then)
        return then

    def _repeat(self, node: Repeat, then: int) -> int:
        start = then
        if node.most is None:
            start = self._state()
            self.ways[start] = (self.add(node.part, start), then)
        else:
            for _ in range(node.most - node.least):
                optional = self._state()
                self.ways[optional] = (self.add(node.part, start), then)
                start = optional
        for _ in range(node.least):
            start = self.add(node.part, start)
        return start

    def _state(self) -> int:
        self._states += 1
        if self._states > _MOST_STATES:
            raise _too_large()
        return self._states - 1


def _too_large() -> ValueError:
    return ValueError("the regular expression is too large when its repetitions are written out; make them smaller")
