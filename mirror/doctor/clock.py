"""Whether this host's clock is right, by those of the upstreams."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from mirror.doctor.finding import About, Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

_OFF = 60.0  # seconds; tokens are given that much grace, more or less
_WRONG = 300.0  # seconds; tokens that live for five minutes are over before they begin


def examine(ahead: Sequence[float]) -> list[Finding]:
    """Judge by how many seconds the clocks of the upstreams are ahead. `Date` has no fractions (RFC 9110 §5.6.7)."""
    about = About("clock", "this host's clock")
    if not ahead:
        return []
    off = median(ahead)
    if abs(off) <= _OFF:
        return [about.ok(f"right within {max(1, round(abs(off)))} s, by {_sources(len(ahead))}")]
    how = f"{_span(abs(off))} {'slow' if off > 0 else 'fast'}, by {_sources(len(ahead))}"
    cure = "set it, and keep it so: timedatectl set-ntp true (or chrony, or the clock of the virtual machine's host)"
    if abs(off) > _WRONG:
        return [about.failure(f"{how}: tokens and certificates count as expired, or as not valid yet", cure)]
    return [about.warning(how, cure)]


def _sources(count: int) -> str:
    return "the Date of one upstream" if count == 1 else f"the median of {count} upstreams' Date"


def _span(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
