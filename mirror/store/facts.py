"""The tables of the index, and how changes become rows and rows become changes again."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from mirror.store.changes import Change, Linked, ListingSet, Named, TagDropped, TagSet

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

SCHEMA_VERSION = 1
# `path` is `namespace/name`, so that a page of the catalog is a walk along one index. An id is never given to another
# repository, nor forgotten: open connections remember it. `journal` says up to where the journal has become rows: its
# name, the position in bytes, and the size that it had when it was last written anew.
SCHEMA = """
CREATE TABLE repository (id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE);
CREATE TABLE tag (repository INTEGER NOT NULL, tag TEXT NOT NULL, digest BLOB NOT NULL, at REAL NOT NULL,
                  PRIMARY KEY (repository, tag)) WITHOUT ROWID;
CREATE TABLE link (repository INTEGER NOT NULL, digest BLOB NOT NULL, media_type TEXT,
                   PRIMARY KEY (repository, digest)) WITHOUT ROWID;
CREATE TABLE named (repository INTEGER NOT NULL, digest BLOB NOT NULL, size INTEGER,
                    PRIMARY KEY (repository, digest)) WITHOUT ROWID;
CREATE TABLE public (namespace TEXT NOT NULL, digest BLOB NOT NULL, media_type TEXT,
                     PRIMARY KEY (namespace, digest)) WITHOUT ROWID;
CREATE INDEX public_digest ON public (digest);
CREATE TABLE held (namespace TEXT NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (namespace, digest)) WITHOUT ROWID;
CREATE TABLE listing (repository INTEGER NOT NULL, subject BLOB NOT NULL, body BLOB NOT NULL, at REAL NOT NULL,
                      PRIMARY KEY (repository, subject)) WITHOUT ROWID;
CREATE TABLE journal (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), name TEXT NOT NULL,
                      position INTEGER NOT NULL, base INTEGER NOT NULL)
"""

_ALGORITHMS = ("sha256", "sha384", "sha512")
_NAMES_A_LINE = 500


def record(db: sqlite3.Connection, change: Change) -> None:
    """Write one change into the tables. Raise `ValueError` for what no table can hold."""
    at = _repository(db, change.repository, make=not isinstance(change, TagDropped))
    match change:
        case Linked():
            key = pack(change.digest)
            # A client may ask for a manifest by the path of blobs: what is known of its type stays known.
            db.execute(
                "INSERT INTO link VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET media_type = coalesce(?3, media_type)",
                (at, key, change.media_type),
            )
            db.execute("INSERT OR IGNORE INTO held VALUES (?, ?)", (change.repository.namespace, key))
            if change.public:
                db.execute(
                    "INSERT INTO public VALUES (?1, ?2, ?3)"
                    " ON CONFLICT DO UPDATE SET media_type = coalesce(?3, media_type)",
                    (change.repository.namespace, key, change.media_type),
                )
            db.executemany(
                "INSERT INTO named VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET size = coalesce(?3, size)",
                [(at, pack(named.digest), named.size) for named in change.names],
            )
        case TagSet():
            db.execute(
                "INSERT OR REPLACE INTO tag VALUES (?, ?, ?, ?)", (at, change.tag, pack(change.digest), change.at)
            )
        case TagDropped():
            db.execute("DELETE FROM tag WHERE repository = ? AND tag = ?", (at, change.tag))
        case ListingSet():
            row = (at, pack(change.subject), pack(change.body), change.at)
            db.execute("INSERT OR REPLACE INTO listing VALUES (?, ?, ?, ?)", row)


def recorded(db: sqlite3.Connection) -> Iterator[Change]:
    """Yield changes that would make these very tables again, in the order of repositories."""
    for at, path in db.execute("SELECT id, path FROM repository ORDER BY path"):
        namespace, _, name = path.partition("/")
        repository = Repository(namespace, name)
        yield from _links(db, at, repository)
        for tag, digest, when in db.execute("SELECT tag, digest, at FROM tag WHERE repository = ?", (at,)):
            yield TagSet(repository, tag, unpack(digest), when)
        for subject, body, when in db.execute("SELECT subject, body, at FROM listing WHERE repository = ?", (at,)):
            yield ListingSet(repository, unpack(subject), unpack(body), when)


def forget(db: sqlite3.Connection) -> None:
    """Empty the tables, except that repositories keep their ids."""
    for table in ("tag", "link", "named", "public", "held", "listing"):
        db.execute(f"DELETE FROM {table}")  # noqa: S608  # the names stand one line above


def pack(digest: Digest) -> bytes:
    """Return a digest as it stands in the tables: one byte for the algorithm, and the hash."""
    return bytes([_ALGORITHMS.index(digest.algorithm)]) + bytes.fromhex(digest.hex)


def unpack(packed: bytes) -> Digest:
    """Read what `pack` wrote."""
    return Digest(_ALGORITHMS[packed[0]], packed[1:].hex())


def _links(db: sqlite3.Connection, at: int, repository: Repository) -> Iterator[Change]:
    query = (
        "SELECT link.digest, link.media_type, public.digest IS NOT NULL FROM link"
        " LEFT JOIN public ON public.namespace = ? AND public.digest = link.digest WHERE link.repository = ?"
    )
    last: Linked | None = None
    for digest, media_type, public in db.execute(query, (repository.namespace, at)):
        last = Linked(repository, unpack(digest), media_type, bool(public))
        yield last
    # Which manifest named what is not kept, only that one that is linked here did: any link carries the names.
    names = db.execute("SELECT digest, size FROM named WHERE repository = ?", (at,))
    while last is not None and (some := tuple(itertools.islice(names, _NAMES_A_LINE))):
        yield Linked(
            repository,
            last.digest,
            last.media_type,
            last.public,
            tuple(Named(unpack(digest), size) for digest, size in some),
        )


def _repository(db: sqlite3.Connection, repository: Repository, *, make: bool) -> int:
    path = str(repository)
    row = db.execute("SELECT id FROM repository WHERE path = ?", (path,)).fetchone()
    if row is not None:
        return int(row[0])
    if not make:
        return -1
    return int(db.execute("INSERT INTO repository (path) VALUES (?)", (path,)).lastrowid or 0)
