"""An `Index` of dictionaries."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mirror.oci.digest import Digest
from mirror.store.changes import (
    Change,
    Linked,
    ListingSet,
    Lost,
    Pinned,
    Removed,
    Stored,
    TagDropped,
    TagSet,
    Unpinned,
)
from mirror.store.index import Standing, Validated

if TYPE_CHECKING:
    from mirror.errors import StoreError
    from mirror.oci.name import Repository


@dataclass
class Facts:
    tags: dict[Repository, dict[str, Validated]] = field(default_factory=dict)
    standings: dict[tuple[Repository, Digest], Standing] = field(default_factory=dict)
    public: dict[tuple[str, Digest], str | None] = field(default_factory=dict)
    listings: dict[tuple[Repository, Digest], Validated] = field(default_factory=dict)
    here: set[Digest] = field(default_factory=set)
    pins: set[tuple[Repository, str]] = field(default_factory=set)


class FakeIndex:
    """Keeps its facts in memory. `trouble`, while set, is what `apply` raises; `applied` is every change in order."""

    def __init__(self) -> None:
        self._facts = Facts()
        self.applied: list[Change] = []
        self.trouble: StoreError | None = None

    def tag(self, repository: Repository, tag: str) -> Validated | None:
        return self._facts.tags.get(repository, {}).get(tag)

    def standing(self, repository: Repository, digest: Digest) -> Standing:
        at = self._facts.standings.get((repository, digest), Standing())
        key = (repository.namespace, digest)
        if at.named and not at.linked and key in self._facts.public:
            return replace(at, public=True, media_type=self._facts.public[key])
        return at if at.linked else replace(at, vouched=self._vouched(repository, digest))

    def _vouched(self, repository: Repository, digest: Digest) -> bool:
        return any(other == digest for _, other in self._facts.public) or any(
            at.linked and where.namespace == repository.namespace and other == digest
            for (where, other), at in self._facts.standings.items()
        )

    def tags(self, repository: Repository, *, after: str = "", limit: int) -> list[str]:
        return sorted(tag for tag in self._facts.tags.get(repository, {}) if tag > after)[:limit]

    def repositories(self, *, after: str = "", limit: int) -> list[str]:
        linked = {str(repository) for (repository, _), at in self._facts.standings.items() if at.linked}
        return sorted(path for path in linked if path > after)[:limit]

    def listing(self, repository: Repository, subject: Digest) -> Validated | None:
        return self._facts.listings.get((repository, subject))

    def pinned(self, repository: Repository, digest: Digest | None, tag: str | None) -> bool:
        return (repository, str(digest)) in self._facts.pins or (repository, tag) in self._facts.pins

    async def apply(self, *new: Change) -> None:
        if self.trouble is not None:
            raise self.trouble
        facts = deepcopy(self._facts)
        for change in new:
            _record(facts, change)
        self._facts = facts
        self.applied += new


def _record(facts: Facts, change: Change) -> None:  # noqa: C901  # a case for each change
    match change:
        case Stored():
            facts.here.add(change.digest)
        case Lost():
            facts.here.discard(change.digest)
        case Pinned():
            facts.pins.add((change.repository, change.reference))
        case Unpinned():
            facts.pins.discard((change.repository, change.reference))
        case Removed():
            for digest in change.digests:
                _remove(facts, digest)
        case Linked():
            _link(facts, change)
        case TagSet():
            Digest.parse(str(change.digest))
            if change.digest in facts.here:
                facts.tags.setdefault(change.repository, {})[change.tag] = Validated(change.digest, change.at)
        case TagDropped():
            facts.tags.get(change.repository, {}).pop(change.tag, None)
        case ListingSet():
            facts.listings[change.repository, change.subject] = Validated(change.body, change.at)


def _remove(facts: Facts, digest: Digest) -> None:
    facts.here.discard(digest)
    for repository, tags in facts.tags.items():
        for tag in [tag for tag, known in tags.items() if known.digest == digest]:
            facts.pins.discard((repository, tag))
            del tags[tag]
    facts.pins = {pin for pin in facts.pins if pin[1] != str(digest)}
    facts.listings = {key: known for key, known in facts.listings.items() if digest not in (key[1], known.digest)}
    facts.public = {key: known for key, known in facts.public.items() if key[1] != digest}
    for key, at in facts.standings.items():
        if key[1] == digest:
            facts.standings[key] = replace(at, linked=False, media_type=None)


def _link(facts: Facts, change: Linked) -> None:
    repository, digest = change.repository, change.digest
    if digest.algorithm not in ("sha256", "sha384", "sha512"):
        raise ValueError(f"{digest} is of no algorithm that the store knows")
    at = facts.standings.get((repository, digest), Standing())
    facts.standings[repository, digest] = replace(at, linked=True, media_type=change.media_type or at.media_type)
    if change.public:
        key = (repository.namespace, digest)
        facts.public[key] = change.media_type or facts.public.get(key)
    for named in change.names:
        other = facts.standings.get((repository, named.digest), Standing())
        size = named.size if named.size is not None else other.size
        facts.standings[repository, named.digest] = replace(other, named=True, size=size)
