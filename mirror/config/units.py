"""Sizes and durations as people write them: `50GiB`, `5%`, `90s`, `1h30m`, `forever`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_BYTES = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", start=1):
    _BYTES[f"{_letter}ib"] = _BYTES[f"{_letter}i"] = 1024**_power
    _BYTES[f"{_letter}b"] = 1000**_power
_NUMBER = r"\d{1,20}(?:\.\d{1,9})?"
_SIZE = re.compile(rf"({_NUMBER}) ?([A-Za-z]{{0,3}})", re.ASCII)
_PERCENT = re.compile(rf"({_NUMBER}) ?%", re.ASCII)
_LARGEST = 2**63 - 1  # what a file offset and SQLite hold

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_STEP = re.compile(rf"({_NUMBER})(ms|[smhdw])", re.ASCII)
_DURATION = re.compile(rf"(?:{_NUMBER}(?:ms|[smhdw]))+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Size:
    """Either so many bytes, or a percentage of something whose size is known later. Exactly one of the two is set."""

    bytes: int | None = None
    percent: float | None = None

    @classmethod
    def parse(cls, text: str) -> Size:
        """Read `50GiB`, `500MB`, `1048576` or `80%`; raise `ValueError` with a sentence on what would be right."""
        if match := _PERCENT.fullmatch(text):
            percent = float(match[1])
            if percent > 100:  # noqa: PLR2004  # a percentage
                raise ValueError("is more than the whole; write at most 100%")
            return cls(percent=percent)
        match = _SIZE.fullmatch(text)
        unit = match[2].lower() if match else ""
        if match and unit in ("k", "m", "g", "t", "p"):
            letter = unit.upper()
            raise ValueError(f"could mean two sizes; write {match[1]}{letter}iB (1024) or {match[1]}{letter}B (1000)")
        if match is None or unit not in _BYTES:
            raise ValueError("is not a size; write for example 50GiB, 500MB or 80%")
        factor = _BYTES[unit]
        count = round(float(match[1]) * factor) if "." in match[1] else int(match[1]) * factor
        if count > _LARGEST:
            raise ValueError("is more than any disk holds; write for example 50GiB or 80%")
        return cls(bytes=count)

    def of(self, total: int) -> int:
        """Return the bytes that this is of `total` bytes."""
        if self.bytes is not None:
            return self.bytes
        return int(total * (self.percent or 0.0) / 100)

    def __str__(self) -> str:
        if self.bytes is None:
            return f"{_plain(self.percent or 0.0)}%"
        for letter, power in (("P", 5), ("T", 4), ("G", 3), ("M", 2), ("K", 1)):
            if self.bytes and self.bytes % 1024**power == 0:
                return f"{self.bytes // 1024**power}{letter}iB"
        return str(self.bytes)


def parse_rate(text: str) -> int:
    """Read `8MiB/s`, or `0` for none at all, as bytes a second; raise `ValueError` with what would be right."""
    if text == "0":
        return 0
    amount, slash, second = text.partition("/")
    if not slash or second.strip() != "s":
        raise ValueError("is not a rate; write for example 8MiB/s, or 0 for none")
    try:
        size = Size.parse(amount.strip())
    except ValueError:
        size = Size(percent=0)
    if size.bytes is None:
        raise ValueError("is not a rate; write for example 8MiB/s, or 0 for none")
    return size.bytes


def show_rate(rate: int) -> str:
    """Write bytes a second so that `parse_rate` reads the same number."""
    return f"{Size(bytes=rate)}/s" if rate else "0"


def parse_duration(text: str) -> float:
    """Read `90s`, `5m`, `1h30m`, `500ms`, `7d` or `forever` as seconds.

    `forever` is `math.inf`. A bare number is refused, because it does not say its unit; a bare `0` is harmless. Raise
    `ValueError` with a sentence on what would be right.
    """
    if text == "forever":
        return math.inf
    if text == "0":
        return 0.0
    if _DURATION.fullmatch(text) is None:
        if re.fullmatch(_NUMBER, text, re.ASCII):
            raise ValueError(f"has no unit; write {text}s for seconds, {text}m for minutes or {text}h for hours")
        raise ValueError("is not a duration; write for example 90s, 5m, 1h30m, 7d or forever")
    return math.fsum(float(step[1]) * _SECONDS[step[2]] for step in _STEP.finditer(text))


def show_duration(seconds: float) -> str:
    """Write `seconds` so that `parse_duration` reads the same number, to the millisecond."""
    if math.isinf(seconds):
        return "forever"
    for unit in ("w", "d", "h", "m", "s"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{_plain(seconds / _SECONDS[unit])}{unit}"
    return f"{_plain(round(seconds * 1000, 6))}ms" if seconds else "0s"


def show_bytes(count: int) -> str:
    """Write a number of bytes for a person, to three digits: `37.2 GiB`."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024:  # noqa: PLR2004  # the binary step
            return f"{int(value)} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} PiB"


def _plain(number: float) -> str:
    """Write a number without an exponent and without a useless fraction."""
    return f"{number:.9f}".rstrip("0").rstrip(".")
