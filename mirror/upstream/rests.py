"""How long an upstream is left alone after a 429: by credential and by kind of request, in all processes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mirror.upstream.backoff import MAX_RETRY_AFTER

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.store.dealings import Dealings

ANY = "*"  # every kind of request

_FIRST, _LONGEST = 1.0, 60.0  # seconds, where upstream does not say how long
_SOONEST = 0.2  # seconds; a `Retry-After` of 0, or in the past, is not obeyed to the letter
_LOOK_EVERY = 60.0  # seconds
_AHEAD = 60.0  # seconds that clocks of processes may differ by


class Rests:
    """The rests of the credentials of one endpoint, each known by a `key`. `clock` gives seconds since the epoch."""

    def __init__(self, book: Dealings, clock: Callable[[], float]) -> None:
        self._book = book
        self._clock = clock
        # Begun here: until when, by `clock` and by the monotonic clock. Other processes may write over the book.
        self._own: dict[tuple[str, str], tuple[float, float]] = {}
        self._streaks: dict[tuple[str, str], int] = {}

    def begin(self, key: str, kind: str, retry_after: float | None) -> None:
        """Note a 429. `retry_after` is obeyed up to an hour; without it rests grow from a second to a minute."""
        now = self._clock()
        streak = self._streaks[key, kind] = min(self._streaks.get((key, kind), 0) + 1, 10)
        growing = min(_FIRST * 2 ** (streak - 1), _LONGEST)
        if retry_after is None:
            rest = growing
        else:
            rest = min(max(retry_after, _SOONEST if streak == 1 else growing / 2), MAX_RETRY_AFTER)
        row = self._book.get("rest", key) or {}
        kinds = {each: until for each, until in row.get("kinds", {}).items() if until > now}
        if now + rest > kinds.get(kind, 0.0):
            kinds[kind] = now + rest
            self._own[key, kind] = now + rest, time.monotonic() + rest
        self._book.put("rest", key, {**row, "at": now, "kinds": kinds})

    def left(self, key: str, kind: str) -> float:
        """Return the seconds for which this kind rests; 0: it does not.

        A rest that began here is over when either clock says so: the one that days are simulated with may stand still.
        """
        row = self._book.get("rest", key) or {"at": 0.0, "kinds": {}}
        until, over = self._own.get((key, kind), (0.0, 0.0))
        told = row["kinds"].get(kind, 0.0)
        if not until and not told:
            return 0.0
        now = self._clock()
        really = max(0.0, over - time.monotonic())
        rest = until - now if really and until - now < really + 1.0 else really  # more, and the clock was set back
        if told > until and now >= row["at"] - _AHEAD:  # else it was written by a clock that ran ahead
            rest = max(rest, told - now)
        if rest <= 0:
            self.end(key, kind)
            return 0.0
        return rest

    def end(self, key: str, kind: str) -> None:
        """Let this kind be asked again."""
        self._own.pop((key, kind), None)
        row = self._book.get("rest", key)
        if row is not None and kind in row["kinds"]:
            kinds = {each: until for each, until in row["kinds"].items() if each != kind}
            self._book.put("rest", key, {**row, "kinds": kinds})

    def answered(self, key: str, kind: str) -> bool:
        """Note an answer that was no 429: the next rest is a short one again. Say whether one is over by that.

        A rest that has begun meanwhile goes on: the answer was on its way by then.
        """
        over = [each for each in (kind, ANY) if (key, each) in self._streaks and not self.left(key, each)]
        for each in over:
            del self._streaks[key, each]
        return bool(over)

    def kinds(self, key: str) -> dict[str, float]:
        """Return until when each kind rests, in seconds since the epoch."""
        row = self._book.get("rest", key) or {"kinds": {}}
        known = {kind: until for (whose, kind), (until, _) in self._own.items() if whose == key} | row["kinds"]
        return {kind: until for kind, until in known.items() if self.left(key, kind)}

    def look(self, key: str) -> bool:
        """Say whether nobody has looked for a minute if a rest might be over; whoever is told so looks."""
        now = self._clock()
        row = self._book.get("rest", key) or {"kinds": {}}
        if 0 <= now - row.get("looked", 0.0) < _LOOK_EVERY:
            return False
        self._book.put("rest", key, {**row, "at": now, "looked": now})
        return True
