"""Which manifests on disk say that they refer to a digest, by their `subject`."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mirror.store.damage import refusal
from mirror.store.database import connect
from mirror.store.nodes import SUBJECT
from mirror.store.packing import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.oci.digest import Digest
    from mirror.store.layout import Layout

_REFERRING = """
SELECT node.digest FROM node AS subject JOIN edge ON edge.parent = subject.id AND edge.kind = ?
JOIN node ON node.id = edge.child AND node.taken IS NOT NULL
WHERE subject.digest = ? AND node.media_type IS NOT NULL ORDER BY node.digest LIMIT ?
"""
_MOST = 10_000  # referrers of one subject


class Referring:
    """One look into the index after another, on a connection of its own. Blocks; raise `StoreError`."""

    def __init__(self, db: sqlite3.Connection, layout: Layout) -> None:
        self._db = db
        self._layout = layout

    @classmethod
    @contextmanager
    def opened(cls, layout: Layout) -> Iterator[Referring]:
        """Open the index; it is closed with the block."""
        try:
            db = connect(layout)
        except sqlite3.Error as error:
            raise refusal(layout, error, "read") from error
        try:
            yield cls(db, layout)
        finally:
            db.close()

    def to(self, subject: Digest) -> list[Digest]:
        """Return the manifests whose subject this is, in order. Lists of referrers are none."""
        try:
            rows = self._db.execute(_REFERRING, (SUBJECT, pack(subject), _MOST)).fetchall()
        except sqlite3.Error as error:
            raise refusal(self._layout, error, "read") from error
        return [unpack(key) for (key,) in rows]
