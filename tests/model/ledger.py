"""The store from outside: what is on the disk, and whether the mirror's index and account book say the same."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from mirror.store.database import catch_up, transaction
from mirror.store.journal import Journal
from mirror.store.packing import unpack
from mirror.store.page import Page

if TYPE_CHECKING:
    from mirror.oci.digest import Digest
    from mirror.store.layout import Layout

_BLOCK = 512  # bytes that st_blocks counts in (stat(2))
_FILLS = frozenset({".part", ".map", ".put", ".carried"})
_TAGS = "SELECT path, tag, digest FROM tag JOIN repository ON repository.id = repository"
_LINKS = "SELECT path, media_type, digest FROM link JOIN repository ON repository.id = repository"
_LISTINGS = "SELECT path, subject, body FROM listing JOIN repository ON repository.id = repository"
_PUBLIC = "SELECT namespace, media_type, digest FROM public"
_PINS = "SELECT path, reference, NULL FROM pin JOIN repository ON repository.id = repository"


class Fact(NamedTuple):
    """One row that only the journal can bring back. It holds as long as `digest`, if it has one, is on the disk."""

    kind: str
    where: str
    what: object
    digest: Digest | None


class Ledger:
    """One store. Nothing is written; what is found holds for a moment at which its mirrors stand still, or are gone."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def contents(self) -> list[Path]:
        """Return the files of content."""
        return sorted(self._layout.blobs.glob("*/*/*"))

    def differences(self) -> str:
        """Return in what disk, index and account book differ; nothing where they agree."""
        return "; ".join([*self._strange(), *self._compared(), *self._counted()])

    def facts(self) -> set[Fact]:
        """Return what would be lost if the journal did not have it."""
        return self._facts(self._layout.index)

    def settled_facts(self) -> set[Fact]:
        """Return the same as whoever opens the store next will see it. No mirror runs.

        A kill between a line of the journal and the commit leaves the line to be made a row of.
        """
        with TemporaryDirectory(dir=self._layout.root.parent) as directory:
            for suffix in ("", "-wal"):
                path = self._layout.index.with_name(self._layout.index.name + suffix)
                if path.exists():
                    shutil.copy(path, directory)
            index = Path(directory, self._layout.index.name)
            with closing(sqlite3.connect(index, isolation_level=None)) as db, transaction(db):
                catch_up(db, Journal(self._layout.journal))
            return self._facts(index)

    def _facts(self, index: Path) -> set[Fact]:
        with closing(sqlite3.connect(index, timeout=10)) as db:
            found = set()
            for kind, query in (
                ("tag", _TAGS),
                ("link", _LINKS),
                ("listing", _LISTINGS),
                ("public", _PUBLIC),
                ("pin", _PINS),
            ):
                for where, what, key in db.execute(query):
                    found.add(Fact(kind, where, what, None if key is None else unpack(key)))
            return found

    def unlinked(self, repository: str, digests: set[Digest]) -> set[Digest]:
        """Return which of these are here, and were not served by upstream to `repository`: a kill came in between."""
        here = {path.name for path in self.contents()}
        known = {
            fact.digest
            for fact in self.facts()
            if fact.kind == "public" or (fact.kind == "link" and fact.where == repository)
        }
        return {digest for digest in digests if digest.hex in here} - known

    def forget_index(self) -> None:
        """Throw the index away. No mirror runs."""
        for suffix in ("", "-wal", "-shm"):
            self._layout.index.with_name(self._layout.index.name + suffix).unlink(missing_ok=True)

    def _index(self) -> sqlite3.Connection:
        return sqlite3.connect(self._layout.index, timeout=10)

    def _strange(self) -> list[str]:
        """Files that are none of a store's."""
        layout = self._layout
        expected = {path.name for path in (*layout.facts(), *layout.directories()[:4])} - {layout.root.name}
        expected |= {layout.move_lock.name, layout.keeper_lock.name, "index.lock"}
        strange = [name for name in os.listdir(layout.root) if name not in expected]  # noqa: PTH208 - names are all
        for directory, _, names in os.walk(layout.blobs):
            shelf = os.path.relpath(directory, layout.blobs)
            strange += [name for name in names if shelf != f"sha256/{name[:2]}"]
        strange += [path.name for path in layout.fills.iterdir() if path.suffix not in _FILLS]
        return [f"{sorted(strange)} are no files of a store"] if strange else []

    def _compared(self) -> list[str]:
        """Content without a row, and rows without a file."""
        files = {path.name for path in self.contents()}
        with closing(self._index()) as db:
            known = {row[0][1:].hex() for row in db.execute("SELECT digest FROM node WHERE taken IS NOT NULL")}
            sums = db.execute("SELECT coalesce(sum(taken), 0) FROM node UNION ALL SELECT taken FROM total").fetchall()
        found = []
        if files != known:
            found.append(f"nobody knows {sorted(files - known)}, and {sorted(known - files)} are not there")
        if sums[0] != sums[-1]:
            found.append(f"the index adds up to {sums[0][0]} bytes and says {sums[-1][0]}")
        return found

    def _counted(self) -> list[str]:
        """Bytes that are on the disk and not in the account book, or the other way round: what leaks."""
        layout = self._layout
        files = [*self.contents(), *layout.fills.iterdir(), *layout.aside.iterdir()]
        here = sum(path.lstat().st_blocks * _BLOCK for path in files)
        said = Page(layout.room.read_bytes()).balance
        if said.outstanding or said.content + said.held != here:
            return [f"{here} bytes are on the disk, and the book has {said}"]
        return []
