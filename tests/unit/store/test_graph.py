"""What may be evicted, what goes with it, and what stays."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from mirror.errors import StoreError
from mirror.oci.digest import Digest
from mirror.oci.mediatype import OCI_INDEX, OCI_MANIFEST
from mirror.oci.name import Repository
from mirror.store import nodes
from mirror.store.changes import (
    Checked,
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
    Used,
)
from mirror.store.graph import Content, Graph, Totals, Unit
from mirror.store.index import SqliteIndex

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from mirror.store.layout import Layout

APP, OTHER = Repository("quay.io", "org/app"), Repository("quay.io", "org/other")


def of(name: str) -> Digest:
    return Digest.of(name.encode())


BASE, OLD_LAYER, NEW_LAYER, OLD, NEW = (of(name) for name in ("base", "old layer", "new layer", "old", "new"))
SIGNATURE, INDEX, ARM, LIST = (of(name) for name in ("signature", "index", "arm", "list"))
TWO_IMAGES = (
    Stored(BASE, 100, 1.0),
    Stored(OLD_LAYER, 10, 1.0),
    Stored(OLD, 1, 10.0, OCI_MANIFEST, (BASE, OLD_LAYER)),
    Linked(APP, OLD, OCI_MANIFEST, names=(Named(BASE, 99), Named(OLD_LAYER, 9))),
    TagSet(APP, "old", OLD, 10.0),
    Stored(NEW_LAYER, 20, 1.0),
    Stored(NEW, 2, 20.0, OCI_MANIFEST, (BASE, NEW_LAYER)),
    Linked(APP, NEW, OCI_MANIFEST, names=(Named(BASE, 99), Named(NEW_LAYER, 19))),
    TagSet(APP, "new", NEW, 20.0),
)


@pytest.fixture
async def index(layout: Layout) -> AsyncIterator[SqliteIndex]:
    opened = SqliteIndex(layout)
    yield opened
    opened.close()


@pytest.fixture
async def graph(index: SqliteIndex, layout: Layout) -> AsyncIterator[Graph]:
    assert index  # it has made the tables
    opened = Graph(layout)
    yield opened
    opened.close()


def free(_goes: Sequence[Digest], _needs: Sequence[Digest]) -> bool:
    return True


def everything(graph: Graph) -> list[Unit]:
    """Return all that may go, of both kinds, least recently used first."""
    both = [*graph.oldest(100), *graph.oldest(100, again=True)]
    return sorted(both, key=lambda unit: unit.used)


def order(graph: Graph) -> list[Digest]:
    return [unit.digest for unit in everything(graph)]


def here(graph: Graph) -> set[Digest]:
    return {content.digest for content in graph.contents(limit=100)}


async def test_an_image_goes_with_what_only_it_needs(index: SqliteIndex, graph: Graph) -> None:
    await index.apply(*TWO_IMAGES)
    assert order(graph) == [OLD, NEW]
    removal = graph.remove(OLD, free)
    assert removal is not None
    assert removal.unit.digest == OLD
    assert set(removal.gone) == {Content(OLD, 1, OCI_MANIFEST, 10.0), Content(OLD_LAYER, 10, None, 1.0)}
    assert removal.names == ("quay.io/org/app:old",)
    assert here(graph) == {BASE, NEW, NEW_LAYER}
    assert index.tags(APP, limit=10) == ["new"]
    assert not index.standing(APP, OLD).linked
    assert index.standing(APP, BASE).named
    assert not index.standing(APP, OLD_LAYER).named
    assert order(graph) == [NEW]


async def test_the_last_image_takes_the_shared_layer_along(index: SqliteIndex, graph: Graph) -> None:
    await index.apply(*TWO_IMAGES)
    for root in (OLD, NEW):
        assert graph.remove(root, free) is not None
    assert here(graph) == set()
    assert graph.totals() == Totals(0, 0, 0, 0, None)
    assert graph._db.execute("SELECT count(*) FROM node").fetchone() == (0,)
    assert graph._db.execute("SELECT count(*) FROM edge").fetchone() == (0,)
    assert graph._db.execute("SELECT count(*) FROM named").fetchone() == (0,)


async def test_what_refers_to_an_image_goes_and_stays_with_it(index: SqliteIndex, graph: Graph) -> None:
    by_tag, blob = of("by tag"), of("blob of a signature")
    await index.apply(
        *TWO_IMAGES,
        Stored(blob, 5, 30.0),
        Stored(SIGNATURE, 5, 30.0, OCI_MANIFEST, (blob,), OLD),
        Stored(by_tag, 6, 30.0, OCI_MANIFEST),
        Linked(APP, by_tag, OCI_MANIFEST),
        TagSet(APP, f"sha256-{OLD.hex}.sig", by_tag, 30.0),
        Stored(LIST, 7, 30.0),
        ListingSet(APP, OLD, LIST, 30.0),
    )
    assert order(graph) == [OLD, NEW]
    removal = graph.remove(OLD, free)
    assert removal is not None
    assert {content.digest for content in removal.gone} == {OLD, OLD_LAYER, SIGNATURE, blob, by_tag, LIST}
    assert index.listing(APP, OLD) is None
    assert index.tags(APP, limit=10) == ["new"]


async def test_a_signature_whose_image_is_not_here_goes_by_its_own_age(index: SqliteIndex, graph: Graph) -> None:
    await index.apply(*TWO_IMAGES, Stored(SIGNATURE, 5, 30.0, OCI_MANIFEST, (), OLD))
    await index.apply(Linked(APP, SIGNATURE, OCI_MANIFEST), Lost(OLD))
    assert set(order(graph)) == {OLD_LAYER, NEW, SIGNATURE}
    await index.apply(*TWO_IMAGES[:3])
    assert order(graph) == [OLD, NEW]
    await index.apply(Lost(OLD))
    removal = graph.remove(SIGNATURE, free)
    assert removal is not None
    assert removal.names == (f"quay.io/org/app@{SIGNATURE}",)


async def test_an_index_takes_the_platforms_that_are_here_along(index: SqliteIndex, graph: Graph) -> None:
    await index.apply(*TWO_IMAGES[:4], Stored(INDEX, 3, 11.0, OCI_INDEX, (OLD, ARM)), TagSet(APP, "v1", INDEX, 11.0))
    assert order(graph) == [INDEX]
    held: list[tuple[set[Digest], set[Digest]]] = []

    def hold(goes: Sequence[Digest], needs: Sequence[Digest]) -> bool:
        held.append((set(goes), set(needs)))
        return True

    assert graph.remove(INDEX, hold) is not None
    assert held == [({INDEX, OLD, BASE, OLD_LAYER}, {INDEX, OLD, BASE, OLD_LAYER, ARM})]


async def test_a_tagged_child_is_its_own_image_and_goes_after_its_index(index: SqliteIndex, graph: Graph) -> None:
    """To remove it alone would free nothing, and lose a tag."""
    await index.apply(*TWO_IMAGES[:5], Stored(INDEX, 3, 11.0, OCI_INDEX, (OLD,)), TagSet(APP, "v1", INDEX, 11.0))
    assert order(graph) == [INDEX]
    unit = graph.unit(OLD)
    assert unit is not None
    assert unit.owned
    assert graph.remove(OLD, free) is None
    removal = graph.remove(INDEX, free)
    assert removal is not None
    assert [content.digest for content in removal.gone] == [INDEX]
    assert order(graph) == [OLD]
    assert index.tag(APP, "old") is not None


async def test_an_image_that_lost_its_tag_goes_by_its_age(index: SqliteIndex, graph: Graph) -> None:
    await index.apply(*TWO_IMAGES, TagSet(APP, "old", NEW, 30.0))
    assert order(graph) == [OLD, NEW]
    await index.apply(TagDropped(APP, "old"), TagDropped(APP, "new"))
    assert order(graph) == [OLD, NEW]


async def test_what_belongs_to_no_image_goes_by_its_own_age(index: SqliteIndex, graph: Graph) -> None:
    lone = of("lone")
    await index.apply(*TWO_IMAGES, Stored(lone, 9, 15.0))
    assert order(graph) == [OLD, lone, NEW]
    await index.apply(Lost(OLD))
    assert set(order(graph)) == {lone, NEW, OLD_LAYER}
    await index.apply(Stored(OLD, 1, 10.0))
    assert order(graph) == [OLD, lone, NEW]


async def test_what_is_pinned_stays_with_what_it_needs(index: SqliteIndex, graph: Graph) -> None:
    await index.apply(*TWO_IMAGES, Pinned(APP, "old", 1.0))
    assert index.pinned(APP, None, "old")
    assert not index.pinned(OTHER, None, "old")
    assert order(graph) == [NEW]
    assert graph.remove(OLD, free) is None
    assert graph.totals() == Totals(2, 5, 133, 111, 20.0, once=1)
    await index.apply(TagSet(APP, "old", NEW, 2.0))  # a pin follows its tag
    assert order(graph) == [OLD]
    await index.apply(Unpinned(APP, "old"), Pinned(OTHER, str(OLD), 1.0))
    assert order(graph) == [NEW]
    assert index.pinned(OTHER, OLD, None)


async def test_a_pinned_child_stays_when_its_index_goes(index: SqliteIndex, graph: Graph) -> None:
    await index.apply(*TWO_IMAGES[:4], Stored(INDEX, 3, 11.0, OCI_INDEX, (OLD,)), Pinned(APP, str(OLD), 1.0))
    removal = graph.remove(INDEX, free)
    assert removal is not None
    assert [content.digest for content in removal.gone] == [INDEX]
    assert order(graph) == []


async def test_force_removes_what_is_pinned_and_the_pin(index: SqliteIndex, graph: Graph) -> None:
    await index.apply(*TWO_IMAGES, Pinned(APP, "old", 1.0), Pinned(APP, str(OLD), 1.0))
    assert graph.remove(OLD, free, force=True) is not None
    assert not index.pinned(APP, OLD, "old")


async def test_nothing_changes_where_it_cannot_be_held(index: SqliteIndex, graph: Graph) -> None:
    await index.apply(*TWO_IMAGES)
    assert graph.remove(OLD, lambda _goes, _needs: False) is None
    assert graph.remove(BASE, free) is None
    assert graph.remove(of("unknown"), free) is None
    assert len(here(graph)) == 5
    assert index.tags(APP, limit=10) == ["new", "old"]


async def test_what_was_used_since_it_was_chosen_stays(index: SqliteIndex, graph: Graph) -> None:
    await index.apply(*TWO_IMAGES)
    [oldest] = graph.oldest(1)
    await index.apply(Used(APP, OLD, 40.0))
    assert graph.remove(OLD, free, used=oldest.used) is None
    assert order(graph) == [NEW, OLD]
    assert graph.oldest(1, skip=1)[0].used == 40.0


async def test_a_use_of_a_blob_is_one_of_the_image_that_was_used_last_in_that_repository(
    index: SqliteIndex, graph: Graph
) -> None:
    third = of("third")
    await index.apply(*TWO_IMAGES, Stored(third, 3, 5.0, OCI_MANIFEST, (BASE,)), Linked(OTHER, third, OCI_MANIFEST))
    assert order(graph) == [third, OLD, NEW]
    await index.apply(Used(APP, BASE, 50.0))
    assert [(unit.digest, unit.used) for unit in everything(graph)] == [(third, 5.0), (OLD, 10.0), (NEW, 50.0)]
    await index.apply(Used(OTHER, BASE, 60.0))
    assert order(graph) == [OLD, NEW, third]
    await index.apply(Used(Repository("quay.io", "nobody"), BASE, 70.0), Used(APP, of("unknown"), 70.0))
    assert order(graph) == [OLD, NEW, third]


async def test_a_use_of_a_signature_is_one_of_its_image(index: SqliteIndex, graph: Graph) -> None:
    blob = of("blob of a signature")
    await index.apply(
        *TWO_IMAGES,
        Stored(blob, 5, 1.0),
        Stored(SIGNATURE, 5, 1.0, OCI_MANIFEST, (blob,), OLD),
        Linked(APP, SIGNATURE, OCI_MANIFEST),
        Used(APP, blob, 50.0),
    )
    assert order(graph) == [NEW, OLD]


async def test_a_clock_that_was_ahead_keeps_nothing_for_ever(
    index: SqliteIndex, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    await index.apply(*TWO_IMAGES, Used(APP, OLD, 99999.0))
    assert [unit.used for unit in everything(graph)] == [20.0, 1000.0]
    await index.apply(Used(APP, NEW, 1030.0))  # another host's clock, a little ahead
    assert [unit.used for unit in everything(graph)] == [1000.0, 1030.0]
    monkeypatch.setattr(time, "time", lambda: 500.0)  # the clock was ahead, and was set right
    await index.apply(Used(APP, OLD, 500.0))
    assert [(unit.digest, unit.used) for unit in everything(graph)] == [(OLD, 500.0), (NEW, 1030.0)]


async def test_what_was_checked_longest_ago_is_due_first(index: SqliteIndex, graph: Graph) -> None:
    await index.apply(*TWO_IMAGES, Checked(BASE, 30.0), Checked(OLD, 40.0))
    due = graph.due(35.0, 100)
    assert [content.checked for content in due] == [1.0, 1.0, 20.0, 30.0]
    assert due[-1] == graph.content(BASE)


async def test_contents_come_in_pages_in_order_of_digest(index: SqliteIndex, graph: Graph) -> None:
    await index.apply(*TWO_IMAGES, Lost(BASE))
    every = sorted((OLD_LAYER, OLD, NEW_LAYER, NEW), key=str)
    first = graph.contents(limit=3)
    assert [content.digest for content in first] == every[:3]
    assert [content.digest for content in graph.contents(after=first[-1].digest, limit=3)] == every[3:]
    assert graph.content(BASE) is None


async def test_roots_of_content_are_the_images_that_need_it(index: SqliteIndex, graph: Graph) -> None:
    await index.apply(*TWO_IMAGES)
    assert {unit.digest for unit in graph.roots_of(BASE)} == {OLD, NEW}
    assert [unit.digest for unit in graph.roots_of(OLD_LAYER)] == [OLD]
    assert [unit.digest for unit in graph.roots_of(NEW)] == [NEW]
    assert len(graph.roots_of(BASE, limit=1)) == 1
    assert graph.roots_of(of("unknown")) == []


async def test_a_removal_is_in_the_journal(index: SqliteIndex, graph: Graph, layout: Layout) -> None:
    await index.apply(*TWO_IMAGES)
    graph.remove(OLD, free)
    index.close()
    layout.index.unlink()
    again = SqliteIndex(layout)
    assert again.tags(APP, limit=10) == ["new"]
    assert not again.standing(APP, OLD).linked
    again.close()


async def test_a_new_index_waits_for_somebody_to_look_through_the_disk(
    index: SqliteIndex, graph: Graph, layout: Layout
) -> None:
    assert not graph.surveyed
    graph.mark_surveyed()
    await index.apply(*TWO_IMAGES)
    assert graph.surveyed
    index.close()
    layout.index.unlink()
    again, other = SqliteIndex(layout), Graph(layout)
    assert not other.surveyed
    assert here(other) == set()
    await again.apply(*(change for change in TWO_IMAGES if isinstance(change, Stored)))
    assert order(other) == [OLD, NEW]
    again.close()
    other.close()


async def test_pins_and_signature_tags_are_tied_again_after_a_loss_of_the_index(
    index: SqliteIndex, layout: Layout
) -> None:
    tied = (Stored(SIGNATURE, 5, 30.0, OCI_MANIFEST), Stored(LIST, 5, 30.0))
    await index.apply(
        *TWO_IMAGES,
        *tied,
        TagSet(APP, f"sha256-{OLD.hex}.sig", SIGNATURE, 30.0),
        ListingSet(APP, OLD, LIST, 30.0),
        Pinned(APP, "new", 1.0),
    )
    index.close()
    layout.index.unlink()
    again, other = SqliteIndex(layout), Graph(layout)
    await again.apply(*tied, *(change for change in TWO_IMAGES if isinstance(change, Stored)))
    assert order(other) == [OLD]
    removal = other.remove(OLD, free)
    assert removal is not None
    assert {content.digest for content in removal.gone} == {OLD, OLD_LAYER, SIGNATURE, LIST}
    again.close()
    other.close()


async def test_thousands_that_share_a_layer_are_not_all_looked_at(index: SqliteIndex, graph: Graph) -> None:
    """Counted in steps of SQLite's machine, which do not depend on how busy this one is."""

    def steps(root: Digest) -> int:
        taken = 0

        def count() -> int:
            nonlocal taken
            taken += 1
            return 0

        graph._db.set_progress_handler(count, 100)
        assert graph.remove(root, free) is not None
        graph._db.set_progress_handler(None, 0)
        return taken

    def image(number: int) -> tuple[Stored, Linked]:
        manifest = of(f"image {number}")
        return Stored(manifest, 1, number, OCI_MANIFEST, (BASE,)), Linked(
            APP, manifest, OCI_MANIFEST, names=(Named(BASE, 9),)
        )

    await index.apply(Stored(BASE, 100, 1.0), *image(1), *image(2), *image(3))
    few = steps(of("image 1"))
    for start in range(4, 3000, 500):
        await index.apply(*(change for number in range(start, start + 500) for change in image(number)))
    assert steps(of("image 2")) < few + 30


async def test_a_deep_pile_of_indexes_is_walked_without_recursion(index: SqliteIndex, graph: Graph) -> None:
    deep = [of(f"level {number}") for number in range(1000)]
    await index.apply(
        *(Stored(upper, 1, 1.0, OCI_INDEX, (lower,)) for upper, lower in pairwise(deep)),
        Linked(APP, deep[990], OCI_INDEX),
        Used(APP, deep[-2], 5.0),
    )
    assert order(graph) == [deep[0]]
    assert [unit.digest for unit in graph.roots_of(deep[-2])] == [deep[0]]
    removal = graph.remove(deep[0], free)
    assert removal is not None
    assert len(removal.gone) == 999


async def test_a_damaged_index_is_told_as_an_error_of_the_store(index: SqliteIndex, graph: Graph) -> None:
    await index.apply(*TWO_IMAGES)
    graph._db.execute("DROP TABLE edge")
    for ask in (lambda: graph.roots_of(BASE), lambda: graph.remove(OLD, free), graph.totals):
        with pytest.raises(StoreError, match=r"index in .* cannot be"):
            ask()


def test_a_tag_of_a_referrer_is_told_from_an_ordinary_one() -> None:
    key = bytes(33)
    assert nodes.referred(f"sha256-{'0' * 64}") == key
    assert nodes.referred(f"sha256-{'0' * 64}.att") == key
    for tag in ("v1", "sha256-", f"sha256-{'0' * 63}", f"sha256-{'0' * 63}G", f"sha512-{'0' * 64}", "sha256-1.2"):
        assert nodes.referred(tag) is None


async def test_tags_go_into_the_index_only_for_what_is_here(index: SqliteIndex, layout: Layout) -> None:
    """A tag that a revalidation confirms while its image is evicted would promise what is gone."""
    await index.apply(*TWO_IMAGES)
    await index.apply(Removed((OLD, OLD_LAYER)))
    lines = layout.journal.read_bytes()
    await index.apply(TagSet(APP, "old", OLD, 30.0))
    assert index.tag(APP, "old") is None
    assert layout.journal.read_bytes() == lines
