"""What one worker asks for and all of them answer: the metrics of the whole mirror."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mirror.server.totals import Reports, Totals

if TYPE_CHECKING:
    from mirror.server.crew import Crew, Member

WITHIN = 0.5  # seconds for all reports; of a worker that is later the last one counts
_SUPERVISOR = 0  # workers count from 1


class Scrape:
    """Asks all workers for their reports when one of them is scraped, and tells it the sums."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._totals = Totals()
        self._own = Reports(forked=False)
        self._missing: set[int] = set()
        self._asking: list[tuple[Member, int]] = []  # whom to tell, and under which number it asked
        self._next: list[tuple[Member, int]] = []  # who asked when reports were under way: they may be too old for it
        self._until: float | None = None

    @property
    def due(self) -> float | None:
        """When `finish` is to be called, whoever has not reported by then, on the monotonic clock; None: never."""
        return self._until

    def ask(self, member: Member, number: int) -> None:
        """Have a worker told the metrics."""
        self._next.append((member, number))
        if self._until is None:
            self._begin()

    def report(self, member: Member, report: bytes, *, asked: bool) -> None:
        """Take a worker's report. `asked`: it answers to what `ask` began, and does not come on its own account."""
        self._totals.report(member.number, report)
        if asked and self._until is not None:
            self._missing.discard(member.number)
            if not self._missing:
                self.finish()

    def bury(self, member: Member) -> None:
        """A worker has ended: what it counted stays."""
        self._totals.bury(member.number)
        self._missing.discard(member.number)
        if self._until is not None and not self._missing:
            self.finish()

    def finish(self) -> None:
        """Tell whoever asked, with what has come by now."""
        asking, self._asking, self._until = self._asking, [], None
        self._totals.report(_SUPERVISOR, self._own.make())
        text = self._totals.text()
        for member, number in asking:
            if self._crew.members.get(member.number) is member:
                member.channel.send("metrics", body=text, number=number)
        if self._next:
            self._begin()

    def _begin(self) -> None:
        self._asking, self._next = self._next, []
        self._missing = {member.number for member in self._crew.members.values() if member.serving}
        self._until = time.monotonic() + WITHIN
        for member in self._crew.members.values():
            if member.serving:
                member.channel.send("report")
