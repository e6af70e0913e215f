"""The history of what was served: it outlives crashes, other processes and its own growth."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import threading
from typing import TYPE_CHECKING

import pytest

from mirror.errors import NoSpace
from mirror.oci.digest import Digest
from mirror.oci.name import Repository, Tag
from mirror.store import history as module
from mirror.store.history import KEPT, History, Served

if TYPE_CHECKING:
    from mirror.store.layout import Layout

NOW = 1_790_000_000.0
REPO = Repository("docker.io", "library/nginx")
A, B = Digest.of(b"a"), Digest.of(b"b")


class Room:
    """Room for anything, or for nothing."""

    def __init__(self, *, full: bool = False) -> None:
        self.full = full
        self.reserved = 0

    def reserve(self, size: int) -> None:
        if self.full:
            raise NoSpace("no room")
        self.reserved += size

    def release(self, size: int) -> None:
        self.reserved -= size


def served(tag: str | None = "1.25", digest: Digest = A, at: float = NOW) -> Served:
    return Served(REPO, Tag(tag) if tag else None, digest, at)


def test_what_was_served_is_read_again_each_reference_once_with_its_last_time(layout: Layout) -> None:
    history = History(layout)
    history.add([served(), served(None)])
    history.add([served(at=NOW + 7200), served(digest=B, at=NOW + 1), served(at=NOW + 60)])
    again = sorted(History(layout).read(), key=lambda one: one.at)
    assert again == [served(None), served(digest=B, at=NOW + 1), served(at=NOW + 7200)]


def test_what_was_served_before_is_left_out(layout: Layout) -> None:
    history = History(layout)
    history.add([served(at=NOW - 10), served("1.26", at=NOW)])
    assert list(history.read(since=NOW)) == [served("1.26", at=NOW)]


def test_where_nothing_was_served_there_is_no_history(layout: Layout) -> None:
    history = History(layout)
    history.add([])
    assert (list(history.read()), history.begun(), layout.served.exists()) == ([], None, False)
    assert not history.tidy(Room(), now=NOW)


def test_it_says_since_when_it_is_kept(layout: Layout) -> None:
    history = History(layout)
    history.add([served(at=NOW + 5), served("1.26")])
    history.add([served("1.27", at=NOW + 9)])
    assert history.begun() == NOW


@pytest.mark.parametrize(
    "damage",
    [
        b'{"at":1790000000,"repo":"docker.io/libr',
        b"\0" * 4096,
        b'{"at":1790000000,"repo":"docker.io/x","digest":"sha256:1"}\n',
        b'{"at":1790000000,"repo":{},"digest":7}\n',
        b'{"at":1790000000,"repo":"docker.io/../x","digest":"' + str(A).encode() + b'"}\n',
        b"\xff\xfe\n\n{}\n[]\n",
        b'{"at":1790000000,"repo":' + b"[" * 900 + b"}\n",
    ],
)
def test_a_line_that_cannot_be_read_costs_no_other(damage: bytes, layout: Layout) -> None:
    history = History(layout)
    history.add([served()])
    with layout.served.open("ab") as file:
        file.write(damage)
    history.add([served("1.26")])
    assert list(history.read()) == [served(), served("1.26")]


def test_a_disk_that_takes_half_a_line_keeps_none_of_it(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(layout)
    history.add([served()])
    before = layout.served.read_bytes()
    write = os.write

    def half(fd: int, data: memoryview) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return write(fd, data[: len(data) // 2])

    monkeypatch.setattr(module.os, "write", half)
    with pytest.raises(NoSpace):
        history.add([served("1.26"), served("1.27")])
    assert layout.served.read_bytes() == before


def test_it_is_written_anew_once_half_of_it_is_overtaken(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROWTH", 1000)
    history, room = History(layout), Room()
    for hour in range(30):
        history.add([served(at=NOW + hour), served("1.26", at=NOW + hour)])
    begun, size = history.begun(), layout.served.stat().st_size
    assert history.tidy(room, now=NOW + 100)
    assert layout.served.stat().st_size < size / 20
    assert sorted(map(str, history.read())) == sorted(map(str, [served(at=NOW + 29), served("1.26", at=NOW + 29)]))
    assert (room.reserved, history.begun()) == (0, begun)
    assert not history.tidy(room, now=NOW + 100)
    assert [path.name for path in layout.root.glob("served*")] == ["served.log"]


def test_what_is_not_overtaken_is_not_written_anew(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROWTH", 1000)
    history = History(layout)
    history.add(served(f"1.{number}") for number in range(100))
    before = layout.served.stat().st_ino
    assert not history.tidy(Room(), now=NOW)
    assert layout.served.stat().st_ino == before


def test_what_is_older_than_four_hundred_days_goes(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROWTH", 0)
    history = History(layout)
    history.add([served(f"old-{number}", at=NOW - 10) for number in range(10)] + [served(at=NOW)])
    assert history.tidy(Room(), now=NOW + KEPT - 5)
    assert list(history.read()) == [served(at=NOW)]


def test_past_its_largest_size_the_oldest_go_and_it_says_since_when_all_is_known(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST", 10_000)
    monkeypatch.setattr(module, "GROWTH", 0)
    history = History(layout)
    history.add(served(f"1.{number}", at=NOW + number) for number in range(200))
    assert layout.served.stat().st_size > 10_000
    assert history.tidy(Room(), now=NOW + 1000)
    assert 4000 < layout.served.stat().st_size < 5100
    left = sorted(one.at for one in history.read())
    assert left == [NOW + number for number in range(200 - len(left), 200)]
    assert history.begun() == left[0] - 1


def test_a_clock_that_was_ahead_keeps_nothing_for_ever(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROWTH", 0)
    history = History(layout)
    history.add([served(at=NOW + 10 * KEPT), *(served("1.26", at=NOW + number) for number in range(5))])
    assert history.tidy(Room(), now=NOW + 10)
    assert {one.at for one in history.read()} == {NOW + 10, NOW + 4}


def test_without_room_it_stays_as_it_is(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROWTH", 0)
    history = History(layout)
    history.add(served(at=NOW + number) for number in range(10))
    with pytest.raises(NoSpace):
        history.tidy(Room(full=True), now=NOW)
    assert list(history.read()) == [served(at=NOW + 9)]


def test_a_disk_that_is_full_keeps_nothing_of_what_was_to_be_written_anew(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GROWTH", 0)
    history, room = History(layout), Room()
    history.add(served(at=NOW + number) for number in range(10))

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", refuse)
    with pytest.raises(NoSpace):
        history.tidy(room, now=NOW)
    assert [path.name for path in layout.root.glob("served*")] == ["served.log"]
    assert room.reserved == 0


def test_who_writes_waits_for_whoever_writes_it_anew(layout: Layout) -> None:
    history = History(layout)
    history.add([served()])
    with layout.served.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        writing = threading.Thread(target=history.add, args=([served("1.26")],))
        writing.start()
        writing.join(0.1)
        assert writing.is_alive()
        assert list(history.read()) == [served()]  # who reads need not wait
    writing.join(5)
    assert list(history.read()) == [served(), served("1.26")]


def _write_many(layout: Layout, worker: int) -> None:
    history = History(layout)
    for number in range(200):
        history.add([served(f"{worker}-{number}", at=NOW + number)])


def test_several_processes_write_while_another_writes_it_anew(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROWTH", -1)  # whenever somebody looks
    history = History(layout)
    history.add(served(at=NOW + number) for number in range(5000))
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(layout, worker)) for worker in range(3)]
    for writer in writers:
        writer.start()
    written_anew = 0
    while any(writer.is_alive() for writer in writers):
        history._looked = 0
        written_anew += history.tidy(Room(), now=NOW + 10_000)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert written_anew >= 1
    tags = {str(one.tag) for one in history.read()}
    assert tags == {"1.25", *(f"{worker}-{number}" for worker in range(3) for number in range(200))}
