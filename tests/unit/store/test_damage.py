"""A damaged index is found, marked, and made again from the journal at the next start; nobody's is taken away."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from mirror.errors import StoreError, StoreUnusable
from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from mirror.store import damage
from mirror.store.changes import Linked
from mirror.store.index import SqliteIndex

if TYPE_CHECKING:
    from mirror.store.layout import Layout

APP = Repository("quay.io", "org/app")
DIGESTS = [Digest.of(str(number).encode()) for number in range(2000)]


async def filled(layout: Layout) -> None:
    index = SqliteIndex(layout)
    await index.apply(*(Linked(APP, digest) for digest in DIGESTS))
    assert index.check()
    index.close()


def spoil_the_middle(layout: Layout) -> None:
    """Spoil pages of a table that neither end of it leads to."""
    db = sqlite3.connect(layout.index)
    size = db.execute("PRAGMA page_size").fetchone()[0]
    pages = db.execute("SELECT pageno FROM dbstat WHERE name = 'link' AND pagetype = 'leaf' ORDER BY path").fetchall()
    db.close()
    with layout.index.open("r+b") as file:
        for (page,) in pages[2:-2]:
            file.seek((page - 1) * size)
            file.write(b"\xff" * size)


def linked(index: SqliteIndex) -> int:
    return sum(index.standing(APP, digest).linked for digest in DIGESTS)


async def test_a_full_check_finds_what_the_start_does_not_and_the_next_start_mends_it(layout: Layout) -> None:
    await filled(layout)
    spoil_the_middle(layout)
    index = SqliteIndex(layout)
    assert not index.check()
    assert damage.marker(layout).exists()
    index.close()
    again = SqliteIndex(layout)
    assert linked(again) == len(DIGESTS)
    assert again.check()
    assert not damage.marker(layout).exists()
    again.close()


async def test_damage_that_a_question_meets_is_marked_and_said(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    await filled(layout)
    spoil_the_middle(layout)
    index = SqliteIndex(layout)
    with pytest.raises(StoreError, match=r"is damaged: .*; restart the mirror, and it is made again from the journal"):
        linked(index)
    index.close()
    assert "restart the mirror" in capsys.readouterr().out
    again = SqliteIndex(layout)
    assert linked(again) == len(DIGESTS)
    again.close()


async def test_an_index_that_others_use_is_not_taken_away(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    """They would go on with a file that has no name any more, and what they record would be lost."""
    await filled(layout)
    other = SqliteIndex(layout)
    damage.mark(layout, "a test")
    inode = layout.index.stat().st_ino
    index = SqliteIndex(layout)
    assert layout.index.stat().st_ino == inode
    assert "stop them all" in capsys.readouterr().out
    index.close()
    layout.index.write_bytes(b"garbage " * 4096)
    with pytest.raises(StoreUnusable, match="is damaged, and other processes use it; stop all that run on"):
        SqliteIndex(layout)
    other._db.close()
    other.close()
    again = SqliteIndex(layout)
    assert linked(again) == len(DIGESTS)
    again.close()
