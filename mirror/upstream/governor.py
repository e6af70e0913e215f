"""How many of an upstream's places are worth using: more than eight only where the sum grows with them."""

from __future__ import annotations

BASE = 8  # places that are used unasked: no registry minds them, and few lines need more
ENOUGH = 128 * 1024 * 1024  # bytes/s above which this machine, not the connections, is what limits the speed
WATCH = 0.75  # seconds over which the speed is measured
SETTLE = 0.75  # seconds that new connections get before: they open, they ask, they get going
HELPS = 0.4  # of what more connections would bring if each brought as much as the others, what they must bring
REST = 15.0  # seconds without a further attempt after one that did not help; ever longer, …
LONGEST_REST = 240.0  # … up to this
FORGETS = 60.0  # seconds without a crowd after which what was found out counts no more


class Governor:
    """Measures the upstream as a whole, not each transfer: what one gains another may lose.

    `limit` is the number of places that may be used now, at most `total`. Times are in seconds of one monotonic clock,
    amounts in bytes since any moment.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self.limit = self._base = min(BASE, total)
        self.trying = False  # whether a higher limit helps is being found out
        self._former = self.limit
        self._before = 0.0  # bytes/s with the former limit
        self._held = 0  # places that were held then
        self._since = 0.0  # when the measurement began, or begins
        self._moved: int | None = None  # at that time; None: it has not come yet
        self._rest = REST
        self._rests_until = 0.0
        self._last = 0.0

    def begin(self, now: float) -> None:
        """Hear that transfers wait for a place."""
        if now - self._last > FORGETS:
            self.limit, self._rest, self._rests_until = self._base, REST, 0.0
        self._since, self._moved, self._last = now + SETTLE, None, now

    def look(self, now: float, moved: int, *, running: int, most: int | None) -> None:
        """Look at what has come. `running` places are held, `most` bytes a second are allowed (None: any number)."""
        self._last = now
        if now < self._since:
            return
        if self._moved is None:
            self._since, self._moved = now, moved
            return
        seconds = now - self._since
        if seconds < WATCH:
            return
        speed = (moved - self._moved) / seconds
        if self.trying:
            self._judge(speed, running, now)
        self._since, self._moved = now, moved
        if not self.trying and self._worth_trying(speed, most, now):
            self._former, self._before, self._held = self.limit, speed, running
            self.limit = min(self._total, self.limit + max(2, self.limit // 2))
            self.trying = True
            self._since, self._moved = now + SETTLE, None

    def _worth_trying(self, speed: float, most: int | None, now: float) -> bool:
        fast = speed >= ENOUGH or (most is not None and speed > 0.8 * most)
        return self.limit < self._total and speed > 0 and not fast and now >= self._rests_until

    def _judge(self, speed: float, running: int, now: float) -> None:
        self.trying = False
        more = running / max(self._held, 1) - 1
        if more <= 0:  # nobody has used them, so nobody knows
            self.limit = self._former
        elif speed < self._before * (1 + HELPS * more):
            self.limit = self._former
            self._rests_until = now + self._rest
            self._rest = min(2 * self._rest, LONGEST_REST)
        else:
            self._rest = REST
