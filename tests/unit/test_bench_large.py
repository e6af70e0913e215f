"""The bench of the large store: what it makes is what the index would have made."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from bench import large_store
from mirror.store.database import connect
from mirror.store.journal import Journal
from mirror.store.layout import Layout

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

_TABLES = {
    "node": "SELECT digest, taken, media_type, root, pinned, used, checked FROM node ORDER BY digest",
    "edge": "SELECT p.digest, c.digest, kind FROM edge JOIN node AS p ON p.id = parent JOIN node AS c ON c.id = child"
    " ORDER BY 1, 2",
    **{
        table: f"SELECT path, {table}.* FROM {table} JOIN repository ON repository.id = repository ORDER BY 1, 3"  # noqa: S608  # the names stand one line below
        for table in ("tag", "link", "named", "listing", "pin")
    },
    "public": "SELECT * FROM public ORDER BY 1, 2",
    "held": "SELECT * FROM held ORDER BY 1, 2",
    "total": "SELECT images, contents, taken FROM total",
    "schema": "SELECT name, sql FROM sqlite_master ORDER BY name",
}


def test_a_store_that_is_made_quickly_has_the_rows_of_one_that_the_index_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_store.time, "time", lambda: 1_800_000_000.0)
    large_store.make(tmp_path / "quick", 23)
    large_store.make_slowly(tmp_path / "slow", 23)
    quick, slow = Layout(tmp_path / "quick"), Layout(tmp_path / "slow")
    with closing(connect(quick)) as one, closing(connect(slow)) as other:
        for table, query in _TABLES.items():
            assert one.execute(query).fetchall() == other.execute(query).fetchall(), table
        assert one.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = one.execute("SELECT name, position FROM journal").fetchone()
    assert rows == Journal(quick.journal).state()
    assert len(list(Journal(quick.journal).after(0))) == len(list(Journal(slow.journal).after(0)))
