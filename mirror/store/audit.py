"""Where disk and index do not agree: what a survey would put right (`mirror.store.survey`), found and left as it is."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.store import damage
from mirror.store.database import connect
from mirror.store.locks import quiet
from mirror.store.packing import pack, unpack
from mirror.store.refusal import refusing
from mirror.store.shelves import compare, shelves

if TYPE_CHECKING:
    from mirror.oci.digest import Digest
    from mirror.store.layout import Layout

_PATIENCE = 2.0  # seconds until all have told the index what they did; nobody can store anything meanwhile
_EMPTY_TAGS = """
SELECT path || ':' || tag.tag, tag.digest FROM tag JOIN repository ON repository.id = tag.repository
LEFT JOIN node ON node.digest = tag.digest WHERE node.taken IS NULL ORDER BY 1
"""


@dataclass(slots=True)
class Audit:
    """What was found."""

    unknown: list[Digest] = field(default_factory=list)  # files that the index does not know
    missing: list[Digest] = field(default_factory=list)  # rows of the index without a file
    strange: list[str] = field(default_factory=list)  # paths of what is no content, or empty
    tags: list[tuple[str, Digest]] = field(default_factory=list)  # `namespace/name:tag` of manifests that are not here

    @property
    def clean(self) -> bool:
        """Whether there is nothing to put right."""
        return not (self.unknown or self.missing or self.strange or self.tags)


def audit(layout: Layout) -> Audit:
    """Compare disk and index, beside whoever uses them. Blocks; raise `StoreError`."""
    try:
        with refusing(layout.root), closing(connect(layout)) as db:
            return _audit(layout, db)
    except sqlite3.Error as error:
        raise damage.refusal(layout, error) from error


def _audit(layout: Layout, db: sqlite3.Connection) -> Audit:
    found = Audit()
    for shelf in shelves(layout, db):
        some = compare(shelf, layout, db)
        found.unknown += [digest for digest, _ in some.unknown]
        found.missing += map(unpack, some.missing)
        found.strange += [*some.strange, *(str(layout.blob(digest)) for digest in some.torn)]
    if found.unknown or found.missing:  # some of it may just have come, or gone
        with quiet(layout, _PATIENCE):
            found.unknown = [one for one in found.unknown if layout.blob(one).exists() and not _here(db, one)]
            found.missing = [one for one in found.missing if not layout.blob(one).exists() and _here(db, one)]
    found.tags = [(name, unpack(key)) for name, key in db.execute(_EMPTY_TAGS)]
    return found


def _here(db: sqlite3.Connection, digest: Digest) -> bool:
    query = "SELECT 1 FROM node WHERE digest = ? AND taken IS NOT NULL"
    return db.execute(query, (pack(digest),)).fetchone() is not None
