"""What an upstream says of its rate limit: read from its headers, kept for each upstream, shown as metrics.

    Docker Hub      ratelimit-limit: 100;w=21600   ratelimit-remaining: 76;w=21600   docker-ratelimit-source: …
    GitLab, GitHub  RateLimit-Limit / X-RateLimit-Limit, -Remaining, -Reset (seconds since the epoch), -Resource
    IETF drafts     RateLimit-Policy: "default";q=100;w=60   RateLimit: "default";r=50;t=30   (limit=… in older ones)

What is to be done with a budget that runs out is decided elsewhere; here is what is known.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.metrics import UPSTREAM_RATELIMIT_LIMIT, UPSTREAM_RATELIMIT_REMAINING
from mirror.upstream.backoff import parse_retry_after

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NUMBER = re.compile(r"\s*([0-9]{1,12})(?![0-9.])", re.ASCII)
_PARAMETER = re.compile(r"[;,\s]\s*([a-z]+)\s*=\s*\"?([0-9]{1,12})", re.ASCII | re.IGNORECASE)
_SOURCE = re.compile(r"[\x21-\x7e]{1,100}")
_EPOCH = 1_000_000_000  # a reset past this is a time, not seconds from now
_LIMITED = 429
_PREFIXES = ("RateLimit", "X-RateLimit")


@dataclass(frozen=True, slots=True)
class Budget:
    """What one answer said. Everything but the time is None where it did not say."""

    at: float  # when it came, seconds since the epoch
    limit: int | None = None  # requests in one window
    remaining: int | None = None  # of them
    window: float | None = None  # seconds
    resets_at: float | None = None  # seconds since the epoch
    source: str | None = None  # whom it is counted for: an address, or an account
    retry_after: float | None = None  # seconds; of a 429 alone


def parse_budget(headers: Mapping[str, str], *, status: int, now: float | None = None) -> Budget | None:
    """Read the headers of an answer; None where they say nothing of limits. `now`: seconds since the epoch.

    What cannot be read counts as absent. Never raises.
    """
    now = time.time() if now is None else now
    found = dict(_numbers(headers))
    retry_after = parse_retry_after(headers.get("Retry-After"), now=now) if status == _LIMITED else None
    if not found and retry_after is None:
        return None
    reset = found.get("reset")
    source = headers.get("docker-ratelimit-source") or headers.get("X-RateLimit-Resource") or ""
    return Budget(
        at=now,
        limit=found.get("limit"),
        remaining=found.get("remaining"),
        window=found.get("window"),
        resets_at=None if reset is None else float(reset) if reset > _EPOCH else now + reset,
        source=source if _SOURCE.fullmatch(source) else None,
        retry_after=retry_after,
    )


def _numbers(headers: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Yield limit, remaining, window and reset, as far as they are there; what comes later counts."""
    for prefix in _PREFIXES:
        for name in ("limit", "remaining", "reset"):
            header = headers.get(f"{prefix}-{name}", "")
            if (match := _NUMBER.match(header)) is not None:
                yield name, int(match[1])
            if (window := _parameters(header).get("w")) is not None:
                yield "window", window
    policy = _parameters(headers.get("RateLimit-Policy", ""))
    state = _parameters(" " + headers.get("RateLimit", ""))
    for name, value in (
        ("limit", state.get("limit", policy.get("q"))),
        ("window", policy.get("w")),
        ("remaining", state.get("remaining", state.get("r"))),
        ("reset", state.get("reset", state.get("t"))),
    ):
        if value is not None:
            yield name, value


def _parameters(header: str) -> dict[str, int]:
    """Return the first value of each parameter of a header: what follows the first policy is about others."""
    found: dict[str, int] = {}
    for name, value in _PARAMETER.findall(header[:1000]):
        found.setdefault(name.lower(), int(value))
    return found


class Ledger:
    """The latest budget of one upstream. `label` is what metrics call it; None: they say nothing of it."""

    def __init__(self, label: str | None) -> None:
        self.latest: Budget | None = None
        self._label = label

    def note(self, headers: Mapping[str, str], status: int) -> None:
        """Read one answer of the registry itself."""
        budget = parse_budget(headers, status=status)
        if budget is None:
            return
        if budget.limit is None and budget.remaining is None and self.latest is not None:
            return  # a bare 429 (Docker Hub's abuse limit) does not undo what is known
        self.latest = budget
        if self._label is None:
            return
        if budget.limit is not None:
            UPSTREAM_RATELIMIT_LIMIT.labels(self._label).set(budget.limit)
        if budget.remaining is not None:
            UPSTREAM_RATELIMIT_REMAINING.labels(self._label).set(budget.remaining)
