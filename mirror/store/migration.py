"""How an index of an older release becomes one of this."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from mirror.store import nodes
from mirror.store.schema import GRAPH, SCHEMA, SCHEMA_VERSION

if TYPE_CHECKING:
    import sqlite3

log = structlog.get_logger(__name__)


def bring_up_to_date(db: sqlite3.Connection) -> None:
    """Make the tables, or those that are missing. The write lock is held; all of it comes to be, or nothing.

    Tags, links and names stay as they are. What is on disk has no node yet: the disk has to be looked through.
    """
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return
    for statement in SCHEMA if version == 0 else GRAPH.strip().split(";\n"):
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    if version:
        _tie(db)
        log.info("the index was brought up to date", schema=SCHEMA_VERSION, before=version)


def _tie(db: sqlite3.Connection) -> None:
    """Say what schema 1 knew of who refers to whom."""
    referrers = db.execute(f"SELECT tag, digest FROM tag WHERE tag GLOB '{nodes.REFERRER_TAG}'")  # noqa: S608  # a constant
    for tag, key in referrers.fetchall():
        subject = nodes.referred(tag)
        if subject is not None:
            nodes.own(db, subject, key, nodes.TAG)
    for subject, body in db.execute("SELECT subject, body FROM listing").fetchall():
        nodes.own(db, subject, body, nodes.LISTING)
