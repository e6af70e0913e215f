"""`mirror purge` at a terminal: what it asks and shows, and what it does where a person interrupts it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.parts.stock import Stock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 20.0  # seconds
IMAGES = 3


class Terminal:
    """A command at a terminal: it asks and shows there, and its result goes into a pipe."""

    def __init__(self, stock: Stock, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        self._seen = ""
        command = [sys.executable, "-m", "mirror", *arguments, "--config", str(stock.file)]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
        try:
            self.process = subprocess.Popen(
                command, stdin=slave, stderr=slave, stdout=subprocess.PIPE, env=environment, text=True
            )
        finally:
            os.close(slave)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, text: str) -> str:
        """Return what was shown until `text`; that comes."""
        while text not in self._seen:
            assert select.select([self._master], [], [], PATIENCE)[0], self._seen
            self._seen += os.read(self._master, 65536).decode()
        return self._seen

    def end(self) -> tuple[int, str, str]:
        """Return the exit code, the result, and all that was shown."""
        assert self.process.stdout is not None
        with self.process.stdout as pipe:
            result = pipe.read()
        code = self.process.wait(PATIENCE)
        try:
            while select.select([self._master], [], [], 0)[0]:
                self._seen += os.read(self._master, 65536).decode()
        except OSError:
            pass  # the other side of a terminal that nobody holds open
        return code, result, self._seen

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        if self.process.stdout is not None:
            self.process.stdout.close()
        os.close(self._master)


@contextmanager
def at_terminal(stock: Stock, *arguments: str) -> Iterator[Terminal]:
    terminal = Terminal(stock, *arguments)
    try:
        yield terminal
    finally:
        terminal.close()


@contextmanager
def nothing_may_go(stock: Stock) -> Iterator[Callable[[], None]]:
    """Hold what a writer holds while it gives a file its name: removing waits, until what is yielded is called."""
    with (stock.path / "move.lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield lambda: fcntl.flock(file, fcntl.LOCK_UN)


def wait_for_lock(pid: int) -> None:
    """Return when a process waits for a lock (proc_locks(5))."""
    waits = re.compile(rf"^\d+: -> FLOCK +ADVISORY +WRITE {pid} ", re.MULTILINE)
    end = time.monotonic() + PATIENCE
    while not waits.search(Path("/proc/locks").read_text(encoding="ascii")):
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def stock(tmp_path: Path) -> Stock:
    stock = Stock(tmp_path, max_size="1GiB")
    with stock.opened():
        for number in range(IMAGES):
            stock.image(f"quay.io/org/app:v{number}", [stock.layer(b"%d" % number * 9000)])
    return stock


def test_it_names_what_would_go_and_asks_and_no_removes_nothing(stock: Stock) -> None:
    before = stock.files()
    with at_terminal(stock, "purge", "quay.io") as terminal:
        asked = terminal.until("[y/N]: ")
        assert "  quay.io/org/app:v0\r\n  quay.io/org/app:v1\r\n  quay.io/org/app:v2\r\n" in asked
        assert re.search(r"Remove 3 images, [0-9.]+ KiB\? \[y/N\]: $", asked)
        terminal.type("n\n")
        code, result, shown = terminal.end()
    assert (code, result) == (1, "")
    assert "nothing was removed" in shown
    assert stock.files() == before


@pytest.mark.parametrize("interrupted", [False, True], ids=["end of input", "interrupt"])
def test_no_answer_is_no(interrupted: bool, stock: Stock) -> None:
    before = stock.files()
    with at_terminal(stock, "purge", "quay.io") as terminal:
        terminal.until("[y/N]: ")
        if interrupted:
            terminal.process.send_signal(signal.SIGINT)
        else:
            terminal.type("\x04")
        code, result, shown = terminal.end()
    assert (code, result) == (1, "")
    assert shown.endswith("[y/N]: \r\nnothing was removed\r\n")
    assert stock.files() == before


def test_yes_removes_them_and_shows_how_far_it_is(stock: Stock) -> None:
    with nothing_may_go(stock) as let_go, at_terminal(stock, "purge", "quay.io") as terminal:
        terminal.until("[y/N]: ")
        terminal.type("y\n")
        terminal.until("  0%")
        let_go()
        code, result, shown = terminal.end()
    assert code == 0
    assert re.search(r"^3 images removed, [0-9.]+ KiB free again$", result, re.MULTILINE)
    assert "nothing was removed" not in shown
    assert stock.files() == set()


def test_an_interrupted_purge_ends_between_two_images_and_tells_what_is_done(stock: Stock) -> None:
    with nothing_may_go(stock) as let_go, at_terminal(stock, "purge", "--all", "--yes", "--json") as terminal:
        wait_for_lock(terminal.process.pid)
        terminal.process.send_signal(signal.SIGINT)
        let_go()
        code, result, _ = terminal.end()
    assert code == 1
    images = json.loads(result)["images"]
    assert [image["done"] for image in images] == [True, False, False]
    assert [image["reason"] for image in images] == [None, "interrupted", "interrupted"]
    assert images[0]["digest"] not in stock.files()
    assert {image["digest"] for image in images[1:]} < stock.files()
