"""Which names of the store an export is asked for: by patterns of what is here, or by a list."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.oci.name import Repository
from mirror.store.inventory import Inventory, matches, meant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mirror.airgap.wanted import Wanted
    from mirror.oci.digest import Digest
    from mirror.oci.pattern import ImagePattern
    from mirror.oci.platform import Platform
    from mirror.store.inventory import Root
    from mirror.store.store import Store

_PAGE = 1000  # tags read at once


@dataclass(frozen=True, slots=True)
class Asked:
    """One name that is asked for, and the digest that it has here."""

    repository: Repository
    tag: str | None
    digest: Digest
    platforms: tuple[Platform, ...] = ()  # that a list asks for itself
    place: str = field(default="", compare=False)  # in a list: `images.txt:12`

    @property
    def reference(self) -> str:
        """`NAMESPACE/NAME:TAG`, or `NAMESPACE/NAME@DIGEST` where it has no tag."""
        return f"{self.repository}:{self.tag}" if self.tag else f"{self.repository}@{self.digest}"


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that is asked for and not wholly here. `reason` goes on behind a colon."""

    reference: str
    reason: str
    place: str = ""  # in a list: `images.txt:12`


@dataclass(frozen=True, slots=True)
class Question:
    """What a command asks for, as names; both in the order of names."""

    asked: tuple[Asked, ...]
    missing: tuple[Missing, ...]


def by_patterns(store: Store, patterns: Sequence[ImagePattern]) -> Question:
    """Return the names that are meant by any pattern; no patterns mean nothing. Blocks; raise `StoreError`."""
    if not patterns:
        return Question((), ())
    with Inventory(store.layout) as inventory:
        roots = inventory.images(patterns)
    found = [asked for root in roots for pattern in patterns for asked in _named(pattern, root)]
    missing = []
    for pattern in patterns:
        if any(matches(pattern, root) for root in roots):
            continue
        others = _no_roots(store, pattern)
        found += others
        if not others:
            missing.append(Missing(str(pattern), "nothing here matches it; see mirror ls, or prefetch it first"))
    return _ordered(found, missing)


def by_list(store: Store, wanted: Iterable[Wanted]) -> Question:
    """Return what a list asks for, as it is here. Blocks; raise `StoreError`."""
    found, missing = [], []
    for one in wanted:
        here = _listed(store, one)
        found += here
        if not here:
            missing.append(Missing(str(one), _absent(one), one.place))
    return _ordered(found, missing)


def _named(pattern: ImagePattern, root: Root) -> list[Asked]:
    """Return the names of an image that a pattern means; by its digest, where that is what the pattern says."""
    if pattern.names is None and pattern.tags is None:
        return [Asked(name.repository, name.tag, root.digest) for name in root.names if pattern.has_digest(root.digest)]
    return [
        Asked(name.repository, None if pattern.digest is not None else name.tag, root.digest)
        for name in root.names
        if meant(pattern, root, name)
    ]


def _no_roots(store: Store, pattern: ImagePattern) -> list[Asked]:
    """Return what `NAME@DIGEST`, or `NAME:TAG`, means that is part of a larger image, or a signature of one."""
    if not (pattern.exact and pattern.paths):
        return []
    repositories = [Repository(*path.split("/", 1)) for path in pattern.paths]
    if pattern.digest is None:
        tag = pattern.text.rpartition(":")[2]
        said = [(repository, store.index.tag(repository, tag)) for repository in repositories]
        return [Asked(repository, tag, one.digest) for repository, one in said if one is not None]
    with Inventory(store.layout) as inventory:
        digests = inventory.beginning(pattern, _PAGE)
    found = []
    for repository in repositories:
        found += [
            Asked(repository, None, digest)
            for digest in digests
            if store.index.standing(repository, digest).media_type is not None
        ]
    return found


def _listed(store: Store, one: Wanted) -> list[Asked]:
    repository = one.repository
    if one.digest is not None:
        return [Asked(repository, str(one.tag) if one.tag else None, one.digest, one.platforms, one.place)]
    if one.tag is not None:
        tags = [str(one.tag)]
    elif one.selection is not None:
        tags = one.selection.choose(_tags(store, repository))
    else:
        return []
    found = [(tag, store.index.tag(repository, tag)) for tag in tags]
    return [Asked(repository, tag, said.digest, one.platforms, one.place) for tag, said in found if said is not None]


def _tags(store: Store, repository: Repository) -> list[str]:
    tags: list[str] = []
    while some := store.index.tags(repository, after=tags[-1] if tags else "", limit=_PAGE):
        tags += some
    return tags


def _absent(one: Wanted) -> str:
    if one.selection is not None:
        return f"no tag of {one.repository} that is here is selected; prefetch it first"
    return "it is not here; prefetch it first"


def _ordered(asked: Iterable[Asked], missing: Iterable[Missing]) -> Question:
    once = {(one.reference, one.digest, one.platforms): one for one in asked}
    return Question(
        tuple(once[key] for key in sorted(once, key=lambda key: (key[0], str(key[1]), str(key[2])))),
        tuple(sorted(set(missing), key=lambda one: (one.reference, one.place))),
    )
