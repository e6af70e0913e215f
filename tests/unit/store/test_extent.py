"""What images take: two ways to the same figures, and what really goes."""

from __future__ import annotations

import random
import sqlite3
from typing import TYPE_CHECKING

import pytest

from mirror.oci.digest import Digest
from mirror.oci.mediatype import OCI_INDEX, OCI_MANIFEST
from mirror.oci.name import Repository
from mirror.store.changes import Linked, Lost, Pinned, Stored, TagSet
from mirror.store.extent import Census, Nearby
from mirror.store.graph import Graph
from mirror.store.index import SqliteIndex
from mirror.store.layout import Layout
from mirror.store.packing import pack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirror.store.changes import Change

SOME = Repository("docker.io", "library/some")


def digest(name: object) -> Digest:
    return Digest.of(str(name).encode())


def scene(rng: random.Random) -> Iterator[Change]:
    """Yield a store's life: images that share layers, indexes, signatures, pins, and losses."""
    blobs = [digest(f"blob {n}") for n in range(12)]
    for number, blob in enumerate(blobs):
        if rng.random() < 0.9:
            yield Stored(blob, 1 << number, 1.0)
    images = [digest(f"image {n}") for n in range(8)]
    for number, image in enumerate(images):
        if rng.random() < 0.85:
            subject = rng.choice(images[:number]) if number and rng.random() < 0.3 else None
            yield Stored(image, 1 << 12 + number, 1.0, OCI_MANIFEST, tuple(rng.sample(blobs, 3)), subject)
            yield Linked(SOME, image, OCI_MANIFEST)
    for number in range(3):
        index = digest(f"index {number}")
        yield Stored(index, 1 << 20 + number, 1.0, OCI_INDEX, tuple(rng.sample(images, 2)))
        yield Linked(SOME, index, OCI_INDEX)
        yield TagSet(SOME, f"index{number}", index, 1.0)
    for image in rng.sample(images, 3):
        yield TagSet(SOME, f"tag{rng.random()}", image, 1.0)
    if rng.random() < 0.5:
        yield Pinned(SOME, str(rng.choice(images)), 1.0)
    if rng.random() < 0.5:
        yield Lost(rng.choice(images + blobs))


@pytest.fixture
async def index(tmp_path: Path) -> Iterator[SqliteIndex]:
    opened = SqliteIndex(Layout(tmp_path))
    yield opened
    opened.close()


@pytest.mark.parametrize("seed", range(16))
async def test_both_ways_tell_the_same_and_what_really_goes(seed: int, index: SqliteIndex, tmp_path: Path) -> None:
    rng = random.Random(seed)  # noqa: S311 - a scene, not a secret
    await index.apply(*scene(rng))
    db = sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None)
    roots = [row[0] for row in db.execute("SELECT id FROM node WHERE root > 0")]
    alone = [[root] for root in roots]
    nearby = Nearby(db).extents(alone)
    assert Census(db).extents(alone) == nearby
    apart = [[root] for root in rng.sample(roots, len(roots) // 2)]
    assert Census(db).extents(apart) == Nearby(db).extents(apart), "what roots need that are not asked for is not own"
    several = [rng.sample(roots, min(3, len(roots)))]
    assert Census(db).extents(several) == Nearby(db).extents(several)
    assert [Census(db).whole(root) for root in roots] == [Nearby(db).whole(root) for root in roots]
    graph = Graph(Layout(tmp_path))
    try:
        victim = rng.randrange(len(roots))
        [(key, pinned)] = db.execute("SELECT digest, pinned FROM node WHERE id = ?", (roots[victim],))
        named = {pack(unpacked): unpacked for unpacked in map(digest, _names())}[key]
        removal = graph.remove(named, lambda *_: True, force=True)
        freed = sum(content.taken for content in removal.gone) if removal is not None else 0
        assert freed == nearby[victim].own, pinned
    finally:
        graph.close()
        db.close()


def _names() -> Iterator[str]:
    for kind, number in (("blob", 12), ("image", 8), ("index", 3)):
        yield from (f"{kind} {n}" for n in range(number))


async def test_an_image_is_whole_if_all_it_names_is_here_and_an_index_if_one_of_its_images_is(
    index: SqliteIndex, tmp_path: Path
) -> None:
    amd, arm, both = digest("amd"), digest("arm"), digest("both")
    await index.apply(
        Stored(digest("a"), 1, 1.0),
        Stored(amd, 1, 1.0, OCI_MANIFEST, (digest("a"),)),
        Stored(arm, 1, 1.0, OCI_MANIFEST, (digest("a"), digest("b"))),
        Stored(both, 1, 1.0, OCI_INDEX, (amd, arm)),
    )
    db = sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None)
    nodes = {
        name: db.execute("SELECT id FROM node WHERE digest = ?", (pack(name),)).fetchone()[0]
        for name in (amd, arm, both)
    }
    for measure in (Nearby(db), Census(db)):
        assert [measure.whole(nodes[name]) for name in (amd, arm, both)] == [True, False, True]
    await index.apply(Lost(digest("a")))
    for measure in (Nearby(db), Census(db)):
        assert not measure.whole(nodes[both])
    db.close()
