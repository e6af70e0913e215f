"""How often one may ask the fake upstream: limits as Docker Hub has them, with windows that slide by a clock.

    upstream.limit = RateLimit(100, clock=clock)           # GETs of manifests, anonymous, in six hours
    upstream.limit = RateLimit(3, window=60, clock=clock, retry_after=True)
    upstream.limit = RateLimit(accounts={"ann": 200, "firm": None}, clock=clock)  # `firm` pays: no limit, no headers
    upstream.limit = RateLimit(None, abuse=1000, clock=clock)                     # only the abuse limit
    upstream.limit.sources = ("192.0.2.1", "198.51.100.7")    # a site with two uplinks, taken in turn
    upstream.limit.use("192.0.2.1", 98)                       # others behind that address used so many
    upstream.count(counted=True)                              # what it has counted
    upstream.count(limited=True)                              # what it has refused with a 429

Counted is each GET of a manifest that it does not refuse, by tag or by digest, once; HEAD, blobs, tokens and lists are
not. Every answer to a GET or HEAD of a manifest says `ratelimit-limit: 100;w=21600`, `ratelimit-remaining: 76;w=21600`
and `docker-ratelimit-source`. Past the limit a GET is a 429 with a long TOOMANYREQUESTS body, and a HEAD goes on. The
abuse limit is about every request of a source, whatever it asks for, within the last minute: a bare 429 that has no
such headers.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from multidict import CIMultiDict

from tests.fakes.answer import Answer
from tests.fakes.content import Plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.fakes.records import Record

PAST = "Wed, 21 Oct 2015 07:28:00 GMT"  # values of `Retry-After` that are of no use
YEARS = 10 * 365 * 24 * 3600
GARBAGE = "soon"

_MINUTE = 60.0
_OVER = (
    "You have reached your unauthenticated pull rate limit. "
    "https://www.docker.com/increase-rate-limit"
)  # as docker.io words it


@dataclass(eq=False)
class RateLimit:
    """What is counted, for whom, and what is answered past it. Times in seconds of `clock`."""

    limit: int | None = (
        100  # GETs of manifests in one window, of whoever shows no credentials; None: no limit, no headers
    )
    window: float = 6 * 3600.0
    accounts: Mapping[str, int | None] = field(
        default_factory=dict
    )  # user -> the same; who is not in it has `personal`
    personal: int | None = 200
    sources: Sequence[str] = ("192.0.2.1",)  # addresses that requests without credentials come from, in turn
    abuse: int | None = None  # requests of any kind in a minute
    retry_after: int | str | bool = False  # of a 429; True: the seconds that it really takes
    abuse_retry_after: int | str | bool = False
    clock: Callable[[], float] = time.time
    counted: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # source -> when, ever
    asked: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # any kind, ever
    refused: list[float] = field(default_factory=list)  # GETs that met the limit: when, ever
    _turn: int = 0

    def use(self, source: str, times: int, *, ago: float = 0.0) -> None:
        """Count so many GETs that somebody else made, all of them `ago` seconds before now."""
        for _ in range(times):
            insort(self.counted[source], self.clock() - ago)

    def remaining(self, source: str, limit: int) -> int:
        """Return what a source has left."""
        return max(0, limit - _within(self.counted[source], self.clock(), self.window))

    def abused(self, record: Record) -> Answer | None:
        """Count a request of any kind; return the bare 429 where there are too many of them."""
        source = self.sources[self._turn % len(self.sources)]
        now = self.clock()
        over = self.abuse is not None and _within(self.asked[source], now, _MINUTE) >= self.abuse
        self.asked[source].append(now)
        if not over:
            return None
        record.limited = True
        answer = _answer(b"Too Many Requests", "text/plain; charset=utf-8")
        return self._told(answer, self.abuse_retry_after, self.asked[source], self.abuse or 0, _MINUTE)

    def admit(self, record: Record) -> tuple[dict[str, str], Answer | None]:
        """Count a GET of a manifest; return the headers for the answer, and the 429 where the limit is met."""
        source, limit = self._who(record)
        refusal = None
        if limit is not None and record.method == "GET":
            if self.remaining(source, limit):
                self.counted[source].append(self.clock())
                record.counted = True
            else:
                self.refused.append(self.clock())
                record.limited = True
                body = json.dumps({"errors": [{"code": "TOOMANYREQUESTS", "message": _OVER}]}).encode()
                refusal = self._told(
                    _answer(body, "application/json"), self.retry_after, self.counted[source], limit, self.window
                )
        if limit is None:
            return {}, refusal
        window = f"w={self.window:.0f}"
        headers = {
            "ratelimit-limit": f"{limit};{window}",
            "ratelimit-remaining": f"{self.remaining(source, limit)};{window}",
            "docker-ratelimit-source": source,
        }
        return headers, refusal

    def worst(self, times: Sequence[float] | None = None, window: float | None = None) -> int:
        """Return the most of `times` in any window; unless told, of what was counted of one source."""
        window = self.window if window is None else window
        if times is None:
            return max((self.worst(counted, window) for counted in self.counted.values()), default=0)
        ordered = sorted(times)
        return max((bisect_left(ordered, at + window) - number for number, at in enumerate(ordered)), default=0)

    def _who(self, record: Record) -> tuple[str, int | None]:
        if record.user is not None:
            return record.user, self.accounts.get(record.user, self.personal)
        self._turn += 1
        return self.sources[(self._turn - 1) % len(self.sources)], self.limit

    def _told(
        self,
        answer: Answer,
        said: int | str | bool,
        times: Sequence[float],
        limit: int,
        window: float,
    ) -> Answer:
        if said is True:
            said = max(1, round(times[-limit] + window - self.clock() + 0.5)) if limit <= len(times) else round(window)
        if said is not False:
            answer.headers["Retry-After"] = str(said)
        return answer


def _within(times: Sequence[float], now: float, window: float) -> int:
    """Count the times that are less than a window ago; they are in order."""
    return len(times) - bisect_right(times, now - window)


def _answer(body: bytes, media_type: str) -> Answer:
    return Answer(429, CIMultiDict({"Content-Type": media_type}), Plain(body), 0, len(body))
