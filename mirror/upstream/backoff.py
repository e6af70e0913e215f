"""When to ask again: `Retry-After`, exponential delays, and the rest that a limiting registry is given."""

from __future__ import annotations

import random
import time
from datetime import UTC
from email.utils import parsedate_to_datetime

TRIES = 4
LONGEST_WAIT = 2.0  # seconds that a caller is kept waiting for a rest to end, if its patience allows

_MAX_RETRY_AFTER = 3600.0  # what upstream says is passed on up to here
_MAX_REST = 60.0  # and obeyed up to here: a limit may be lifted (a login, a plan) long before its hour is over
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
        return min(float(text[:_MAX_DIGITS]), _MAX_RETRY_AFTER)
    try:
        when = parsedate_to_datetime(text)
        moment = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(moment - (time.time() if now is None else now), 0.0), _MAX_RETRY_AFTER)


def delay(attempt: int) -> float:
    """Return the seconds to wait after the failure of attempt number `attempt` (0 is the first), with jitter."""
    return _FIRST_DELAY * _FACTOR**attempt * random.uniform(0.5, 1.5)  # noqa: S311  jitter is no secret


class Rests:
    """Which kinds of request an upstream has asked not to be sent for a while.

    They are kept apart by kind: Docker Hub limits GETs of manifests and goes on answering HEADs and blobs.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}  # monotonic
        self._streak: dict[str, int] = {}

    def remaining(self, kind: str) -> float:
        """Return the seconds for which this kind of request still rests; 0 if it does not."""
        return max(0.0, self._until.get(kind, 0.0) - time.monotonic())

    def limited(self, kind: str, retry_after: float | None) -> float:
        """Note a 429; return the seconds of rest that follow from it."""
        streak = self._streak[kind] = min(self._streak.get(kind, 0) + 1, 10)
        rest = retry_after if retry_after is not None else delay(streak)
        rest = min(rest, _MAX_REST)
        self._until[kind] = max(self._until.get(kind, 0.0), time.monotonic() + rest)
        return rest

    def answered(self, kind: str) -> None:
        """Note an answer that was not a 429: the next limit starts from the shortest rest again."""
        self._streak.pop(kind, None)
        self._until.pop(kind, None)
