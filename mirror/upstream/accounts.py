"""What an upstream gives each of the credentials: what is left of its limit, how long it rests, whether it is good.

Credentials go by name, never by what is secret of them. All of it is kept in the store's `Dealings`, so it outlives a
restart, and all processes of a mirror, and commands beside it, share it.

Two limits are told apart. The budget, which the headers of every answer tell, is used up by what is counted (Docker Hub
counts GETs of manifests): when nothing is left those rest, and HEADs and blobs go on. A 429 rests the kind of request
that it answered. One without a word of a budget is about abuse (Docker Hub's limit of requests a minute, which counts
everything), and rests every kind of these credentials, for a minute at most.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import structlog

from mirror.metrics import (
    UPSTREAM_CREDENTIAL_ASIDE,
    UPSTREAM_RATELIMIT_LIMIT,
    UPSTREAM_RATELIMIT_REMAINING,
    UPSTREAM_RATELIMIT_WARNINGS,
    UPSTREAM_RESTS_UNTIL,
)
from mirror.store.dealings import Dealings
from mirror.upstream.budget import Budget, parse_budget
from mirror.upstream.rests import ANY, Rests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

ANONYMOUS = "anonymous"
COUNTED = "manifest GET"  # the kind of request that uses up a budget

_KINDS = ("budget", "rest", "aside")  # what is kept in the book
WARNINGS = (50, 20, 5)  # percent of a limit, told once when less is left …
_RECOVERED = 5  # … and again when so many more were left meanwhile: what is left of a sliding window goes to and fro

_ABUSE = 60.0  # seconds: Docker Hub's limit of requests goes by the minute
_MOST_SOURCES = 8  # of one credential, that are remembered: a site with two uplinks has two
_LIMITED = 429
_AHEAD = 60.0  # seconds that clocks of processes may differ by

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AccountState:
    """All that is known of one credential. Times are seconds since the epoch."""

    credential: str
    budget: Budget | None  # as it was said last
    others: tuple[Budget, ...] = ()  # of other sources (`docker-ratelimit-source`), the latest first
    rests: Mapping[str, float] = field(default_factory=dict)  # until when, by kind; `*` is every kind
    aside: str | None = None  # why it is not used
    aside_until: float | None = None


class Accounts:
    """The credentials of one endpoint of an upstream, by their names.

    `clock` gives seconds since the epoch. `label` is what metrics call the upstream; None, for one that a client named:
    they say nothing of it, and nothing of it is kept. `endpoint` is set for one that is not the registry itself.
    """

    def __init__(
        self,
        namespace: str,
        label: str | None,
        *,
        book: Dealings,
        clock: Callable[[], float],
        endpoint: str | None = None,
    ) -> None:
        self.namespace = namespace
        self.bypassed = False  # content may also come from other endpoints, which count nothing here
        self.elsewhere = endpoint is not None  # it is not the registry itself
        self._place = namespace if endpoint is None else f"{namespace}@{endpoint}"
        self._endpoint = endpoint
        self._label = label
        self._book = book if label is not None else Dealings(None)
        self._clock = clock
        self._rests = Rests(self._book, clock)
        self._seen: dict[str, None] = {}
        self._credentials: Callable[[str | None], Iterable[str]] | None = None

    @property
    def credentials(self) -> Callable[[str | None], Iterable[str]] | None:
        """What returns the names of those that there are for a repository, or (None) for any."""
        return self._credentials

    @credentials.setter
    def credentials(self, names: Callable[[str | None], Iterable[str]]) -> None:
        self._credentials = names
        self.show()

    def show(self) -> None:
        """Tell the metrics all that is known, be it from before a restart."""
        for state in self.states():
            self._show(state.credential, state.budget)
            self._show_rests(state.credential)
            if state.aside is not None:
                self._show_aside(state.credential, 1)

    # --- what is left ---------------------------------------------------------------------------------------------

    def note(self, credential: str, headers: Mapping[str, str], status: int) -> None:
        """Read one answer of the registry itself, of whatever status. Never raises."""
        now = self._clock()
        budget = parse_budget(headers, status=status, now=now)
        self._seen.setdefault(credential)
        if budget is not None and budget.speaks:
            self._keep(credential, budget)
        elif status == _LIMITED:
            told = budget.retry_after if budget is not None else None
            self._rests.begin(self._key(credential), ANY, min(told, _ABUSE) if told is not None else None)
            self._show_rests(credential)

    def budget(self, credential: str) -> Budget | None:
        """Return what was last said of its limit; None: nothing."""
        row = self._book.get("budget", self._key(credential))
        return _budget(row, row["source"]) if row is not None else None

    def best(self, repository: str = "") -> Budget | None:
        """Return the budget of the credential with the most left, of those that are not set aside.

        `repository` is a name without the namespace; without it those count that are bound to none, if any do.
        """
        now = self._clock()
        groups = (self._usable(repository), self._usable(None))
        told = [[budget for name in names if (budget := self.budget(name)) is not None] for names in groups]
        found = told[0] or told[1]
        return max(found, key=lambda each: (_or_all(each.share(now)), each.remaining or 0), default=None)

    def share(self, repository: str | None = None) -> float | None:
        """Return how much is left, 0 to 1, of the best credential for a repository; None: no limit is known of it.

        `repository` is its name without the namespace. One that has not been used yet has no known limit.
        """
        now = self._clock()
        shares = [budget.share(now) if (budget := self.budget(name)) else None for name in self._usable(repository)]
        known = [share for share in shares if share is not None]
        return max(known) if known and len(known) == len(shares) else None

    def left(self, credential: str) -> float:
        """Return how much is left of one, 0 to 1; all, where no limit is known."""
        budget = self.budget(credential)
        return _or_all(budget.share(self._clock()) if budget is not None else None)

    # --- rests ----------------------------------------------------------------------------------------------------

    def limited(self, credential: str, kind: str, retry_after: float | None) -> float:
        """Note a 429 to this kind of request (`manifest GET`); return the seconds of rest that follow from it.

        `retry_after` is obeyed up to an hour. Without it the rest grows from a second to a minute, or is as long as an
        exhausted budget has it. `note` was called before, with its headers.
        """
        self._seen.setdefault(credential)
        self._rests.begin(self._key(credential), kind, retry_after)
        self._show_rests(credential)
        return self.rest(credential, kind)

    def answered(self, credential: str, kind: str) -> None:
        """Note an answer that was no 429: the next rest is a short one again."""
        self._seen.setdefault(credential)
        if self._rests.answered(self._key(credential), kind):
            self._show_rests(credential)

    def rest(self, credential: str, kind: str) -> float:
        """Return the seconds for which this kind of request is not to be sent with it; 0: it may be."""
        key = self._key(credential)
        longest = max(self._rests.left(key, kind), self._rests.left(key, ANY))
        if kind == COUNTED and (budget := self.budget(credential)) is not None:
            longest = max(longest, budget.exhausted(self._clock()))
        return longest

    def look(self, credential: str) -> bool:
        """Say whether to look now, by a HEAD, if what is counted may be asked for again; once a minute, while it rests.

        A HEAD is not counted, and `note` of its answer ends the rest where something is left.
        """
        if not self.rest(credential, COUNTED) or self.rest(credential, "manifest HEAD"):
            return False
        return self._rests.look(self._key(credential))

    # --- refused --------------------------------------------------------------------------------------------------

    def set_aside(self, credential: str, why: str, seconds: float) -> None:
        """Do not use it for so long, because it was refused. `why` names no secret."""
        now = self._clock()
        known = self.aside(credential)
        self._book.put("aside", self._key(credential), {"at": now, "until": now + seconds, "why": why})
        if known is None:
            log.warning(
                "credentials are set aside: upstream refuses them; see that they are still good",
                namespace=self._place,
                account=credential,
                why=why,
                for_seconds=round(seconds),
            )
        self._show_aside(credential, 1)

    def aside(self, credential: str) -> str | None:
        """Return why it is not used now; None: it is."""
        key = self._key(credential)
        row = self._book.get("aside", key)
        if row is None:
            return None
        if not row["at"] - _AHEAD <= self._clock() < row["until"]:
            self._book.put("aside", key, None)
            self._show_aside(credential, 0)
            return None
        return cast("str", row["why"])

    def restored(self, credential: str) -> None:
        """Note that it was accepted again."""
        if self.aside(credential) is not None:
            log.info("credentials are used again", namespace=self._place, account=credential)
            self._book.put("aside", self._key(credential), None)
            self._show_aside(credential, 0)

    # --- what is known --------------------------------------------------------------------------------------------

    def states(self) -> list[AccountState]:
        """Return what is known of each credential, for a person."""
        return [self._state(name) for name in self._names(None)]

    def _state(self, credential: str) -> AccountState:
        key, now = self._key(credential), self._clock()
        row = self._book.get("budget", key)
        others = [_budget(row, source) for source in row["sources"] if source != row["source"]] if row else []
        kinds = (*self._rests.kinds(key), COUNTED)
        rests = {kind: now + seconds for kind in kinds if (seconds := self.rest(credential, kind))}
        why = self.aside(credential)
        aside = (self._book.get("aside", key) or {}) if why is not None else {}
        return AccountState(
            credential,
            _budget(row, row["source"]) if row is not None else None,
            tuple(sorted(others, key=lambda each: -each.at)),
            rests,
            why,
            aside.get("until"),
        )

    def _names(self, repository: str | None) -> list[str]:
        if self._credentials is not None:
            return list(dict.fromkeys(self._credentials(repository)))
        start = f"{self._place} "
        kept = [key.removeprefix(start) for kind in _KINDS for key in self._book.all(kind) if key.startswith(start)]
        return list(dict.fromkeys((*self._seen, *kept)))

    def _usable(self, repository: str | None) -> list[str]:
        names = self._names(repository)
        return [name for name in names if self.aside(name) is None] or names

    def _key(self, credential: str) -> str:
        return f"{self._place} {credential}"  # a namespace, and the label of an endpoint, have no spaces

    # --- keeping it -----------------------------------------------------------------------------------------------

    def _keep(self, credential: str, budget: Budget) -> None:
        key = self._key(credential)
        before = self._book.get("budget", key) or {"sources": {}}
        source = budget.source or ""
        sources = dict(before["sources"])
        former = sources.pop(source, {})
        told = former.get("told")
        if former.get("remaining") == 0 and budget.remaining:
            self._rests.end(key, COUNTED)  # there is something left again
        percent = (budget.share(budget.at) or 0.0) * 100 if budget.limit and budget.remaining is not None else None
        if percent is not None:
            told = self._warn(credential, budget, told, percent)
        sources[source] = {
            "at": budget.at,
            "limit": budget.limit,
            "remaining": budget.remaining,
            "window": budget.window,
            "resets_at": budget.resets_at,
            "told": told,
        }
        while len(sources) > _MOST_SOURCES:
            del sources[min(sources.keys() - {source}, key=lambda each: sources[each]["at"])]
        self._book.put("budget", key, {"at": budget.at, "source": source, "sources": sources})
        self._show(credential, budget)
        if 0 in (budget.remaining, former.get("remaining")):
            self._show_rests(credential)

    def _warn(self, credential: str, budget: Budget, told: int | None, percent: float) -> int | None:
        """Tell of each mark that what is left has fallen below; return the lowest that was told and still holds."""
        if told is not None and percent >= told + _RECOVERED:
            told = min((mark for mark in WARNINGS if percent < mark + _RECOVERED and mark > told), default=None)
        crossed = [mark for mark in WARNINGS if percent < mark and (told is None or mark < told)]
        if not crossed:
            return told
        if self._label is not None:
            for mark in crossed:
                UPSTREAM_RATELIMIT_WARNINGS.labels(self._label, self._shown(credential), str(mark)).inc()
        log.warning(
            "the upstream's rate limit runs low; cached tags are asked for less often from now on. Log in, or add "
            "credentials, to have more: docs/guide/limits.md",
            namespace=self._place,
            account=credential,
            remaining=budget.remaining,
            limit=budget.limit,
            less_than_percent=crossed[-1],
            window_seconds=budget.window,
            resets_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(budget.ends)) if budget.ends else None,
            counted_for=budget.source,
        )
        return crossed[-1]

    def _show(self, credential: str, budget: Budget | None) -> None:
        if self._label is None or budget is None:
            return
        name = self._shown(credential)
        if budget.limit is not None:
            UPSTREAM_RATELIMIT_LIMIT.labels(self._label, name).set(budget.limit)
        if budget.remaining is not None:
            UPSTREAM_RATELIMIT_REMAINING.labels(self._label, name).set(budget.remaining)

    def _show_rests(self, credential: str) -> None:
        if self._label is None:
            return
        key, now = self._key(credential), self._clock()
        budget = self.budget(credential)
        exhausted = budget.exhausted(now) if budget is not None else 0.0
        until = max(*self._rests.kinds(key).values(), now + exhausted if exhausted else 0.0, 0.0)
        UPSTREAM_RESTS_UNTIL.labels(self._label, self._shown(credential)).set(until)

    def _show_aside(self, credential: str, value: int) -> None:
        if self._label is not None:
            UPSTREAM_CREDENTIAL_ASIDE.labels(self._label, self._shown(credential)).set(value)

    def _shown(self, credential: str) -> str:
        """Return what metrics call it; what an endpoint says is not what the registry says."""
        return credential if self._endpoint is None else f"{credential}@{self._endpoint}"


def _budget(row: Mapping[str, Any], source: str) -> Budget:
    said = row["sources"][source]
    return Budget(
        at=said["at"],
        limit=said["limit"],
        remaining=said["remaining"],
        window=said["window"],
        resets_at=said["resets_at"],
        source=source or None,
    )


def _or_all(share: float | None) -> float:
    return 1.0 if share is None else share
