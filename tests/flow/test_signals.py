"""What a running process is told by signals: reload, say more, end; under load, and at any time."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.flow.conftest import document
from tests.parts.mirror import MirrorProcess

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.fakes.registry import FakeRegistry

REPO = "library/app"
LARGE = bytes(range(251)) * 4000  # about 1 MB


class Process(MirrorProcess):
    """A mirror whose file is rewritten while it runs."""

    def __init__(self, directory: Path, upstreams: FakeRegistry | Mapping[str, Any], **sections: Any) -> None:
        whole = document(upstreams, directory / "store", **sections)
        whole["server"].pop("listen")
        super().__init__(directory, whole)

    def write(self, **sections: dict[str, Any]) -> None:
        """Write the file with other keys in some sections."""
        whole = json.loads(self.file.read_text())
        for name, section in sections.items():
            whole[name] = {**whole.get(name, {}), **section}
        self.file.write_text(json.dumps(whole))

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def events(self, text: str) -> int:
        return sum(text in line["event"] for line in self.lines())


async def test_twenty_reloads_under_load_fail_no_request(upstream: FakeRegistry, tmp_path: Path) -> None:
    upstream.add_image(REPO, "v1", layers=[b"small", LARGE])
    mirror = Process(tmp_path, upstream)
    await asyncio.to_thread(mirror.start)
    ended = asyncio.Event()
    failures: list[object] = []
    answered = 0

    async def pull() -> None:
        nonlocal answered
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            while not ended.is_set():
                try:
                    async with session.get(f"{mirror.url}/v2/{REPO}/manifests/v1") as response:
                        manifest = json.loads(await response.read())
                    blob = manifest["layers"][1]["digest"]
                    async with session.get(f"{mirror.url}/v2/{REPO}/blobs/{blob}") as response:
                        if response.status != 200 or await response.read() != LARGE:
                            failures.append(response.status)
                    answered += 1
                except (aiohttp.ClientError, ValueError) as error:
                    failures.append(error)

    try:
        clients = [asyncio.create_task(pull()) for _ in range(4)]
        for number in range(20):
            sections: dict[str, Any] = {
                "server": {
                    "max_requests_per_client": 50 + number,
                    "listen": [mirror.host, "127.0.0.1:0"][: 1 + number % 2],
                },
                "upstreams": {"docker.io": {"url": upstream.url, "read_ahead": number % 2 == 0}},
                "freshness": [{"match": "**", "ttl": f"{number}s"}],
            }
            whole = json.loads(mirror.file.read_text())
            mirror.file.write_text(
                json.dumps({**whole, **sections, "server": {**whole["server"], **sections["server"]}})
            )
            mirror.signal(signal.SIGHUP)
            done = number + 1
            await asyncio.to_thread(mirror.wait, lambda done=done: mirror.events("is reloaded, and in force") >= done)
        ended.set()
        await asyncio.gather(*clients)
    finally:
        ended.set()
        code = await asyncio.to_thread(mirror.terminate)
    assert failures == []
    assert answered > 20
    assert code == 0
    assert mirror.events("is reloaded") == 20


async def test_a_process_hears_signals_at_any_time(upstream: FakeRegistry, tmp_path: Path) -> None:
    mirror = Process(tmp_path, upstream)
    await asyncio.to_thread(mirror.start)
    try:
        mirror.signal(signal.SIGUSR1)
        await asyncio.to_thread(mirror.wait, lambda: mirror.events("debug lines are logged") == 1)
        async with aiohttp.ClientSession() as session, session.get(f"{mirror.url}/v2/") as response:
            assert response.status == 200
        await asyncio.to_thread(mirror.wait, lambda: any(line["level"] == "debug" for line in mirror.lines()))
        mirror.signal(signal.SIGUSR1)
        await asyncio.to_thread(mirror.wait, lambda: mirror.events("debug lines have ended") == 1)
        for _ in range(30):  # they come while one is under way, and are one more
            mirror.signal(signal.SIGHUP)
        await asyncio.to_thread(mirror.wait, lambda: mirror.events("is reloaded") >= 1)
        mirror.file.unlink()
        mirror.signal(signal.SIGHUP)
        await asyncio.to_thread(mirror.wait, lambda: mirror.events("nothing was changed") == 1)
        assert mirror.events("is reloaded") < 30
    finally:
        assert await asyncio.to_thread(mirror.terminate) == 0


async def test_a_process_that_is_told_to_reload_while_it_starts_reloads_when_it_has(
    upstream: FakeRegistry, tmp_path: Path
) -> None:
    mirror = Process(tmp_path, upstream)
    starting = asyncio.create_task(asyncio.to_thread(mirror.start))
    try:
        await asyncio.to_thread(
            mirror.wait, lambda: mirror._process is not None and blocks(mirror.pid, signal.SIGHUP), within=10
        )
        mirror.signal(signal.SIGHUP)
        mirror.signal(signal.SIGUSR1)
        await starting
        await asyncio.to_thread(mirror.wait, lambda: mirror.events("is reloaded") == 1)
    finally:  # whatever went wrong, no process stays behind
        await asyncio.wait([starting])
        assert await asyncio.to_thread(mirror.terminate) == 0


def blocks(pid: int, number: signal.Signals) -> bool:
    """Say whether a process keeps a signal for later."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigBlk:"):
            return bool(int(line.split()[1], 16) & 1 << (number - 1))
    return False


async def test_the_end_of_its_terminal_ends_the_mirror(upstream: FakeRegistry, tmp_path: Path) -> None:
    """SIGHUP has meant that since before daemons used it for reloading."""
    file = tmp_path / "mirror.yaml"
    file.write_text(json.dumps(document(upstream, tmp_path / "store")))
    person, terminal = os.openpty()
    command = [sys.executable, "-m", "mirror", "serve", "--config", str(file)]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal) as process:  # noqa: ASYNC220  # it begins at once
        os.close(terminal)
        said = b""
        while b"stores in" not in said:
            said += await asyncio.to_thread(os.read, person, 4096)
        process.send_signal(signal.SIGHUP)  # the terminal is there
        while b"is reloaded" not in said:
            said += await asyncio.to_thread(os.read, person, 4096)
        os.close(person)
        process.send_signal(signal.SIGHUP)
        assert await asyncio.to_thread(process.wait, 20) == 0
