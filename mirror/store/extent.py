"""How much of the disk images take: what each needs, and what would go with it.

Two ways to the same figures. `Nearby` reads the graph around a few images as it goes. `Census` reads all of it first,
and is the quicker way where thousands are asked for.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mirror.oci.mediatype import INDEXES
from mirror.store.nodes import NAMES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

_NOBODY, _SEVERAL = -1, -2
_MOST_ABOVE = 100  # that need one
_DEEPEST = 8  # indexes in indexes; nobody builds them, a stranger may

# All nodes that have to be looked at: roots, manifests, whatever needs another, is needed by several, or is owned. The
# rest are leaves that one node needs, and that go and stay with it: blobs of one image, nearly all that there is.
_KNOW = (
    "DROP TABLE IF EXISTS temp.known",
    "CREATE TEMP TABLE known (id INTEGER PRIMARY KEY)",
    "INSERT INTO known SELECT id FROM node WHERE root > 0 OR pinned OR media_type IS NOT NULL",
    "INSERT OR IGNORE INTO known SELECT DISTINCT parent FROM edge",
    "INSERT OR IGNORE INTO known SELECT child FROM edge GROUP BY child HAVING count(*) > 1",
    f"INSERT OR IGNORE INTO known SELECT child FROM edge WHERE kind <> {NAMES}",  # noqa: S608  # a constant
)
_KNOWN = """
SELECT id, coalesce(taken, -1), root > 0 OR pinned, media_type
FROM known CROSS JOIN node USING (id) ORDER BY id
"""
_SUMS = """
SELECT parent, count(*), count(taken), coalesce(sum(taken), 0)
FROM edge CROSS JOIN node ON node.id = edge.child GROUP BY parent
"""
_EDGES = "SELECT parent, child, kind FROM known CROSS JOIN edge ON edge.child = known.id"


class Extent(NamedTuple):
    """What one image, or several together, take: bytes on disk, and files."""

    size: int  # all that they need
    own: int  # of that, what nothing else needs: it would be freed
    files: int


class Measure(Protocol):
    """Tells what roots take. Nodes go by their ids in the index."""

    def extents(self, groups: Sequence[Sequence[int]]) -> list[Extent]:
        """Return the extent of each group of roots. What two groups need, or a root of none, is no group's own."""
        ...

    def whole(self, root: int) -> bool:
        """Say whether all that a manifest names is here; of an index, all of one of its manifests."""
        ...


class Nearby:
    """The graph around a few roots."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._nodes: dict[int, tuple[int, bool, bool]] = {}
        self._children: dict[int, list[tuple[int, int]]] = {}

    def extents(self, groups: Sequence[Sequence[int]]) -> list[Extent]:
        """See `Measure.extents`."""
        return [self._extent(group) for group in groups]

    def needed(self, roots: Iterable[int]) -> set[int]:
        """Return what of the needs of some roots is here, themselves included."""
        return self._below(root for root in roots if self._taken(root) >= 0)

    def goes(self, roots: Sequence[int]) -> set[int]:
        """Return what would go with some roots: what of their needs nothing else that is here needs."""
        needed, victims = self.needed(roots), set(roots)
        stays = [
            node
            for node in needed
            if (self._node(node)[2] and node not in victims) or any(p not in needed for p in self._parents(node))
        ]
        return needed - self._below(stays)

    def whole(self, root: int) -> bool:
        """See `Measure.whole`."""
        return self._whole(root, _DEEPEST)

    def lacking(self, manifest: int) -> tuple[bool, int, int]:
        """Say whether a manifest is here, how many of the things that it names are not, and how many it names."""
        named = self._named(manifest)
        return self._taken(manifest) >= 0, sum(self._taken(child) < 0 for child in named), len(named)

    def roots_above(self, node: int) -> set[int]:
        """Return the roots that need a node, or none where there are too many to say that it is used for one."""
        found: set[int] = set()
        seen, pending = {node}, [node]
        while pending and len(seen) <= _MOST_ABOVE:
            one = pending.pop()
            if self._node(one)[2]:
                found.add(one)
            for parent in islice(self._parents(one), _MOST_ABOVE):
                if parent not in seen:
                    seen.add(parent)
                    pending.append(parent)
        return found if len(seen) <= _MOST_ABOVE else set()

    def _extent(self, roots: Sequence[int]) -> Extent:
        needed = self.needed(roots)
        goes = self.goes(roots)
        return Extent(sum(map(self._taken, needed)), sum(map(self._taken, goes)), len(needed))

    def _whole(self, node: int, depth: int) -> bool:
        named = self._named(node)
        if self._node(node)[1]:
            return depth > 0 and any(self._taken(child) >= 0 and self._whole(child, depth - 1) for child in named)
        return all(self._taken(child) >= 0 for child in named)

    def _below(self, tops: Iterable[int]) -> set[int]:
        found = set(tops)
        pending = list(found)
        while pending:
            for child, _ in self._edges(pending.pop()):
                if child not in found and self._taken(child) >= 0:
                    found.add(child)
                    pending.append(child)
        return found

    def _named(self, node: int) -> list[int]:
        return [child for child, kind in self._edges(node) if kind == NAMES]

    def _edges(self, node: int) -> list[tuple[int, int]]:
        known = self._children.get(node)
        if known is None:
            query = "SELECT child, kind FROM edge WHERE parent = ?"
            known = self._children[node] = self._db.execute(query, (node,)).fetchall()
        return known

    def _parents(self, node: int) -> Iterator[int]:
        query = (
            "SELECT edge.parent FROM edge CROSS JOIN node ON node.id = edge.parent"
            " WHERE edge.child = ? AND node.taken IS NOT NULL"
        )
        return (int(parent) for (parent,) in self._db.execute(query, (node,)))

    def _taken(self, node: int) -> int:
        return self._node(node)[0]

    def _node(self, node: int) -> tuple[int, bool, bool]:
        """Return the bytes on disk, -1 where it is not here; whether it is an index; whether it stays by itself."""
        known = self._nodes.get(node)
        if known is None:
            query = "SELECT coalesce(taken, -1), media_type, root > 0 OR pinned FROM node WHERE id = ?"
            taken, media_type, root = self._db.execute(query, (node,)).fetchone()
            known = self._nodes[node] = (taken, media_type in INDEXES, bool(root))
        return known


class Census:
    """The whole graph: what SQLite can sum up is not brought here one by one."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Read it: two seconds for 100,000 images of 1,000,000 blobs."""
        for statement in _KNOW:  # `executescript` would end the transaction
            db.execute(statement)
        rows = db.execute(_KNOWN).fetchall()
        self._ranks = {row[0]: rank for rank, row in enumerate(rows)}
        self._taken = [row[1] for row in rows]  # -1: it is not here
        self._stay = [rank for rank, row in enumerate(rows) if row[2] and row[1] >= 0]
        self._indexes = frozenset(rank for rank, row in enumerate(rows) if row[3] in INDEXES)
        self._weight = [max(0, taken) for taken in self._taken]  # with its leaves
        self._files = [int(taken >= 0) for taken in self._taken]
        self._lacks = [0] * len(rows)  # of what it names
        self._leaves = [0] * len(rows)  # that it names and that are here
        self._children: dict[int, list[int]] = {}  # that are here and no leaves
        self._named: dict[int, list[int]] = {}  # of those, what an index names
        self._sum_up(db)

    def extents(self, groups: Sequence[Sequence[int]]) -> list[Extent]:
        """See `Measure.extents`."""
        whose = [_NOBODY] * len(self._taken)
        seen = [_NOBODY] * len(self._taken)
        ranked = [[self._ranks[root] for root in roots] for roots in groups]
        figures = [self._visit(number, roots, whose, seen) for number, roots in enumerate(ranked)]
        self._claim(ranked, whose)
        own = [0] * len(ranked)
        for weight, number in zip(self._weight, whose, strict=True):
            if number >= 0:
                own[number] += weight
        return [Extent(size, mine, files) for (size, files), mine in zip(figures, own, strict=True)]

    def whole(self, root: int) -> bool:
        """See `Measure.whole`."""
        return self._whole(self._ranks[root], _DEEPEST)

    def _sum_up(self, db: sqlite3.Connection) -> None:
        """Count leaves: all that a node needs, less what is known one by one."""
        ranks, taken, weight, files, lacks = self._ranks, self._taken, self._weight, self._files, self._lacks
        leaves, children = self._leaves, self._children
        for parent, needs, here, size in db.execute(_SUMS):
            rank = ranks[parent]
            weight[rank] += size
            files[rank] += here
            lacks[rank] = needs - here
            leaves[rank] = here
        for parent, child, kind in db.execute(_EDGES):
            rank, below = ranks[parent], ranks[child]
            if taken[below] < 0:
                lacks[rank] -= kind != NAMES
                continue
            weight[rank] -= taken[below]
            files[rank] -= 1
            leaves[rank] -= 1
            if rank in children:
                children[rank].append(below)
            else:
                children[rank] = [below]
            if kind == NAMES and rank in self._indexes:
                self._named.setdefault(rank, []).append(below)

    def _visit(self, number: int, roots: Iterable[int], whose: list[int], seen: list[int]) -> tuple[int, int]:
        """Go through all that some roots need, once; return its bytes and files."""
        weight, files, children = self._weight, self._files, self._children
        size = count = 0
        pending = [root for root in roots if self._taken[root] >= 0]
        while pending:
            node = pending.pop()
            if seen[node] == number:
                continue
            seen[node] = number
            size += weight[node]
            count += files[node]
            whose[node] = number if whose[node] == _NOBODY else _SEVERAL
            if node in children:
                pending += children[node]
        return size, count

    def _claim(self, groups: Iterable[Iterable[int]], whose: list[int]) -> None:
        """Take what others need than those groups away from these."""
        members = {root for roots in groups for root in roots}
        pending = [node for node in self._stay if node not in members]
        while pending:
            node = pending.pop()
            if whose[node] != _SEVERAL:
                whose[node] = _SEVERAL
                pending += self._children.get(node, ())

    def _whole(self, node: int, depth: int) -> bool:
        if node not in self._indexes:
            return self._lacks[node] == 0
        if depth <= 0:
            return False
        return self._leaves[node] > 0 or any(self._whole(child, depth - 1) for child in self._named.get(node, ()))
