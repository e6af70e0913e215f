"""For how long what upstream said of a tag is taken to hold: RFC 9111 and RFC 5861, by rule."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from cachetools import LRUCache

from mirror.oci.pattern import compiled
from mirror.store.changes import SETTLED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.config import FreshnessRule
    from mirror.oci.name import Repository


class Age(Enum):
    """How old an answer is, by its rule."""

    FRESH = "fresh"
    REVALIDATE_BEHIND = "revalidate behind"  # stale, and answered first (stale-while-revalidate)
    STALE = "stale"
    TOO_OLD = "too old"  # not even if upstream fails (stale-if-error)


class Freshness:
    """The rules in order; the first that matches decides."""

    def __init__(self, rules: Sequence[FreshnessRule]) -> None:
        """The last rule matches everything: the configuration sees to it."""
        self._known: LRUCache[tuple[Repository, str], FreshnessRule] = LRUCache(4096)
        self.reconfigure(rules)

    def reconfigure(self, rules: Sequence[FreshnessRule]) -> None:
        """Go by other rules from now on."""
        self._rules = [(compiled(rule.match), rule) for rule in rules]
        self._known.clear()

    def rule(self, repository: Repository, tag: str) -> FreshnessRule:
        """Return the rule for a tag."""
        known = self._known.get((repository, tag))
        if known is None:
            plain, tagged = str(repository), f"{repository}:{tag}"
            known = next(rule for pattern, rule in self._rules if pattern.fullmatch(plain) or pattern.fullmatch(tagged))
            self._known[repository, tag] = known
        return known

    def age(self, repository: Repository, tag: str, validated: float, now: float) -> Age:
        """Say how old is what upstream said at `validated`; both times in seconds since the epoch.

        A clock that was set back makes nothing fresh for longer than its ttl from now. What was carried in (`SETTLED`)
        is fresh whatever the rules say: whoever brought it decides what it is, and nobody else is asked.
        """
        if validated >= SETTLED:
            return Age.FRESH
        rule = self.rule(repository, tag)
        if rule.immutable:
            return Age.FRESH
        age = abs(now - validated)
        if age < rule.ttl:
            return Age.FRESH
        if age < rule.ttl + rule.stale_while_revalidate:
            return Age.REVALIDATE_BEHIND
        return Age.STALE if age < rule.ttl + rule.stale_if_error else Age.TOO_OLD
