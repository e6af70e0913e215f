"""What a tag newly means waits until it has been known for `min_age`, whatever happens in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirror.cache.admission import Admission
from mirror.cache.quarantine import KIND, Quarantine
from mirror.config.values import PullRule
from mirror.errors import Quarantined
from mirror.oci.digest import Digest
from mirror.oci.name import Repository, Tag
from mirror.store.dealings import Dealings

if TYPE_CHECKING:
    from pathlib import Path

REPOSITORY, TAG = Repository("docker.io", "library/nginx"), Tag("1.25")
A, B, C = (Digest.of(name) for name in (b"a", b"b", b"c"))
HOUR, DAY = 3600.0, 86400.0


class Site:
    """A quarantine of three days, and the time."""

    def __init__(self, book: Dealings | None = None) -> None:
        self.now = 1_790_000_000.0
        self.book = book or Dealings(None)
        rules = Admission((PullRule("docker.io/library/**", allow=True, min_age=3 * DAY),))
        self.quarantine = Quarantine(rules, self.book, lambda: self.now)

    def judge(self, former: Digest | None, now: Digest) -> Digest | None:
        """Return what is served; None where the pull is refused."""
        try:
            return self.quarantine.judge(REPOSITORY, TAG, former, now)
        except Quarantined:
            return None


@pytest.fixture
def site() -> Site:
    return Site()


def test_the_former_digest_is_served_until_the_new_one_is_old_enough(site: Site) -> None:
    assert site.judge(A, A) == A
    assert site.judge(A, B) == A
    site.now += 3 * DAY - 1
    assert site.judge(A, B) == A
    site.now += 1
    assert site.judge(A, B) == B
    assert site.quarantine.all() == []


def test_a_tag_that_was_never_seen_is_refused_until_then_and_the_text_says_what_to_do(site: Site) -> None:
    with pytest.raises(Quarantined) as refused:
        site.quarantine.judge(REPOSITORY, TAG, None, A)
    assert refused.value.until == site.now + 3 * DAY
    text = str(refused.value)
    for part in (
        '"allow: docker.io/library/**, min_age: 3d"',
        str(A),
        "2026-09-24 ",
        f"mirror release {REPOSITORY}:{TAG}",
    ):
        assert part in text
    site.now += 3 * DAY
    assert site.judge(None, A) == A


def test_a_tag_that_goes_back_is_not_held_and_what_comes_next_starts_its_own_clock(site: Site) -> None:
    assert site.judge(A, B) == A
    site.now += 2 * DAY
    assert site.judge(A, A) == A
    assert site.quarantine.all() == []
    assert site.judge(A, B) == A
    site.now += 2 * DAY
    assert site.judge(A, B) == A
    assert site.judge(A, C) == A
    site.now += 2 * DAY
    assert site.judge(A, C) == A
    assert [held.digest for held in site.quarantine.all()] == [C]


def test_going_back_to_what_was_served_before_is_nothing_new(site: Site) -> None:
    assert site.judge(A, B) == A
    site.now += 3 * DAY
    assert site.judge(A, B) == B
    assert site.judge(B, A) == A
    assert site.judge(A, B) == B


def test_an_eviction_does_not_make_a_tag_new(site: Site) -> None:
    assert site.judge(A, A) == A
    assert site.judge(None, A) == A
    assert site.judge(None, B) == A  # what it meant is fetched again


def test_a_digest_that_could_not_be_fetched_when_its_time_came_does_not_wait_again(site: Site) -> None:
    assert site.judge(A, B) == A
    site.now += 3 * DAY
    assert site.judge(A, B) == B
    site.now += HOUR
    assert site.judge(A, B) == B


def test_a_clock_that_was_set_back_lets_nothing_wait_for_longer_than_min_age(site: Site) -> None:
    assert site.judge(A, B) == A
    site.now -= 365 * DAY
    assert site.judge(A, B) == A
    site.now += 3 * DAY
    assert site.judge(A, B) == B


def test_a_release_counts_at_once_and_only_for_the_digest_that_was_held(site: Site) -> None:
    assert site.judge(None, A) is None
    (held,) = site.quarantine.all()
    site.quarantine.release(held)
    assert site.quarantine.all() == []
    assert site.judge(None, B) is None
    assert site.judge(None, A) is None  # it has come back as something new
    (held,) = site.quarantine.all()
    site.quarantine.release(held)
    assert site.judge(None, A) == A


def test_a_digest_can_be_released_before_anybody_has_asked_for_it(site: Site) -> None:
    site.quarantine.release_digest(REPOSITORY, B)
    assert site.judge(A, B) == B
    assert site.judge(B, C) == B


def test_what_is_held_outlives_a_restart_and_another_process_releases_it(tmp_path: Path) -> None:
    book = Dealings(tmp_path / "book")
    first = Site(book)
    assert first.judge(A, B) == A
    book.flush()
    other = Site(Dealings(tmp_path / "book"))
    (held,) = other.quarantine.all()
    assert (held.former, held.digest, held.until - held.since) == (A, B, 3 * DAY)
    other.quarantine.release(held)
    other.book.close()
    assert first.judge(A, B) == B
    book.close()


def test_what_is_noted_is_not_written_again_at_every_pull(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    put = site.book.put
    monkeypatch.setattr(site.book, "put", lambda *fact: (written.append(fact), put(*fact)))
    for _ in range(3):
        site.judge(A, A)
    for _ in range(3):
        site.judge(A, B)
    assert len(written) == 2


def test_a_note_that_makes_no_sense_starts_the_clock_anew(site: Site) -> None:
    site.book.put(KIND, f"{REPOSITORY}:{TAG}", {"held": 7, "since": "never", "serves": "sha256:x"})
    site.book.put(KIND, "no image", {"held": str(A)})
    assert site.quarantine.all() == []
    assert site.judge(None, A) is None
    assert [held.digest for held in site.quarantine.all()] == [A]
