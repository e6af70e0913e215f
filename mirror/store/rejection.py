"""Taking content out of the store that is of no use: the file is wrong, cannot be read, or is not there."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from mirror.store import damage
from mirror.store.changes import Lost
from mirror.store.database import connect, write
from mirror.store.inspection import Verdict
from mirror.store.inventory import Inventory
from mirror.store.journal import Journal
from mirror.store.locks import pending, unnaming
from mirror.store.packing import pack
from mirror.store.refusal import refusing

if TYPE_CHECKING:
    from mirror.oci.digest import Digest
    from mirror.store.inspection import Finding
    from mirror.store.layout import Layout
    from mirror.store.store import Store

_MOST = 10  # images that are named


def reject(store: Store, finding: Finding) -> bool:
    """Put wrong or unreadable content aside, and tell the index that it, or what is missing, is not here. Blocks.

    False where something else is in its place by now, or the index knows it. Tags, links and pins stay: it may be
    healed. Raise `StoreError` where the disk refuses.
    """
    missing = finding.verdict is Verdict.MISSING
    if not missing and not store.aside.take(finding.digest, finding.seen):
        return False
    try:
        with closing(connect(store.layout)) as db, refusing(store.layout.root), unnaming(store.layout):
            untold = pending(store.layout)
            try:
                lost = _lose(store.layout, db, finding.digest)
                if missing and lost is not None:
                    store.room.freed(lost)
            finally:
                os.close(untold)
    except sqlite3.Error as error:
        raise damage.refusal(store.layout, error) from error
    return lost is not None or not missing


def images_needing(layout: Layout, digest: Digest) -> tuple[str, ...]:
    """Return up to ten images, by name, that need this content, or are it. Blocks; raise `StoreError`."""
    with Inventory(layout) as inventory:
        trace = inventory.trace(digest)
        own = inventory.node(digest) if trace.root else None
        roots = inventory.roots([*([] if own is None else [own]), *trace.ways])
    return tuple(sorted(root.title for root in roots if root.media_type is not None)[:_MOST])


def repositories_holding(layout: Layout, digest: Digest) -> tuple[str, ...]:
    """Return repositories, as `namespace/name`, that are linked to this content. Blocks; raise `StoreError`."""
    with Inventory(layout) as inventory:
        return inventory.trace(digest).repositories


def is_listing(layout: Layout, digest: Digest) -> bool:
    """Say whether this is a list of referrers, which is asked for anew when somebody wants it. Blocks."""
    try:
        with closing(connect(layout)) as db:
            return db.execute("SELECT 1 FROM listing WHERE body = ? LIMIT 1", (pack(digest),)).fetchone() is not None
    except sqlite3.Error as error:
        raise damage.refusal(layout, error, "read") from error


def _lose(layout: Layout, db: sqlite3.Connection, digest: Digest) -> int | None:
    """Tell the index that content has no file; return the bytes that it took, None where it has one, or had no row."""
    row = db.execute("SELECT taken FROM node WHERE digest = ? AND taken IS NOT NULL", (pack(digest),)).fetchone()
    if row is None or layout.blob(digest).exists():  # it has come back meanwhile
        return None
    write(db, Journal(layout.journal), lambda: (Lost(digest),))
    return int(row[0])
