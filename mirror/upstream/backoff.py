"""When to ask again: `Retry-After`, and exponential delays."""

from __future__ import annotations

import random
import time
from datetime import UTC
from email.utils import parsedate_to_datetime

TRIES = 4
LONGEST_WAIT = 2.0  # seconds that a caller is kept waiting for a rest to end, if its patience allows

MAX_RETRY_AFTER = 3600.0  # what upstream says is obeyed, and passed on, up to here
_FIRST_DELAY = 0.2
_FACTOR = 3.0
_MAX_DIGITS = 9


def parse_retry_after(header: str | None, *, now: float | None = None) -> float | None:
    """Return the seconds that `Retry-After` names (RFC 9110 §10.2.3: seconds or a date), 0 to 3600, or None.

    `now` is the wall clock, seconds since the epoch. A header that cannot be read counts as absent.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():  # some send fractions, against the RFC
        return min(float(text[:_MAX_DIGITS]), MAX_RETRY_AFTER)
    try:
        when = parsedate_to_datetime(text)
        moment = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(moment - (time.time() if now is None else now), 0.0), MAX_RETRY_AFTER)


def delay(attempt: int) -> float:
    """Return the seconds to wait after the failure of attempt number `attempt` (0 is the first), with jitter."""
    return _FIRST_DELAY * _FACTOR**attempt * random.uniform(0.5, 1.5)  # noqa: S311  jitter is no secret
