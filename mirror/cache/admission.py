"""What may be pulled at all: the rules of `pulls`, and what a person is told whom one refuses.

The first rule that matches decides. A rule with a tag in its glob (`ghcr.io/org/app:1.*`) is about that tag. What has
no tag (content by its digest, lists of tags and of referrers, signature tags, which stand for a digest) goes by the
first rule that is about its whole repository, or that allows some tag of it: else the image of a tag that is allowed
could not be pulled, since all but its first step is asked for by digest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachetools import LRUCache

from mirror.config.units import show_duration
from mirror.errors import PullRefused
from mirror.oci.name import Tag
from mirror.oci.pattern import compiled
from mirror.store.nodes import referred

if TYPE_CHECKING:
    import re
    from collections.abc import Sequence

    from mirror.config.values import PullRule
    from mirror.oci.name import Reference, Repository
    from mirror.store.index import Index

_KNOWN = 4096  # tags and repositories whose rule is remembered
_NO_REASON = "ask whoever runs the mirror, or use an image that it allows"


@dataclass(frozen=True, slots=True)
class _Rule:
    """A rule, and what its glob means."""

    rule: PullRule
    glob: re.Pattern[str]  # of a repository, or of a repository with a tag
    repositories: re.Pattern[str] | None  # of those whose tags it is about, where its glob has a tag


class Admission:
    """The rules in their order. `index` knows what a tag means here, which a refusal then names."""

    def __init__(self, rules: Sequence[PullRule], index: Index | None = None) -> None:
        self._index = index
        self._known: LRUCache[tuple[Repository, str | None], int | None] = LRUCache(_KNOWN)
        self.reconfigure(rules)

    def reconfigure(self, rules: Sequence[PullRule]) -> None:
        """Go by other rules from now on."""
        self._rules = [_Rule(rule, compiled(rule.match), _repositories(rule.match)) for rule in rules]
        self._known.clear()

    def rule(self, repository: Repository, reference: Reference | None) -> PullRule | None:
        """Return the rule for an image, or (None) for the lists of a repository; None where no rule matches."""
        number = self.number(repository, reference)
        return None if number is None else self._rules[number].rule

    def number(self, repository: Repository, reference: Reference | None) -> int | None:
        """Return which of the rules that is, counted from 0."""
        if not self._rules:
            return None
        tag = _tag(reference)
        key = repository, tag
        if key not in self._known:
            self._known[key] = self._find(str(repository), tag)
        return self._known[key]

    def _find(self, repository: str, tag: str | None) -> int | None:
        for number, one in enumerate(self._rules):
            if one.glob.fullmatch(repository):
                return number
            if tag is not None and one.glob.fullmatch(f"{repository}:{tag}"):
                return number
            if tag is None and one.rule.allow and one.repositories and one.repositories.fullmatch(repository):
                return number
        return None

    def min_age(self, repository: Repository, tag: Tag) -> float:
        """Return for how many seconds a new digest of a tag must have been known; 0 where it is served at once."""
        rule = self.rule(repository, tag)
        return 0.0 if rule is None or _tag(tag) is None else rule.min_age

    def check(self, repository: Repository, reference: Reference | None) -> None:
        """Raise `PullRefused` where a rule refuses this image, or this way to name it."""
        if self._rules and (refusal := self.refusal(repository, reference)) is not None:
            raise refusal

    def refusal(self, repository: Repository, reference: Reference | None) -> PullRefused | None:
        """Return what `check` would raise."""
        rule = self.rule(repository, reference)
        if rule is None or (rule.allow and not (rule.require_digest and _tag(reference) is not None)):
            return None
        if rule.allow:
            return PullRefused(self._by_digest(repository, reference, rule))
        return PullRefused(f"{_named(repository, reference)} is refused by {cited(rule)}: {rule.reason or _NO_REASON}")

    def of_number(self, number: int, repository: Repository) -> PullRefused:
        """Return the refusal of a rule, where it is not known any more which image was asked for."""
        rule = self._rules[number].rule if 0 <= number < len(self._rules) else None
        if rule is None or (rule.allow and not rule.require_digest and not rule.min_age):
            return PullRefused(f"an image of {repository} was refused by a rule that is no longer; pull it again")
        if not rule.allow:
            return PullRefused(f"{repository} is refused by {cited(rule)}: {rule.reason or _NO_REASON}")
        if rule.require_digest:
            return PullRefused(self._by_digest(repository, None, rule))
        return PullRefused(
            f"this tag of {repository} is held back by {cited(rule)}, since what it means is too new; "
            "mirror quarantine says until when, and mirror release ends it"
        )

    def _by_digest(self, repository: Repository, reference: Reference | None, rule: PullRule) -> str:
        text = f"{_named(repository, reference)} is refused by {cited(rule)}: name it by its digest, as "
        known = self._index.tag(repository, reference.name) if self._index and isinstance(reference, Tag) else None
        if known is None:
            return f"{text}{repository}@sha256:…, which whoever made the image can tell"
        return f"{text}{repository}@{known.digest}, which is what this tag meant when the mirror last asked"


def cited(rule: PullRule) -> str:
    """Return a rule for a sentence, as it is written in the configuration."""
    also = ", require_digest: true" if rule.require_digest else ""
    if rule.min_age:
        also += f", min_age: {show_duration(rule.min_age)}"
    return f'this mirror\'s rule "{rule.written()}{also}"'


def _named(repository: Repository, reference: Reference | None) -> str:
    if reference is None:
        return str(repository)
    return f"{repository}{':' if isinstance(reference, Tag) else '@'}{reference}"


def _tag(reference: Reference | None) -> str | None:
    """Return the tag of a reference that is one: not of a digest, nor of a tag that stands for one."""
    return reference.name if isinstance(reference, Tag) and referred(reference.name) is None else None


def _repositories(glob: str) -> re.Pattern[str] | None:
    directory, slash, last = glob.rpartition("/")  # a colon further left is a port's
    name, colon, _ = last.partition(":")
    return compiled(directory + slash + name) if colon else None
