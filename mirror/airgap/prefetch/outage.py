"""An upstream that does not answer, or fails, is waited for by all its images together, and given up for all together.

Each image for itself would wait as long as the first one: for ten thousand images that is days. But a list that is
fetched overnight must outlive a minute without an uplink, in which every image would fail within a moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.airgap.prefetch.outcome import Resumed, Waiting
from mirror.errors import UpstreamUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.airgap.prefetch.outcome import Event
    from mirror.airgap.prefetch.timing import Timing
    from mirror.errors import MirrorError

PAUSES = (1.0, 4.0, 15.0)  # seconds before each further try; the last of them again and again
PATIENCE = 300.0  # seconds that an upstream may be silent which has answered before
FAILING = 60.0  # the same for one that answers nothing but 5xx: it may be this that it cannot do
BRIEF = 15.0  # the same for one that has never answered: it is misspelt, or there is no way to it
PROBE = 30.0  # seconds between two questions to one that was given up


class Outage:
    """How long one upstream has been silent."""

    def __init__(self, namespace: str, hear: Callable[[Event], None], timing: Timing) -> None:
        self._namespace = namespace
        self._hear = hear
        self._timing = timing
        self._since: float | None = None  # seconds since the epoch; None: it answers
        self._given_up: MirrorError | None = None  # since it said that
        self._probe = 0.0  # when it is asked once more
        self._told = False
        self.answers = 0  # so many came

    def check(self) -> None:
        """Raise `UpstreamUnavailable` where it was given up, and need not be asked just now."""
        if self._given_up is None:
            return
        now = self._timing.clock()
        if now < self._probe:
            raise UpstreamUnavailable(f"not asked for, since {self._given_up}", namespace=self._namespace)
        self._probe = now + PROBE

    def answered(self) -> None:
        """Hear that it has answered: what it has, or that it does not have it."""
        self.answers += 1
        self._since = self._given_up = None
        if self._told:
            self._told = False
            self._hear(Resumed(self._namespace))

    def silent(self, error: UpstreamUnavailable, tries: int, answers: int) -> float | None:
        """Hear that there was no answer, or a 5xx; return for how long to wait before it is asked again, None: no more.

        `tries` were made before this one; `answers` had come when the last of them failed.
        """
        now = self._timing.clock()
        if self._since is None:
            self._since = now
        if tries >= len(PAUSES) and self.answers > answers:
            return None  # others are answered: it is this that it cannot do
        patience = BRIEF if not self.answers else PATIENCE if error.upstream_status is None else FAILING
        if self._given_up is not None or now - self._since >= patience:
            if self._given_up is None:
                self._probe = now + PROBE
            self._given_up = error
            return None
        pause = PAUSES[min(tries, len(PAUSES) - 1)]
        if tries:
            self._told = True
            self._hear(Waiting(self._namespace, now + pause, str(error)))
        return pause
