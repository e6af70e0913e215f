"""What an unfinished fill leaves on disk, and who may believe it."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from mirror.errors import NoSpace, StoreError
from mirror.oci.digest import Digest
from mirror.store import part as module
from mirror.store.layout import Layout
from mirror.store.locks import quiet, seize, share, unnaming
from mirror.store.part import CHUNK, VERIFIED, PartFile, footprint
from mirror.store.spans import Spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BODY = bytes(range(256)) * 4096 * 3 + b"the end"  # a little more than three chunks
DIGEST = Digest.of(BODY)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "store")


@pytest.fixture
def open_part(layout: Layout) -> Iterator[Callable[[], PartFile]]:
    opened: list[PartFile] = []

    def make() -> PartFile:
        opened.append(PartFile(layout, DIGEST))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def _write(part: PartFile, spans: Spans, start: int, stop: int) -> None:
    part.write(BODY[start:stop], start, spans.around(start, stop))
    spans.add(start, stop)


def test_another_process_sees_whole_chunks_and_the_front(open_part: Callable[[], PartFile]) -> None:
    owner, reader = open_part(), open_part()
    assert owner.try_lock()
    assert not reader.try_lock()
    owner.begin(len(BODY))
    spans = Spans()
    _write(owner, spans, 0, 1000)
    _write(owner, spans, 2 * CHUNK - 5, 3 * CHUNK + 1)
    state = reader.read_map()
    assert state is not None
    assert (state.size, state.generation) == (len(BODY), owner.generation)
    assert list(state.spans) == [(0, 1000), (2 * CHUNK, 3 * CHUNK)]


def test_the_short_last_chunk_is_marked_when_it_is_whole(open_part: Callable[[], PartFile]) -> None:
    owner = open_part()
    owner.begin(len(BODY))
    spans = Spans()
    _write(owner, spans, 3 * CHUNK, len(BODY) - 1)
    assert list(owner.read_map().spans) == []  # type: ignore[union-attr]
    _write(owner, spans, len(BODY) - 1, len(BODY))
    assert list(owner.read_map().spans) == [(3 * CHUNK, len(BODY))]  # type: ignore[union-attr]


def test_a_chunk_that_two_writes_make_whole_is_marked(open_part: Callable[[], PartFile]) -> None:
    owner = open_part()
    owner.begin(len(BODY))
    spans = Spans()
    _write(owner, spans, CHUNK + 7, 2 * CHUNK)
    _write(owner, spans, CHUNK, CHUNK + 7)
    assert list(owner.read_map().spans) == [(CHUNK, 2 * CHUNK)]  # type: ignore[union-attr]


def test_what_a_crash_leaves_is_gone_on_with(open_part: Callable[[], PartFile]) -> None:
    owner = open_part()
    assert owner.try_lock()
    owner.begin(len(BODY))
    spans = Spans()
    _write(owner, spans, 0, CHUNK + 10)
    owner.close()
    heir = open_part()
    assert heir.try_lock()
    state = heir.resume()
    assert state is not None
    assert list(state.spans) == [(0, CHUNK + 10)]
    assert state.generation == owner.generation
    _write(heir, state.spans, CHUNK + 10, len(BODY))
    assert list(heir.read_map().spans) == [(0, len(BODY))]  # type: ignore[union-attr]


def test_the_map_of_another_boot_is_not_believed(
    open_part: Callable[[], PartFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = open_part()
    owner.begin(len(BODY))
    _write(owner, Spans(), 0, CHUNK)
    monkeypatch.setattr(module, "BOOT_ID", b"another boot it.")
    assert open_part().resume() is None


def test_the_map_of_another_part_file_is_not_believed(open_part: Callable[[], PartFile], layout: Layout) -> None:
    owner = open_part()
    owner.begin(len(BODY))
    _write(owner, Spans(), 0, len(BODY))
    owner.verified()
    layout.part(DIGEST).unlink()  # a crash between the rename of the content and the unlinking of the map
    heir = open_part()
    assert heir.read_map() is None
    heir.file.truncate(len(BODY))
    assert heir.read_map() is None, "its size alone does not make it the right one"


@pytest.mark.parametrize("length", [0, 3, 40, 64, 65, 70])
def test_a_torn_map_is_not_believed(open_part: Callable[[], PartFile], layout: Layout, length: int) -> None:
    owner = open_part()
    owner.begin(len(BODY))
    _write(owner, Spans(), 0, CHUNK)
    os.truncate(layout.map(DIGEST), length)
    assert open_part().resume() is None


def test_a_part_file_that_is_shorter_than_its_map_says_is_not_believed(
    open_part: Callable[[], PartFile], layout: Layout
) -> None:
    owner = open_part()
    owner.begin(len(BODY))
    _write(owner, Spans(), 0, 2 * CHUNK)
    os.truncate(layout.part(DIGEST), 2 * CHUNK - 1)
    assert open_part().resume() is None


def test_a_part_file_that_is_longer_than_the_blob_is_not_believed(
    open_part: Callable[[], PartFile], layout: Layout
) -> None:
    owner = open_part()
    owner.begin(len(BODY))
    os.truncate(layout.part(DIGEST), len(BODY) + 1)
    assert open_part().resume() is None


def test_a_mark_by_an_outdated_size_never_says_that_a_chunk_is_here(open_part: Callable[[], PartFile]) -> None:
    owner, reader = open_part(), open_part()
    owner.begin(2 * CHUNK)
    owner.begin(40 * CHUNK)
    for chunk in range(60):  # the reader believes in sizes that were, or that never were
        reader.want(chunk * CHUNK)
    state = owner.read_map()
    assert state is not None
    assert list(state.spans) == []
    assert state.wanted == tuple(chunk * CHUNK for chunk in range(40))


def test_a_chunk_is_wanted_until_it_is_here(open_part: Callable[[], PartFile]) -> None:
    owner, reader = open_part(), open_part()
    owner.begin(len(BODY))
    reader.want(2 * CHUNK + 100)
    assert owner.read_map().wanted == (2 * CHUNK,)  # type: ignore[union-attr]
    _write(owner, Spans(), 2 * CHUNK, 3 * CHUNK)
    assert owner.read_map().wanted == ()  # type: ignore[union-attr]


def test_who_waits_for_a_fill_that_has_not_begun_takes_no_room(open_part: Callable[[], PartFile]) -> None:
    """Whoever fills takes what both files have on disk for what was counted before."""
    owner, reader = open_part(), open_part()
    reader.want(0)
    assert owner.allocated() == 0


def test_each_beginning_has_a_number_of_its_own(open_part: Callable[[], PartFile]) -> None:
    numbers = set()
    for _ in range(20):
        part = open_part()  # as after crashes: nothing is remembered
        part.begin(len(BODY))
        numbers.add(part.generation)
    assert len(numbers) == 20


def test_a_blob_of_unknown_size_is_followed_but_not_resumed(open_part: Callable[[], PartFile]) -> None:
    owner = open_part()
    owner.begin(None)
    _write(owner, Spans(), 0, 5000)
    state = open_part().read_map()
    assert state is not None
    assert state.size is None
    assert list(state.spans) == [(0, 5000)]
    assert open_part().resume() is None


def test_what_is_committed_has_its_name_and_no_map(open_part: Callable[[], PartFile], layout: Layout) -> None:
    owner, reader = open_part(), open_part()
    assert owner.try_lock()
    owner.begin(len(BODY))
    _write(owner, Spans(), 0, len(BODY))
    owner.verified()
    assert reader.read_map().state == VERIFIED  # type: ignore[union-attr]
    owner.commit(len(BODY))
    assert layout.blob(DIGEST).read_bytes() == BODY
    assert layout.blob(DIGEST).stat().st_mode & 0o777 == 0o444
    assert list(layout.fills.iterdir()) == []
    assert not owner.current()
    owner.close()
    assert reader.try_lock()
    assert not reader.current()


def test_what_is_committed_stays_shared_until_the_last_client_has_it(
    open_part: Callable[[], PartFile], layout: Layout
) -> None:
    owner = open_part()
    assert owner.try_lock()
    owner.begin(len(BODY))
    _write(owner, Spans(), 0, len(BODY))
    owner.commit(len(BODY))
    with os.fdopen(os.dup(owner.file.fileno())), layout.blob(DIGEST).open("rb") as other:
        assert share(other.fileno()), "others may read it from now on"
        owner.close()
        assert share(other.fileno())
        assert not seize(other.fileno()), "nobody may take it away"
    with layout.blob(DIGEST).open("rb") as other:
        assert seize(other.fileno())


def test_a_follower_shares_what_another_process_has_committed(
    open_part: Callable[[], PartFile], layout: Layout
) -> None:
    owner, follower = open_part(), open_part()
    assert owner.try_lock()
    owner.begin(len(BODY))
    _write(owner, Spans(), 0, len(BODY))
    owner.commit(len(BODY))
    follower.share()
    owner.close()
    with os.fdopen(os.dup(follower.file.fileno())), layout.blob(DIGEST).open("rb") as evictor:
        follower.close()
        assert not seize(evictor.fileno())


def test_content_gets_no_name_while_somebody_takes_names_away(
    open_part: Callable[[], PartFile], layout: Layout
) -> None:
    owner = open_part()
    assert owner.try_lock()
    owner.begin(len(BODY))
    _write(owner, Spans(), 0, len(BODY))
    committing = threading.Thread(target=owner.commit, args=(len(BODY),))
    with unnaming(layout):
        committing.start()
        committing.join(0.05)
        assert not layout.blob(DIGEST).exists()
    committing.join(10)
    assert layout.blob(DIGEST).exists()


def test_what_is_committed_is_pending_until_it_is_closed(open_part: Callable[[], PartFile], layout: Layout) -> None:
    owner = open_part()
    assert owner.try_lock()
    owner.begin(len(BODY))
    _write(owner, Spans(), 0, len(BODY))
    with quiet(layout, 0.0) as alone:
        assert alone
    owner.commit(len(BODY))
    with quiet(layout, 0.01) as alone:
        assert not alone, "index and book do not know it yet"
    owner.close()
    with quiet(layout, 0.0) as alone:
        assert alone


def test_content_whose_name_may_not_last_is_said_not_to_be_stored(
    open_part: Callable[[], PartFile], layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    owner = open_part()
    assert owner.try_lock()
    owner.begin(len(BODY))
    _write(owner, Spans(), 0, len(BODY))
    monkeypatch.setattr(module, "sync_directory", refuse)
    with pytest.raises(StoreError, match="health"):
        owner.commit(len(BODY))
    assert not layout.blob(DIGEST).exists()
    owner.discard()
    assert list(layout.fills.iterdir()) == []


def test_who_throws_away_his_own_leaves_what_another_has_begun(
    open_part: Callable[[], PartFile], layout: Layout
) -> None:
    owner = open_part()
    assert owner.try_lock()
    owner.begin(len(BODY))
    layout.part(DIGEST).rename(layout.blob(DIGEST))
    other = open_part()
    assert other.try_lock()
    owner.discard()
    assert other.current()
    other.discard()
    assert list(layout.fills.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "says"), [(errno.EROFS, "mounted read-only"), (errno.EIO, "disk's health"), (errno.ESTALE, "unmounted")]
)
def test_a_disk_that_refuses_is_said_with_what_to_do(
    open_part: Callable[[], PartFile], monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    owner = open_part()
    owner.begin(len(BODY))
    monkeypatch.setattr(os, "pwrite", refuse)
    monkeypatch.setattr(os, "ftruncate", refuse)
    for act in (lambda: owner.write(b"x", 0, (0, 1)), lambda: owner.begin(1), lambda: owner.commit(1), owner.clear):
        with pytest.raises(StoreError, match=says):
            act()


def test_an_empty_blob_can_be_committed(layout: Layout) -> None:
    empty = Digest.of(b"")
    part = PartFile(layout, empty)
    part.begin(0)
    part.verified()
    assert part.read_map().spans.covers(0, 0)  # type: ignore[union-attr]
    part.commit(0)
    part.close()
    assert layout.blob(empty).stat().st_size == 0


def test_a_reader_that_still_has_the_file_keeps_no_lock(open_part: Callable[[], PartFile]) -> None:
    owner = open_part()
    assert owner.try_lock()
    with os.fdopen(os.dup(owner.file.fileno())):
        owner.close()
        assert open_part().try_lock()


def test_a_full_disk_is_said_so(open_part: Callable[[], PartFile], monkeypatch: pytest.MonkeyPatch) -> None:
    owner = open_part()
    owner.begin(len(BODY))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(NoSpace, match="full"):
        owner.write(b"x", 0, (0, 1))


def test_the_footprint_is_what_the_files_take(open_part: Callable[[], PartFile]) -> None:
    for size in (0, 1, 4096, CHUNK + 1, len(BODY)):
        part = open_part()
        part.begin(size)
        assert part.allocated() <= footprint(size) <= part.allocated() + 4096
