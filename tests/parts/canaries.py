"""Secrets that a test plants, and how it finds whatever is left of them in what a program says."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field

_SHORTEST = 12  # characters of a piece that is still a secret given away


@dataclass
class Canaries:
    """Planted secrets, by what they stand for: in the pieces that are searched for."""

    planted: dict[str, list[str]] = field(default_factory=dict)

    def plant(self, what: str) -> str:
        """Make one more secret: a word of 32 hexadecimal digits that nothing else holds."""
        word = secrets.token_hex(16)
        self.found(f"{what} ({len(self.planted)})", word)
        return word

    def found(self, what: str, word: str) -> None:
        """Take in a secret that somebody else made, if it is long enough to be told from other words."""
        if len(word) >= _SHORTEST:
            self.planted[what] = _pieces(word)

    def told_in(self, text: str | bytes) -> list[str]:
        """Return which of them `text` holds: whole, in halves, or encoded, at whatever offset it was encoded."""
        if isinstance(text, bytes):
            text = text.decode(errors="replace")
        return [what for what, pieces in self.planted.items() if any(piece in text for piece in pieces)]


def _pieces(word: str) -> list[str]:
    """Return what is searched for, halves where they are long enough: a half is in all that the whole is in."""
    forms = [word]
    for before in range(3):  # base64 takes three bytes at a time: what comes before shifts all that follows
        whole = base64.b64encode(b"x" * before + word.encode()).decode().rstrip("=")
        forms.append(whole[2 * before : -2])
    return [piece for form in forms for piece in _halves(form)]


def _halves(form: str) -> list[str]:
    middle = len(form) // 2
    return [form[:middle], form[middle:]] if middle >= _SHORTEST else [form]
