"""How changes become rows of the index, and rows become changes again."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from mirror.store import nodes
from mirror.store.changes import (
    Change,
    Checked,
    Linked,
    ListingSet,
    Lost,
    Named,
    Pinned,
    Removed,
    Stored,
    TagDropped,
    TagSet,
    Unpinned,
    Used,
)
from mirror.store.packing import pack, unpack

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

_NAMES_A_LINE = 500
_NAMERS = 30  # manifests that name the same, looked at for one of a repository


def record(db: sqlite3.Connection, change: Change, *, replay: bool = False, younger: set[Digest] | None = None) -> bool:
    """Write one change into the tables. Raise `ValueError` for what no table can hold.

    Return False for a tag of what is not on disk: it was evicted meanwhile, and the tag would promise it. In a replay
    of the journal nothing is known of the disk, and all is taken. `younger` gets the roots that a use made younger.
    """
    match change:
        case Stored():
            nodes.stored(db, change, time.time())
        case Lost():
            nodes.lost(db, change)
        case Checked():
            nodes.checked(db, change, time.time())
        case Removed():
            _remove(db, change)
        case Used():
            at = _repository(db, change.repository, make=False)
            root = nodes.used(db, at, pack(change.digest), change.at, time.time())
            if root is not None and younger is not None:
                younger.add(unpack(root))
        case TagSet():
            return _set_tag(db, change, replay=replay)
        case _:
            _record(db, change)
    return True


def _record(db: sqlite3.Connection, change: Linked | TagDropped | ListingSet | Pinned | Unpinned) -> None:
    at = _repository(db, change.repository, make=isinstance(change, Linked | ListingSet | Pinned))
    match change:
        case Linked():
            _link(db, change, at)
        case TagDropped():
            _drop_tag(db, at, change.tag)
        case ListingSet():
            _set_listing(db, change, at)
        case Pinned():
            db.execute("INSERT OR REPLACE INTO pin VALUES (?, ?, ?)", (at, change.reference, change.at))
            _settle_reference(db, at, change.reference)
        case Unpinned():
            db.execute("DELETE FROM pin WHERE repository = ? AND reference = ?", (at, change.reference))
            _settle_reference(db, at, change.reference)


def recorded(db: sqlite3.Connection) -> Iterator[Change]:
    """Yield changes that would make the facts of the journal again, in the order of repositories."""
    for at, repository in repositories(db):
        yield from recorded_of(db, at, repository)


def repositories(db: sqlite3.Connection) -> list[tuple[int, Repository]]:
    """Return all repositories with their ids, in their order."""
    rows = db.execute("SELECT id, path FROM repository ORDER BY path").fetchall()
    return [(at, Repository(*path.split("/", 1))) for at, path in rows]


def recorded_of(db: sqlite3.Connection, at: int, repository: Repository) -> Iterator[Change]:
    """Yield those of one repository."""
    yield from _links(db, at, repository)
    for tag, digest, when in db.execute("SELECT tag, digest, at FROM tag WHERE repository = ?", (at,)):
        yield TagSet(repository, tag, unpack(digest), when)
    for subject, body, when in db.execute("SELECT subject, body, at FROM listing WHERE repository = ?", (at,)):
        yield ListingSet(repository, unpack(subject), unpack(body), when)
    for reference, when in db.execute("SELECT reference, at FROM pin WHERE repository = ?", (at,)):
        yield Pinned(repository, reference, when)


def forget(db: sqlite3.Connection) -> None:
    """Empty the tables, except that repositories keep their ids. The disk has to be looked through after that."""
    for table in ("tag", "link", "named", "public", "held", "listing", "pin", "edge", "node"):
        db.execute(f"DELETE FROM {table}")  # noqa: S608  # the names stand one line above
    db.execute("UPDATE total SET images = 0, contents = 0, taken = 0, surveyed = 0")


def _link(db: sqlite3.Connection, change: Linked, at: int) -> None:
    key = pack(change.digest)
    # A client may ask for a manifest by the path of blobs: what is known of its type stays known.
    db.execute(
        "INSERT INTO link VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET media_type = coalesce(?3, media_type)",
        (at, key, change.media_type),
    )
    db.execute("INSERT OR IGNORE INTO held VALUES (?, ?)", (change.repository.namespace, key))
    if change.public:
        db.execute(
            "INSERT INTO public VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET media_type = coalesce(?3, media_type)",
            (change.repository.namespace, key, change.media_type),
        )
    db.executemany(
        "INSERT INTO named VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET size = coalesce(?3, size)",
        [(at, pack(named.digest), named.size) for named in change.names],
    )


def _set_tag(db: sqlite3.Connection, change: TagSet, *, replay: bool) -> bool:
    key = pack(change.digest)
    if not replay and not nodes.is_here(db, key):
        return False
    at = _repository(db, change.repository, make=True)
    old = db.execute("SELECT digest FROM tag WHERE repository = ? AND tag = ?", (at, change.tag)).fetchone()
    db.execute("INSERT OR REPLACE INTO tag VALUES (?, ?, ?, ?)", (at, change.tag, key, change.at))
    if old is not None and old[0] == key:
        return True  # it was only validated
    subject = nodes.referred(change.tag)
    if subject is not None:
        if old is not None:
            _disown_tagged(db, subject, old[0], change.tag)
        nodes.own(db, subject, key, nodes.TAG)
    nodes.settle_digests(db, [key] if old is None else [key, old[0]])
    return True


def _drop_tag(db: sqlite3.Connection, at: int, tag: str) -> None:
    old = db.execute("SELECT digest FROM tag WHERE repository = ? AND tag = ?", (at, tag)).fetchone()
    if old is None:
        return
    db.execute("DELETE FROM tag WHERE repository = ? AND tag = ?", (at, tag))
    subject = nodes.referred(tag)
    if subject is not None:
        _disown_tagged(db, subject, old[0], tag)
    nodes.settle_digests(db, [old[0]])


def _disown_tagged(db: sqlite3.Connection, subject: bytes, key: bytes, tag: str) -> None:
    """Part what a tag tied, unless another one of the same subject does the same."""
    start = tag[: len("sha256-") + 2 * (len(subject) - 1)]
    # A tag that starts with it is followed by nothing or by what sorts before U+FFFF.
    other = db.execute(
        "SELECT 1 FROM tag WHERE digest = ? AND substr(tag, 1, ?) = ? LIMIT 1", (key, len(start), start)
    ).fetchone()
    if other is None:
        nodes.disown(db, subject, key, nodes.TAG)


def _set_listing(db: sqlite3.Connection, change: ListingSet, at: int) -> None:
    subject, body = pack(change.subject), pack(change.body)
    old = db.execute("SELECT body FROM listing WHERE repository = ? AND subject = ?", (at, subject)).fetchone()
    db.execute("INSERT OR REPLACE INTO listing VALUES (?, ?, ?, ?)", (at, subject, body, change.at))
    if old is not None and old[0] != body:
        _disown_listing(db, subject, old[0])
    nodes.own(db, subject, body, nodes.LISTING)
    nodes.settle_digests(db, [body] if old is None else [body, old[0]])


def _disown_listing(db: sqlite3.Connection, subject: bytes, body: bytes) -> None:
    other = db.execute("SELECT 1 FROM listing WHERE subject = ? AND body = ? LIMIT 1", (subject, body)).fetchone()
    if other is None:
        nodes.disown(db, subject, body, nodes.LISTING)


def _settle_reference(db: sqlite3.Connection, at: int, reference: str) -> None:
    if ":" in reference:
        nodes.settle_digests(db, [pack(Digest.parse(reference))])
        return
    row = db.execute("SELECT digest FROM tag WHERE repository = ? AND tag = ?", (at, reference)).fetchone()
    if row is not None:
        nodes.settle_digests(db, [row[0]])


def _remove(db: sqlite3.Connection, change: Removed) -> None:
    gone: list[int] = []
    for digest in change.digests:
        key = pack(digest)
        where = [row[0] for row in db.execute("SELECT repository FROM link WHERE digest = ?", (key,))]
        db.execute("DELETE FROM pin WHERE reference = ?", (str(digest),))
        for at, tag in db.execute("SELECT repository, tag FROM tag WHERE digest = ?", (key,)).fetchall():
            db.execute("DELETE FROM pin WHERE repository = ? AND reference = ?", (at, tag))
            _drop_tag(db, at, tag)
        _drop_listings(db, key)
        db.execute("DELETE FROM link WHERE digest = ?", (key,))
        db.execute("DELETE FROM public WHERE digest = ?", (key,))
        _unhold(db, key, where)
        node = nodes.find(db, key)
        if node is not None:
            _unname(db, node, where)
            gone.append(node)
    nodes.remove(db, gone)


def _drop_listings(db: sqlite3.Connection, key: bytes) -> None:
    for column in ("subject", "body"):
        lists = db.execute(f"SELECT subject, body FROM listing WHERE {column} = ?", (key,)).fetchall()  # noqa: S608
        if not lists:
            continue
        db.execute(f"DELETE FROM listing WHERE {column} = ?", (key,))  # noqa: S608  # the names stand three lines above
        for subject, body in lists:
            _disown_listing(db, subject, body)
            nodes.settle_digests(db, [body])


def _unhold(db: sqlite3.Connection, key: bytes, where: list[int]) -> None:
    for at in where:
        path = db.execute("SELECT path FROM repository WHERE id = ?", (at,)).fetchone()[0]
        db.execute("DELETE FROM held WHERE namespace = ? AND digest = ?", (path.partition("/")[0], key))
        # The last manifest of a repository takes all names along; before that, `_unname` goes by those who name.
        if db.execute("SELECT 1 FROM link WHERE repository = ? LIMIT 1", (at,)).fetchone() is None:
            db.execute("DELETE FROM named WHERE repository = ?", (at,))


def _unname(db: sqlite3.Connection, node: int, where: list[int]) -> None:
    """Forget what this manifest alone named in these repositories.

    Where very many manifests name the same, the newest of them are looked at; if none is of the repository, the row
    stays for want of certainty. It gives an expected size, and no right to anything that is not public.
    """
    if not where:
        return
    children = db.execute(
        "SELECT node.digest, edge.child FROM edge JOIN node ON node.id = edge.child WHERE parent = ? AND kind = ?",
        (node, nodes.NAMES),
    ).fetchall()
    for key, child in children:
        namers = db.execute(
            "SELECT digest FROM edge JOIN node ON node.id = edge.parent WHERE child = ? AND kind = ? AND parent <> ?"
            " ORDER BY parent DESC LIMIT ?",
            (child, nodes.NAMES, node, _NAMERS),
        ).fetchall()
        if len(namers) == _NAMERS:
            continue
        for at in where:
            if not any(
                db.execute("SELECT 1 FROM link WHERE repository = ? AND digest = ?", (at, namer)).fetchone()
                for (namer,) in namers
            ):
                db.execute("DELETE FROM named WHERE repository = ? AND digest = ?", (at, key))


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
