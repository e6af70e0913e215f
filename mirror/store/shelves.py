"""The directories of `blobs.v1`, one after the other: what lies in each, and what the index believes to."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from mirror.errors import DigestInvalid
from mirror.oci.digest import Digest
from mirror.store.inspection import DAMAGE
from mirror.store.packing import pack
from mirror.store.recognition import taken_by

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from mirror.store.layout import Layout

log = structlog.get_logger(__name__)

ALGORITHMS = ("sha256", "sha384", "sha512")
_SHELVES, _LAST = 256, 255
_KNOWN = "SELECT digest, taken FROM node WHERE digest >= ? AND digest < ? AND taken IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Shelf:
    """One directory, `ALGORITHM/ab`."""

    algorithm: str
    number: int  # the first byte of its digests

    def path(self, layout: Layout) -> Path:
        """Return where it lies."""
        return layout.blobs / self.algorithm / f"{self.number:02x}"

    def known(self, db: sqlite3.Connection) -> dict[bytes, int]:
        """Return what the index takes to be here: packed digests, and the bytes that each takes on disk."""
        start = pack(Digest(self.algorithm, f"{self.number:02x}"))
        end = start[:1] + bytes([start[1] + 1]) if self.number < _LAST else bytes([start[0] + 1])
        return dict(db.execute(_KNOWN, (start, end)))


@dataclass(slots=True)
class Findings:
    """How a shelf and the index differ."""

    contents: int = 0  # files that are what they should be, known or not
    taken: int = 0  # bytes on disk of those
    unknown: list[tuple[Digest, os.stat_result]] = field(default_factory=list)
    resized: list[tuple[Digest, int]] = field(default_factory=list)  # it takes other bytes on disk than was recorded
    missing: list[bytes] = field(default_factory=list)  # packed; no file, or an empty one
    torn: list[Digest] = field(default_factory=list)  # empty files
    strange: list[str] = field(default_factory=list)  # paths of what is no content


def shelves(layout: Layout, db: sqlite3.Connection) -> list[Shelf]:
    """Return all shelves, but those of algorithms that nobody has used."""
    return [
        Shelf(algorithm, number)
        for algorithm in ALGORITHMS
        if (layout.blobs / algorithm).exists() or _is_known(db, algorithm)
        for number in range(_SHELVES)
    ]


def compare(shelf: Shelf, layout: Layout, db: sqlite3.Connection) -> Findings:
    """Look at one shelf. What comes and goes meanwhile may be among the findings. Raises `OSError`."""
    known = shelf.known(db)  # before the disk: what is recorded has its file already
    found = Findings()
    try:
        entries = os.scandir(shelf.path(layout))
    except FileNotFoundError:
        found.missing = list(known)
        return found
    with entries:
        for entry in entries:
            digest = _digest(shelf, entry.name)
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # it went while we looked
                continue
            except OSError as error:
                if error.errno not in DAMAGE:
                    raise
                log.warning("a file in the store cannot be looked at", path=entry.path, error=error.strerror)
                known.pop(pack(digest) if digest is not None else b"", None)  # the index goes on believing what it does
                continue
            if digest is None or not stat.S_ISREG(status.st_mode):
                found.strange.append(entry.path)
                continue
            if status.st_size == 0 and not digest.matches(b""):
                found.torn.append(digest)
                continue
            _file(found, digest, status, known.pop(pack(digest), None))
    found.missing = list(known)
    return found


def _is_known(db: sqlite3.Connection, algorithm: str) -> bool:
    start = pack(Digest(algorithm, ""))
    return db.execute(_KNOWN, (start, bytes([start[0] + 1]))).fetchone() is not None


def _file(found: Findings, digest: Digest, status: os.stat_result, recorded: int | None) -> None:
    taken = taken_by(status)
    found.contents += 1
    found.taken += taken
    if recorded is None:
        found.unknown.append((digest, status))
    elif recorded != taken:
        found.resized.append((digest, taken))


def _digest(shelf: Shelf, name: str) -> Digest | None:
    try:
        digest = Digest.parse(f"{shelf.algorithm}:{name}")
    except DigestInvalid:
        return None
    return digest if digest.hex.startswith(f"{shelf.number:02x}") else None
