"""What a file of the store is: a blob, a manifest that needs others, or a list of referrers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from mirror.oci.manifest import MAX_SIZE, Manifest, ManifestMalformed
from mirror.store.changes import Stored
from mirror.store.inspection import DAMAGE
from mirror.store.packing import pack, unpack

if TYPE_CHECKING:
    import os
    import sqlite3

    from mirror.oci.digest import Digest

log = structlog.get_logger(__name__)

_BLOCK = 512  # bytes that st_blocks counts in (stat(2))

_KIND = """
SELECT coalesce((SELECT media_type FROM link WHERE digest = ?1 AND media_type IS NOT NULL LIMIT 1),
                (SELECT media_type FROM public WHERE digest = ?1 AND media_type IS NOT NULL LIMIT 1)),
       (SELECT subject FROM listing WHERE body = ?1 LIMIT 1)
"""


class Damaged(Exception):
    """A manifest on disk is not what its digest says, or cannot be read."""


def recognize(db: sqlite3.Connection, digest: Digest, path: str, status: os.stat_result) -> Stored:
    """Return the fact that a file on disk stands for, by what the index `db` has links and lists of.

    Manifests are read, and verified: raise `Damaged`, and `OSError`. Blobs are not: that is for the scrub. The age of
    the file is when it was last used (`mirror.store.ages`).
    """
    at, taken = status.st_mtime, taken_by(status)
    media_type, subject = db.execute(_KIND, (pack(digest),)).fetchone()
    if subject is not None:
        return Stored(digest, taken, at, subject=unpack(subject))
    if media_type is None or status.st_size > MAX_SIZE:
        return Stored(digest, taken, at)
    try:
        body = Path(path).read_bytes()
    except OSError as error:
        if error.errno in DAMAGE:
            raise Damaged(str(digest)) from error
        raise
    if not digest.matches(body):
        raise Damaged(str(digest))
    return describe(digest, taken, at, media_type, body)


def describe(digest: Digest, taken: int, at: float, media_type: str, body: bytes) -> Stored:
    """Return the fact that a manifest is on disk, with what it names and refers to; see `Stored`."""
    try:
        manifest = Manifest.parse(body, media_type)
    except ManifestMalformed as error:  # it was served as it came, and goes on being served
        log.warning("a manifest in the store cannot be read", digest=str(digest), error=str(error))
        return Stored(digest, taken, at, media_type)
    names = tuple(dict.fromkeys(named.digest for named in (*manifest.blobs, *manifest.children)))
    subject = manifest.subject.digest if manifest.subject is not None else None
    return Stored(digest, taken, at, media_type, names, subject)


def taken_by(status: os.stat_result) -> int:
    """Return the bytes that a file takes on disk."""
    return status.st_blocks * _BLOCK
