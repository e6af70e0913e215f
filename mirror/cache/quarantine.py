"""What a tag newly means is served only once it has been known for a while (`min_age`), or somebody has released it.

Until then the tag means what it meant before; where nothing is known of that, the pull is refused. Whoever takes over a
tag upstream is usually found out within days, and by then nobody here has pulled it. The clock of a digest starts when
the mirror first hears of it, from a client's pull or from `mirror prefetch`; it starts anew if the tag means something
else in between. What is noted is in the store's `Dealings`, so it outlives restarts, evictions and the tag in the
index, and a release by another process counts at once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from mirror import metrics
from mirror.cache.admission import cited
from mirror.errors import DigestInvalid, MirrorError, Quarantined
from mirror.oci.digest import Digest
from mirror.oci.reference import ImageReference

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.cache.admission import Admission
    from mirror.oci.name import Repository, Tag
    from mirror.store.dealings import Dealings

log = structlog.get_logger(__name__)

KIND = "quarantine"
_DAY = 24 * 3600.0  # seconds; how often what is in use is noted to be, since of too many notes the oldest go


@dataclass(frozen=True, slots=True)
class Held:
    """A tag whose new digest waits. Times are in seconds since the epoch; `former` is what is served meanwhile."""

    repository: Repository
    tag: Tag
    digest: Digest
    former: Digest | None
    since: float
    until: float

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}@{self.digest}"


class Quarantine:
    """Decides which digest of a tag is served. `clock` gives seconds since the epoch."""

    def __init__(
        self,
        rules: Admission,
        book: Dealings,
        clock: Callable[[], float] = time.time,
        label: Callable[[str], str] = str,
    ) -> None:
        """`label` returns what metrics call an upstream."""
        self._rules = rules
        self._book = book
        self._clock = clock
        self._label = label

    def watches(self, repository: Repository, tag: Tag) -> bool:
        """Say whether a new digest of a tag may have to wait. A HEAD, which nobody counts, comes before a GET then."""
        return self._rules.min_age(repository, tag) > 0

    def judge(self, repository: Repository, tag: Tag, former: Digest | None, now: Digest) -> Digest:
        """Return which digest of `tag` to serve: `now`, which upstream says, or what it meant before while that is new.

        `former` is what the cache has, if anything; what was served before an eviction is remembered here. Raise
        `Quarantined` where nothing may be served. Whoever carried a tag in by a bundle does not ask.
        """
        wait = self._rules.min_age(repository, tag)
        if wait <= 0:
            return now
        key = f"{repository}:{tag}"
        known = self._book.get(KIND, key) or {}
        served = former or _digest(known, "serves")
        trusted = (former, _digest(known, "serves"), _digest(known, "before"))
        if now in trusted or self._released(repository, known, now):
            self._let_through(key, known, former, now)
            return now
        moment = self._clock()
        since = moment
        if _digest(known, "held") == now:
            since = min(_number(known, "since", moment), moment)  # a clock that was set back starts it anew
        if moment - since >= wait:
            self._let_through(key, known, former, now)
            log.info("quarantine is over", image=key, digest=str(now))
            return now
        self._hold(key, known, served, now, since)
        if served is None:
            raise self.refusal(Held(repository, tag, now, None, since, since + wait))
        metrics.QUARANTINE_HELD.labels(self._label(repository.namespace)).inc()
        return served

    def held(self, repository: Repository, tag: Tag) -> Held | None:
        """Return what is held back of a tag, as far as it is known without asking upstream."""
        return self._held(repository, tag, self._book.get(KIND, f"{repository}:{tag}") or {})

    def all(self) -> list[Held]:
        """Return all that is held back, those first that were first seen."""
        found = []
        for key, known in self._book.all(KIND).items():
            if "held" not in known:
                continue
            try:
                image = ImageReference.parse(key)
            except MirrorError:  # nothing that this program wrote
                continue
            held = self._held(image.repository, image.tag, known) if image.tag else None
            if held is not None:
                found.append(held)
        return sorted(found, key=lambda held: (held.since, str(held)))

    def refusal(self, held: Held) -> Quarantined:
        """Return what is told where nothing else can be served meanwhile."""
        rule = self._rules.rule(held.repository, held.tag)
        by = cited(rule) if rule is not None else "a rule of this mirror"
        return Quarantined(
            f"{held.repository}:{held.tag} is held back by {by}: its digest {held.digest} was first seen at "
            f"{_time(held.since)} and may be pulled from {_time(held.until)} on; before that, whoever runs the mirror "
            f"can let it through: mirror release {held.repository}:{held.tag}",
            until=held.until,
        )

    def release(self, held: Held) -> None:
        """Serve it from the next pull on. Nothing is written for good before the book is flushed."""
        key = f"{held.repository}:{held.tag}"
        known = self._book.get(KIND, key) or {}
        self._book.put(KIND, key, {**known, "released": str(held.digest), "at": self._clock()})

    def release_digest(self, repository: Repository, digest: Digest) -> None:
        """Serve a digest under whatever tag of a repository means it, though it may not have been seen yet."""
        self._book.put(KIND, f"{repository}@{digest}", {"released": str(digest), "at": self._clock()})

    def _released(self, repository: Repository, known: dict[str, Any], now: Digest) -> bool:
        return known.get("released") == str(now) or self._book.get(KIND, f"{repository}@{now}") is not None

    def _let_through(self, key: str, known: dict[str, Any], former: Digest | None, now: Digest) -> None:
        """Note what is served from now on, and what was before: going back to that is nothing new."""
        moment = self._clock()
        before = known.get("before")
        if (served := _digest(known, "serves") or former) not in (None, now):
            before = str(served)
        new = {"serves": str(now), "before": before}
        if {name: known.get(name) for name in new} != new or "held" in known or moment - _number(known, "at", 0) > _DAY:
            self._book.put(KIND, key, {**new, "at": moment})

    def _hold(self, key: str, known: dict[str, Any], served: Digest | None, now: Digest, since: float) -> None:
        new = {"serves": str(served) if served else None, "before": known.get("before"), "held": str(now)}
        moment = self._clock()
        if _digest(known, "held") != now:
            log.info("held back", image=key, digest=str(now), serves=new["serves"])
        same = {name: known.get(name) for name in new} == new and known.get("since") == since
        if not same or moment - _number(known, "at", 0) > _DAY:
            self._book.put(KIND, key, {**new, "since": since, "at": moment})

    def _held(self, repository: Repository, tag: Tag, known: dict[str, Any]) -> Held | None:
        wait = self._rules.min_age(repository, tag)
        digest = _digest(known, "held")
        if digest is None or wait <= 0 or self._released(repository, known, digest):
            return None
        moment = self._clock()
        since = min(_number(known, "since", moment), moment)
        return Held(repository, tag, digest, _digest(known, "serves"), since, since + wait)


def _digest(known: dict[str, Any], name: str) -> Digest | None:
    text = known.get(name)
    try:
        return Digest.parse(text) if isinstance(text, str) else None
    except DigestInvalid:  # not what this program wrote: as if nothing were known
        return None


def _number(known: dict[str, Any], name: str, otherwise: float) -> float:
    found = known.get(name)
    return float(found) if isinstance(found, int | float) else otherwise


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))
