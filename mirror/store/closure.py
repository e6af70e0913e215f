"""What goes with a root, and which roots need something: walks along the edges of the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

_KINDS = 4  # edges that there may be between two nodes


@dataclass(frozen=True, slots=True)
class Closure:
    """Digests, packed."""

    gone: tuple[bytes, ...]  # on disk, and needed by this root only; the root first; nothing where others need the root
    needs: tuple[bytes, ...]  # all that the root and what it needs name, here or not


def closure_of(db: sqlite3.Connection, key: bytes) -> Closure:
    """Find out what would go with the root `key`."""
    top = db.execute("SELECT id FROM node WHERE digest = ?", (key,)).fetchone()[0]
    keys: dict[int, bytes] = {top: key}
    here: list[int] = [top]
    below: dict[int, list[int]] = {}
    stays: list[int] = []
    absent: list[bytes] = []
    for node in here:  # it grows as we go
        below[node] = []
        children = db.execute(
            "SELECT DISTINCT child, digest, taken IS NULL, root > 0 OR pinned FROM edge JOIN node ON node.id = child"
            " WHERE parent = ?",
            (node,),
        )
        for child, digest, missing, stands in children:
            if missing:
                absent.append(digest)
                continue
            below[node].append(child)
            if child not in keys:
                keys[child] = digest
                here.append(child)
                if stands:
                    stays.append(child)
    manifests = sum(1 for children_of in below.values() if children_of)
    stays += [node for node in here if _needed_elsewhere(db, node, keys, manifests)]
    kept = set(stays)
    while stays:
        for child in below[stays.pop()]:
            if child not in kept:
                kept.add(child)
                stays.append(child)
    gone = () if top in kept else tuple(keys[node] for node in here if node not in kept)
    return Closure(gone, (*keys.values(), *absent))


def roots_above(db: sqlite3.Connection, key: bytes, limit: int, *, absent: bool = False) -> list[int]:
    """Return the ids of up to `limit` roots that need `key`, or are it; where it is not here only with `absent`."""
    here = "" if absent else "AND taken IS NOT NULL"
    row = db.execute(f"SELECT id FROM node WHERE digest = ? {here}", (key,)).fetchone()  # noqa: S608  # two constants
    if row is None:
        return []
    seen: set[int] = {row[0]}
    pending: list[int] = [row[0]]
    found: list[int] = []
    while pending and len(found) < limit:
        node = pending.pop()
        if db.execute("SELECT root FROM node WHERE id = ?", (node,)).fetchone()[0]:
            found.append(node)
        above = db.execute(
            "SELECT DISTINCT parent FROM edge JOIN node ON node.id = parent"
            " WHERE child = ? AND taken IS NOT NULL LIMIT ?",
            (node, limit),
        )
        for (parent,) in above:
            if parent not in seen:
                seen.add(parent)
                pending.append(parent)
    return found


def _needed_elsewhere(db: sqlite3.Connection, node: int, within: dict[int, bytes], manifests: int) -> bool:
    """Say whether anything that is here and outside of `within` needs a node, without a look at all that does."""
    parents = db.execute(
        "SELECT parent FROM edge JOIN node ON node.id = parent WHERE child = ? AND taken IS NOT NULL LIMIT ?",
        (node, _KINDS * manifests + 1),
    )
    return any(parent not in within for (parent,) in parents)
