"""What a check found: what was looked at, how it is, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # it works, and not as it should, or not for long
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `cure` is empty where there is nothing to do; neither text holds a secret."""

    check: str  # which part of the examination
    level: Level
    subject: str  # what was looked at: a URL, a path, a registry
    found: str
    cure: str = ""

    def plain(self) -> dict[str, str]:
        """Return it as plain data, for JSON."""
        return {name: str(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class About:
    """Makes the findings of one check about one subject."""

    check: str
    subject: str

    def ok(self, found: str, cure: str = "") -> Finding:
        """All is well; `cure` is what to do if it is not what was meant."""
        return Finding(self.check, Level.OK, self.subject, found, cure)

    def warning(self, found: str, cure: str) -> Finding:
        """It works for now."""
        return Finding(self.check, Level.WARNING, self.subject, found, cure)

    def failure(self, found: str, cure: str) -> Finding:
        """It does not work."""
        return Finding(self.check, Level.FAILURE, self.subject, found, cure)
