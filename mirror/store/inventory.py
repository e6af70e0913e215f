"""What is in the store, as people ask for it: images by their names, with what each takes.

An inventory is one reading of the index: all that it tells is of one moment. The log of the index cannot shrink while
it is open, so it is closed before anything is printed.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Self

from mirror.errors import StoreError
from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from mirror.store.changes import SETTLED
from mirror.store.database import connect
from mirror.store.extent import Census, Extent, Nearby
from mirror.store.packing import pack, unpack
from mirror.store.trace import Trace, trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    from mirror.oci.pattern import ImagePattern
    from mirror.store.extent import Measure
    from mirror.store.layout import Layout

_MANY = 300  # images that are looked at one by one; for more it is quicker to read everything
_FEW_REPOSITORIES = 500  # likewise
_CACHE = 64 * 1024  # KiB of pages: the whole index is read, some of it again and again
_BEGIN = """
PRAGMA temp_store = MEMORY;
BEGIN;
CREATE TEMP TABLE chosen (digest BLOB PRIMARY KEY, id INTEGER NOT NULL, media_type TEXT, used REAL NOT NULL,
                          pinned INTEGER NOT NULL, root INTEGER NOT NULL) WITHOUT ROWID;
SELECT surveyed FROM total;
"""
_CHOOSE = (
    "INSERT OR IGNORE INTO chosen SELECT node.digest, node.id, node.media_type, node.used, node.pinned, node.root FROM"
)
_HEX_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_IS_ROOT = "node.root > 0 AND node.taken IS NOT NULL"


class Name(NamedTuple):  # there are hundreds of thousands: a tuple is made in a third of the time
    """One name of an image. `tag` is None in a repository that holds it under its digest alone."""

    repository: Repository
    tag: str | None
    settled: bool = False  # it was carried in: upstream is not asked for it


class Root(NamedTuple):
    """A root: an image, or, where `media_type` is None, content that belongs to none. `used` counts as in `Unit`."""

    node: int  # its id in this inventory's index, and in no later one
    digest: Digest
    media_type: str | None
    used: float
    pinned: bool
    needed: bool  # by another image too, which names it or owns it
    names: tuple[Name, ...]  # in order

    @property
    def title(self) -> str:
        """One name for a person: the first, or the digest."""
        return self.title_of(self.names[0]) if self.names else str(self.digest)

    def title_of(self, name: Name) -> str:
        """One of its names for a person: `NAMESPACE/NAME:TAG`, or `NAMESPACE/NAME@DIGEST`."""
        return f"{name.repository}:{name.tag}" if name.tag else f"{name.repository}@{self.digest}"


@dataclass(frozen=True, slots=True)
class Pin:
    """Somebody's mark at `at`. `digest` is what it holds now, None where nothing of that name is here."""

    repository: Repository
    reference: str
    at: float
    digest: Digest | None

    def __str__(self) -> str:
        return f"{self.repository}{'@' if ':' in self.reference else ':'}{self.reference}"


class Inventory:
    """One reading of the index. Every method blocks, and raises `StoreError` where the index cannot be read."""

    def __init__(self, layout: Layout) -> None:
        """Read the index as it is now; raise `StoreError`."""
        self._path = layout.index
        self._repositories: dict[int, Repository] = {}
        try:
            self._db = connect(layout)
            self._db.execute(f"PRAGMA cache_size = -{_CACHE}")
            self._db.executescript(_BEGIN)
        except sqlite3.Error as error:
            raise self._refusal(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        if isinstance(error, sqlite3.Error):
            raise self._refusal(error) from error

    def images(self, patterns: Sequence[ImagePattern]) -> list[Root]:
        """Return the images of which a name, or the digest, is meant by any pattern; none: all images."""
        self._choose(patterns)
        chosen = [root for root in self._chosen() if root.media_type is not None]
        if not patterns:
            return chosen
        return [root for root in chosen if any(matches(pattern, root) for pattern in patterns)]

    def tagged(self, repository: Repository, tag: str) -> Digest | None:
        """Return what a tag is, here or not."""
        query = "SELECT digest FROM tag JOIN repository ON repository.id = repository WHERE path = ? AND tag = ?"
        rows = self._db.execute(query, (str(repository), tag)).fetchall()
        return unpack(rows[0][0]) if rows else None

    def trace(self, digest: Digest) -> Trace:
        """Return all that is known of a digest."""
        return trace(self._db, digest)

    def roots(self, nodes: Iterable[int]) -> list[Root]:
        """Return the roots that have these ids."""
        self._db.execute("DELETE FROM chosen")
        self._db.executemany(f"{_CHOOSE} node WHERE node.id = ? AND {_IS_ROOT}", [(node,) for node in nodes])
        return self._chosen()

    def needed(self, roots: Iterable[Root]) -> list[Digest]:
        """Return what is here of all that some roots need, themselves included, each once."""
        query = "SELECT digest FROM node WHERE id = ?"
        nodes = sorted(self.nearby.needed(root.node for root in roots))
        return [unpack(self._db.execute(query, (node,)).fetchone()[0]) for node in nodes]

    def loose(self) -> list[Root]:
        """Return what belongs to no image: blobs that no manifest here needs, and lists of referrers likewise."""
        self._db.execute("DELETE FROM chosen")
        self._db.execute(f"{_CHOOSE} node WHERE {_IS_ROOT} AND node.media_type IS NULL")
        return self._chosen()

    def pins(self) -> list[Pin]:
        """Return all pins, in order of names."""
        query = (
            "SELECT pin.repository, pin.reference, pin.at, tag.digest, node.taken FROM pin"
            " LEFT JOIN tag ON tag.repository = pin.repository AND tag.tag = pin.reference"
            " LEFT JOIN node ON node.digest = tag.digest"
        )
        found = []
        rows = self._db.execute(query).fetchall()
        self._know(row[0] for row in rows)
        for at, reference, when, key, taken in rows:
            here = unpack(key) if key is not None and taken is not None else None
            if ":" in reference:
                digest = Digest.parse(reference)
                here = digest if self._taken(digest) is not None else None
            found.append(Pin(self._repositories[at], reference, when, here))
        return sorted(found, key=str)

    def measure(self, many: int) -> Measure:
        """Return what tells the extents of `many` roots soonest."""
        return Census(self._db) if many > _MANY else self.nearby

    @cached_property
    def nearby(self) -> Nearby:
        """What tells the extents of a few roots, and the like of others."""
        return Nearby(self._db)

    def lacking(self, manifest: Digest) -> tuple[bool, int, int]:
        """See `Nearby.lacking`."""
        node = self.node(manifest)
        return (False, 0, 0) if node is None else self.nearby.lacking(node)

    def users(self, held: Mapping[Digest, set[int]]) -> dict[int, set[int]]:
        """Return for the nodes of roots who uses them, from who holds which content."""
        found: dict[int, set[int]] = {}
        for digest, pids in held.items():
            node = self.node(digest)
            for root in self.nearby.roots_above(node) if node is not None else ():
                found.setdefault(root, set()).update(pids)
        return found

    def node(self, digest: Digest) -> int | None:
        """Return the id of content that is here or named."""
        rows = self._db.execute("SELECT id FROM node WHERE digest = ?", (pack(digest),)).fetchall()
        return int(rows[0][0]) if rows else None

    def beginning(self, pattern: ImagePattern, limit: int) -> list[Digest]:
        """Return up to `limit` digests, here or only known, that a pattern of a digest alone means."""
        found = []
        for first, last in _ranges(pattern):
            for table in ("node", "link"):
                query = f"SELECT DISTINCT digest FROM {table} WHERE digest BETWEEN ? AND ? LIMIT ?"  # noqa: S608
                found += [unpack(key) for (key,) in self._db.execute(query, (first, last, limit))]
        return [digest for digest in dict.fromkeys(found) if pattern.has_digest(digest)][:limit]

    def extents(self, groups: Sequence[Sequence[Root]]) -> list[Extent]:
        """Return the extent of each group of roots; see `Measure.extents`."""
        nodes = [[root.node for root in group] for group in groups]
        return self.measure(sum(map(len, nodes))).extents(nodes)

    def _choose(self, patterns: Sequence[ImagePattern]) -> None:
        """Put all roots that patterns may mean, and perhaps some more, into the table `chosen`."""
        self._db.execute("DELETE FROM chosen")
        for pattern in patterns:
            for first, last in _ranges(pattern):
                where = f"{_IS_ROOT} AND node.digest BETWEEN ? AND ?"
                self._db.execute(f"{_CHOOSE} node WHERE {where}", (first, last))
        by_name = [pattern for pattern in patterns if pattern.digest is None]
        if patterns and not by_name:
            return
        meant = self._meant(by_name)
        if not patterns or len(meant) > _FEW_REPOSITORIES:
            self._db.execute(f"{_CHOOSE} node WHERE {_IS_ROOT} AND node.media_type IS NOT NULL")
            return
        for table in ("tag", "link"):
            joined = f"{table} CROSS JOIN node ON node.digest = {table}.digest"
            query = f"{_CHOOSE} {joined} WHERE {table}.repository = ? AND {_IS_ROOT}"
            self._db.executemany(query, [(at,) for at in meant])

    def _meant(self, patterns: Sequence[ImagePattern]) -> list[int]:
        """Return the ids of repositories that patterns name."""
        if all(pattern.name is not None for pattern in patterns):
            paths = [(path,) for pattern in patterns for path in pattern.paths]
            return [
                at for path in paths for (at,) in self._db.execute("SELECT id FROM repository WHERE path = ?", path)
            ]
        rows = self._db.execute("SELECT id, path FROM repository")
        return [at for at, path in rows if any(pattern.has_path(path) for pattern in patterns)]

    def _chosen(self) -> list[Root]:
        names = self._names()
        query = "SELECT id, digest, media_type, used, pinned, root FROM chosen"
        return [
            Root(node, unpack(key), media_type, used, bool(pinned), level > 1, tuple(names.get(key, ())))
            for node, key, media_type, used, pinned, level in self._db.execute(query)
        ]

    def _names(self) -> dict[bytes, list[Name]]:
        """Return the names of all chosen roots, by their keys: tags first, each in order."""
        [(chosen,)] = self._db.execute("SELECT count(*) FROM chosen")
        tables = "tag" if chosen > _MANY else "chosen CROSS JOIN tag USING (digest)"
        query = f"SELECT digest, repository, tag, at FROM {tables} ORDER BY repository, tag"  # noqa: S608  # constants
        tags = self._db.execute(query).fetchall()
        query = "SELECT digest, repository FROM chosen CROSS JOIN link USING (digest) ORDER BY digest, repository"
        links = self._db.execute(query).fetchall()
        self._know(chain((row[1] for row in tags), (row[1] for row in links)))
        repositories = self._repositories
        found: dict[bytes, list[Name]] = {}
        for key, at, tag, said in tags:
            name = Name(repositories[at], tag, said >= SETTLED)
            if key in found:
                found[key].append(name)
            else:
                found[key] = [name]
        for key, at in links:
            repository = repositories[at]
            names = found.get(key)
            if names is None:
                found[key] = [Name(repository, None)]
            elif names[0][0] is not repository and all(name.repository is not repository for name in names):
                names.append(Name(repository, None))
        return found

    def _know(self, ids: Iterable[int]) -> None:
        """See that these repositories are known."""
        lacking = set(ids).difference(self._repositories)
        query = "SELECT id, path FROM repository"
        if len(lacking) > _FEW_REPOSITORIES:
            rows = self._db.execute(query).fetchall()
        else:
            rows = [row for at in lacking for row in self._db.execute(f"{query} WHERE id = ?", (at,))]
        self._repositories.update((at, _repository(path)) for at, path in rows if at in lacking)

    def _refusal(self, error: sqlite3.Error) -> StoreError:
        return StoreError(
            f"the index {self._path} cannot be read: {error}; a damaged one is made again when the mirror starts"
        )

    def _taken(self, digest: Digest) -> int | None:
        rows = self._db.execute("SELECT taken FROM node WHERE digest = ?", (pack(digest),)).fetchall()
        return rows[0][0] if rows else None


def matches(pattern: ImagePattern, root: Root) -> bool:
    """Say whether a pattern means an image."""
    if pattern.names is None and pattern.tags is None:
        return pattern.has_digest(root.digest)
    return any(meant(pattern, root, name) for name in root.names)


def meant(pattern: ImagePattern, root: Root, name: Name) -> bool:
    """Say whether a pattern means an image by one of its names."""
    if not pattern.has_digest(root.digest) or not pattern.has_repository(name.repository):
        return False
    return pattern.has_untagged if name.tag is None else pattern.has_tag(name.tag)


def grouped(roots: Iterable[Root], *, by_upstream: bool) -> dict[str, list[Root]]:
    """Group roots by the repositories, or upstreams, that hold them: one may be in several. "" has what none holds."""
    groups: dict[str, list[Root]] = {}
    for root in roots:
        held = [name.repository.namespace if by_upstream else str(name.repository) for name in root.names]
        for group in dict.fromkeys(held or [""]):
            groups.setdefault(group, []).append(root)
    return groups


def _ranges(pattern: ImagePattern) -> Iterator[tuple[bytes, bytes]]:
    """Yield the first and the last key that a pattern's digest leaves possible, for each algorithm."""
    if pattern.digest is None:
        return
    algorithm, colon, digits = pattern.digest.rpartition(":")
    for known, length in _HEX_LENGTHS.items():
        if (not colon or known == algorithm) and len(digits) <= length:
            yield tuple(pack(Digest(known, digits.ljust(length, fill))) for fill in "0f")  # type: ignore[misc]  # two


def _repository(path: str) -> Repository:
    namespace, _, name = path.partition("/")
    return Repository(namespace, name)
