"""The graph against a naive model: after any changes both have the same roots, pins, ages and removals."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.oci.digest import Digest
from mirror.oci.mediatype import OCI_MANIFEST
from mirror.oci.name import Repository
from mirror.store.changes import (
    Linked,
    ListingSet,
    Lost,
    Named,
    Pinned,
    Removed,
    Stored,
    TagDropped,
    TagSet,
    Unpinned,
    Used,
)
from mirror.store.closure import closure_of, roots_above
from mirror.store.facts import record
from mirror.store.migration import bring_up_to_date
from mirror.store.packing import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.store.changes import Change

REPOSITORIES = (Repository("docker.io", "library/a"), Repository("quay.io", "b"))
TAGS = ("v1", "v2")


def of(name: str) -> Digest:
    return Digest.of(name.encode())


# What is what: indexes, images, signatures of either, lists of signatures, blobs.
NAMES: dict[Digest, tuple[Digest, ...]] = {
    of("index0"): (of("image0"), of("image1")),
    of("index1"): (of("image1"), of("image2"), of("index0")),
    of("image0"): (of("blob0"), of("blob1")),
    of("image1"): (of("blob0"), of("blob2")),
    of("image2"): (of("blob0"), of("blob3")),
    of("signature0"): (of("blob3"), of("blob4")),
    of("signature1"): (of("blob4"),),
}
SUBJECTS = {
    of("signature0"): of("image0"),
    of("signature1"): of("index0"),
    of("list0"): of("image0"),
    of("list1"): of("image0"),
}
SIGNATURES = (of("signature0"), of("signature1"))
MANIFESTS = tuple(NAMES)
SUBJECTS_OF_LISTS = (of("image0"), of("index0"))
LISTS = (of("list0"), of("list1"))
ALL = (*MANIFESTS, *LISTS, *(of(f"blob{number}") for number in range(5)))

repositories, manifests, everything = st.sampled_from(REPOSITORIES), st.sampled_from(MANIFESTS), st.sampled_from(ALL)
referring = st.sampled_from([f"sha256-{of(name).hex}{end}" for name in ("image0", "index0") for end in ("", ".sig")])
ordinary = st.sampled_from(TAGS)


def stored(digest: Digest, at: float) -> Stored:
    media_type = OCI_MANIFEST if digest in NAMES else None
    return Stored(digest, 4096, at, media_type, NAMES.get(digest, ()), SUBJECTS.get(digest))


def linked(repository: Repository, digest: Digest) -> Linked:
    media_type = OCI_MANIFEST if digest in NAMES else None
    return Linked(repository, digest, media_type, names=tuple(Named(one, 1) for one in NAMES.get(digest, ())))


times = st.integers(1, 1000).map(float)
references = ordinary | manifests.map(str)
steps = st.one_of(
    st.builds(stored, everything, times),
    st.builds(stored, everything, times),
    st.builds(linked, repositories, everything),
    st.builds(linked, repositories, everything),
    st.builds(TagSet, repositories, ordinary, manifests, times),
    st.builds(TagSet, repositories, referring, st.sampled_from(SIGNATURES), times),
    st.builds(TagDropped, repositories, ordinary | referring),
    st.builds(ListingSet, repositories, st.sampled_from(SUBJECTS_OF_LISTS), st.sampled_from(LISTS), times),
    st.builds(Pinned, repositories, references, times),
    st.builds(Unpinned, repositories, references),
    st.builds(Lost, everything),
    st.builds(Used, repositories, everything, times),
    st.builds(Removed, st.lists(everything, min_size=1, max_size=3).map(tuple)),
    st.just("remove"),
)


@dataclass
class Model:
    """Facts as plain sets, and no memory of what follows from them."""

    here: set[Digest] = field(default_factory=set)
    known: set[Digest] = field(default_factory=set)  # whose content was looked into
    tags: dict[tuple[Repository, str], Digest] = field(default_factory=dict)
    lists: dict[tuple[Repository, Digest], Digest] = field(default_factory=dict)
    links: set[tuple[Repository, Digest]] = field(default_factory=set)
    pins: set[tuple[Repository, str]] = field(default_factory=set)
    used: dict[Digest, float] = field(default_factory=dict)

    def parents(self, child: Digest) -> set[Digest]:
        above = {parent for parent in self.known if child in NAMES.get(parent, ())}
        if child in self.known and child in SUBJECTS:
            above.add(SUBJECTS[child])
        above |= {Digest("sha256", tag[7:71]) for (_, tag), to in self.tags.items() if to == child and len(tag) > 70}
        above |= {subject for (_, subject), body in self.lists.items() if body == child}
        return above & self.here

    def root(self, digest: Digest) -> int:
        tagged = any(to == digest and len(tag) < 70 for (_, tag), to in self.tags.items())
        if digest not in self.here:
            return 0
        return 1 if not self.parents(digest) else 2 if tagged else 0

    def pinned(self, digest: Digest) -> bool:
        return any(
            reference == str(digest) or self.tags.get((repository, reference)) == digest
            for repository, reference in self.pins
        )

    def reached(self, roots: set[Digest]) -> set[Digest]:
        """What is here and needed by these, they included."""
        reached = set(roots)
        while more := {child for child in self.here - reached if self.parents(child) & reached}:
            reached |= more
        return reached

    def goes(self, root: Digest) -> set[Digest]:
        others = {one for one in self.here - {root} if self.root(one) or self.pinned(one)}
        stays = self.reached(others)
        return set() if root in stays else self.here - stays

    def use(self, change: Used, ids: dict[Digest, int]) -> None:
        one: Digest | None = change.digest
        if one not in ids:
            return
        while one is not None:
            if one in self.here:
                self.used[one] = max(self.used.get(one, 0.0), change.at)
            if self.root(one):
                return
            above = [parent for parent in self.parents(one) if (change.repository, parent) in self.links]
            one = max(above, key=lambda parent: (self.used.get(parent, 0.0), ids[parent]), default=None)

    def apply(self, change: Change, ids: dict[Digest, int]) -> None:  # noqa: C901  # a case for each change
        match change:
            case Stored():
                self.here.add(change.digest)
                self.known.add(change.digest)
                self.used[change.digest] = max(self.used.get(change.digest, 0.0), change.at)
            case Lost():
                self.here.discard(change.digest)
                self.used.pop(change.digest, None)
            case Linked():
                self.links.add((change.repository, change.digest))
            case TagSet():
                if change.digest in self.here:
                    self.tags[change.repository, change.tag] = change.digest
            case TagDropped():
                self.tags.pop((change.repository, change.tag), None)
            case ListingSet():
                self.lists[change.repository, change.subject] = change.body
            case Pinned():
                self.pins.add((change.repository, change.reference))
            case Unpinned():
                self.pins.discard((change.repository, change.reference))
            case Used():
                self.use(change, ids)
            case Removed():
                for digest in change.digests:
                    self.remove(digest)

    def remove(self, digest: Digest) -> None:
        self.here.discard(digest)
        self.used.pop(digest, None)
        self.known.discard(digest)
        gone = {where for where, to in self.tags.items() if to == digest}
        self.pins = {pin for pin in self.pins if pin not in gone and pin[1] != str(digest)}
        self.tags = {where: to for where, to in self.tags.items() if to != digest}
        self.lists = {where: body for where, body in self.lists.items() if digest not in (where[1], body)}
        self.links = {link for link in self.links if link[1] != digest}


def opened() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    bring_up_to_date(db)
    return db


def nodes(db: sqlite3.Connection) -> Iterator[tuple[Digest, bool, int, bool, float]]:
    for digest, taken, root, pinned, used in db.execute("SELECT digest, taken, root, pinned, used FROM node"):
        yield unpack(digest), taken is not None, root, bool(pinned), used


def agree(db: sqlite3.Connection, model: Model) -> None:
    seen = {}
    for digest, here, root, pinned, used in nodes(db):
        assert here == (digest in model.here)
        assert root == model.root(digest)
        assert not here or pinned == model.pinned(digest)
        assert not here or used == model.used[digest]
        seen[digest] = here
    assert model.here <= set(seen)
    assert dict(tags(db)) == model.tags
    assert named(db) >= {
        (repository, child)
        for repository, digest in model.links
        if digest in model.known
        for child in NAMES.get(digest, ())
    }
    images = sum(1 for digest in model.here if digest in NAMES and model.root(digest))
    count = len(model.here)
    assert db.execute("SELECT images, contents, taken FROM total").fetchone() == (images, count, 4096 * count)


def tags(db: sqlite3.Connection) -> Iterator[tuple[tuple[Repository, str], Digest]]:
    for path, tag, digest in db.execute(
        "SELECT path, tag, digest FROM tag JOIN repository ON repository.id = repository"
    ):
        yield (Repository(*path.split("/", 1)), tag), unpack(digest)


def named(db: sqlite3.Connection) -> set[tuple[Repository, Digest]]:
    rows = db.execute("SELECT path, digest FROM named JOIN repository ON repository.id = repository")
    return {(Repository(*path.split("/", 1)), unpack(digest)) for path, digest in rows}


def ids(db: sqlite3.Connection) -> dict[Digest, int]:
    return {unpack(digest): node for digest, node in db.execute("SELECT digest, id FROM node")}


def oldest(db: sqlite3.Connection) -> Digest | None:
    row = db.execute("SELECT digest FROM node WHERE root = 1 AND NOT pinned ORDER BY used LIMIT 1").fetchone()
    return None if row is None else unpack(row[0])


@settings(max_examples=80, deadline=None)
@given(st.lists(steps, max_size=40))
def test_flags_ages_and_removals_are_those_of_a_naive_model(changes: list[Change | str]) -> None:
    db, model = opened(), Model()
    for step in changes:
        change = step
        if isinstance(change, str):
            root = oldest(db)
            if root is None:
                continue
            gone = closure_of(db, pack(root)).gone
            assert {unpack(key) for key in gone} == model.goes(root)
            assert gone[0] == pack(root)
            change = Removed(tuple(unpack(key) for key in gone))
        model.apply(change, ids(db))
        record(db, change)
        agree(db, model)
    known = ids(db)
    for digest in ALL:
        needing = {root for root in model.here if model.root(root) and digest in model.reached({root})}
        assert {known[root] for root in needing} == set(roots_above(db, pack(digest), 100))
    db.close()


def emptied(db: sqlite3.Connection) -> None:
    """Evict until nothing may go."""
    while (root := oldest(db)) is not None:
        gone = closure_of(db, pack(root)).gone
        assert gone
        record(db, Removed(tuple(unpack(key) for key in gone)))


@settings(max_examples=30, deadline=None)
@given(st.lists(steps.filter(lambda step: step != "remove"), max_size=40))
def test_all_may_go_but_what_is_pinned_and_what_that_needs(changes: list[Change]) -> None:
    db, model = opened(), Model()
    for change in changes:
        model.apply(change, ids(db))
        record(db, change)
    stays = model.reached({digest for digest in model.here if model.pinned(digest)})
    emptied(db)
    assert {digest for digest, here, *_ in nodes(db) if here} == stays
    db.close()


FEW = ALL[:4]
anything = st.sampled_from(FEW)
strange = st.one_of(
    st.builds(
        Stored,
        anything,
        st.just(4096),
        times,
        st.just(OCI_MANIFEST),
        st.lists(anything, max_size=3).map(tuple),
        st.none() | anything,
    ),
    st.builds(TagSet, repositories, anything.map(lambda digest: f"sha256-{digest.hex}"), anything, times),
    st.builds(ListingSet, repositories, anything, anything, times),
    st.builds(Lost, anything),
)
by_rank = {digest: number for number, digest in enumerate(FEW)}


def possible(change: Change) -> Change:
    """No content names what names it, directly or not: digests do not allow that. Subjects and tags go anywhere."""
    if not isinstance(change, Stored):
        return change
    names = tuple(one for one in change.names if by_rank[one] > by_rank[change.digest])
    return Stored(change.digest, change.taken, change.at, change.media_type, names, change.subject)


@settings(max_examples=100, deadline=None)
@given(st.lists(strange.map(possible), max_size=20))
def test_no_circle_of_owners_keeps_anything_for_ever(changes: list[Change]) -> None:
    """A tag `sha256-HEX` may point to anything, to what owns its owner too."""
    db = opened()
    for change in changes:
        record(db, change)
    emptied(db)
    assert not any(here for _, here, *_ in nodes(db))
    db.close()
