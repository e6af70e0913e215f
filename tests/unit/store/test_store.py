from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

import pytest

from mirror.config import StorageConfig
from mirror.config.units import Size
from mirror.errors import StoreError
from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from mirror.store.changes import TagSet
from mirror.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OLD, YOUNG = 8 * 24 * 3600, 6 * 24 * 3600
REPO, DIGEST = Repository("docker.io", "library/app"), Digest.of(b"x")


@pytest.fixture
def config(tmp_path: Path) -> StorageConfig:
    return StorageConfig(tmp_path, Size(bytes=2**40), Size(bytes=0))


@pytest.fixture
def store(config: StorageConfig) -> Iterator[Store]:
    opened = Store.open(config)
    yield opened
    opened.close()


def left(store: Store, name: str, age: float) -> Path:
    path = store.layout.fills / name
    path.write_bytes(b"x" * 100_000)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


async def test_what_nobody_has_gone_on_with_for_a_week_is_thrown_away(store: Store) -> None:
    gone = [left(store, name, OLD) for name in ("a.part", "a.map", "b.map", "c.put")]
    kept = [left(store, name, YOUNG) for name in ("d.part", "d.map", "e.map")]
    kept += [left(store, "f.put", 60), left(store, "g.other", OLD)]
    (store.layout.fills / "directory.part.d").mkdir()
    await store.count()
    assert [path.name for path in gone if path.exists()] == []
    assert [path.name for path in kept if not path.exists()] == []
    assert store.room.used >= 100_000 * len(kept)


async def test_what_somebody_fills_is_not_thrown_away(store: Store) -> None:
    part, marks = left(store, "a.part", OLD), left(store, "a.map", OLD)
    with part.open("rb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        await store.count()
        assert part.exists()
        assert marks.exists()


async def test_facts_outlive_the_store_that_was_closed(config: StorageConfig) -> None:
    store = Store.open(config)
    await store.index.apply(TagSet(REPO, "v1", DIGEST, 1.0))
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.index.apply(TagSet(REPO, "v2", DIGEST, 1.0))
    again = Store.open(config)
    assert again.index.tags(REPO, limit=10) == ["v1"]
    again.close()
