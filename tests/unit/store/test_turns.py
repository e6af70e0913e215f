"""Turns between real processes: one at a time, and none that a dead one keeps."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from mirror.store.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_OTHER = """
import asyncio, sys
from pathlib import Path
from mirror.store.turns import Turns

async def hold():
    async with Turns(Path(sys.argv[1])).take(sys.argv[2]) as waited:
        print("mine", waited, flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(hold())
"""


class Other:
    """Another process, which holds a turn until it is told to let go."""

    def __init__(self, path: Path, key: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _OTHER, str(path), key], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()

    def let_go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "turns.v2"


@pytest.fixture
def other(path: Path) -> Iterator[Other]:
    one = Other(path, "library/app:v1")
    yield one
    one.end()


async def test_a_turn_waits_for_the_one_of_another_process(path: Path, other: Other) -> None:
    assert other.said == "mine False\n"
    turns = Turns(path)
    with pytest.raises(TimeoutError):
        async with turns.take("library/app:v1", patience=0.05):
            pass
    async with turns.take("library/app:v2") as waited:
        assert not waited
    loop = asyncio.get_running_loop()
    loop.call_later(0.05, other.let_go)
    began = loop.time()
    async with turns.take("library/app:v1") as waited:
        assert waited
        assert loop.time() - began >= 0.05
    turns.close()


async def test_a_process_that_dies_lets_go(path: Path, other: Other) -> None:
    turns = Turns(path)
    waiting = asyncio.create_task(turns.take("library/app:v1", patience=10).__aenter__())
    await asyncio.sleep(0)
    assert not waiting.done()
    other.process.kill()
    assert await waiting
    turns.close()


async def test_within_a_process_nobody_waits_and_the_last_one_lets_go(path: Path) -> None:
    turns, others = Turns(path), Turns(path)  # another open file description, as another process has it
    async with turns.take("key"):
        async with turns.take("key") as waited:
            assert not waited
        with pytest.raises(TimeoutError):
            async with others.take("key", patience=0.02):
                pass
    async with others.take("key") as waited:
        assert not waited
    turns.close()
    others.close()


async def test_who_is_cancelled_while_he_waits_keeps_nothing(path: Path) -> None:
    turns, others, thirds = Turns(path), Turns(path), Turns(path)
    async with turns.take("key"):
        waiting = asyncio.create_task(others.take("key").__aenter__())
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with thirds.take("key") as waited:
        assert not waited
    for one in (turns, others, thirds):
        one.close()


async def test_a_turn_that_nobody_else_wants_costs_some_microseconds(path: Path) -> None:
    turns = Turns(path)

    async def once() -> float:
        began = time.perf_counter()
        async with turns.take("library/app:v1", 20):
            pass
        return time.perf_counter() - began

    assert sorted([await once() for _ in range(500)])[100] < 100e-6
    turns.close()
