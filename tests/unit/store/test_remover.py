from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mirror.errors import NoSpace, StoreError
from mirror.oci.digest import Digest
from mirror.store.changes import Linked, Pinned, Stored, TagDropped
from mirror.store.locks import naming, quiet
from mirror.store.part import PartFile
from tests.unit.store.stocked import REPO, blob, book, here, image, multi, on_disk, opened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.store.graph import Hold, Removal
    from mirror.store.store import Store

ROOT = Path(__file__).parents[3]
HOLDER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(fd, getattr(fcntl, sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with opened(path) as one:
        yield one


class Holder:
    """Another process that has a file locked."""

    def __init__(self, path: Path, lock: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, path, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"held\n"

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


async def test_an_image_goes_whole_and_its_bytes_are_free(store: Store) -> None:
    old = await image(store, "old", "base", "old layer")
    new = await image(store, "new", "base", "new layer")
    await store.count()
    before = book(store)
    removal = store.remover.remove(old.digest)
    assert removal is not None
    assert {content.digest for content in removal.gone} == {old.digest, old.blobs[1]}
    assert removal.names == ("docker.io/library/app:old",)
    assert here(store, *old.all) == [False, True, False], "the base layer stays for the other one"
    assert here(store, *new.all) == [True, True, True]
    assert book(store) == on_disk(store) == before - sum(content.taken for content in removal.gone)
    assert store.index.tags(REPO, limit=9) == ["new"]
    assert not store.index.standing(REPO, old.blobs[1]).linked


async def test_what_is_no_root_or_not_here_does_not_go(store: Store) -> None:
    one = await image(store, "one", "layer")
    both = await multi(store, "both", one)
    await store.index.apply(TagDropped(REPO, "one"))
    for digest in (one.digest, one.blobs[0], Digest.of(b"never seen")):
        assert store.remover.remove(digest) is None
    assert here(store, both, *one.all) == [True, True, True]
    assert store.remover.remove(both) is not None
    assert here(store, both, *one.all) == [False, False, False]


async def test_what_another_process_reads_stays_whole(store: Store) -> None:
    one = await image(store, "one", "first", "second")
    with Holder(store.layout.blob(one.blobs[1]), "LOCK_SH"):
        assert store.remover.remove(one.digest) is None
        assert here(store, *one.all) == [True, True, True]
        assert store.index.tags(REPO, limit=9) == ["one"]
    assert store.remover.remove(one.digest) is not None


async def test_what_this_process_sends_stays_until_the_last_descriptor_is_closed(store: Store) -> None:
    one = await image(store, "one", "layer")
    opened_file = store.blobs.open(one.blobs[0])
    assert opened_file is not None
    with os.fdopen(os.dup(opened_file[0].fileno())):
        opened_file[0].close()
        assert store.remover.remove(one.digest) is None
    assert store.remover.remove(one.digest) is not None


async def test_what_is_being_filled_keeps_its_image(store: Store) -> None:
    coming = Digest.of(b"still coming")
    one = await image(store, "one", "layer")
    await store.index.apply(Stored(one.digest, 4096, 1000.0, names=(coming,)))
    part = PartFile(store.layout, coming)
    with Holder(store.layout.part(coming), "LOCK_EX"):
        assert store.remover.remove(one.digest) is None
    assert store.remover.remove(one.digest) is not None, "nobody fills what was only begun"
    part.close()


async def test_what_was_just_put_stays_until_the_index_knows_it(store: Store) -> None:
    one = await blob(store, "one", at=1000.0)
    await store.blobs.put(one, (b"one" * 10_000)[:10_000])
    assert store.remover.remove(one) is None
    await store.index.apply(Linked(REPO, one), Stored(one, 12288, 1000.0))
    assert store.remover.remove(one) is not None


async def test_a_pin_stays_unless_it_is_forced(store: Store) -> None:
    one = await image(store, "one", "layer")
    await store.index.apply(Pinned(REPO, "one", 1.0))
    assert store.remover.remove(one.digest) is None
    assert store.remover.remove(one.digest, force=True) is not None
    assert here(store, *one.all) == [False, False]


async def test_what_was_used_since_it_was_chosen_stays(store: Store) -> None:
    one = await image(store, "one", "layer", at=1000.0)
    assert store.remover.remove(one.digest, used=999.0) is None
    assert store.remover.remove(one.digest, used=1000.0) is not None


async def test_an_image_of_which_nothing_is_left_can_go(store: Store) -> None:
    one = await image(store, "one", "layer")
    for digest in one.all:
        store.layout.blob(digest).unlink()
    before = book(store)
    assert store.remover.remove(one.digest) is not None
    assert book(store) == before, "what was not there has freed nothing"
    assert store.index.tags(REPO, limit=9) == []


async def test_nobody_gives_names_while_some_are_taken_away(store: Store) -> None:
    one = await image(store, "one", "layer")
    seen: list[bool] = []
    remove = store.graph.remove

    def watched(*args: object, **options: object) -> object:
        fd = os.open(store.layout.move_lock, os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            seen.append(True)
        except BlockingIOError:
            seen.append(False)
        finally:
            os.close(fd)
        return remove(*args, **options)  # type: ignore[arg-type]

    store.graph.remove = watched  # type: ignore[method-assign,assignment]
    assert store.remover.remove(one.digest) is not None
    assert seen == [False]
    with naming(store.layout):
        pass


async def test_what_goes_is_pending_until_the_book_knows_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await image(store, "one", "layer")
    seen: list[bool] = []
    freed = store.room.freed

    def watched(size: int) -> None:
        with quiet(store.layout, 0.0) as alone:
            seen.append(alone)
        freed(size)

    monkeypatch.setattr(store.room, "freed", watched)
    assert store.remover.remove(one.digest) is not None
    with quiet(store.layout, 0.0) as alone:
        seen.append(alone)
    assert seen == [False, True]


async def test_what_cannot_be_unlinked_is_not_counted_as_free(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await image(store, "one", "first", "second")
    stuck = store.layout.blob(one.blobs[0])
    unlink = Path.unlink

    def refuse(path: Path, *, missing_ok: bool = False) -> None:
        if path == stuck:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(StoreError, match="health"):
            store.remover.remove(one.digest)
    assert book(store) == on_disk(store) > 0
    assert here(store, *one.all) == [False, True, False]
    await store.survey()
    assert store.graph.unit(one.blobs[0]) is not None, "it belongs to nobody, and is evicted by its own age"
    assert book(store) == on_disk(store)


DIES = """
import asyncio, os, sys
from pathlib import Path
from mirror.oci.digest import Digest
from tests.unit.store.stocked import opened

with opened(Path(sys.argv[1])) as store:
    Path.unlink = lambda *_, **__: os._exit(9)
    store.remover.remove(Digest.parse(sys.argv[2]))
"""


async def test_a_crash_between_forgetting_and_unlinking_leaves_files_that_a_survey_finds(path: Path) -> None:
    with opened(path) as store:
        await store.count()
        one = await image(store, "one", "layer")
    died = await asyncio.create_subprocess_exec(sys.executable, "-c", DIES, path, str(one.digest), cwd=ROOT)
    assert await died.wait() == 9
    with opened(path) as store:
        assert store.index.tags(REPO, limit=9) == [], "nothing is promised that may be gone"
        assert here(store, *one.all) == [True, True]
        assert not store.counted
        await store.count()
        assert store.counted
        assert {unit.digest for unit in store.graph.oldest(9)} == set(one.all)
        assert book(store) == on_disk(store)
        for digest in one.all:
            assert store.remover.remove(digest) is not None
        assert book(store) == on_disk(store) == 0


@pytest.mark.parametrize("said", [False, True], ids=["index unwritten", "journal written"])
async def test_on_a_disk_without_any_room_the_files_go_before_the_index_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch, *, said: bool
) -> None:
    one, two = await image(store, "one", "first", "shared"), await image(store, "two", "second", "shared")
    remove, calls = store.graph.remove, []

    def full(root: Digest, hold: Hold, **how: Any) -> Removal | None:
        calls.append(root)
        if len(calls) > 1:
            assert here(store, one.digest, one.blobs[0], one.blobs[1]) == [False, False, True]
            return remove(root, hold, **how)
        if said:  # the commit failed, and the next one makes good what the journal says
            remove(root, hold, **how)
            monkeypatch.setattr(store.graph, "unit", lambda _: unit)
        else:
            hold([one.digest, one.blobs[0]], [])
        raise NoSpace("the disk is full")

    unit = store.graph.unit(one.digest)
    assert unit is not None
    monkeypatch.setattr(store.graph, "remove", full)
    removal = store.remover.remove(one.digest)
    assert removal is not None
    assert removal.unit.digest == one.digest
    assert store.graph.content(one.digest) is None
    assert here(store, *two.all) == [True, True, True]
    assert book(store) == on_disk(store)


async def test_on_a_disk_without_any_room_nothing_goes_that_is_in_use(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await image(store, "one", "first")

    def full(_: Digest, hold: Hold, **__: object) -> None:
        assert not hold([one.digest, *one.blobs], [])
        raise NoSpace("the disk is full")

    monkeypatch.setattr(store.graph, "remove", full)
    opened = store.blobs.open(one.blobs[0])
    assert opened is not None
    with opened[0], pytest.raises(NoSpace):
        store.remover.remove(one.digest)
    assert here(store, *one.all) == [True, True]


async def test_what_somebody_reads_is_passed_over_without_the_index(store: Store, path: Path) -> None:
    one = await image(store, "one", "layer")
    await store.count()
    opened_ = store.blobs.open(one.digest)
    assert opened_ is not None
    with opened_[0], closing(sqlite3.connect(path / "index.sqlite", isolation_level=None)) as busy:
        busy.execute("BEGIN IMMEDIATE")  # whoever writes to the index now waits for this
        assert store.remover.remove(one.digest) is None
        busy.execute("ROLLBACK")
    assert store.remover.remove(one.digest) is not None
