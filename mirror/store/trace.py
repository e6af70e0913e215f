"""Why content is here: what needs it, who holds it, and when it would go."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from mirror.store.order import before
from mirror.store.packing import pack, unpack

if TYPE_CHECKING:
    import sqlite3

    from mirror.oci.digest import Digest

_MOST_WAYS = 20  # that are told
_MOST_SEEN = 1000  # that are looked at: thousands of images may share a layer
_MOST_LINKS = 100


@dataclass(frozen=True, slots=True)
class Trace:
    """What the index knows of one digest. Times are seconds since the epoch, 0 where there is none."""

    digest: Digest
    taken: int | None  # bytes on disk; None: it is not here
    media_type: str | None  # None: a blob, or not known
    used: float
    checked: float
    root: bool
    pinned: bool
    names: int  # how many things it needs, if it is a manifest
    lacks: int  # of those, what is not here
    repositories: tuple[str, ...]  # where it is linked, at most 100
    public: tuple[str, ...]  # upstreams that gave it without credentials
    ways: dict[int, tuple[Digest, ...]]  # nodes of roots that need it, and what lies between, from the root down
    more_ways: bool  # than are told
    rank: tuple[int, int] | None  # how many roots would go before it, of how many; None: it is none, or stays


def trace(db: sqlite3.Connection, digest: Digest) -> Trace:
    """Find out all that is known of a digest."""
    key = pack(digest)
    node, taken, media_type, used, checked, root, pinned = db.execute(
        "SELECT id, taken, media_type, used, checked, root, pinned FROM node WHERE digest = ?", (key,)
    ).fetchone() or (None, None, None, 0.0, 0.0, 0, 0)
    names, lacks = db.execute(
        "SELECT count(*), coalesce(sum(taken IS NULL), 0) FROM edge JOIN node ON node.id = child"
        " WHERE parent = ? AND kind = 0",
        (node,),
    ).fetchone()
    linked = db.execute(
        "SELECT path FROM link JOIN repository ON repository.id = repository WHERE digest = ? ORDER BY path LIMIT ?",
        (key, _MOST_LINKS),
    )
    public = db.execute("SELECT namespace FROM public WHERE digest = ? ORDER BY namespace", (key,))
    ways, more = _ways(db, node)
    return Trace(
        digest,
        taken,
        media_type,
        used,
        checked,
        bool(root),
        bool(pinned),
        names,
        lacks,
        tuple(path for (path,) in linked),
        tuple(namespace for (namespace,) in public),
        ways,
        more,
        _rank(db, node, used) if node is not None and root == 1 and not pinned else None,
    )


def _ways(db: sqlite3.Connection, node: int | None) -> tuple[dict[int, tuple[Digest, ...]], bool]:
    """Return the roots that need a node, nearest first, with what lies between, and whether there are more."""
    found: dict[int, tuple[Digest, ...]] = {}
    if node is None:
        return found, False
    below: dict[int, int] = {node: 0}  # the next on the way down
    pending = [node]
    for one in pending:  # it grows as we go
        query = (
            "SELECT DISTINCT node.id, root FROM edge JOIN node ON node.id = edge.parent"
            " WHERE edge.child = ? AND taken IS NOT NULL"
        )
        for parent, root in islice(db.execute(query, (one,)), _MOST_SEEN):
            if parent in below:
                continue
            below[parent] = one
            pending.append(parent)
            if root and len(found) == _MOST_WAYS:
                return found, True
            if root:
                found[parent] = _between(db, parent, below, node)
        if len(pending) > _MOST_SEEN:
            return found, True
    return found, False


def _between(db: sqlite3.Connection, root: int, below: dict[int, int], node: int) -> tuple[Digest, ...]:
    way = []
    step = below[root]
    while step != node:
        way.append(unpack(db.execute("SELECT digest FROM node WHERE id = ?", (step,)).fetchone()[0]))
        step = below[step]
    return tuple(way)


def _rank(db: sqlite3.Connection, node: int, used: float) -> tuple[int, int]:
    """Return how many roots would go before this one, and how many there are that may go."""
    where = "FROM node WHERE root = 1 AND NOT pinned"
    [(again,)] = db.execute("SELECT again FROM node WHERE id = ?", (node,))
    [(index,)] = db.execute(f"SELECT count(*) {where} AND again = ? AND used < ?", (again, used))
    classes = dict(db.execute(f"SELECT again, count(*) {where} GROUP BY again"))
    once, others = classes.get(0, 0), classes.get(1, 0)
    return before(index, once=once, again=others, is_again=bool(again)), once + others
