from __future__ import annotations

import asyncio
import multiprocessing
import os
from typing import TYPE_CHECKING

import pytest

from mirror.config import StorageConfig
from mirror.config.units import Size
from mirror.errors import MirrorError, StoreError, StoreUnusable
from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from mirror.store import page
from mirror.store import store as module
from mirror.store.changes import Linked, Lost, Stored, TagSet
from mirror.store.locks import seize
from mirror.store.store import Store
from tests.unit.store.stocked import blob, book, image, on_disk, opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REPO, DIGEST = Repository("docker.io", "library/app"), Digest.of(b"x")


@pytest.fixture
def config(tmp_path: Path) -> StorageConfig:
    return StorageConfig(tmp_path, Size(bytes=2**40), Size(bytes=0))


@pytest.fixture
def store(config: StorageConfig) -> Iterator[Store]:
    opened = Store.open(config)
    yield opened
    opened.close()


async def test_facts_outlive_the_store_that_was_closed(config: StorageConfig) -> None:
    store = Store.open(config)
    await store.index.apply(Stored(DIGEST, 4096, 1.0), TagSet(REPO, "v1", DIGEST, 1.0))
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.index.apply(TagSet(REPO, "v2", DIGEST, 1.0))
    again = Store.open(config)
    assert again.index.tags(REPO, limit=10) == ["v1"]
    again.close()


async def test_a_second_mirror_and_a_tool_see_the_same_store(config: StorageConfig, store: Store) -> None:
    await store.count()
    other = Store.open(config)
    one = await image(store, "one", "layer")
    assert other.counted
    assert other.index.tags(REPO, limit=9) == ["one"]
    assert other.blobs.size(one.digest) is not None
    assert other.room.used == store.room.used
    assert other.remover.remove(one.digest) is not None
    assert store.index.tags(REPO, limit=9) == []
    assert book(store) == on_disk(store) == 0
    other.close()


async def test_what_the_index_was_told_of_is_no_longer_held(store: Store) -> None:
    one = await blob(store, "one")
    with store.layout.blob(one).open("rb") as evictor:
        assert seize(evictor.fileno())


async def test_what_the_index_refused_is_no_longer_held(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise StoreError("no")

    digest = Digest.of(b"one")
    taken = await store.blobs.put(digest, b"one")
    with monkeypatch.context() as patch:
        patch.setattr(module.SqliteIndex, "apply", refuse)
        with pytest.raises(MirrorError):
            await store.index.apply(Stored(digest, taken, 1.0), Linked(REPO, digest))
    with store.layout.blob(digest).open("rb") as evictor:
        assert seize(evictor.fileno())


async def test_what_came_back_before_its_loss_was_told_is_not_lost(store: Store) -> None:
    one = await blob(store, "one")
    body = store.layout.blob(one).read_bytes()
    assert store.blobs.set_aside(one)
    await store.blobs.put(one, body)  # for another client, which was quicker
    await store.index.apply(Stored(one, 12288, 2.0))
    await store.index.apply(Lost(one), Linked(REPO, one))
    assert store.graph.content(one) is not None
    assert store.blobs.set_aside(one)
    await store.index.apply(Lost(one))
    assert store.graph.content(one) is None


def test_what_cannot_be_opened_leaves_nothing_open(config: StorageConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise StoreUnusable("no")

    with monkeypatch.context() as patch:
        patch.setattr(module, "Graph", refuse)
        with pytest.raises(StoreUnusable):
            Store.open(config)
    store = Store.open(config)
    assert store.room.others() == [], "its place in the book is free again"
    store.close()


def _child(path: Path) -> None:
    with opened(path) as store:
        assert store.room.others() == []


def test_each_process_opens_its_own_after_it_was_forked(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    children = multiprocessing.get_context("fork").Process(target=_child, args=(tmp_path,))
    children.start()
    children.join(30)
    assert children.exitcode == 0


async def test_what_a_kill_leaves_is_enough_to_go_on_with(config: StorageConfig, store: Store) -> None:
    assert not store.sure
    await store.count()
    assert store.sure
    child = multiprocessing.get_context("fork").Process(target=_killed, args=(config.path,))
    child.start()
    await asyncio.to_thread(child.join, 30)
    assert child.exitcode == 9
    store.room.excess()
    assert (store.counted, store.sure) == (False, True)
    await store.count()
    assert store.counted


def _killed(path: Path) -> None:
    with opened(path) as store:
        store.room.reserve(100_000)
        os._exit(9)


async def test_a_book_that_was_lost_is_not_enough(config: StorageConfig) -> None:
    with opened(config.path) as store:
        await store.count()
        await image(store, "one", "layer")
    (config.path / "room.v2").unlink()
    with opened(config.path) as store:
        assert (store.counted, store.sure) == (False, False)
        await store.count()
        assert (store.counted, store.sure) == (True, True)
        assert book(store) == on_disk(store) > 0


@pytest.mark.parametrize("closed", [True, False])
async def test_after_a_boot_a_book_that_was_not_closed_is_not_enough(
    config: StorageConfig, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    before = Store.open(config)
    await before.count()
    if closed:
        before.close()
    monkeypatch.setattr(page, "BOOT_ID", b"another boot it.")
    with opened(config.path) as store:
        assert store.sure is closed
        await store.count()
        assert store.sure
    before.close()
