"""What an upstream says of its rate limit, read from its headers.

    Docker Hub      ratelimit-limit: 100;w=21600   ratelimit-remaining: 76;w=21600   docker-ratelimit-source: …
    GitLab, GitHub  RateLimit-Limit / X-RateLimit-Limit, -Remaining, -Reset (seconds since the epoch), -Resource
    IETF drafts     RateLimit-Policy: "default";q=100;w=60   RateLimit: "default";r=50;t=30   (limit=… in older ones)

`accounts` keeps it, and tells it; what is left undone as a budget runs out is decided elsewhere.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.upstream.backoff import MAX_RETRY_AFTER, parse_retry_after

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NUMBER = re.compile(r"\s*([0-9]{1,12})(?![0-9.])", re.ASCII)
_PARAMETER = re.compile(r"[;,\s]\s*([a-z]+)\s*=\s*\"?([0-9]{1,12})", re.ASCII | re.IGNORECASE)
_SOURCE = re.compile(r"[\x21-\x7e]{1,100}")
_EPOCH = 1_000_000_000  # a reset past this is a time, not seconds from now
_LIMITED = 429
_UNTOLD = 60.0  # seconds that an exhausted limit lasts where upstream does not tell its window
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

    @property
    def speaks(self) -> bool:
        """Whether it says anything of a limit; a bare 429 does not."""
        return self.limit is not None or self.remaining is not None

    @property
    def ends(self) -> float | None:
        """When all of the limit is there again, at the latest, seconds since the epoch; None: nobody knows."""
        if self.resets_at is not None:
            return self.resets_at
        return self.at + self.window if self.window else None

    def share(self, now: float) -> float | None:
        """Return how much of the limit is left, 0 to 1; None: no limit is known, or it makes no sense."""
        if not self.limit or self.remaining is None:
            return None
        if self.ends is not None and now >= self.ends:
            return 1.0
        return min(self.remaining / self.limit, 1.0)

    def exhausted(self, now: float) -> float:
        """Return the seconds for which nothing counted can be had, 0 where something can.

        At most an hour from when upstream said so, whatever it says: then it is asked, not believed.
        """
        if self.remaining != 0 or not self.limit:
            return 0.0
        ends = min(self.ends if self.ends is not None else self.at + _UNTOLD, self.at + MAX_RETRY_AFTER)
        return min(max(0.0, ends - now), MAX_RETRY_AFTER)


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
