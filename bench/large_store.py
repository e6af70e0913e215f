"""A store with as many images as are asked for, of which only the index exists: rows, journal, account book.

There are no files: what is measured on it does not read them, and what is served is pulled afterwards. The rows are
those that the index's own code would make, which takes ten times as long; a test compares the two.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from mirror.store.changes import Linked, Named, Stored, TagSet
from mirror.store.database import connect, transaction, write
from mirror.store.graph import Graph
from mirror.store.index import SqliteIndex
from mirror.store.journal import Journal
from mirror.store.layout import Layout
from mirror.store.packing import pack
from mirror.store.room import Room

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

    from mirror.store.changes import Change

OWN = 10  # blobs that an image has to itself
_SHARED = 3  # blobs of its base
_BASES = 1000
_TAGS = 5  # images of a repository
_UPSTREAMS = ("docker.io", "quay.io", "ghcr.io")
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_BATCH = 2000  # images in a transaction
_PAGES = 512 * 1024  # KiB of the index that are kept in memory while it is made
_BLOCK = 4096  # bytes that every file is said to take, so that no disk is too small for what is not there
_BASE_SIZE = 32 << 20


def make(root: Path, images: int, *, seed: int = 1) -> int:
    """Make a store with so many images, each with ten blobs of its own; return the bytes that it says it has."""
    layout = Layout(root)
    with closing(SqliteIndex(layout)), closing(connect(layout)) as db:
        _write(db, Journal(layout.journal), _images(images, random.Random(seed)))  # noqa: S311 - no secret
        with closing(Graph(layout)) as graph:
            graph.mark_surveyed()
            taken = graph.totals().taken
    with closing(Room(layout, max_size=2 * taken, min_free=0)) as room:
        room.recount(taken)
    return taken


def make_slowly(root: Path, images: int, *, seed: int = 1) -> None:
    """Make the rows of the same store by the index's own code."""
    layout = Layout(root)
    with closing(SqliteIndex(layout)), closing(connect(layout)) as db:
        for image in _images(images, random.Random(seed)):  # noqa: S311 - no secret
            write(db, Journal(layout.journal), image.changes())


@dataclass(frozen=True, slots=True)
class _Image:
    repository: Repository
    tag: str
    digest: Digest
    layers: tuple[Named, ...]
    at: float

    def changes(self) -> list[Change]:
        """Return what is recorded of it."""
        return [
            Stored(self.digest, _BLOCK, self.at, _MANIFEST, tuple(layer.digest for layer in self.layers)),
            *(Stored(layer.digest, _BLOCK, self.at) for layer in self.layers),
            *self.facts(),
        ]

    def facts(self) -> list[Change]:
        """Return what of that is in the journal."""
        return [
            Linked(self.repository, self.digest, _MANIFEST, public=True, names=self.layers),
            *(Linked(self.repository, layer.digest, public=True) for layer in self.layers),
            TagSet(self.repository, self.tag, self.digest, self.at),
        ]


def _write(db: sqlite3.Connection, journal: Journal, images: Iterator[_Image]) -> None:
    """Write rows and lines as the index would (`tests/unit/test_bench_large.py` compares the two)."""
    db.execute(f"PRAGMA cache_size = -{_PAGES}")
    db.execute("PRAGMA synchronous = OFF")
    indexes = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall()
    for name, _ in indexes:
        db.execute(f"DROP INDEX {name}")
    [(position,)] = db.execute("SELECT position FROM journal")
    ids, places = itertools.count(1), itertools.count(1)
    nodes: dict[bytes, int] = {}
    repositories: dict[Repository, int] = {}
    while some := list(itertools.islice(images, _BATCH)):
        rows: dict[str, list[tuple[object, ...]]] = {table: [] for table in _INSERT}
        for image in some:
            if image.repository not in repositories:
                repositories[image.repository] = next(places)
                rows["repository"].append((repositories[image.repository], str(image.repository)))
            _rows(image, repositories[image.repository], nodes, ids, rows)
        with transaction(db):
            for table, statement in _INSERT.items():
                db.executemany(statement, rows[table])
            position = journal.append([fact for image in some for fact in image.facts()], position)
            db.execute("UPDATE journal SET position = ?", (position,))
    for _, statement in indexes:
        db.execute(statement)
    db.execute(
        "UPDATE total SET images = (SELECT count(*) FROM node WHERE root = 1),"
        " contents = (SELECT count(*) FROM node), taken = (SELECT sum(taken) FROM node)"
    )


_INSERT = {
    "repository": "INSERT INTO repository VALUES (?, ?)",
    "node": "INSERT INTO node VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7, ?6, 0)",
    "used": "UPDATE node SET used = max(used, ?1), checked = max(checked, CAST(?1 AS INTEGER)) WHERE id = ?2",
    "edge": "INSERT INTO edge VALUES (?, ?, 0)",
    "tag": "INSERT INTO tag VALUES (?, ?, ?, ?)",
    "link": "INSERT OR IGNORE INTO link VALUES (?, ?, ?)",
    "named": "INSERT OR REPLACE INTO named VALUES (?, ?, ?)",
    "public": "INSERT OR IGNORE INTO public VALUES (?, ?, ?)",
    "held": "INSERT OR IGNORE INTO held VALUES (?, ?)",
}


def _rows(
    image: _Image, at: int, nodes: dict[bytes, int], ids: Iterator[int], rows: dict[str, list[tuple[object, ...]]]
) -> None:
    key, parent, when = pack(image.digest), next(ids), int(image.at)
    namespace = image.repository.namespace
    rows["node"].append((parent, key, _BLOCK, _MANIFEST, 1, image.at, when))
    rows["tag"].append((at, image.tag, key, image.at))
    rows["link"].append((at, key, _MANIFEST))
    rows["public"].append((namespace, key, _MANIFEST))
    rows["held"].append((namespace, key))
    for layer in image.layers:
        blob = pack(layer.digest)
        node = nodes.get(blob)
        if node is None:
            node = nodes[blob] = next(ids)
            rows["node"].append((node, blob, _BLOCK, None, 0, image.at, when))
        else:
            rows["used"].append((image.at, node))
        rows["edge"].append((parent, node))
        rows["link"].append((at, blob, None))
        rows["named"].append((at, blob, layer.size))
        rows["public"].append((namespace, blob, None))
        rows["held"].append((namespace, blob))


def digest_of(*what: object) -> Digest:
    """Return a digest that belongs to nothing, the same for the same words."""
    return Digest("sha256", hashlib.sha256(repr(what).encode()).hexdigest())


def repository_of(image: int) -> Repository:
    """Return where an image is."""
    number = image // _TAGS
    return Repository(_UPSTREAMS[number % len(_UPSTREAMS)], f"team-{number % 97}/app-{number}")


def _images(images: int, chance: random.Random) -> Iterator[_Image]:
    """Yield images as if they had come in the last thirty days."""
    now = int(time.time())
    for image in range(images):
        base = min(int(chance.expovariate(1 / 50)), _BASES - 1)
        layers = [
            *(Named(digest_of("base", base, number), _BASE_SIZE) for number in range(_SHARED)),
            *(Named(digest_of("blob", image, number), _size(chance)) for number in range(OWN)),
        ]
        at = now - chance.uniform(60, 30 * 86400)
        yield _Image(repository_of(image), f"v{image % _TAGS}", digest_of("manifest", image), tuple(layers), at)


def _size(chance: random.Random) -> int:
    return max(_BLOCK, int(chance.lognormvariate(15.2, 1.9)) // _BLOCK * _BLOCK)  # a median of 4 MB
