"""Who holds what: tags, links, names, listings. The seam and its implementation on SQLite.

Reads are made inline, on the loop's own connection (about 4 µs each); writes go in batches through one thread.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import structlog
from cachetools import LRUCache

from mirror.errors import NoSpace, StoreError, StoreUnusable
from mirror.oci.digest import Digest
from mirror.store import changes
from mirror.store.changes import Change, Linked, ListingSet, TagDropped, TagSet

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mirror.oci.name import Repository
    from mirror.store.layout import Layout

log = structlog.get_logger(__name__)

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE repository (id INTEGER PRIMARY KEY, namespace TEXT NOT NULL, name TEXT NOT NULL, UNIQUE (namespace, name));
CREATE TABLE tag (repository INTEGER NOT NULL, tag TEXT NOT NULL, digest BLOB NOT NULL, at REAL NOT NULL,
                  PRIMARY KEY (repository, tag)) WITHOUT ROWID;
CREATE TABLE link (repository INTEGER NOT NULL, digest BLOB NOT NULL, media_type TEXT,
                   PRIMARY KEY (repository, digest)) WITHOUT ROWID;
CREATE TABLE named (repository INTEGER NOT NULL, digest BLOB NOT NULL, size INTEGER,
                    PRIMARY KEY (repository, digest)) WITHOUT ROWID;
CREATE TABLE public (namespace TEXT NOT NULL, digest BLOB NOT NULL, media_type TEXT,
                     PRIMARY KEY (namespace, digest)) WITHOUT ROWID;
CREATE TABLE listing (repository INTEGER NOT NULL, subject BLOB NOT NULL, body BLOB NOT NULL, at REAL NOT NULL,
                      PRIMARY KEY (repository, subject)) WITHOUT ROWID;
"""

_ALGORITHMS = ("sha256", "sha384", "sha512")
_BATCH = 512  # changes in one transaction


@dataclass(frozen=True, slots=True)
class Validated:
    """What a tag, or a list of referrers, was when upstream was last asked, at `at` seconds since the epoch."""

    digest: Digest
    at: float


@dataclass(frozen=True, slots=True)
class Standing:
    """How a digest stands in a repository (promise 10)."""

    linked: bool = False  # upstream served or confirmed it there
    named: bool = False  # a manifest that is linked there names it
    public: bool = False  # the same upstream once gave it without credentials
    media_type: str | None = None  # where it is known to be a manifest
    size: int | None = None  # bytes that the naming manifest expects

    @property
    def visible(self) -> bool:
        """Whether the content may be shown in the repository without asking upstream."""
        return self.linked or (self.named and self.public)


class Index(Protocol):
    """The facts about content. Reads return at once; `apply` returns when the changes are committed."""

    def tag(self, repository: Repository, tag: str) -> Validated | None:
        """Return what `tag` is."""
        ...

    def standing(self, repository: Repository, digest: Digest) -> Standing:
        """Return how `digest` stands in `repository`."""
        ...

    def tags(self, repository: Repository, *, after: str = "", limit: int) -> list[str]:
        """Return up to `limit` tags that sort after `after`."""
        ...

    def repositories(self, *, after: str = "", limit: int) -> list[str]:
        """Return up to `limit` repositories with links, as `namespace/name`, that sort after `after`."""
        ...

    def listing(self, repository: Repository, subject: Digest) -> Validated | None:
        """Return which stored index lists the referrers of `subject`."""
        ...

    async def apply(self, *new: Change) -> None:
        """Record changes, all or none of them. Raise `StoreError` where the disk refuses."""
        ...


class SqliteIndex:
    """The index in `index.sqlite`, with its journal beside it.

    An index that is missing or broken is made again from the journal.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._db = _open(layout)
        self._ids: LRUCache[Repository, int] = LRUCache(10_000)
        self._writer = _Writer(layout)

    def tag(self, repository: Repository, tag: str) -> Validated | None:
        """See `Index.tag`."""
        row = self._one("SELECT digest, at FROM tag WHERE repository = ? AND tag = ?", self._id(repository), tag)
        return Validated(_unpack(row[0]), row[1]) if row else None

    def standing(self, repository: Repository, digest: Digest) -> Standing:
        """See `Index.standing`."""
        at, key = self._id(repository), _pack(digest)
        link = self._one("SELECT media_type FROM link WHERE repository = ? AND digest = ?", at, key)
        named = self._one("SELECT size FROM named WHERE repository = ? AND digest = ?", at, key)
        if link is not None:
            return Standing(linked=True, named=named is not None, media_type=link[0], size=named[0] if named else None)
        if named is None:
            return Standing()
        space = repository.namespace
        public = self._one("SELECT media_type FROM public WHERE namespace = ? AND digest = ?", space, key)
        return Standing(named=True, public=public is not None, media_type=public[0] if public else None, size=named[0])

    def tags(self, repository: Repository, *, after: str = "", limit: int) -> list[str]:
        """See `Index.tags`."""
        query = "SELECT tag FROM tag WHERE repository = ? AND tag > ? ORDER BY tag LIMIT ?"
        return [row[0] for row in self._db.execute(query, (self._id(repository), after, limit))]

    def repositories(self, *, after: str = "", limit: int) -> list[str]:
        """See `Index.repositories`."""
        query = (
            "SELECT namespace || '/' || name AS full FROM repository WHERE full > ?"
            " AND EXISTS (SELECT 1 FROM link WHERE link.repository = repository.id) ORDER BY full LIMIT ?"
        )
        return [row[0] for row in self._db.execute(query, (after, limit))]

    def listing(self, repository: Repository, subject: Digest) -> Validated | None:
        """See `Index.listing`."""
        query = "SELECT body, at FROM listing WHERE repository = ? AND subject = ?"
        row = self._one(query, self._id(repository), _pack(subject))
        return Validated(_unpack(row[0]), row[1]) if row else None

    async def apply(self, *new: Change) -> None:
        """See `Index.apply`."""
        if new:
            await self._writer.write(new)

    def close(self) -> None:
        """Write what is still queued, and close."""
        self._writer.close()
        self._db.close()

    def _id(self, repository: Repository) -> int:
        known = self._ids.get(repository)
        if known is None:
            query = "SELECT id FROM repository WHERE namespace = ? AND name = ?"
            row = self._one(query, repository.namespace, repository.name)
            if row is None:
                return -1
            known = self._ids[repository] = int(row[0])
        return known

    def _one(self, query: str, *values: object) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._db.execute(query, values).fetchone()
        return row


_Item = tuple[tuple[Change, ...], "asyncio.Future[None]"]


class _Writer:
    """The one thread that writes: takes what has been queued by then, commits it as one, says so to those who wait."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="index", daemon=True)
        self._thread.start()

    async def write(self, new: tuple[Change, ...]) -> None:
        future = asyncio.get_running_loop().create_future()
        self._queue.put((new, future))
        await asyncio.shield(future)  # what is queued is written, whoever leaves

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        db = _connect(self._layout.index)
        with self._layout.journal.open("a", encoding="utf-8") as journal:
            journal.write("\n" if _torn(self._layout.journal) else "")
            while True:
                item = self._queue.get()
                batch = []
                while item is not None:
                    batch.append(item)
                    if len(batch) >= _BATCH or self._queue.empty():
                        break
                    item = self._queue.get()
                if batch:
                    self._commit(db, journal, batch)
                if item is None:
                    break
        db.close()

    @staticmethod
    def _commit(db: sqlite3.Connection, journal: TextIO, batch: list[_Item]) -> None:
        error: StoreError | None = None
        try:
            every = [change for new, _ in batch for change in new]
            with db:
                _write(db, every)
            _append(journal, every)
        except (sqlite3.Error, OSError) as cause:
            full = "full" in str(cause) or "No space" in str(cause)
            kind = NoSpace if full else StoreError
            error = kind(f"the index could not be written: {cause}; see that the disk is neither full nor read-only")
        for _, future in batch:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                future.get_loop().call_soon_threadsafe(_settle, future, error)


def _settle(future: asyncio.Future[None], error: StoreError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
        return
    future.set_exception(error)
    future.exception()  # seen, even where the one who waited has left


def _append(journal: TextIO, every: Iterable[Change]) -> None:
    journal.write("".join(changes.dump(change) + "\n" for change in every))
    journal.flush()


def _torn(journal: Path) -> bool:
    """Say whether the last line was cut by a crash: what follows must not become part of it."""
    with journal.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(-1, os.SEEK_END)
        return size > 0 and file.read(1) != b"\n"


def _write(db: sqlite3.Connection, every: Iterable[Change]) -> None:
    for change in every:
        at = _repository(db, change.repository)
        match change:
            case Linked():
                key = _pack(change.digest)
                db.execute("INSERT OR REPLACE INTO link VALUES (?, ?, ?)", (at, key, change.media_type))
                if change.public:
                    public = (change.repository.namespace, key, change.media_type)
                    db.execute("INSERT OR REPLACE INTO public VALUES (?, ?, ?)", public)
                rows = [(at, _pack(named.digest), named.size) for named in change.names]
                db.executemany("INSERT OR REPLACE INTO named VALUES (?, ?, ?)", rows)
            case TagSet():
                tag = (at, change.tag, _pack(change.digest), change.at)
                db.execute("INSERT OR REPLACE INTO tag VALUES (?, ?, ?, ?)", tag)
            case TagDropped():
                db.execute("DELETE FROM tag WHERE repository = ? AND tag = ?", (at, change.tag))
            case ListingSet():
                listing = (at, _pack(change.subject), _pack(change.body), change.at)
                db.execute("INSERT OR REPLACE INTO listing VALUES (?, ?, ?, ?)", listing)


def _repository(db: sqlite3.Connection, repository: Repository) -> int:
    key = (repository.namespace, repository.name)
    row = db.execute("SELECT id FROM repository WHERE namespace = ? AND name = ?", key).fetchone()
    if row is None:
        cursor = db.execute("INSERT INTO repository (namespace, name) VALUES (?, ?)", key)
        return int(cursor.lastrowid or 0)
    return int(row[0])


def _pack(digest: Digest) -> bytes:
    return bytes([_ALGORITHMS.index(digest.algorithm)]) + bytes.fromhex(digest.hex)


def _unpack(packed: bytes) -> Digest:
    return Digest(_ALGORITHMS[packed[0]], packed[1:].hex())


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=10, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA cache_size = -4096")  # KiB
    return db


def _open(layout: Layout) -> sqlite3.Connection:
    try:
        return _prepare(layout)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise StoreUnusable(f"{layout.index} cannot be opened: {error}; see its owner, and the disk") from error
        log.warning("the index is damaged; it is put aside and made again from the journal", path=str(layout.index))
        for suffix in ("", "-wal", "-shm"):
            path = layout.index.with_name(layout.index.name + suffix)
            if path.exists():
                path.rename(path.with_name(path.name + ".damaged"))
        return _prepare(layout)


def _prepare(layout: Layout) -> sqlite3.Connection:
    db = _connect(layout.index)
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > _SCHEMA_VERSION:
        raise StoreUnusable(f"{layout.index} was written by a newer release; use that release, or another directory")
    if version == 0:
        with db:
            db.execute("BEGIN IMMEDIATE")
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:  # nobody else has made it meanwhile
                for statement in _SCHEMA.strip().split(";"):
                    db.execute(statement)
                _write(db, _replay(layout.journal))
                db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
    return db


def _replay(journal: Path) -> Iterable[Change]:
    """Yield the changes of the journal. A line that does not parse, as the last one after a crash, is passed over."""
    if not journal.exists():
        return
    with journal.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield changes.load(line)
            except Exception as error:  # noqa: BLE001  # whatever a torn line does to the parser, the next may be whole
                log.warning("a line of the journal is passed over", line=number, error=str(error))
