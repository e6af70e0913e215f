"""The tables of the index.

Two kinds of facts, kept apart. Those of the journal: `repository`, `tag`, `link`, `named`, `public`, `held`, `listing`,
`pin`. Those of the disk: `node` and `edge`, which whoever looks through the disk finds again.
"""

from __future__ import annotations

SCHEMA_VERSION = 2

# `path` is `namespace/name`, so that a page of the catalog is a walk along one index. An id is never given to another
# repository, nor forgotten: open connections remember it. `journal` says up to where the journal has become rows: its
# name, the position in bytes, and the size that it had when it was last written anew.
FACTS = """
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

# What came with schema 2. A node is content, on disk or only named by some: `taken` is the bytes that it takes there,
# NULL where it is not here. `root`: 0 no root; 1 a root, which is what is evicted; 2 a root, for a tag points to it,
# that other content here needs too: removing it would free nothing, and it becomes 1 when that other goes. `again`: it
# was asked for after the pull with which it came (`since`), which is what decides who goes first. An edge
# says that its parent needs its child, or owns it (`mirror.store.nodes` has the kinds); edges make no circle. `checked`
# is in whole seconds. Ids keep edges small, and are used within one transaction only. `total` spares a walk through a
# million rows; `surveyed` says that all that is on disk has a node.
GRAPH = """
CREATE TABLE pin (repository INTEGER NOT NULL, reference TEXT NOT NULL, at REAL NOT NULL,
                  PRIMARY KEY (repository, reference)) WITHOUT ROWID;
CREATE INDEX pin_reference ON pin (reference);
CREATE INDEX link_digest ON link (digest);
CREATE INDEX tag_digest ON tag (digest);
CREATE INDEX listing_subject ON listing (subject);
CREATE INDEX listing_body ON listing (body);
CREATE TABLE node (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, taken INTEGER, media_type TEXT,
                   root INTEGER NOT NULL DEFAULT 0, pinned INTEGER NOT NULL DEFAULT 0,
                   used REAL NOT NULL DEFAULT 0, checked INTEGER NOT NULL DEFAULT 0,
                   since REAL NOT NULL DEFAULT 0, again INTEGER NOT NULL DEFAULT 0);
CREATE INDEX node_order ON node (again, used) WHERE root = 1 AND NOT pinned;
CREATE INDEX node_pinned ON node (digest) WHERE pinned;
CREATE INDEX node_due ON node (checked) WHERE taken IS NOT NULL;
CREATE TABLE edge (parent INTEGER NOT NULL, child INTEGER NOT NULL, kind INTEGER NOT NULL,
                   PRIMARY KEY (parent, child, kind)) WITHOUT ROWID;
CREATE INDEX edge_child ON edge (child);
CREATE TABLE total (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), images INTEGER NOT NULL,
                    contents INTEGER NOT NULL, taken INTEGER NOT NULL, surveyed INTEGER NOT NULL);
INSERT INTO total VALUES (1, 0, 0, 0, 0);
CREATE TRIGGER node_counted AFTER UPDATE OF taken, root, media_type ON node
    WHEN old.taken IS NOT new.taken OR old.root <> new.root OR old.media_type IS NOT new.media_type
    BEGIN UPDATE total SET
        images = images + (new.root > 0 AND new.media_type IS NOT NULL) - (old.root > 0 AND old.media_type IS NOT NULL),
        contents = contents + (new.taken IS NOT NULL) - (old.taken IS NOT NULL),
        taken = taken + coalesce(new.taken, 0) - coalesce(old.taken, 0); END
"""

SCHEMA = (*FACTS.strip().split(";\n"), *GRAPH.strip().split(";\n"))
