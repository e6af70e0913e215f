"""What may be evicted, in which order, and what goes with it.

The unit is the root (`mirror.store.nodes`): an image with its children, their blobs and what refers to them.
"""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirror.oci.mediatype import INDEXES
from mirror.store import nodes
from mirror.store.changes import Removed
from mirror.store.closure import closure_of, roots_above
from mirror.store.damage import refusal
from mirror.store.database import connect, write
from mirror.store.journal import Journal
from mirror.store.packing import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository
    from mirror.store.closure import Closure
    from mirror.store.layout import Layout

    Hold = Callable[[Sequence[Digest], Sequence[Digest]], bool]

_NAMES = 10  # of what is removed, for the log


@dataclass(frozen=True, slots=True)
class Unit:
    """A root."""

    digest: Digest
    media_type: str | None  # of a manifest; None: a blob that belongs to no image
    used: float  # seconds since the epoch
    pinned: bool
    taken: int  # bytes on disk of its own file only
    owned: bool = False  # other content that is here needs it too: removing it would free nothing


@dataclass(frozen=True, slots=True)
class Content:
    """One file."""

    digest: Digest
    taken: int  # bytes on disk
    media_type: str | None
    checked: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Namer:
    """An index that names a manifest. `tag` is one of those that point to it, and was said at `at`."""

    digest: Digest
    media_type: str
    tag: str | None
    at: float | None  # seconds since the epoch, or `SETTLED`


@dataclass(frozen=True, slots=True)
class Removal:
    """What a root took along."""

    unit: Unit
    gone: tuple[Content, ...]
    names: tuple[str, ...]  # `NAMESPACE/NAME:TAG`, or where it had no tag `NAMESPACE/NAME@DIGEST`; at most 10


@dataclass(frozen=True, slots=True)
class Totals:
    """The store in figures."""

    images: int  # roots that are manifests
    contents: int  # files
    taken: int  # bytes on disk of all content
    pinned_taken: int  # of that, what pinned images need
    oldest: float | None  # when that was used which nobody has asked for the longest, in seconds since the epoch
    once: int = 0  # roots that may go and were asked for in the pull only with which they came
    again: int = 0  # roots that may go and were asked for again


_UNIT = "SELECT digest, media_type, used, pinned, taken, root FROM node"
_CONTENT = "SELECT digest, taken, media_type, checked FROM node"
_TAGS = """
SELECT path || ':' || tag FROM tag JOIN repository ON repository.id = repository
WHERE digest = ? ORDER BY path, tag LIMIT ?
"""
_LINKS = """
SELECT path || '@' || ? FROM link JOIN repository ON repository.id = repository WHERE digest = ? ORDER BY path LIMIT ?
"""
_NAMERS = """
SELECT parent.digest, parent.media_type, tag.tag, max(tag.at)
FROM node JOIN edge ON edge.child = node.id AND edge.kind = 0
JOIN node AS parent ON parent.id = edge.parent AND parent.taken IS NOT NULL AND parent.media_type IN (?, ?)
JOIN repository ON repository.path = ?
JOIN link ON link.repository = repository.id AND link.digest = parent.digest
LEFT JOIN tag ON tag.repository = repository.id AND tag.digest = parent.digest
WHERE node.digest = ? GROUP BY parent.id ORDER BY max(tag.at) IS NULL, parent.used DESC LIMIT ?
"""
_PINNED_TAKEN = """
WITH RECURSIVE kept (id) AS (
    SELECT id FROM node INDEXED BY node_pinned WHERE pinned AND taken IS NOT NULL
    UNION SELECT edge.child FROM kept JOIN edge ON edge.parent = kept.id
                  JOIN node ON node.id = edge.child AND node.taken IS NOT NULL)
SELECT coalesce(sum(node.taken), 0) FROM kept CROSS JOIN node ON node.id = kept.id
"""


class Graph:
    """Questions about the graph of content, and the removal of roots.

    It has a connection of its own, and a lock: every method may wait for the disk and for other threads, and raises
    `StoreError`.
    """

    def __init__(self, layout: Layout) -> None:
        """The index is open already, which makes it where it is missing."""
        self._layout = layout
        self._db = connect(layout)
        self._journal = Journal(layout.journal)
        self._lock = threading.Lock()

    def oldest(self, limit: int, *, skip: int = 0, again: bool = False) -> list[Unit]:
        """Return what may go, least recently used first: roots that are not pinned and that nothing needs.

        Of those that were asked for in one pull only, or of those that were asked for `again` (`mirror.store.order`).
        """
        query = f"{_UNIT} WHERE root = 1 AND NOT pinned AND again = ? ORDER BY used LIMIT ? OFFSET ?"
        return [_unit(row) for row in self._all(query, again, limit, skip)]

    def unit(self, digest: Digest) -> Unit | None:
        """Return a root, or None where it is none."""
        rows = self._all(f"{_UNIT} WHERE digest = ? AND root > 0", pack(digest))
        return _unit(rows[0]) if rows else None

    def roots_of(self, digest: Digest, *, limit: int = 1000, absent: bool = False) -> list[Unit]:
        """Return up to `limit` roots that need this content, or are it; with `absent` also where it is not here."""
        with self._lock:
            try:
                found = roots_above(self._db, pack(digest), limit, absent=absent)
                return [_unit(self._db.execute(f"{_UNIT} WHERE id = ?", (root,)).fetchone()) for root in found]
            except sqlite3.Error as error:
                raise refusal(self._layout, error) from error

    def namers(self, repository: Repository, digest: Digest, limit: int = _NAMES) -> list[Namer]:
        """Return up to `limit` indexes that are here, that `repository` holds and that name this; tagged ones first."""
        rows = self._all(_NAMERS, *sorted(INDEXES), str(repository), pack(digest), limit)
        return [Namer(unpack(key), media_type, tag, at) for key, media_type, tag, at in rows]

    def is_referrer(self, digest: Digest) -> bool:
        """Say whether this refers to other content: by its `subject`, or by a tag as signatures have."""
        query = "SELECT 1 FROM node JOIN edge ON child = id WHERE digest = ? AND kind IN (?, ?) LIMIT 1"
        return bool(self._all(query, pack(digest), nodes.SUBJECT, nodes.TAG))

    def remove(self, root: Digest, hold: Hold, *, used: float | None = None, force: bool = False) -> Removal | None:
        """Take a root out of the index, with all that only it needs. The files are the caller's to unlink.

        `hold(goes, needs)` is called within the transaction with what would go, and with all that this names, here or
        not; where it says False nothing changes. Return None then, and where it is no root any more, where it is pinned
        unless `force`, where other content needs it, or where it was used after `used`.
        """
        made: list[Removal] = []

        def choose() -> Iterable[Removed]:
            unit, closure = self._closure(root, used, force=force)
            if unit is None or closure is None or not closure.gone:
                return ()
            goes = [unpack(key) for key in closure.gone]
            if not hold(goes, [unpack(key) for key in closure.needs]):
                return ()
            gone = tuple(self._content(key) for key in closure.gone)
            made.append(Removal(unit, gone, self._names(root)))
            return (Removed(tuple(goes)),)

        with self._lock:
            try:
                write(self._db, self._journal, choose)
            except (sqlite3.Error, OSError) as error:
                raise refusal(self._layout, error) from error
        return made[0] if made else None

    def content(self, digest: Digest) -> Content | None:
        """Return what is on disk under a digest."""
        rows = self._all(f"{_CONTENT} WHERE digest = ? AND taken IS NOT NULL", pack(digest))
        return _content(rows[0]) if rows else None

    def contents(self, *, after: Digest | None = None, limit: int) -> list[Content]:
        """Return up to `limit` of all that is on disk, in order of digest, behind `after`."""
        query = f"{_CONTENT} WHERE digest > ? AND taken IS NOT NULL ORDER BY digest LIMIT ?"
        return [_content(row) for row in self._all(query, b"" if after is None else pack(after), limit)]

    def due(self, before: float, limit: int) -> list[Content]:
        """Return up to `limit` of what was last read and found right before `before`, longest ago first."""
        query = f"{_CONTENT} WHERE taken IS NOT NULL AND checked < ? ORDER BY checked LIMIT ?"
        return [_content(row) for row in self._all(query, before, limit)]

    def totals(self) -> Totals:
        """Return figures of the whole."""
        [(images, contents, taken)] = self._all("SELECT images, contents, taken FROM total")
        [(pinned,)] = self._all(_PINNED_TAKEN)
        used = [unit.used for again in (False, True) for unit in self.oldest(1, again=again)]
        classes = dict(self._all("SELECT again, count(*) FROM node WHERE root = 1 AND NOT pinned GROUP BY again"))
        return Totals(
            images, contents, taken, pinned, min(used, default=None), once=classes.get(0, 0), again=classes.get(1, 0)
        )

    @property
    def surveyed(self) -> bool:
        """Whether all that is on disk is known here: not so while an index is new, or was made from the journal."""
        [(surveyed,)] = self._all("SELECT surveyed FROM total")
        return bool(surveyed)

    def mark_surveyed(self) -> None:
        """Say that the disk was looked through."""
        self._all("UPDATE total SET surveyed = 1")

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._db.close()

    def _closure(self, root: Digest, used: float | None, *, force: bool) -> tuple[Unit | None, Closure | None]:
        row = self._db.execute(f"{_UNIT} WHERE digest = ? AND root > 0", (pack(root),)).fetchone()
        if row is None:
            return None, None
        unit = _unit(row)
        if (unit.pinned and not force) or (used is not None and unit.used > used):
            return None, None
        return unit, closure_of(self._db, pack(root))

    def _content(self, key: bytes) -> Content:
        return _content(self._db.execute(f"{_CONTENT} WHERE digest = ?", (key,)).fetchone())

    def _names(self, root: Digest) -> tuple[str, ...]:
        key = pack(root)
        rows = self._db.execute(_TAGS, (key, _NAMES)).fetchall()
        rows = rows or self._db.execute(_LINKS, (str(root), key, _NAMES)).fetchall()
        return tuple(row[0] for row in rows)

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise refusal(self._layout, error) from error


def _unit(row: tuple[Any, ...]) -> Unit:
    digest, media_type, used, pinned, taken, root = row
    return Unit(unpack(digest), media_type, used, bool(pinned), taken, owned=root > 1)


def _content(row: tuple[Any, ...]) -> Content:
    digest, taken, media_type, checked = row
    return Content(unpack(digest), taken, media_type, float(checked))
