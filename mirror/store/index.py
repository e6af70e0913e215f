"""Who holds what: tags, links, names, listings. The seam and its implementation on SQLite.

Reads are made inline, on the loop's own connection (a few µs each); writes go in batches through one thread.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cachetools import LRUCache

from mirror.store.compaction import compact
from mirror.store.damage import check, refusal
from mirror.store.database import connect, open_database
from mirror.store.journal import Journal
from mirror.store.packing import pack, unpack
from mirror.store.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository
    from mirror.store.changes import Change
    from mirror.store.compaction import Reserving
    from mirror.store.layout import Layout

_IDS = 10_000  # repositories whose ids are remembered

# One statement, because it is entering and leaving SQLite that takes the time.
_STANDING = """
SELECT link.digest IS NOT NULL, link.media_type, named.digest IS NOT NULL, named.size,
       public.digest IS NOT NULL, public.media_type
FROM (SELECT 1)
LEFT JOIN link ON link.repository = :at AND link.digest = :key
LEFT JOIN named ON named.repository = :at AND named.digest = :key
LEFT JOIN public ON link.digest IS NULL AND named.digest IS NOT NULL
                    AND public.namespace = :namespace AND public.digest = :key
"""


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
    # Where it is not visible: this upstream has given it before, or anybody may have it from some upstream. Then a word
    # of upstream is enough to link it. Else it may be the word of a registry that wants to read another one's images.
    vouched: bool = False

    @property
    def visible(self) -> bool:
        """Whether the content may be shown in the repository without asking upstream."""
        return self.linked or (self.named and self.public)


class Index(Protocol):
    """The facts about content. Reads return at once or raise `StoreError`; after `apply` they see the changes."""

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

    def pinned(self, repository: Repository, digest: Digest | None, tag: str | None) -> bool:
        """Say whether somebody pinned this digest, or this tag, of a repository."""
        ...

    async def apply(self, *new: Change) -> None:
        """Record changes, all or none of them, even if the caller is cancelled while it waits.

        A tag of what is not on disk (`Stored`) is passed over: it was evicted meanwhile.
        Raise `NoSpace` or another `StoreError` where the disk refuses, `ValueError` for what cannot be recorded.
        """
        ...


class SqliteIndex:
    """The index in `index.sqlite`, with its journal beside it (`mirror.store.database` says how the two are one)."""

    def __init__(self, layout: Layout) -> None:
        """Open it; raise `StoreUnusable`."""
        self._layout = layout
        self._db, self._claim = open_database(layout)
        self._ids: LRUCache[Repository, int] = LRUCache(_IDS)
        self._writer = Writer(connect(layout), layout)

    def tag(self, repository: Repository, tag: str) -> Validated | None:
        """See `Index.tag`."""
        at = self._id(repository)
        rows = self._all("SELECT digest, at FROM tag WHERE repository = ? AND tag = ?", (at, tag))
        return Validated(unpack(rows[0][0]), rows[0][1]) if rows else None

    def standing(self, repository: Repository, digest: Digest) -> Standing:
        """See `Index.standing`."""
        at, key = self._id(repository), pack(digest)
        if at < 0:
            return Standing(vouched=self._vouched(repository, key))
        [(linked, media_type, named, size, public, public_type)] = self._all(
            _STANDING, {"at": at, "key": key, "namespace": repository.namespace}
        )
        if linked:
            return Standing(linked=True, named=bool(named), media_type=media_type, size=size)
        if not named:
            return Standing(vouched=self._vouched(repository, key))
        if public:
            return Standing(named=True, public=True, media_type=public_type, size=size)
        return Standing(named=True, size=size, vouched=self._vouched(repository, key))

    def _vouched(self, repository: Repository, key: bytes) -> bool:
        held = self._all("SELECT 1 FROM held WHERE namespace = ? AND digest = ?", (repository.namespace, key))
        return bool(held or self._all("SELECT 1 FROM public WHERE digest = ? LIMIT 1", (key,)))

    def tags(self, repository: Repository, *, after: str = "", limit: int) -> list[str]:
        """See `Index.tags`."""
        query = "SELECT tag FROM tag WHERE repository = ? AND tag > ? ORDER BY tag LIMIT ?"
        return [row[0] for row in self._all(query, (self._id(repository), after, limit))]

    def repositories(self, *, after: str = "", limit: int) -> list[str]:
        """See `Index.repositories`."""
        query = (
            "SELECT path FROM repository WHERE path > ?"
            " AND EXISTS (SELECT 1 FROM link WHERE link.repository = repository.id) ORDER BY path LIMIT ?"
        )
        return [row[0] for row in self._all(query, (after, limit))]

    def listing(self, repository: Repository, subject: Digest) -> Validated | None:
        """See `Index.listing`."""
        query = "SELECT body, at FROM listing WHERE repository = ? AND subject = ?"
        rows = self._all(query, (self._id(repository), pack(subject)))
        return Validated(unpack(rows[0][0]), rows[0][1]) if rows else None

    def pinned(self, repository: Repository, digest: Digest | None, tag: str | None) -> bool:
        """See `Index.pinned`."""
        references = ("" if digest is None else str(digest), tag or "")
        query = "SELECT 1 FROM pin WHERE repository = ? AND reference IN (?, ?) LIMIT 1"
        return bool(self._all(query, (self._id(repository), *references)))

    async def apply(self, *new: Change) -> None:
        """See `Index.apply`."""
        if new:
            await self._writer.write(new)

    def close(self) -> None:
        """Write what is still queued, and close."""
        self._writer.close()
        self._db.close()
        if self._claim >= 0:
            os.close(self._claim)
            self._claim = -1

    def check(self) -> bool:
        """Read all of the index and compare it with itself: call it off the loop. False: it is damaged.

        Then it is marked, and made again from the journal when the mirror starts next.
        """
        with self._connection() as db:
            return check(db, self._layout)

    def compact(self, room: Reserving | None = None) -> bool:
        """Write the journal anew where most of its lines are overtaken, off the loop; say whether that was so.

        What it needs beside the old one until then is taken from `room`. Raise `NoSpace`, or another `StoreError`.
        """
        with self._connection() as db:
            return compact(db, Journal(self._layout.journal), room)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(connect(self._layout)) as db:
                yield db
        except (sqlite3.Error, OSError) as error:
            raise refusal(self._layout, error) from error

    def _id(self, repository: Repository) -> int:
        known = self._ids.get(repository)
        if known is None:
            rows = self._all("SELECT id FROM repository WHERE path = ?", (str(repository),))
            if not rows:
                return -1
            known = self._ids[repository] = int(rows[0][0])
        return known

    def _all(self, query: str, values: tuple[object, ...] | dict[str, object]) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise refusal(self._layout, error, "read") from error
        except UnicodeEncodeError:  # a lone surrogate: nothing of that name was ever recorded
            return []
