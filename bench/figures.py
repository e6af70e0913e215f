"""A figure with its limit and verdict, and how figures are shown."""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Figure:
    """One thing that was measured. Of several `rounds`, `value` is the median, or the worst where that is promised."""

    what: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False  # the limit is a floor
    rounds: tuple[float, ...] = ()
    peer: float | None = None  # the same of docker-registry 2.8 as a proxy

    @property
    def holds(self) -> bool:
        """Whether the limit is kept; true where there is none."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def verdict(self) -> str:
        """`ok`, `MISSED`, or nothing where there is no limit."""
        if self.limit is None:
            return ""
        return "ok" if self.holds else "MISSED"


def median(
    what: str, rounds: Sequence[float], unit: str, limit: float | None = None, *, at_least: bool = False,
    peer: float | None = None,
) -> Figure:  # fmt: skip
    """Return the figure of several rounds."""
    return Figure(what, statistics.median(rounds), unit, limit, at_least, tuple(rounds), peer)


def worst(what: str, rounds: Sequence[float], unit: str, limit: float, *, peer: float | None = None) -> Figure:
    """Return the figure of a promise that every round has to keep."""
    return Figure(what, max(rounds), unit, limit, rounds=tuple(rounds), peer=peer)


def table(results: Sequence[tuple[str, Sequence[Figure]]]) -> str:
    """Return all figures as lines of text."""
    rows = [("bench", "figure", "measured", "limit", "verdict", "rounds", "docker-registry 2.8")]
    for name, figures in results:
        for number, figure in enumerate(figures):
            limit = "" if figure.limit is None else f"{'≥' if figure.at_least else '≤'} {_number(figure.limit)}"
            rows.append(
                (
                    "" if number else name,
                    figure.what,
                    f"{_number(figure.value)} {figure.unit}".strip(),
                    limit,
                    figure.verdict,
                    " ".join(map(_number, figure.rounds)) if len(figure.rounds) > 1 else "",
                    "" if figure.peer is None else f"{_number(figure.peer)} {figure.unit}".strip(),
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def document(results: Sequence[tuple[str, Sequence[Figure]]]) -> str:
    """Return all figures as JSON."""
    return json.dumps(
        {
            "load_average": os.getloadavg(),
            "cpus": os.cpu_count(),
            "figures": [
                {
                    "bench": name,
                    "figure": figure.what,
                    "value": figure.value,
                    "unit": figure.unit,
                    "limit": figure.limit,
                    "at_least": figure.at_least,
                    "holds": figure.holds,
                    "rounds": figure.rounds,
                    "peer": figure.peer,
                }
                for name, figures in results
                for figure in figures
            ],
        },
        indent=2,
    )


def _number(value: float) -> str:
    if float(value).is_integer() and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
