from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mirror.errors import NoSpace, StoreError
from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from mirror.store import changes
from mirror.store.changes import Linked, Stored, TagSet
from mirror.store.database import connect
from mirror.store.index import SqliteIndex

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mirror.store.layout import Layout

APP = Repository("quay.io", "org/app")
DIGEST = Digest.of(b"x")
HERE = Stored(DIGEST, 4096, 0.0)

WRITE = """
import asyncio, sys
from pathlib import Path
from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from mirror.store.changes import Stored, TagSet
from mirror.store.index import SqliteIndex
from mirror.store.layout import Layout

async def main(root, name):
    index = SqliteIndex(Layout(Path(root)))
    print("ready", flush=True)
    sys.stdin.readline()
    digest = Digest.of(name.encode())
    await index.apply(Stored(digest, 4096, 0.0))
    for number in range(50):
        await index.apply(TagSet(Repository("quay.io", "org/" + name), f"v{number}", digest, number),
                          TagSet(Repository("quay.io", "org/app"), "last", digest, number))
    index.close()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def index(layout: Layout) -> AsyncIterator[SqliteIndex]:
    opened = SqliteIndex(layout)
    await opened.apply(HERE)
    yield opened
    opened.close()


def again(layout: Layout) -> SqliteIndex:
    """The index as it is made from the journal alone."""
    layout.index.unlink()
    return SqliteIndex(layout)


def test_processes_that_write_at_once_lose_nothing_and_agree_with_the_journal(layout: Layout) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE, str(layout.root), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.communicate("go\n", timeout=60)[0] == ""
        assert writer.returncode == 0
    index = SqliteIndex(layout)
    last = index.tag(APP, "last")
    index.close()
    rebuilt = again(layout)
    for name in ("a", "b"):
        assert len(rebuilt.tags(Repository("quay.io", f"org/{name}"), limit=100)) == 50
    assert last is not None
    assert rebuilt.tag(APP, "last") == last
    rebuilt.close()


def test_a_process_that_is_killed_loses_nothing_that_was_committed(layout: Layout) -> None:
    died = WRITE.replace("index.close()", "import os; os._exit(9)")
    done = subprocess.run(
        [sys.executable, "-c", died, str(layout.root), "a"], input="go\n", text=True, capture_output=True, check=False
    )
    assert done.returncode == 9
    index = SqliteIndex(layout)
    assert len(index.tags(Repository("quay.io", "org/a"), limit=100)) == 50
    index.close()
    rebuilt = again(layout)
    assert len(rebuilt.tags(Repository("quay.io", "org/a"), limit=100)) == 50
    rebuilt.close()


async def test_a_full_disk_is_told_to_the_one_who_waits_and_later_writes_work(
    index: SqliteIndex, layout: Layout
) -> None:
    db = index._writer._db
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages}")
    journal = layout.journal.read_bytes()
    with pytest.raises(NoSpace, match=f"{layout.root} is full"):
        await index.apply(*(TagSet(APP, f"v{number}", DIGEST, 0) for number in range(1000)))
    assert index.tags(APP, limit=1) == []
    assert layout.journal.read_bytes() == journal
    db.execute("PRAGMA max_page_count = 1000000")
    await index.apply(TagSet(APP, "v1", DIGEST, 0))
    assert index.tags(APP, limit=10) == ["v1"]


@pytest.mark.parametrize(("number", "kind"), [(28, NoSpace), (30, StoreError), (5, StoreError)])
async def test_a_journal_that_cannot_be_written_records_nothing_and_later_writes_work(
    index: SqliteIndex, layout: Layout, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StoreError]
) -> None:
    await index.apply(TagSet(APP, "before", DIGEST, 0))
    pwrite = os.pwrite

    def half(fd: int, data: memoryview, position: int) -> int:
        pwrite(fd, bytes(data[: len(data) // 2]), position)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("mirror.store.journal.os.pwrite", half)
        with pytest.raises(kind) as caught:
            await index.apply(TagSet(APP, "during", DIGEST, 0), TagSet(APP, "too", DIGEST, 0))
    assert type(caught.value) is kind
    await index.apply(TagSet(APP, "later", DIGEST, 0))
    assert index.tags(APP, limit=10) == ["before", "later"]
    index.close()
    rebuilt = again(layout)
    assert rebuilt.tags(APP, limit=10) == ["before", "later"]
    rebuilt.close()


async def test_a_commit_that_fails_leaves_no_line_in_the_journal(index: SqliteIndex, layout: Layout) -> None:
    """The last word is SQLite's: a reader keeps the writer from nothing, so a hook stands in for the disk."""
    await index.apply(TagSet(APP, "before", DIGEST, 0))
    journal = layout.journal.read_bytes()
    db = index._writer._db
    db.execute("CREATE TEMP TRIGGER refuse BEFORE UPDATE ON main.journal BEGIN SELECT raise(FAIL, 'no'); END")
    with pytest.raises(StoreError, match="cannot be written: no"):
        await index.apply(TagSet(APP, "during", DIGEST, 0))
    assert layout.journal.read_bytes() == journal
    db.execute("DROP TRIGGER refuse")
    await index.apply(TagSet(APP, "later", DIGEST, 0))
    assert index.tags(APP, limit=10) == ["before", "later"]


async def test_what_cannot_be_recorded_fails_alone(index: SqliteIndex) -> None:
    results = await asyncio.gather(
        *(index.apply(TagSet(APP, f"v{number}", DIGEST, 0)) for number in range(20)),
        index.apply(TagSet(APP, "bad\ud800", DIGEST, 0)),
        index.apply(Linked(APP, Digest("md5", "00"))),
        *(index.apply(TagSet(APP, f"w{number}", DIGEST, 0)) for number in range(20)),
        return_exceptions=True,
    )
    assert [type(result) for result in results if result is not None] == [UnicodeEncodeError, ValueError]
    assert len(index.tags(APP, limit=100)) == 40
    assert index.tag(APP, "bad\ud800") is None


async def test_a_caller_that_leaves_does_not_stop_the_write(index: SqliteIndex, layout: Layout) -> None:
    lock = connect(layout)
    lock.execute("BEGIN IMMEDIATE")
    task = asyncio.create_task(index.apply(TagSet(APP, "v1", DIGEST, 0)))
    await asyncio.sleep(0)  # it has queued its change
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    lock.execute("ROLLBACK")
    lock.close()
    await index.apply(TagSet(APP, "v2", DIGEST, 0))
    assert index.tags(APP, limit=10) == ["v1", "v2"]


async def test_closing_writes_what_is_queued(index: SqliteIndex, layout: Layout) -> None:
    lock = connect(layout)
    lock.execute("BEGIN IMMEDIATE")
    tasks = [asyncio.create_task(index.apply(TagSet(APP, f"v{number}", DIGEST, 0))) for number in range(10)]
    await asyncio.sleep(0)  # each has queued its change
    lock.execute("ROLLBACK")
    lock.close()
    index.close()
    await asyncio.gather(*tasks)
    with pytest.raises(StoreError, match="closed"):
        await index.apply(TagSet(APP, "late", DIGEST, 0))
    opened = SqliteIndex(layout)
    assert len(opened.tags(APP, limit=100)) == 10
    opened.close()


async def test_a_page_of_repositories_is_no_walk_over_all(index: SqliteIndex) -> None:
    asked: list[str] = []
    index._db.set_trace_callback(asked.append)
    index.repositories(after="docker.io/library/app", limit=100)
    index._db.set_trace_callback(None)
    plan = " ".join(row[3] for row in index._db.execute(f"EXPLAIN QUERY PLAN {asked[-1]}"))
    assert "SEARCH repository USING COVERING INDEX" in plan
    assert "SEARCH link USING PRIMARY KEY" in plan
    assert "SCAN" not in plan
    assert "TEMP B-TREE" not in plan


def test_a_change_is_written_for_people_to_read() -> None:
    line = changes.dump(TagSet(APP, "v1", DIGEST, 1.5))
    assert line == f'{{"ns":"quay.io","repo":"org/app","do":"tag","tag":"v1","digest":"{DIGEST}","at":1.5}}'
