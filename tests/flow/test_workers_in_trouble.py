"""Workers that hang, are late, or cannot be started: the others serve on, and nobody has to be woken."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from mirror.store.layout import Layout
from mirror.store.turns import Turns
from tests.fakes.faults import Gate
from tests.flow.fills import MIB
from tests.flow.test_private import sign_in
from tests.flow.test_workers import FIRST_BYTES, REPO, Workers, get, lives, met, running, scrape
from tests.parts.process import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry

SURVEY = "survey of the disk"


def hurried(mirror: Workers, *settings: str) -> Workers:
    """Have its supervisor wait less long than it would."""
    before = "; ".join(("import os; from mirror.server import supervisor", *settings))
    mirror.command[1:3] = ["-c", f"{before}\nfrom mirror.cli.main import main; main()"]
    return mirror


async def ended(mirror: Workers, within: float = 10) -> int:
    assert mirror._process is not None
    return await asyncio.to_thread(mirror._process.wait, within)


async def test_a_worker_that_was_too_late_for_a_reload_takes_part_in_the_next_and_ends_when_told(
    upstream: FakeRegistry, tmp_path: Path
) -> None:
    mirror = hurried(Workers(tmp_path, upstream, workers=2), "supervisor._AGREE_WITHIN = 2.0")
    async with running(mirror):
        os.kill(mirror.pids[1], signal.SIGSTOP)
        mirror.write(shutdown_timeout="6s")
        mirror.signal(signal.SIGHUP)
        await met(lambda: bool(mirror.events("nothing was changed")), mirror)
        os.kill(mirror.pids[1], signal.SIGCONT)  # which hears the question together with the verdict
        mirror.signal(signal.SIGHUP)
        await met(
            lambda: len(mirror.events("reloaded, and in force") + mirror.events("nothing was changed")) > 1, mirror
        )
        assert mirror.events("reloaded, and in force")
        mirror.signal(signal.SIGTERM)
        assert await ended(mirror, 5) == 0
        assert mirror.events("workers did not end in time") == []


async def test_a_reload_that_waits_for_a_worker_does_not_hold_up_the_end(
    upstream: FakeRegistry, tmp_path: Path
) -> None:
    async with running(Workers(tmp_path, upstream, workers=2)) as mirror:
        hanging = mirror.pids[1]
        os.kill(hanging, signal.SIGSTOP)
        mirror.signal(signal.SIGHUP)
        await asyncio.sleep(0.3)
        mirror.signal(signal.SIGTERM)
        await met(lambda: bool(mirror.events("stopping; ")), mirror)
        os.kill(hanging, signal.SIGCONT)
        assert await ended(mirror, 5) == 0


async def test_a_worker_that_hangs_for_long_shows_where_and_is_started_again(
    upstream: FakeRegistry, tmp_path: Path
) -> None:
    mirror = hurried(
        Workers(tmp_path, upstream, workers=2), "supervisor.STUCK_AFTER = 1.5; supervisor.LOST_AFTER = 2.5"
    )
    async with running(mirror):
        hanging = mirror.pids[0]
        os.kill(hanging, signal.SIGSTOP)
        await met(lambda: bool(mirror.events("a worker does not answer any more, and is ended")), mirror)
        await met(lambda: len(mirror.pids) == 2 and bool(mirror.events("all workers answer again")), mirror)
        assert hanging not in mirror.pids
        for _ in range(8):
            assert (await get(mirror, "/healthz", within=5))[0] == 200
        asked = mirror.pids[0]
        os.kill(asked, signal.SIGQUIT)
        await met(lambda: "most recent call first" in mirror.said(), mirror)
        assert asked in mirror.pids


async def test_where_all_workers_hang_none_is_ended(upstream: FakeRegistry, tmp_path: Path) -> None:
    mirror = hurried(
        Workers(tmp_path, upstream, workers=2), "supervisor.STUCK_AFTER = 1.5; supervisor.LOST_AFTER = 2.5"
    )
    async with running(mirror):
        pids = mirror.pids
        await get(mirror, "/metrics")
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        await met(lambda: any(line["numbers"] == [1, 2] for line in mirror.events("workers do not answer")), mirror)
        await asyncio.sleep(2.5)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        await met(lambda: bool(mirror.events("all workers answer again")), mirror)
        assert mirror.pids == pids


async def test_a_mirror_that_was_stopped_as_a_whole_ends_none_of_its_workers(
    upstream: FakeRegistry, tmp_path: Path
) -> None:
    mirror = hurried(Workers(tmp_path, upstream, workers=2), "supervisor.LOST_AFTER = 4.0")
    async with running(mirror):
        pids = mirror.pids
        await get(mirror, "/metrics")
        os.killpg(mirror.pid, signal.SIGSTOP)
        await asyncio.sleep(4.5)
        os.kill(mirror.pid, signal.SIGCONT)
        os.kill(pids[0], signal.SIGCONT)
        await asyncio.sleep(1.5)
        os.kill(pids[1], signal.SIGCONT)
        await get(mirror, "/metrics")
        assert mirror.pids == pids
        assert mirror.events("a worker does not answer any more") == []


async def test_a_worker_that_cannot_be_started_now_is_started_later(upstream: FakeRegistry, tmp_path: Path) -> None:
    refuses = tmp_path / "refuses"
    mirror = hurried(
        Workers(tmp_path, upstream, workers=2),
        "fork = os.fork",
        "short = lambda: (_ for _ in ()).throw(OSError(12, 'Cannot allocate memory'))",
        f"os.fork = lambda: short() if os.path.exists({str(refuses)!r}) else fork()",
    )
    async with running(mirror):
        refuses.touch()
        os.kill(mirror.pids[0], signal.SIGKILL)
        await met(lambda: len(mirror.events("a worker cannot be started")) > 1, mirror)
        async with asyncio.timeout(20):
            while True:  # until the connection is one of the other worker's
                with contextlib.suppress(TimeoutError):
                    assert (await get(mirror, "/v2/", within=1))[0] == 200
                    break
        refuses.unlink()
        await met(lambda: len(mirror.pids) == 2, mirror)


class Counting(Workers):
    """A mirror that waits for its turn to look through its disk, and serves meanwhile."""

    def __init__(self, directory: Path, upstream: FakeRegistry, workers: int) -> None:
        self.port = free_port()
        super().__init__(directory, upstream, workers, server={"listen": f"127.0.0.1:{self.port}"})

    def ready(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_mirror_that_looks_through_its_disk_ends_when_it_is_told(
    upstream: FakeRegistry, tmp_path: Path, workers: int
) -> None:
    turns = Turns(Layout(tmp_path / "store").turns)
    async with turns.take(SURVEY), running(Counting(tmp_path, upstream, workers)) as mirror:
        if workers == 2:
            mirror.signal(signal.SIGUSR1)  # looked at when all serve
            await met(lambda: bool(mirror.events("debug lines are logged")), mirror)
            killed = mirror.pids[0]
            os.kill(killed, signal.SIGKILL)
            await met(lambda: len(mirror.pids) == 2 and killed not in mirror.pids, mirror)
            await met(lambda: bool(mirror.events("a worker has ended, and is started again")), mirror)
        assert mirror.events("listening") == []
        mirror.signal(signal.SIGTERM)
        assert await ended(mirror, 8) == 0
        assert mirror.events("workers did not end in time") == []
    turns.close()


async def test_what_another_registry_keeps_to_itself_is_proved_once_for_all_workers(
    upstream: FakeRegistry, other: FakeRegistry, tmp_path: Path
) -> None:
    size = 4 * MIB
    configured = sign_in(upstream)
    blob = upstream.add_pattern_blob(REPO, size)
    assert other.add_pattern_blob(REPO, size) == blob
    half = asyncio.Event()
    other.fault(kind="blob", then=Gate(half, at_byte=size // 2))
    async with running(Workers(tmp_path, {"docker.io": configured, "quay.io": other})) as mirror:
        assert (await get(mirror, f"/v2/{REPO}/blobs/{blob}"))[0] == 200
        clients = [asyncio.create_task(get(mirror, f"/v2/quay.io/{REPO}/blobs/{blob}")) for _ in range(16)]
        await other.seen(kind="blob")
        await scrape(mirror)
        half.set()
        assert {status for status, _ in await asyncio.gather(*clients)} == {200}
    assert size <= other.bytes_of(blob) <= size + FIRST_BYTES


async def test_workers_end_with_a_supervisor_that_is_killed_while_they_begin(
    upstream: FakeRegistry, tmp_path: Path
) -> None:
    turns = Turns(Layout(tmp_path / "store").turns)
    async with turns.take(SURVEY), running(Counting(tmp_path, upstream, 2)) as mirror:
        await met(lambda: len(mirror.pids) == 2, mirror)
        pids = mirror.pids
        await asyncio.to_thread(mirror.kill)
        until = time.monotonic() + 10
        while any(map(lives, pids)):
            assert time.monotonic() < until
            await asyncio.sleep(0.02)
    turns.close()
