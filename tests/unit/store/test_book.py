"""The account is one for all processes, whatever becomes of them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from mirror.errors import NoSpace, StoreUnusable
from mirror.store import page as page_module
from mirror.store.book import Book
from mirror.store.page import SIZE, SLOTS, Balance, Page
from mirror.store.room import Room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirror.store.layout import Layout

MIB = 1024 * 1024


@pytest.fixture
def opened(layout: Layout) -> Iterator[Callable[[], Book]]:
    """Open the book, as each process does."""
    books = []

    def one() -> Book:
        books.append(Book(layout.room))
        return books[-1]

    yield one
    for book in books:
        book.close()


@pytest.fixture
def process(layout: Layout) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Run a piece of Python in another process, which finds the store's `layout` open."""
    running = []
    prelude = (
        "import os, random, sys, threading; from pathlib import Path\n"
        "from mirror.errors import NoSpace; from mirror.store.layout import Layout\n"
        "from mirror.store.room import Room\n"
        f"layout = Layout(Path({os.fspath(layout.root)!r})); MIB = {MIB}\n"
    )

    def start(text: str) -> subprocess.Popen[str]:
        running.append(
            subprocess.Popen([sys.executable, "-c", prelude + text], stdin=-1, stdout=-1, text=True, bufsize=1)
        )
        return running[-1]

    yield start
    for one in running:
        one.kill()
        one.wait()
        for pipe in (one.stdin, one.stdout):
            if pipe is not None:
                pipe.close()


HOLDS = """
room = Room(layout, max_size=1000 * MIB, min_free=0)
room.serve(os.getpid())
room.reserve(30 * MIB); room.landed(10 * MIB)
print("held", flush=True)
sys.stdin.read()
room.release(30 * MIB)
room.close()
"""


def said(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def killed(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    child.wait()


def end(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait() == 0


# --- who dies --------------------------------------------------------------------------------------------------------


def test_what_a_killed_process_held_counts_on_and_a_count_is_due(
    layout: Layout, process: Callable[[str], subprocess.Popen[str]]
) -> None:
    room = Room(layout, max_size=1000 * MIB, min_free=0)
    try:
        room.recount(5 * MIB)
        child = process(HOLDS)
        assert said(child) == "held"
        used = room.used
        assert [other.pid for other in room.others()] == [child.pid]
        assert not room.dirty
        killed(child)
        assert room.others() == []
        room.excess()
        assert room.used == used
        assert room.dirty
        balance = room.balance()
        assert (balance.content, balance.held, balance.outstanding) == (35 * MIB, 0, 0)
        room.recount(6 * MIB)
        assert not room.dirty
    finally:
        room.close()


def test_whoever_opens_next_finds_that_the_last_process_was_killed(
    process: Callable[[str], subprocess.Popen[str]], opened: Callable[[], Book]
) -> None:
    child = process(HOLDS)
    assert said(child) == "held"
    book = opened()
    book.recount(0, None)
    assert not book.read().dirty
    book.close()
    killed(child)
    again = opened().read()
    assert again.dirty
    assert (again.content, again.held, again.outstanding) == (30 * MIB, 0, 0)


def test_processes_that_end_well_leave_a_clean_book(
    process: Callable[[str], subprocess.Popen[str]], opened: Callable[[], Book]
) -> None:
    book = opened()
    book.recount(0, None)
    child = process(HOLDS)
    assert said(child) == "held"
    book.close()
    end(child)
    again = opened().read()
    assert not again.dirty
    assert (again.content, again.held, again.outstanding) == (0, 0, 0)


def test_what_is_held_by_one_that_closes_counts_on(opened: Callable[[], Book]) -> None:
    book = opened()
    book.recount(0, None)
    book.change(held=10, outstanding=10)
    book.close()
    again = opened().read()
    assert (again.content, again.held, again.outstanding, again.dirty) == (10, 0, 0, True)


def test_a_count_that_was_begun_before_a_process_died_does_not_make_it_clean(
    process: Callable[[str], subprocess.Popen[str]], opened: Callable[[], Book]
) -> None:
    book = opened()
    child = process(HOLDS)
    assert said(child) == "held"
    since = book.read()
    killed(child)
    assert book.reap()
    book.recount(MIB, since)
    assert book.read().dirty
    assert book.read().content == 31 * MIB, "it may be on disk and not counted"
    assert not book.reap()


def test_a_book_that_was_closed_before_the_machine_was_booted_is_counted_again(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = Book(layout.room)
    book.recount(MIB, None)
    book.close()
    monkeypatch.setattr(page_module, "BOOT_ID", bytes(range(16)))
    book = Book(layout.room)
    assert book.read().dirty
    assert book.read().content == MIB
    book.recount(MIB, None)
    book.close()
    book = Book(layout.room)
    assert not book.read().dirty
    book.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_kill_at_any_moment_leaves_a_page_that_adds_up(
    seed: int, process: Callable[[str], subprocess.Popen[str]]
) -> None:
    child = process(f"""
import signal, time
chance = random.Random({seed})
Room(layout, max_size=1000 * MIB, min_free=0).close()
for _ in range(10):
    pid = os.fork()
    if pid == 0:
        room = Room(layout, max_size=1000 * MIB, min_free=0)
        while True:
            room.reserve(3); room.landed(2); room.keep(2); room.release(1); room.freed(1); room.found(1); room.keep(1)
    time.sleep(chance.uniform(0.001, 0.01))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    from mirror.store.page import Page
    page = Page(layout.room.read_bytes())
    slots = [slot for _, slot in page.slots()]
    assert page.readable
    assert page.balance.held == sum(slot.held for slot in slots), page.balance
    assert page.balance.outstanding == sum(slot.outstanding for slot in slots)
    assert 0 <= page.balance.outstanding <= page.balance.held <= 4, page.balance
    assert page.balance.content >= 0
""")
    end(child)


# --- many at once ----------------------------------------------------------------------------------------------------

RUNS = """
chance = random.Random(int(sys.argv[1]) if len(sys.argv) > 1 else os.getpid())
room = Room(layout, max_size=40 * MIB, min_free=0)
kept = [0, 0]
refused = 0
def run(number):
    global refused
    for _ in range(150):
        size = chance.randrange(1, 9 * MIB)
        try:
            room.reserve(size)
        except NoSpace:
            refused += 1
            if kept[number]:
                room.freed(kept[number]); kept[number] = 0
            continue
        assert room.used <= 40 * MIB, room.used
        room.landed(size)
        part = chance.randrange(size + 1)
        room.keep(part); kept[number] += part
        room.release(size - part)
threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
print("ready", flush=True); sys.stdin.read()
for thread in threads: thread.start()
for thread in threads: thread.join()
room.close()
print(sum(kept), refused)
"""


def test_threads_of_several_processes_never_pass_the_cap_and_lose_no_byte_of_it(
    process: Callable[[str], subprocess.Popen[str]], opened: Callable[[], Book]
) -> None:
    book = opened()
    children = [process(RUNS) for _ in range(3)]
    assert [said(child) for child in children] == ["ready"] * 3
    for child in children:
        assert child.stdin is not None
        child.stdin.close()
    words = [said(child).split() for child in children]
    assert [child.wait() for child in children] == [0] * 3
    now = book.read()
    assert now.content == sum(int(kept) for kept, _ in words)
    assert (now.held, now.outstanding) == (0, 0)
    assert sum(int(refused) for _, refused in words) > 0, "the cap was never reached"


def test_the_sums_are_right_after_anything_that_many_do(opened: Callable[[], Book]) -> None:
    """Beside a model: several processes' books in turn, with ends and recounts."""
    chance = random.Random(7)  # noqa: S311  # it picks cases
    books = [opened() for _ in range(3)]
    books[0].recount(0, None)
    held, waiting, content = [0, 0, 0], [0, 0, 0], 0
    for _ in range(400):
        at = chance.randrange(3)
        match chance.randrange(6):
            case 0:
                size = chance.randrange(100)
                books[at].change(held=size, outstanding=size)
                held[at] += size
                waiting[at] += size
            case 1:
                size = chance.randrange(waiting[at] + 1)
                books[at].change(outstanding=-size)
                waiting[at] -= size
            case 2:
                size = chance.randrange(held[at] - waiting[at] + 1)
                books[at].change(held=-size, content=size)
                held[at] -= size
                content += size
            case 3:
                size = chance.randrange(content + 1)
                books[at].change(content=-size)
                content -= size
            case 4 if chance.random() < 0.2:
                books[at].close()
                content += held[at]
                held[at] = waiting[at] = 0
                books[at] = opened()
            case 5 if chance.random() < 0.2:
                since = books[at].read()
                books[at - 1].change(content=5)
                books[at].recount(77, since)
                content = 82
        now = books[chance.randrange(3)].read()
        assert (now.content, now.held, now.outstanding) == (content, sum(held), sum(waiting))


def test_a_process_waits_while_another_one_writes(opened: Callable[[], Book]) -> None:
    one, other = opened(), opened()
    checked, go = threading.Event(), threading.Event()

    def check(_: Balance) -> None:
        checked.set()
        go.wait(10)

    thread = threading.Thread(target=lambda: one.change(held=5, check=check))
    thread.start()
    assert checked.wait(10)
    seen: list[int] = []
    second = threading.Thread(target=lambda: seen.append(other.read().held))
    second.start()
    second.join(0.05)
    assert seen == []
    go.set()
    thread.join()
    second.join()
    assert seen == [5]


def test_what_is_refused_changes_nothing(opened: Callable[[], Book]) -> None:
    book = opened()
    before = book.read()

    def refuse(_: Balance) -> None:
        raise NoSpace("no")

    with pytest.raises(NoSpace):
        book.change(held=5, outstanding=5, check=refuse)
    assert book.read() == before
    book.change(held=1)  # the lock was let go


# --- the file --------------------------------------------------------------------------------------------------------


def test_the_book_has_its_size_from_the_start_and_keeps_it(layout: Layout, opened: Callable[[], Book]) -> None:
    for book in [opened() for _ in range(5)]:
        book.change(held=3)
        book.serve(1)
    assert layout.room.stat().st_size == SIZE
    assert layout.room.stat().st_blocks * 512 >= SIZE


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"short",
        b"\xff" * SIZE,
        b"RM-ROOM\n\x02" + bytes(SIZE - 9),
        b"RM-ROOX\n\x01" + bytes(SIZE - 9),
        bytes(SIZE),
    ],
    ids=["empty", "short", "other bytes", "another version", "another kind", "zeros"],
)
@pytest.mark.parametrize("running", [True, False])
def test_a_book_that_cannot_be_read_is_begun_anew_and_the_living_keep_what_they_hold(
    damage: bytes, running: bool, layout: Layout, opened: Callable[[], Book]
) -> None:
    one, other = opened(), opened()
    one.recount(100, None)
    one.change(held=30, outstanding=20)
    if not running:
        one.close()
        other.close()
    with layout.room.open("r+b") as file:  # never replaced: others have it open
        file.truncate(len(damage))
        file.write(damage)
    if running:
        assert other.read().dirty
        assert one.read().held == 30
        one.change(outstanding=-5)
        now = other.read()
        assert (now.content, now.held, now.outstanding, now.dirty) == (0, 30, 15, True)
    third = opened().read()
    assert third.dirty
    assert third.held == (30 if running else 0)


def test_slots_are_believed_rather_than_their_sum(layout: Layout, opened: Callable[[], Book]) -> None:
    one = opened()
    one.recount(100, None)
    one.change(held=30)
    page = Page(layout.room.read_bytes())
    page.put(Balance(content=100, held=7, outstanding=3, dirty=False))
    layout.room.write_bytes(page.data)
    now = opened().read()
    assert (now.held, now.outstanding, now.dirty) == (30, 0, True)


def test_each_process_has_a_place_as_long_as_there_are_some(opened: Callable[[], Book]) -> None:
    books = [opened() for _ in range(SLOTS)]
    with pytest.raises(StoreUnusable, match=r"120 processes have the store open, .* fewer server\.workers"):
        opened()
    books[5].close()
    opened().change(held=1)
    assert books[0].read().held == 1
    assert len(books[0].others()) == SLOTS - 1


def test_a_clock_that_jumps_has_no_effect(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(layout, max_size=1000 * MIB, min_free=0)
    room.recount(0)
    room.reserve(MIB)
    for now in (0.0, 1e12, -1e9):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        room.reserve(MIB)
        assert room.excess() == 0
    assert room.balance().held == 4 * MIB
    room.release(4 * MIB)
    room.close()
    room = Room(layout, max_size=1000 * MIB, min_free=0)
    assert not room.dirty
    room.close()


# --- who is there ----------------------------------------------------------------------------------------------------


def test_others_are_named_by_their_pid_and_whom_they_serve(
    layout: Layout, process: Callable[[str], subprocess.Popen[str]]
) -> None:
    room = Room(layout, max_size=1000 * MIB, min_free=0)
    try:
        assert room.others() == []
        child = process(HOLDS)
        assert said(child) == "held"
        tool = Room(layout, max_size=1000 * MIB, min_free=0)
        served, unserved = sorted(room.others(), key=lambda other: other.mirror, reverse=True)
        assert (served.pid, served.mirror) == (child.pid, child.pid)
        assert str(served) == f"process {child.pid}"
        assert (unserved.pid, unserved.mirror) == (os.getpid(), 0)
        tool.close()
        end(child)
        assert room.others() == []
    finally:
        room.close()


def test_a_process_that_cannot_be_seen_here_is_said_to_be_elsewhere(
    process: Callable[[str], subprocess.Popen[str]], opened: Callable[[], Book]
) -> None:
    book = opened()
    child = process(HOLDS)
    assert said(child) == "held"
    [other] = book.others()
    end(child)
    assert str(other) == f"process {other.pid} of another container", "a pid alone may be anybody's"
