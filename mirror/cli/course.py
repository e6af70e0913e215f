"""The course of a pull, as `mirror trace` tells it: each thing that is decided on the way, by whom, and what of it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mirror.cache.freshness import Age
from mirror.cache.rehearsal import WouldAsk
from mirror.cli.tables import show_age, show_time
from mirror.config.units import show_duration
from mirror.errors import PullRefused, Quarantined
from mirror.server.answers import Kind, answer
from mirror.store.changes import SETTLED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.cache.manifests import ManifestAnswer
    from mirror.cache.outcome import Outcome
    from mirror.cache.quarantine import Held
    from mirror.cache.rehearsal import Question, Rehearsed
    from mirror.config.values import BudgetRule, FreshnessRule, PullRule
    from mirror.errors import MirrorError
    from mirror.oci.digest import Digest
    from mirror.oci.reference import ImageReference
    from mirror.upstream.accounts import AccountState
    from mirror.upstream.standing import EndpointState

_AGES = {
    Age.FRESH: "fresh",
    Age.REVALIDATE_BEHIND: "past its ttl: answered first, and upstream is asked behind the answer",
    Age.STALE: "past its ttl: upstream is asked",
    Age.TOO_OLD: "too old to be served if upstream cannot be asked",
}

_WHAT = {
    "manifest": "a manifest",
    "blob": "a blob",
    "tags": "a list of tags",
    "referrers": "a list of referrers",
    "ping": "/v2/",
}


@dataclass(frozen=True, slots=True)
class Cached:
    """What of the image is here."""

    digest: Digest
    at: float | None  # when upstream was last asked for the tag, seconds since the epoch; None: it is no tag
    age: Age | None
    fresh_until: float | None  # None: for ever, or there is no tag
    here: bool  # the manifest
    platforms: tuple[str, ...]  # of which it is wholly here
    pinned: bool


@dataclass(slots=True)
class Course:
    """All of it. What was not reached is None."""

    image: str  # as it was written
    reference: ImageReference
    read: list[str]  # how its name was understood
    refusal: MirrorError | None = None  # it is not mirrored at all
    pull: tuple[int, PullRule] | None = None  # the rule of `pulls`, and which it is, from 1
    held: Held | None = None
    freshness: FreshnessRule | None = None
    share: float | None = None  # of upstream's limit
    budget: BudgetRule | None = None
    cached: Cached | None = None
    endpoints: list[EndpointState] = field(default_factory=list)
    by_health: bool = False  # `endpoint_order: health`
    accounts: list[AccountState] = field(default_factory=list)
    trouble: dict[str, Any] | None = None  # that asking for the tag met last
    rehearsed: Rehearsed | None = None
    moved: str | None = None  # why what the tag newly means would not be fetched
    waits: str | None = None  # what becomes of a digest that the mirror has not heard of
    fallback: bool = True
    now: float = 0.0  # seconds since the epoch

    @property
    def fails(self) -> bool:
        """Whether a pull fails now, whatever upstream would say."""
        return self.refusal is not None or (self.rehearsed is not None and self.rehearsed.fails)

    @property
    def _ruled_out(self) -> bool:
        """Whether a rule refuses it before anything else is looked at."""
        error = self.rehearsed.error if self.rehearsed is not None else None
        return isinstance(error, PullRefused) and not isinstance(error, Quarantined)

    # --- for a person -------------------------------------------------------------------------------------------

    def told(self) -> list[str]:
        """Return the lines that tell it."""
        steps = [("read as", text) for text in self.read]
        if self.refusal is None:
            steps += [("may be pulled", self._pull()), *self._held(), *self._cached()]
            if not self._ruled_out:
                steps += [*self._fresh(), *self._endpoints(), *self._accounts(), *self._trouble()]
        steps.append(("now", self.outcome()))
        lines, last = [str(self.reference)], ""
        for label, text in steps:
            lines.append(f"  {label if label != last else '':<14} {text}")
            last = label
        return lines

    def outcome(self) -> str:
        """Return one sentence: what a pull does now."""
        error = self.refusal or (self.rehearsed.error if self.rehearsed is not None else None)
        if error is not None and not isinstance(error, WouldAsk):
            said = answer(error, Kind.MANIFEST, fallback=self.fallback)
            return f"a pull gets {said.status} {said.code}: {said.message}"
        assert self.rehearsed is not None  # noqa: S101  # else it was refused
        asked, got = self.rehearsed.asked, self.rehearsed.answer
        return self._asking(asked, got) if asked or got is None else self._unasked(got.outcome)

    def _unasked(self, outcome: Outcome) -> str:
        where = self.reference.repository.namespace
        if outcome.warning is not None:
            return f"a pull is answered from the cache, marked stale: {outcome.warning}"
        if outcome.detail == "saving":
            return f"a pull is answered from the cache; {where} is not asked, since its limit runs low"
        if self.cached is not None and self.cached.age is Age.REVALIDATE_BEHIND:
            return f"a pull is answered from the cache, and {where} is asked by HEAD behind the answer"
        return f"a pull is answered from the cache, and {where} is not asked"

    def _asking(self, asked: Sequence[Question], got: ManifestAnswer | None) -> str:
        where = self.reference.repository.namespace
        counts = ", which counts against its limit" if self.share is not None else ""
        without = "a pull gets 503" if got is None else "the cached one is served, marked stale"
        if asked[0].method == "GET":
            return f"{self._fetching(where, counts)}; if it does not answer, {without}"
        if self.cached is None or not self.cached.here:
            then = self.waits or f"what it says is then fetched by GET{counts}"
        else:
            moved = self.waits or (f"it stays as it is: {self.moved}" if self.moved else "what is new is fetched")
            then = f"if it still has {_short(self.cached.digest)} the cache serves it; if the tag has moved, {moved}"
        return f"{where} is asked by HEAD, which is not counted; {then}; if it does not answer, {without}"

    def _fetching(self, where: str, counts: str) -> str:
        if not self.endpoints or self.endpoints[0].authoritative:
            return f"{where} is asked for the manifest by GET{counts}"
        only = ", and only a GET of the registry itself counts" if counts else ""
        content = f"the manifest comes from the first of them that has it{only}"
        if self.reference.digest is not None:
            return content
        return f"{where} is asked by HEAD what the tag is, which is not counted; {content}"

    def _pull(self) -> str:
        if self.pull is None:
            return "yes: no rule of pulls matches"
        number, rule = self.pull
        more = [
            *(["by digest only (require_digest)"] if rule.require_digest else []),
            *([f"a new digest waits {show_duration(rule.min_age)} (min_age)"] if rule.min_age else []),
        ]
        also = f"; {'; '.join(more)}" if more else ""
        may = "no" if self._ruled_out else "yes"
        return f"{may}, by rule {number} of pulls, {rule.written()}{also}"

    def _held(self) -> list[tuple[str, str]]:
        if self.held is None:
            return []
        known = f"known since {show_time(self.held.since)}, until {show_time(self.held.until)}"
        served = _short(self.held.former) if self.held.former else "nothing"
        return [("held back", f"{_short(self.held.digest)}, {known}; meanwhile {served} is served")]

    def _cached(self) -> list[tuple[str, str]]:
        if self.cached is None:
            return [("cached", "no")]
        whole = ", ".join(self.cached.platforms)
        texts = [
            f"{self.cached.digest}{'' if self.cached.here else ', but its manifest is not here'}",
            f"whole for {whole}" if whole else "whole for no platform: not served while upstream is away",
            *(["pinned: kept though upstream says that it is gone"] if self.cached.pinned else []),
        ]
        return [("cached", text) for text in texts]

    def _fresh(self) -> list[tuple[str, str]]:
        if self.freshness is None:
            return []
        rule, cached = self.freshness, self.cached
        how = "immutable" if rule.immutable else f"ttl {show_duration(rule.ttl)}"
        steps = [f'rule "{rule.match}": {how}']
        if self.budget is not None and self.share is not None:
            steps.append(
                f"{self.share:.0%} of the limit is left: below {self.budget.below:.0%} the ttl is at least "
                f"{show_duration(self.budget.ttl)}{'' if self.budget.prefetch else ', and prefetch waits'}"
            )
        if cached is not None and cached.at is not None and cached.age is not None:
            if cached.at >= SETTLED:
                steps.append("carried in: upstream is not asked for it")
            else:
                until = f", fresh until {show_time(cached.fresh_until)}" if cached.fresh_until else ""
                past = cached.age is not Age.FRESH and (cached.fresh_until or 0.0) > self.now
                stands = (
                    "past the rule's ttl, and kept for longer because little is left" if past else _AGES[cached.age]
                )
                steps.append(f"asked for {show_age(cached.at, self.now) or 'never'}{until}: {stands}")
        return [("freshness", text) for text in steps]

    def _endpoints(self) -> list[tuple[str, str]]:
        texts = [_endpoint(one, self.now) for one in self.endpoints]
        if self.by_health and len(texts) > 1:
            texts.append("which of them is quickest (endpoint_order: health) only the running mirror knows")
        return [("upstream", text) for text in texts]

    def _accounts(self) -> list[tuple[str, str]]:
        return [("credentials", _account(state, self.now)) for state in self.accounts]

    def _trouble(self) -> list[tuple[str, str]]:
        if self.trouble is None:
            return []
        return [("trouble", f"{show_age(self.trouble['at'], self.now)}: {self.trouble['why']}")]

    # --- for a program ------------------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        repository = self.reference.repository
        error = self.refusal or (self.rehearsed.error if self.rehearsed is not None else None)
        said = answer(error, Kind.MANIFEST, fallback=self.fallback) if error and self.fails else None
        rule = self.pull[1] if self.pull is not None else None
        return {
            "image": str(self.reference),
            "upstream": repository.namespace,
            "repository": repository.name,
            "read": self.read,
            "pulls": None
            if self.pull is None or rule is None
            else {
                "number": self.pull[0],
                "rule": rule.written(),
                "require_digest": rule.require_digest,
                "min_age_seconds": rule.min_age,
            },
            "held_back": None
            if self.held is None
            else {
                "digest": str(self.held.digest),
                "serves": str(self.held.former) if self.held.former else None,
                "since": show_time(self.held.since),
                "until": show_time(self.held.until),
            },
            "freshness": None
            if self.freshness is None
            else {
                "match": self.freshness.match,
                "ttl_seconds": _finite(self.freshness.ttl),
                "immutable": self.freshness.immutable,
            },
            "budget": {
                "share": self.share,
                "below": self.budget.below if self.budget else None,
                "ttl_seconds": _finite(self.budget.ttl) if self.budget else None,
            },
            "cached": None
            if self.cached is None
            else {
                "digest": str(self.cached.digest),
                "here": self.cached.here,
                "age": self.cached.age.value if self.cached.age else None,
                "asked_at": show_time(self.cached.at) if self.cached.at and self.cached.at < SETTLED else None,
                "carried_in": bool(self.cached.at and self.cached.at >= SETTLED),
                "fresh_until": show_time(self.cached.fresh_until),
                "whole_for": list(self.cached.platforms),
                "pinned": self.cached.pinned,
            },
            "endpoints": [_report(one) for one in self.endpoints],
            "credentials": [
                {
                    "name": state.credential,
                    "limit": state.budget.limit if state.budget else None,
                    "remaining": state.budget.remaining if state.budget else None,
                    "said_at": show_time(state.budget.at) if state.budget else None,
                    "rests_until": {kind: show_time(until) for kind, until in state.rests.items()},
                    "set_aside": None
                    if state.aside is None
                    else {"why": state.aside, "until": show_time(state.aside_until)},
                }
                for state in self.accounts
            ],
            "trouble": self.trouble,
            "asks": [] if self.rehearsed is None else [question.method for question in self.rehearsed.asked],
            "fails": self.fails,
            "status": said.status if said is not None else None,
            "now": self.outcome(),
        }


def _endpoint(one: EndpointState, now: float) -> str:
    parts = [f"{one.label} ({one.url}){'' if one.authoritative else ', for content only'}"]
    if one.circuit not in (None, "closed"):
        until = f"left alone until {show_time(one.due)}" if (one.due or 0.0) > now else "tried again with the next pull"
        parts.append(until if one.circuit == "open" else "one request may try it")
        if one.why:
            parts.append(one.why)
    if one.last is not None:
        what = f"{one.last.method} of {_WHAT.get(one.last.kind, one.last.kind)}"
        said = one.last.cause or one.last.status
        parts.append(f"last, {show_age(one.last.at, now)}: {what}{'' if said in parts else f': {said}'}")
    else:
        parts.append("not asked yet")
    return "; ".join(parts)


def _report(one: EndpointState) -> dict[str, Any]:
    last = None if one.last is None else {**dataclasses.asdict(one.last), "at": show_time(one.last.at)}
    return {**dataclasses.asdict(one), "due": show_time(one.due), "last": last}


def _account(state: AccountState, now: float) -> str:
    budget = state.budget
    parts = [state.credential]
    if budget is not None and budget.limit is not None and budget.remaining is not None:
        parts.append(f"{budget.remaining} of {budget.limit} left, said {show_age(budget.at, now)}")
    else:
        parts.append("no limit known")
    parts += [f"{kind if kind != '*' else 'all'} rests until {show_time(until)}" for kind, until in state.rests.items()]
    if state.aside is not None:
        parts.append(f"set aside until {show_time(state.aside_until)}: {state.aside}")
    return f"{parts[0]}: {'; '.join(parts[1:])}"


def _short(digest: Digest) -> str:
    return f"{digest.algorithm}:{digest.hex[:12]}"


def _finite(seconds: float | None) -> float | None:
    return None if seconds is None or math.isinf(seconds) else seconds
