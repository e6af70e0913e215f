"""What every `mirror.store.index.Index` keeps to: the one on SQLite, and the fake of dictionaries."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mirror.oci.digest import Digest
from mirror.oci.mediatype import OCI_MANIFEST
from mirror.oci.name import Repository
from mirror.store.changes import (
    Linked,
    ListingSet,
    Lost,
    Named,
    Pinned,
    Removed,
    Stored,
    TagDropped,
    TagSet,
    Unpinned,
)
from mirror.store.index import SqliteIndex, Standing, Validated
from mirror.store.layout import Layout
from tests.fakes.index import FakeIndex

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirror.store.index import Index

APP = Repository("quay.io", "org/app")
OTHER = Repository("quay.io", "org/other")
HUB = Repository("docker.io", "library/app")
MANIFEST, LAYER, SIGNATURE = Digest.of(b"manifest"), Digest.of(b"layer"), Digest.of(b"signature", "sha512")
HERE = (Stored(MANIFEST, 4096, 1.0, OCI_MANIFEST), Stored(LAYER, 4096, 1.0))


@pytest.fixture(params=["sqlite", "fake"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Index]:
    if request.param == "fake":
        yield FakeIndex()
        return
    real = SqliteIndex(Layout(tmp_path))
    yield real
    real.close()


async def test_what_nobody_said_is_not_there(index: Index) -> None:
    assert index.tag(APP, "v1") is None
    assert index.listing(APP, MANIFEST) is None
    assert index.standing(APP, MANIFEST) == Standing()
    assert index.tags(APP, limit=10) == []
    assert index.repositories(limit=10) == []
    await index.apply()
    await index.apply(TagDropped(APP, "v1"))
    assert index.tag(APP, "v1") is None


async def test_a_tag_is_what_was_said_last(index: Index) -> None:
    await index.apply(*HERE)
    await index.apply(TagSet(APP, "v1", MANIFEST, 1.5))
    assert index.tag(APP, "v1") == Validated(MANIFEST, 1.5)
    await index.apply(TagSet(APP, "v1", LAYER, 2.5), TagSet(APP, "v2", MANIFEST, 2.5))
    assert index.tag(APP, "v1") == Validated(LAYER, 2.5)
    assert index.tag(OTHER, "v1") is None
    await index.apply(TagDropped(APP, "v1"))
    assert index.tag(APP, "v1") is None
    assert index.tag(APP, "v2") == Validated(MANIFEST, 2.5)


async def test_a_link_counts_in_its_repository_only(index: Index) -> None:
    await index.apply(Linked(APP, MANIFEST, OCI_MANIFEST))
    assert index.standing(APP, MANIFEST) == Standing(linked=True, media_type=OCI_MANIFEST)
    assert index.standing(APP, MANIFEST).visible
    assert index.standing(OTHER, MANIFEST) == Standing(vouched=True)
    assert index.standing(HUB, MANIFEST) == Standing()


async def test_a_word_of_upstream_is_enough_where_it_gave_it_before_or_anybody_may_have_it(index: Index) -> None:
    await index.apply(Linked(APP, LAYER))
    assert index.standing(OTHER, LAYER).vouched
    assert not index.standing(HUB, LAYER).vouched
    await index.apply(Linked(APP, LAYER, public=True))
    assert index.standing(HUB, LAYER) == Standing(vouched=True)
    assert not index.standing(HUB, MANIFEST).vouched


async def test_what_is_only_named_is_not_visible(index: Index) -> None:
    await index.apply(Linked(APP, MANIFEST, OCI_MANIFEST, names=(Named(LAYER, 42),)))
    assert index.standing(APP, LAYER) == Standing(named=True, size=42)
    assert not index.standing(APP, LAYER).visible


async def test_public_content_is_visible_where_the_same_upstream_names_it(index: Index) -> None:
    await index.apply(Linked(OTHER, LAYER, public=True))
    assert not index.standing(APP, LAYER).visible
    await index.apply(
        Linked(APP, MANIFEST, OCI_MANIFEST, names=(Named(LAYER, 42),)),
        Linked(HUB, MANIFEST, OCI_MANIFEST, names=(Named(LAYER, 42),)),
    )
    assert index.standing(APP, LAYER) == Standing(named=True, public=True, size=42)
    assert index.standing(APP, LAYER).visible
    assert not index.standing(HUB, LAYER).visible


async def test_a_public_manifest_is_known_as_one_where_it_is_named(index: Index) -> None:
    await index.apply(Linked(OTHER, MANIFEST, OCI_MANIFEST, public=True))
    await index.apply(Linked(APP, SIGNATURE, names=(Named(MANIFEST, 7),)))
    assert index.standing(APP, MANIFEST) == Standing(named=True, public=True, media_type=OCI_MANIFEST, size=7)


async def test_what_is_known_is_not_unlearned(index: Index) -> None:
    """A manifest may be asked for by the path of blobs, and a list of layers of an old manifest has no sizes."""
    await index.apply(Linked(APP, MANIFEST, OCI_MANIFEST, public=True, names=(Named(LAYER, 42),)))
    await index.apply(Linked(APP, MANIFEST), Linked(APP, SIGNATURE, names=(Named(LAYER, None),)))
    assert index.standing(APP, MANIFEST).media_type == OCI_MANIFEST
    assert index.standing(APP, LAYER).size == 42
    await index.apply(Linked(APP, LAYER))
    assert index.standing(APP, LAYER) == Standing(linked=True, named=True, size=42)


async def test_tags_come_in_pages_in_order(index: Index) -> None:
    await index.apply(*HERE)
    await index.apply(*(TagSet(APP, tag, MANIFEST, 0) for tag in ("b", "a", "C", "10", "9", "a.1")))
    assert index.tags(APP, limit=3) == ["10", "9", "C"]
    assert index.tags(APP, after="C", limit=10) == ["a", "a.1", "b"]
    assert index.tags(APP, after="aa", limit=1) == ["b"]
    assert index.tags(OTHER, limit=3) == []


async def test_repositories_come_in_pages_in_order_and_only_with_links(index: Index) -> None:
    await index.apply(*HERE)
    await index.apply(Linked(OTHER, LAYER), Linked(HUB, LAYER), Linked(APP, LAYER), Linked(APP, MANIFEST))
    await index.apply(TagSet(Repository("ghcr.io", "no/links"), "v1", MANIFEST, 0))
    assert index.repositories(limit=10) == ["docker.io/library/app", "quay.io/org/app", "quay.io/org/other"]
    assert index.repositories(limit=1) == ["docker.io/library/app"]
    assert index.repositories(after="quay.io/org/app", limit=10) == ["quay.io/org/other"]


async def test_a_listing_is_what_was_said_last(index: Index) -> None:
    await index.apply(ListingSet(APP, MANIFEST, LAYER, 1.0))
    await index.apply(ListingSet(APP, MANIFEST, SIGNATURE, 2.0))
    assert index.listing(APP, MANIFEST) == Validated(SIGNATURE, 2.0)
    assert index.listing(OTHER, MANIFEST) is None


async def test_a_tag_of_what_is_not_on_disk_is_passed_over(index: Index) -> None:
    """Its image was evicted while upstream was asked: the tag would promise what is gone."""
    await index.apply(*HERE, TagSet(APP, "v1", MANIFEST, 1.0))
    await index.apply(Lost(MANIFEST))
    await index.apply(TagSet(APP, "v2", MANIFEST, 2.0), TagSet(APP, "v3", LAYER, 2.0))
    assert index.tags(APP, limit=10) == ["v1", "v3"]
    await index.apply(HERE[0], TagSet(APP, "v2", MANIFEST, 3.0))
    assert index.tags(APP, limit=10) == ["v1", "v2", "v3"]


async def test_what_was_removed_is_told_of_nowhere(index: Index) -> None:
    await index.apply(
        *HERE,
        Linked(APP, MANIFEST, OCI_MANIFEST, public=True, names=(Named(LAYER, 42),)),
        Linked(OTHER, MANIFEST, OCI_MANIFEST),
        TagSet(APP, "v1", MANIFEST, 1.0),
        TagSet(OTHER, "v1", MANIFEST, 1.0),
        TagSet(OTHER, "layer", LAYER, 1.0),
        ListingSet(APP, MANIFEST, SIGNATURE, 1.0),
        ListingSet(APP, LAYER, MANIFEST, 1.0),
        ListingSet(APP, SIGNATURE, LAYER, 1.0),
    )
    await index.apply(Removed((MANIFEST,)))
    assert index.standing(APP, MANIFEST) == index.standing(OTHER, MANIFEST) == Standing()
    assert index.tags(APP, limit=10) == []
    assert index.tags(OTHER, limit=10) == ["layer"]
    assert index.repositories(limit=10) == []
    assert index.listing(APP, MANIFEST) is None
    assert index.listing(APP, LAYER) is None
    assert index.listing(APP, SIGNATURE) is not None


async def test_a_pin_is_of_a_tag_or_a_digest_in_one_repository(index: Index) -> None:
    await index.apply(*HERE, Pinned(APP, "v1", 1.0), Pinned(OTHER, str(LAYER), 1.0))
    assert index.pinned(APP, None, "v1")
    assert index.pinned(APP, LAYER, "v1")
    assert not index.pinned(APP, LAYER, "v2")
    assert not index.pinned(OTHER, MANIFEST, "v1")
    assert index.pinned(OTHER, LAYER, None)
    assert not index.pinned(HUB, LAYER, "v1")
    await index.apply(Unpinned(APP, "v1"), Unpinned(APP, "v2"))
    assert not index.pinned(APP, LAYER, "v1")
    await index.apply(Removed((LAYER,)))
    assert not index.pinned(OTHER, LAYER, None)


async def test_changes_are_recorded_all_or_none(index: Index) -> None:
    await index.apply(*HERE)
    with pytest.raises(ValueError):  # noqa: PT011  # each says it in its own words
        await index.apply(TagSet(APP, "v1", MANIFEST, 1.0), Linked(APP, Digest("md5", "00")))
    assert index.tag(APP, "v1") is None
    await index.apply(TagSet(APP, "v2", MANIFEST, 1.0))
    assert index.tag(APP, "v2") is not None


async def test_changes_made_at_once_are_all_recorded(index: Index) -> None:
    await index.apply(*HERE)
    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(index.apply(TagSet(APP, f"v{number}", MANIFEST, number)))
    assert len(index.tags(APP, limit=1000)) == 100
