from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from mirror.errors import StoreError
from mirror.oci.digest import Digest
from mirror.oci.mediatype import OCI_MANIFEST
from mirror.store import shelves
from mirror.store import survey as module
from mirror.store.changes import ListingSet, Lost, Pinned, Stored, TagDropped, TagSet
from mirror.store.database import connect
from mirror.store.index import SqliteIndex
from mirror.store.part import PartFile
from mirror.store.survey import Interrupted, Survey
from tests.unit.store.stocked import (
    REPO,
    blob,
    book,
    here,
    image,
    index,
    manifest,
    multi,
    on_disk,
    opened,
    overwrite,
    put,
    stored,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.store.store import Store
    from mirror.store.survey import SurveyResult

ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with opened(path) as one:
        yield one


async def forget(store: Store, *digests: Digest) -> None:
    """Let the index not know of what is on disk."""
    await SqliteIndex.apply(store.index, *map(Lost, digests))


def facts(store: Store) -> list[tuple[object, ...]]:
    """Return nodes and edges as far as a survey can know them, whatever their ids are."""
    db = connect(store.layout)
    nodes = db.execute("SELECT digest, taken, media_type, root, pinned FROM node ORDER BY digest").fetchall()
    edges = db.execute(
        "SELECT p.digest, c.digest, kind FROM edge JOIN node AS p ON p.id = parent JOIN node AS c ON c.id = child"
        " ORDER BY 1, 2, 3"
    ).fetchall()
    total = db.execute("SELECT images, contents, taken FROM total").fetchall()
    db.close()
    return [*nodes, *edges, *total]


def lose_index(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.joinpath(f"index.sqlite{suffix}").unlink(missing_ok=True)


def found(result: SurveyResult) -> tuple[int, int, int]:
    return result.found, result.lost, result.thrown_away


async def test_a_store_that_ended_well_is_not_looked_through(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as store:
        assert not store.counted
        await store.count()
        await image(store, "one", "layer")

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Survey, "run", never)
    with opened(path) as store:
        assert store.counted
        await store.count()
        assert book(store) == on_disk(store) > 0


async def test_a_lost_index_is_as_it_was_after_a_survey(path: Path) -> None:
    with opened(path) as store:
        await store.count()
        child, other = await image(store, None, "base", "amd64"), await image(store, None, "base", "arm64")
        both = await multi(store, "both", child, other)
        await image(store, "sha256-" + both.hex + ".sig", "signature")
        await image(store, None, "attestation", subject=both)
        listing, taken = await put(store, index())
        await store.index.apply(Stored(listing, taken, 5.0, subject=both), ListingSet(REPO, both, listing, 5.0))
        await blob(store, "belongs to nobody")
        await image(store, "pinned", "base", "pinned layer")
        await store.index.apply(Pinned(REPO, "pinned", 7.0))
        before, tags = facts(store), store.index.tags(REPO, limit=99)
    lose_index(path)
    with opened(path) as store:
        assert not store.counted
        await store.count()
        assert store.counted
        assert facts(store) == before
        assert not any(store.graph.unit(digest) for digest in (*child.all, *other.all, listing)), "they are no roots"
        assert store.index.tags(REPO, limit=99) == tags
        assert store.index.pinned(REPO, None, "pinned")
        assert store.index.standing(REPO, child.digest).linked
        assert book(store) == on_disk(store)


async def test_last_use_survives_a_lost_index_in_the_age_of_the_file(path: Path) -> None:
    with opened(path) as store:
        for number, tag in enumerate(("oldest", "middle", "newest")):
            one = await image(store, tag, tag)
            for digest in one.all:
                os.utime(store.layout.blob(digest), (1000.0 + number, 1000.0 + number))
        os.utime(store.layout.blob(one.digest), (2.0**33, 2.0**33))  # a clock that was wrong
    lose_index(path)
    with opened(path) as store:
        await store.count()
        units = store.graph.oldest(9)
        tags = [store.index.tag(REPO, tag) for tag in ("oldest", "middle", "newest")]
        assert [unit.digest for unit in units] == [tag.digest for tag in tags if tag is not None]
        assert [unit.used for unit in units[:2]] == [1000.0, 1001.0]
        assert units[2].used <= time.time()


async def test_files_that_the_index_does_not_know_are_found(store: Store) -> None:
    await store.count()
    body = b"nobody knows this"
    digest, taken = await put(store, body)
    result = await store.survey()
    assert found(result) == (1, 0, 0)
    unit = store.graph.unit(digest)
    assert unit is not None
    assert (unit.taken, unit.media_type) == (taken, None)
    assert found(await store.survey()) == (0, 0, 0)


async def test_what_is_no_content_is_thrown_away(store: Store) -> None:
    one = await image(store, "one", "layer")
    shelf = store.layout.blobs / "sha256" / "ab"
    (shelf / "notes.txt").write_bytes(b"x" * 5000)
    (shelf / ("cd" + 62 * "0")).write_bytes(b"on the wrong shelf")
    (shelf / ("ab" + 62 * "0")).touch()
    (shelf / ("AB" + 62 * "0")).symlink_to("/etc/passwd")
    (shelf / "directory").mkdir()
    result = await store.survey()
    assert found(result) == (0, 0, 4)
    assert [path.name for path in shelf.iterdir()] == ["directory"]
    assert here(store, *one.all) == [True, True]
    assert book(store) == on_disk(store)


async def test_the_empty_blob_is_content(store: Store) -> None:
    digest, _ = await put(store, b"")
    assert found(await store.survey()) == (1, 0, 0)
    assert here(store, digest) == [True]


async def test_a_file_that_a_power_cut_emptied_is_lost(store: Store) -> None:
    one = await image(store, "one", "layer")
    overwrite(store, one.blobs[0], b"")
    result = await store.survey()
    assert found(result) == (0, 1, 1)
    assert here(store, *one.all) == [True, False]
    assert store.index.standing(REPO, one.blobs[0]).linked, "the image needs it: it is fetched again"
    assert store.index.tags(REPO, limit=9) == ["one"]


async def test_a_manifest_that_is_lost_takes_its_tags_along_and_no_more(store: Store) -> None:
    lost, kept = await image(store, "lost", "base", "own"), await image(store, "kept", "base")
    store.layout.blob(lost.digest).unlink()
    result = await store.survey()
    assert (result.lost, result.forgotten) == (1, 1)
    assert store.index.tags(REPO, limit=9) == ["kept"]
    assert not store.index.standing(REPO, lost.digest).linked
    assert {unit.digest for unit in store.graph.oldest(9)} == {kept.digest, lost.blobs[1]}


async def test_a_lost_blob_that_an_image_needs_stays_linked(store: Store) -> None:
    one = await image(store, "one", "first", "second")
    store.layout.blob(one.blobs[0]).unlink()
    result = await store.survey()
    assert (result.lost, result.forgotten, result.tags_dropped) == (1, 0, 0)
    assert store.index.standing(REPO, one.blobs[0]).linked
    assert store.graph.content(one.blobs[0]) is None


async def test_what_is_put_aside_waits_for_its_healing(store: Store) -> None:
    one = await image(store, "one", "layer")
    assert store.blobs.set_aside(one.digest)
    await store.index.apply(Lost(one.digest))
    await store.survey()
    assert store.index.tags(REPO, limit=9) == ["one"]
    assert store.index.standing(REPO, one.digest).linked
    assert store.aside.waiting() == [one.digest]


async def test_a_pin_of_what_is_lost_stays(store: Store) -> None:
    one = await image(store, "one", "layer")
    await store.index.apply(Pinned(REPO, "one", 1.0))
    store.layout.blob(one.digest).unlink()
    result = await store.survey()
    assert (result.lost, result.forgotten, result.tags_dropped) == (1, 0, 1)
    assert store.index.pinned(REPO, None, "one")


async def test_a_damaged_manifest_that_the_index_does_not_know_is_put_aside(path: Path) -> None:
    with opened(path) as store:
        one = await image(store, "one", "layer")
        overwrite(store, one.digest, manifest(Digest.of(b"a trap")))
    lose_index(path)
    with opened(path) as store:
        result = await store.survey()
        assert (result.damaged, result.found) == (1, 1)
        assert store.aside.waiting() == [one.digest]
        assert store.graph.content(one.digest) is None
        assert store.index.tags(REPO, limit=9) == ["one"]


async def test_a_manifest_that_the_disk_cannot_read_keeps_nothing_else_from_being_found(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = [await image(store, tag, "layer") for tag in ("one", "two")]
    await forget(store, one.digest, two.digest)
    read = Path.read_bytes

    def broken(path: Path) -> bytes:
        if path == store.layout.blob(one.digest):
            raise OSError(errno.EIO, os.strerror(errno.EIO), os.fspath(path))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", broken)
        result = await store.survey()
    assert (result.damaged, result.found) == (1, 1)
    assert store.aside.waiting() == [one.digest]
    assert store.graph.content(two.digest) is not None


async def test_a_manifest_that_cannot_be_parsed_is_kept(store: Store) -> None:
    digest = await stored(store, b"not JSON", OCI_MANIFEST, "odd", at=1000.0)
    await forget(store, digest)
    assert found(await store.survey()) == (1, 0, 0)
    assert store.graph.content(digest) is not None


async def test_a_file_that_takes_other_room_than_was_recorded_is_corrected(store: Store) -> None:
    one = await blob(store, "one", at=1000.0)
    await store.index.apply(Stored(one, 4096 * 1000, 1000.0))
    await store.survey()
    content, unit = store.graph.content(one), store.graph.unit(one)
    assert content is not None
    assert content.taken == store.layout.blob(one).stat().st_blocks * 512
    assert unit is not None
    assert unit.used == 1000.0, "it was not used"


async def test_a_use_in_the_future_is_one_of_now(store: Store) -> None:
    one = await blob(store, "one", at=1000.0)
    db = connect(store.layout)
    db.execute("UPDATE node SET used = ?", (2.0**33,))
    db.close()
    await store.survey()
    unit = store.graph.unit(one)
    assert unit is not None
    assert unit.used <= time.time()


async def test_tags_of_what_is_not_here_are_dropped(path: Path) -> None:
    """A journal may have tags of what was evicted in the moment of a crash."""
    with opened(path) as store:
        await image(store, "here", "layer")
        gone = await image(store, "gone", "other")
        assert store.remover.remove(gone.digest) is not None
        db = connect(store.layout)
        db.execute(
            "INSERT INTO tag SELECT id, 'gone', ?, 1.0 FROM repository", (b"\0" + bytes.fromhex(gone.digest.hex),)
        )
        db.close()
        assert store.index.tags(REPO, limit=9) == ["gone", "here"]
        assert (await store.survey()).tags_dropped == 1
        assert store.index.tags(REPO, limit=9) == ["here"]
    lose_index(path)
    with opened(path) as store:
        assert store.index.tags(REPO, limit=9) == ["here"], "the journal knows"


async def test_the_book_is_corrected_either_way(store: Store) -> None:
    await image(store, "one", "layer")
    store.room.reserve(50_000)
    store.room.landed(50_000)
    store.room.keep(50_000)
    assert (await store.survey()).book_off_by == 50_000
    assert book(store) == on_disk(store)
    store.room.freed(4096)
    assert (await store.survey()).book_off_by == -4096
    assert book(store) == on_disk(store)


async def test_the_book_is_not_lowered_while_somebody_has_yet_to_tell_the_index(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.02)
    await store.count()
    store.room.reserve(50_000)
    store.room.landed(50_000)
    store.room.keep(50_000)
    digest, taken = await put(store, b"on disk, and not yet in the index")
    assert (await store.survey()).book_off_by == 0
    assert not store.counted, "it has to be looked at again"
    await store.index.apply(Stored(digest, taken, 1.0))
    assert (await store.survey()).book_off_by == 50_000
    assert store.counted
    assert book(store) == on_disk(store)


async def test_what_is_put_aside_meanwhile_counts_once(store: Store) -> None:
    one = await image(store, "one", "layer")
    await store.survey(progress=lambda done: done == 1 and store.blobs.set_aside(one.digest))  # its shelf is done
    await store.index.apply(Lost(one.digest))
    assert not store.room.dirty
    assert book(store) == on_disk(store)


async def test_what_living_processes_hold_is_not_content(store: Store) -> None:
    coming = Digest.of(b"still coming")
    part = PartFile(store.layout, coming)
    assert part.try_lock()
    store.room.reserve(200_000)
    part.begin(190_000)
    store.room.landed(200_000)
    left = PartFile(store.layout, Digest.of(b"left"))
    left.begin(100_000)
    left.close()
    await store.survey()
    balance = store.room.balance()
    assert balance.held == 200_000
    assert balance.content == on_disk(store) - part.allocated()
    part.close()


async def test_a_survey_beside_those_who_store_and_evict_leaves_all_right(store: Store) -> None:
    """The book, the index and the disk agree, whatever came and went meanwhile."""
    for number in range(60):
        await image(store, f"old{number}", "base", f"old{number}", at=1000.0 + number)
    unknown = [(await put(store, f"unknown {number}".encode() * 300))[0] for number in range(40)]
    evicting = threading.Event()

    def evict() -> None:
        while not evicting.is_set():
            for unit in store.graph.oldest(3):
                store.remover.remove(unit.digest)

    thread = threading.Thread(target=evict)
    thread.start()
    try:
        survey = asyncio.create_task(store.survey(idle=2.0))
        number = 0
        while not survey.done():
            await image(store, f"new{number}", "base", f"new{number}", at=2000.0 + number)
            number += 1
        result = await survey
    finally:
        evicting.set()
        thread.join()
    assert number > 3
    assert result.lost == 0
    assert result.found >= len(unknown)  # and what was stored and not yet recorded
    rows = {content.digest for content in store.graph.contents(limit=10_000)}
    files = {Digest("sha256", path.name) for path in store.layout.blobs.rglob("?" * 64)}
    assert rows == files
    assert book(store) == on_disk(store)


async def test_a_survey_can_be_broken_off_and_ends_the_next_time(path: Path) -> None:
    with opened(path) as store:
        one = await image(store, "one", "layer")
    lose_index(path)
    with opened(path) as store:
        survey = Survey(store, progress=lambda done: survey.stop() if done > 0.5 else None)
        with pytest.raises(Interrupted):
            await asyncio.to_thread(survey.run)
        assert not store.counted
        await store.count()
        assert store.counted
        assert {content.digest for content in store.graph.contents(limit=9)} == set(one.all)


async def test_whoever_stops_waiting_stops_the_survey(store: Store) -> None:
    started = threading.Event()
    counting = asyncio.create_task(store.survey(progress=lambda _: started.set(), idle=1e9))
    await asyncio.to_thread(started.wait)
    counting.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(10):
            await counting
    assert not store.counted


async def test_one_process_looks_through_and_the_other_waits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    run = Survey.run

    def counted(self: Survey) -> SurveyResult:
        runs.append(1)
        return run(self)

    monkeypatch.setattr(Survey, "run", counted)
    with opened(path) as one, opened(path) as other:
        await asyncio.gather(one.count(), other.count())
        assert one.counted
        assert other.counted
    assert len(runs) == 1


async def test_a_store_that_vanishes_meanwhile_is_not_taken_to_be_empty(store: Store) -> None:
    one = await image(store, "one", "layer")
    elsewhere = store.layout.root.with_name("elsewhere")

    def swap(_: float) -> None:
        if not elsewhere.exists():
            store.layout.blobs.rename(elsewhere)
            store.layout.blobs.mkdir()

    with pytest.raises(StoreError, match="bring the disk back"):
        await store.survey(progress=swap)
    shutil.rmtree(store.layout.blobs)
    elsewhere.rename(store.layout.blobs)
    assert store.index.tags(REPO, limit=9) == ["one"]
    assert here(store, *one.all) == [True, True]


async def test_a_directory_that_cannot_be_read_is_not_taken_to_be_empty(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await image(store, "one", "layer")
    scandir = os.scandir

    def broken(path: os.PathLike[str]) -> object:
        if os.fspath(path).endswith("sha256/00"):
            raise OSError(5, "Input/output error", os.fspath(path))
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", broken)
        with pytest.raises(StoreError, match="disk's health"):
            await store.survey()
    assert store.index.tags(REPO, limit=9) == ["one"]


class Sick:
    """An entry of a directory whose inode the disk cannot read."""

    def __init__(self, entry: os.DirEntry[str]) -> None:
        self.name, self.path = entry.name, entry.path

    def stat(self, **_: object) -> os.stat_result:
        raise OSError(errno.EUCLEAN, os.strerror(errno.EUCLEAN), self.path)


class Listing(list[object]):
    """What `os.scandir` gives."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


async def test_a_file_that_cannot_be_looked_at_keeps_nothing_else_from_being_found(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await image(store, "one", "layer")
    two = await blob(store, "two")
    await forget(store, two)
    scandir = os.scandir

    def broken(path: str) -> Listing:
        with scandir(path) as entries:
            return Listing(Sick(entry) if entry.name == one.blobs[0].hex else entry for entry in entries)

    with monkeypatch.context() as patch:
        patch.setattr(shelves.os, "scandir", broken)
        result = await store.survey()
    assert (result.found, result.lost) == (1, 0)
    assert store.graph.content(two) is not None
    assert store.graph.content(one.blobs[0]) is not None, "nobody knows better"


async def test_large_shelves_are_written_in_batches(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 3)
    ones = [await image(store, f"v{number}", f"layer {number}") for number in range(10)]
    await forget(store, *(digest for one in ones for digest in one.all))
    assert (await store.survey()).found == 20
    for one in ones[5:]:
        store.layout.blob(one.digest).unlink()
    result = await store.survey()
    assert (result.lost, result.forgotten) == (5, 5)
    assert store.index.tags(REPO, limit=99) == [f"v{number}" for number in range(5)]


DIES = """
import asyncio, os, sys
from pathlib import Path
from mirror.store.index import SqliteIndex
from tests.unit.store.stocked import image, opened

async def apply(self, *new):
    os._exit(9)

with opened(Path(sys.argv[1])) as store:
    SqliteIndex.apply = apply
    asyncio.run(image(store, "one", "layer"))
"""


async def test_a_crash_between_storing_and_recording_leaves_a_file_that_a_survey_finds(path: Path) -> None:
    with opened(path) as store:
        await store.count()
    died = await asyncio.create_subprocess_exec(sys.executable, "-c", DIES, path, cwd=ROOT)
    assert await died.wait() == 9
    with opened(path) as store:
        assert not store.counted
        [file] = store.layout.blobs.rglob("?" * 64)
        await store.count()
        assert store.graph.unit(Digest("sha256", file.name)) is not None
        assert book(store) == on_disk(store) > 0


async def test_dropping_a_tag_keeps_what_others_need(store: Store) -> None:
    one = await image(store, "one", "layer")
    await store.index.apply(TagSet(REPO, "again", one.digest, 1.0), TagDropped(REPO, "one"))
    assert (await store.survey()).tags_dropped == 0
    assert store.index.tags(REPO, limit=9) == ["again"]
