"""Content as a graph: what is on disk, what needs it, and which of it is a root, the unit of eviction.

A root is content on disk that nothing on disk needs, or that an ordinary tag points to. Every change that can alter
that settles the nodes that it touches, in its own transaction, so that the flags are always right. Nothing here looks
at all parents of a shared layer: there may be thousands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.oci.digest import Digest
from mirror.store.packing import pack

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from mirror.store.changes import Checked, Lost, Stored

# Why a parent needs its child, or owns it: then the child goes and stays with it.
NAMES = 0  # the parent is a manifest that names it
SUBJECT = 1  # the child is a manifest whose `subject` is the parent
TAG = 2  # a tag `sha256-HEX…`, where HEX is the parent's, points to the child (cosign; the specification's fallback)
LISTING = 3  # the child is the stored list of the parent's referrers

_AHEAD = 60  # seconds that a clock may differ
ONE_PULL = 600  # seconds after it came in which what asks for content is the pull, or the rollout, that brought it
_HIGHEST = 10_000  # ancestors looked at for a circle
_LEVELS = 16  # that a use climbs; an index, an image, a signature of it, a blob of that are four
_PARENTS = 100  # looked at for the one that was used last

_HEX = 64
REFERRER_TAG = f"sha256-{'[0-9a-f]' * _HEX}*"  # a GLOB
_ORDINARY = f"NOT tag GLOB '{REFERRER_TAG}'"

# As people write it, and so as a pin has it.
_TEXT = """
CASE hex(substr(digest, 1, 1)) WHEN '00' THEN 'sha256:' WHEN '01' THEN 'sha384:' ELSE 'sha512:' END
|| lower(hex(substr(digest, 2)))
"""
_STATE = f"""
SELECT root, pinned, taken IS NOT NULL,
       EXISTS (SELECT 1 FROM edge JOIN node AS parent ON parent.id = edge.parent
               WHERE edge.child = node.id AND parent.taken IS NOT NULL),
       EXISTS (SELECT 1 FROM tag WHERE tag.digest = node.digest AND {_ORDINARY}),
       EXISTS (SELECT 1 FROM tag JOIN pin ON pin.repository = tag.repository AND pin.reference = tag.tag
               WHERE tag.digest = node.digest)
       OR EXISTS (SELECT 1 FROM pin WHERE pin.reference = {_TEXT})
FROM node WHERE id = ?
"""  # noqa: S608  # constants of this module
# The newest are looked at, for ids grow.
_PARENT_USED_LAST = f"""
SELECT node.id FROM (SELECT DISTINCT parent FROM edge WHERE child = ? ORDER BY parent DESC LIMIT {_PARENTS}) AS some
JOIN node ON node.id = some.parent JOIN link ON link.repository = ? AND link.digest = node.digest
WHERE node.taken IS NOT NULL ORDER BY node.used DESC, node.id DESC LIMIT 1
"""  # noqa: S608  # the same


def stored(db: sqlite3.Connection, change: Stored, now: float) -> None:
    """Content is here."""
    at = _not_ahead(change.at, now)
    key = pack(change.digest)
    row = db.execute("SELECT id, taken IS NOT NULL FROM node WHERE digest = ?", (key,)).fetchone()
    node, was_here = (_node(db, key), False) if row is None else row
    db.execute(
        "UPDATE node SET taken = ?2, media_type = coalesce(?3, media_type),"
        " checked = max(checked, CAST(?4 AS INTEGER)), used = CASE WHEN used > ?5 THEN ?4 ELSE max(used, ?4) END,"
        " since = CASE WHEN taken IS NULL THEN ?4 ELSE since END WHERE id = ?1",
        (node, change.taken, change.media_type, at, now + _AHEAD),
    )
    named = {_node(db, pack(digest)) for digest in change.names if digest != change.digest}
    if named:
        above = _ancestors(db, node) if any(_needs_any(db, child) for child in named) else set()
        if not named.isdisjoint(above):
            _open_circle(db, above | {node})
        db.executemany("INSERT OR IGNORE INTO edge VALUES (?, ?, ?)", [(node, child, NAMES) for child in named])
    if change.subject is not None:
        own(db, pack(change.subject), pack(change.digest), SUBJECT)
    settle(db, {node} | (named if was_here else _children(db, node)))


def lost(db: sqlite3.Connection, change: Lost) -> None:
    """Content is not here any more. What its content said stays known: it may be healed."""
    node = find(db, pack(change.digest))
    if node is not None:
        take_away(db, node)


def used(db: sqlite3.Connection, repository: int, key: bytes, at: float, now: float) -> bytes | None:
    """Content was asked for: so was the image that needs it, of that repository, that was used last.

    Return the digest, packed, of the root that this makes younger; None where there is none.
    """
    at = _not_ahead(at, now)
    node = find(db, key)
    for _ in range(_LEVELS):
        if node is None:
            break
        db.execute(
            f"UPDATE node SET used = ?2, again = again OR ?2 > since + {ONE_PULL}"  # noqa: S608  # a constant
            " WHERE id = ?1 AND taken IS NOT NULL AND (used < ?2 OR used > ?3)",
            (node, at, now + _AHEAD),
        )
        digest, root = db.execute("SELECT digest, root FROM node WHERE id = ?", (node,)).fetchone()
        if root:
            return bytes(digest)
        row = db.execute(_PARENT_USED_LAST, (node, repository)).fetchone()
        node = None if row is None else int(row[0])
    return None


def checked(db: sqlite3.Connection, change: Checked, now: float) -> None:
    """Content was read and is right."""
    at = int(_not_ahead(change.at, now))
    db.execute("UPDATE node SET checked = ? WHERE digest = ?", (at, pack(change.digest)))


def own(db: sqlite3.Connection, parent: bytes, child: bytes, kind: int) -> None:
    """Let `child` go and stay with `parent`, unless that would make a circle, in which nothing would be a root."""
    if parent == child:
        return
    upper, lower = _node(db, parent), _node(db, child)
    if _needs_any(db, lower):
        above = _ancestors(db, upper)
        if lower in above or len(above) >= _HIGHEST:
            return
    db.execute("INSERT OR IGNORE INTO edge VALUES (?, ?, ?)", (upper, lower, kind))


def disown(db: sqlite3.Connection, parent: bytes, child: bytes, kind: int) -> None:
    """End what `own` began."""
    upper, lower = find(db, parent), find(db, child)
    db.execute("DELETE FROM edge WHERE parent = ? AND child = ? AND kind = ?", (upper, lower, kind))
    for node in (upper, lower):
        if node is not None:
            drop_unnamed(db, node)


def referred(tag: str) -> bytes | None:
    """Return the digest, packed, of what a tag `sha256-HEX…` refers to; None for an ordinary tag."""
    prefix, _, rest = tag.partition("-")
    hexadecimal = rest[:_HEX]
    if prefix != "sha256" or len(hexadecimal) < _HEX or not set(hexadecimal) <= set("0123456789abcdef"):
        return None
    return pack(Digest(prefix, hexadecimal))


def find(db: sqlite3.Connection, key: bytes) -> int | None:
    """Return the id of a digest's node."""
    row = db.execute("SELECT id FROM node WHERE digest = ?", (key,)).fetchone()
    return None if row is None else int(row[0])


def is_here(db: sqlite3.Connection, key: bytes) -> bool:
    """Say whether content is on disk."""
    return db.execute("SELECT 1 FROM node WHERE digest = ? AND taken IS NOT NULL", (key,)).fetchone() is not None


def take_away(db: sqlite3.Connection, node: int) -> None:
    """Content is not on disk any more."""
    db.execute("UPDATE node SET taken = NULL, used = 0, again = 0 WHERE id = ?", (node,))
    settle(db, {node} | _children(db, node))


def remove(db: sqlite3.Connection, gone: list[int]) -> None:
    """Content is gone for good, and what it said with it."""
    around: set[int] = set()
    for node in gone:
        below = _children(db, node)
        if below:
            around |= below
            db.execute("DELETE FROM edge WHERE parent = ? AND kind = ?", (node, NAMES))
        above = [row[0] for row in db.execute("SELECT parent FROM edge WHERE child = ? AND kind = ?", (node, SUBJECT))]
        if above:
            around.update(above)
            db.execute("DELETE FROM edge WHERE child = ? AND kind = ?", (node, SUBJECT))
    clear = "UPDATE node SET taken = NULL, used = 0, again = 0, root = 0, pinned = 0 WHERE id = ?"
    db.executemany(clear, [(node,) for node in gone])
    settle(db, around.difference(gone))
    for node in around.union(gone):
        drop_unnamed(db, node)


def drop_unnamed(db: sqlite3.Connection, node: int) -> None:
    """Forget a node that is not here, and that nothing names."""
    db.execute(
        "DELETE FROM node WHERE id = ?1 AND taken IS NULL AND NOT EXISTS (SELECT 1 FROM edge WHERE child = ?1)"
        " AND NOT EXISTS (SELECT 1 FROM edge WHERE parent = ?1)",
        (node,),
    )


def settle(db: sqlite3.Connection, nodes: Iterable[int]) -> None:
    """Make the flags of these nodes right."""
    for node in nodes:
        row = db.execute(_STATE, (node,)).fetchone()
        if row is None:
            continue
        was_root, was_pinned, here, owned, tagged, pinned = row
        root = 0 if not here or (owned and not tagged) else 2 if owned else 1
        if (root, pinned) != (was_root, was_pinned):
            db.execute("UPDATE node SET root = ?, pinned = ? WHERE id = ?", (root, pinned, node))


def settle_digests(db: sqlite3.Connection, keys: Iterable[bytes]) -> None:
    """Make the flags right of those digests that have a node."""
    settle(db, [node for key in keys if (node := find(db, key)) is not None])


def _node(db: sqlite3.Connection, key: bytes) -> int:
    known = find(db, key)
    if known is not None:
        return known
    return int(db.execute("INSERT INTO node (digest) VALUES (?)", (key,)).lastrowid or 0)


def _children(db: sqlite3.Connection, node: int) -> set[int]:
    return {row[0] for row in db.execute("SELECT child FROM edge WHERE parent = ?", (node,))}


def _needs_any(db: sqlite3.Connection, node: int) -> bool:
    return db.execute("SELECT 1 FROM edge WHERE parent = ? LIMIT 1", (node,)).fetchone() is not None


def _ancestors(db: sqlite3.Connection, node: int) -> set[int]:
    seen: set[int] = set()
    pending = [node]
    while pending and len(seen) < _HIGHEST:
        for (parent,) in db.execute("SELECT parent FROM edge WHERE child = ? LIMIT ?", (pending.pop(), _HIGHEST)):
            if parent not in seen:
                seen.add(parent)
                pending.append(parent)
    return seen


def _open_circle(db: sqlite3.Connection, nodes: set[int]) -> None:
    """Let nobody own anybody among these: names alone make no circle, for a digest cannot contain itself."""
    cut = [
        (parent, child, kind)
        for child in nodes
        for parent, kind in db.execute("SELECT parent, kind FROM edge WHERE child = ? AND kind <> ?", (child, NAMES))
        if parent in nodes
    ]
    db.executemany("DELETE FROM edge WHERE parent = ? AND child = ? AND kind = ?", cut)
    settle(db, {child for _, child, _ in cut})


def _not_ahead(at: float, now: float) -> float:
    return now if at > now + _AHEAD else at
