"""An index of an older release becomes one of this, in place, and nothing of it is lost."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from mirror.errors import StoreUnusable
from mirror.oci.digest import Digest
from mirror.oci.mediatype import OCI_MANIFEST
from mirror.oci.name import Repository
from mirror.store import migration
from mirror.store.changes import Stored
from mirror.store.graph import Graph
from mirror.store.index import SqliteIndex, Standing, Validated
from mirror.store.packing import pack

if TYPE_CHECKING:
    from mirror.store.layout import Layout

# As release 0.2 made them.
SCHEMA_1 = """
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
                      position INTEGER NOT NULL, base INTEGER NOT NULL);
PRAGMA user_version = 1
"""
APP, OTHER = Repository("quay.io", "org/app"), Repository("quay.io", "org/other")
MANIFEST, LAYER, SIGNATURE, LIST = (Digest.of(name) for name in (b"manifest", b"layer", b"signature", b"list"))
JOURNAL = '{"journal":1,"name":"0123456789abcdef"}\n'


def made_by_the_release_before(layout: Layout) -> None:
    layout.journal.write_text(JOURNAL, encoding="ascii")
    db = sqlite3.connect(layout.index, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    for statement in SCHEMA_1.strip().split(";\n"):
        db.execute(statement)
    db.execute("INSERT INTO repository VALUES (7, 'quay.io/org/app')")
    manifest, layer, signature = pack(MANIFEST), pack(LAYER), pack(SIGNATURE)
    db.execute("INSERT INTO tag VALUES (7, 'v1', ?, 1.5)", (manifest,))
    db.execute("INSERT INTO tag VALUES (7, ?, ?, 2.5)", (f"sha256-{MANIFEST.hex}.sig", signature))
    db.execute("INSERT INTO link VALUES (7, ?, ?)", (manifest, OCI_MANIFEST))
    db.execute("INSERT INTO named VALUES (7, ?, 42)", (layer,))
    db.execute("INSERT INTO public VALUES ('quay.io', ?, NULL)", (layer,))
    db.execute("INSERT INTO held VALUES ('quay.io', ?)", (signature,))
    db.execute("INSERT INTO listing VALUES (7, ?, ?, 3.5)", (manifest, pack(LIST)))
    db.execute("INSERT INTO journal VALUES (1, '0123456789abcdef', ?1, ?1)", (len(JOURNAL),))
    db.close()


def known(index: SqliteIndex) -> list[object]:
    return [
        index.tag(APP, "v1"),
        index.tags(APP, limit=10),
        index.listing(APP, MANIFEST),
        *(index.standing(where, digest) for where in (APP, OTHER) for digest in (MANIFEST, LAYER, SIGNATURE)),
    ]


KNOWN = [
    Validated(MANIFEST, 1.5),
    [f"sha256-{MANIFEST.hex}.sig", "v1"],
    Validated(LIST, 3.5),
    Standing(linked=True, media_type=OCI_MANIFEST),
    Standing(named=True, public=True, size=42),
    Standing(vouched=True),
    Standing(),
    Standing(vouched=True),
    Standing(vouched=True),
]


async def test_an_index_of_schema_1_keeps_all_it_knew(layout: Layout) -> None:
    made_by_the_release_before(layout)
    index, graph = SqliteIndex(layout), Graph(layout)
    assert known(index) == KNOWN
    assert not graph.surveyed
    assert layout.journal.read_text(encoding="ascii") == JOURNAL
    # The disk is looked through next, and finds an image with its signature and list, which go and stay with it.
    await index.apply(
        Stored(SIGNATURE, 1, 1.0, OCI_MANIFEST),
        Stored(LIST, 1, 1.0),
        Stored(LAYER, 1, 1.0),
        Stored(MANIFEST, 1, 1.0, OCI_MANIFEST, (LAYER,)),
    )
    assert [unit.digest for unit in graph.oldest(10)] == [MANIFEST]
    index.close()
    graph.close()
    again = SqliteIndex(layout)
    assert known(again) == KNOWN
    again.close()


async def test_a_step_that_is_cut_short_is_made_again(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    made_by_the_release_before(layout)

    def die(_db: sqlite3.Connection) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(migration, "_tie", die)
        with pytest.raises(StoreUnusable, match="Input/output error"):
            SqliteIndex(layout)
    db = sqlite3.connect(layout.index)
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    db.close()
    index = SqliteIndex(layout)
    assert known(index) == KNOWN
    index.close()
