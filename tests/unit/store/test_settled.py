"""`SETTLED`, the time of what was carried in: it is kept to the last bit, wherever times are written."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import pytest

from mirror.cache.freshness import Age, Freshness
from mirror.cli.tables import show_age, show_time
from mirror.config import FreshnessRule
from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from mirror.store import compaction
from mirror.store.changes import SETTLED, Change, Linked, ListingSet, Stored, TagSet, dump, load
from mirror.store.index import SqliteIndex, Validated

if TYPE_CHECKING:
    from mirror.store.layout import Layout

REPO = Repository("docker.io", "library/app")
IMAGE, LIST = Digest.of(b"image"), Digest.of(b"list")
CARRIED: tuple[Change, ...] = (TagSet(REPO, "v1", IMAGE, SETTLED), ListingSet(REPO, IMAGE, LIST, SETTLED))


@pytest.mark.parametrize("change", CARRIED)
def test_the_journal_keeps_it(change: Change) -> None:
    assert load(dump(change)) == change


async def test_the_index_keeps_it_when_its_journal_is_written_anew_and_when_it_is_made_again(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "GROWTH", 100)
    index = SqliteIndex(layout)
    await index.apply(Stored(IMAGE, 1, 1.0), Stored(LIST, 1, 1.0), Linked(REPO, IMAGE))
    for number in range(20):
        await index.apply(TagSet(REPO, "v1", IMAGE, number))
    await index.apply(*CARRIED)
    assert index.compact()
    index.close()
    for path in layout.root.glob("index.sqlite*"):
        path.unlink()
    index = SqliteIndex(layout)
    assert index.tag(REPO, "v1") == Validated(IMAGE, SETTLED)
    assert index.listing(REPO, IMAGE) == Validated(LIST, SETTLED)
    index.close()


def test_no_rule_makes_it_stale_and_no_clock() -> None:
    freshness = Freshness([FreshnessRule("**", 0.0, 0.0, 0.0, immutable=False)])
    assert freshness.age(REPO, "v1", time.time() - 1, time.time()) is Age.TOO_OLD
    for now in (0.0, time.time(), SETTLED, math.inf):
        assert freshness.age(REPO, "v1", SETTLED, now) is Age.FRESH


def test_whatever_shows_times_can_show_it() -> None:
    assert show_time(SETTLED) == "9999-12-31T23:59:59Z"
    assert show_age(SETTLED) == "now"
