"""How far a prefetch is: what it has said so far, in figures that can be shown at any moment."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.airgap.prefetch.outcome import Begun, Came, Ended, Expanded, Fetched, Resolved, Resumed, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.airgap.prefetch.outcome import Event, Planned

_SPAN = 15.0  # seconds that a rate is the mean of


class Rate:
    """How fast a sum grows, over the last seconds. Look at it a few times a second."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def of(self, total: int, now: float) -> float:
        """Take what the sum is at `now`, and return by how much it grows in a second; never below 0."""
        self._seen.append((now, total))
        while len(self._seen) > 2 and self._seen[0][0] < now - _SPAN:  # noqa: PLR2004  # a rate needs two
            self._seen.popleft()
        at, before = self._seen[0]
        return max(0.0, (total - before) / (now - at)) if now > at else 0.0


@dataclass(slots=True)
class Running:
    """One image on which work goes on. Bytes."""

    reference: str
    since: float  # on the clock of the tally
    expected: int | None = None  # None: it is not known yet what it needs
    came: int = 0
    rate: Rate = field(default_factory=Rate)


class Tally:
    """Hears a prefetch. May be looked at from another thread meanwhile."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self.clock = clock
        self.images: int | None = None  # None: selections are still being resolved
        self.outcomes: list[Planned | Fetched] = []
        self.failed = 0
        self.running: dict[str, Running] = {}
        self.waiting: dict[str, Waiting] = {}
        self.expected = 0  # bytes that are to be fetched, as far as that is known
        self.came = 0  # bytes, of those
        self._known = 0  # images of which that is known
        self._rate = Rate()

    def hear(self, event: Event) -> None:
        """Take what a prefetch says. Costs some microseconds."""
        match event:
            case Expanded(images):
                self.images = images
            case Begun(reference):
                self.running[reference] = Running(reference, self.clock())
            case Resolved(planned):
                self._known += 1
                self.expected += planned.to_fetch.bytes
                if (running := self.running.get(planned.reference)) is not None:
                    running.expected = planned.to_fetch.bytes
            case Came(reference, count):
                self.came += count
                if (running := self.running.get(reference)) is not None:
                    running.came += count
            case Ended(outcome):
                self._end(outcome)
            case Waiting(namespace):
                self.waiting[namespace] = event
            case Resumed(namespace):
                self.waiting.pop(namespace, None)

    def _end(self, outcome: Planned | Fetched) -> None:
        """Put right what was expected by what it has come to."""
        running = self.running.pop(outcome.reference, None)
        if running is None or running.expected is None:
            self._known += 1  # it failed before that, or never began
        if isinstance(outcome, Fetched):
            if running is not None:
                self.expected += outcome.came.bytes - (running.expected or 0)
                self.came += outcome.came.bytes - running.came
            else:
                self.expected += outcome.came.bytes
                self.came += outcome.came.bytes
        self.outcomes.append(outcome)
        self.failed += outcome.failure is not None

    @property
    def ended(self) -> int:
        """How many images have ended, well or not."""
        return len(self.outcomes)

    @property
    def complete(self) -> bool:
        """Whether it is known of all images what they need."""
        return self.images is not None and self._known >= self.images

    def rate(self) -> float:
        """Bytes a second."""
        return self._rate.of(self.came, self.clock())

    def left(self, rate: float) -> float | None:
        """Return the seconds that it will take at `rate`; None where nobody can say.

        While some images are not known yet they are taken to be as large as the mean of those that are.
        """
        if self.images is None or not self._known or rate <= 0:
            return None
        expected = self.expected * max(1.0, self.images / self._known)
        return max(0.0, expected - self.came) / rate
