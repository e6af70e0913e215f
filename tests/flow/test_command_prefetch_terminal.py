"""`mirror prefetch` at a terminal: the picture that it draws, and what becomes of it where a person interrupts it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from mirror.config.upstreams import WELL_KNOWN
from tests.fakes.faults import Gate
from tests.parts.process import room

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fakes.registry import FakeRegistry

PATIENCE = 20.0  # seconds
WIDTH = 110
LARGE = 3 * 1024 * 1024  # bytes
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command whose standard error is a terminal; standard output is a pipe, or that terminal too."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self.process = process
        self._master = master
        self._bytes = b""
        self._more = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            piece = os.read(self._master, 65536)
        except OSError:  # nobody holds the other side any more
            piece = b""
        if not piece:
            asyncio.get_running_loop().remove_reader(self._master)
        self._bytes += piece
        self._more.set()

    @property
    def shown(self) -> str:
        """All that was shown, without what moves the cursor or gives colour."""
        return ESCAPES.sub("", self._bytes.decode(errors="replace")).replace("\r", "")

    async def until(self, pattern: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while not re.search(pattern, self.shown):
                self._more.clear()
                await self._more.wait()

    async def end(self) -> tuple[int, str]:
        """Return the exit code, and what went into the pipe."""
        async with asyncio.timeout(PATIENCE):
            out, _ = await self.process.communicate()
        return self.process.returncode or 0, (out or b"").decode()

    async def close(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)


class At(Protocol):
    """Runs `mirror ARGUMENTS` at a terminal."""

    async def __call__(self, *arguments: str, piped: bool = True) -> Terminal: ...


@pytest.fixture
async def at(tmp_path: Path, upstream: FakeRegistry) -> AsyncIterator[At]:
    document: dict[str, Any] = {
        "storage": {"path": str(tmp_path / "store"), "min_free": "0B"},
        "upstreams": {**dict.fromkeys(WELL_KNOWN, False), "docker.io": {"url": upstream.url}},
    }
    file = tmp_path / "mirror.yaml"
    file.write_text(json.dumps(document))
    terminals = []

    async def call(*arguments: str, piped: bool = True) -> Terminal:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "mirror", *arguments, "--config", str(file),
                stdin=slave, stderr=slave, stdout=asyncio.subprocess.PIPE if piped else slave,
                env={**environment, "TERM": "xterm"},
            )  # fmt: skip
        finally:
            os.close(slave)
        terminals.append(Terminal(process, master))
        return terminals[-1]

    yield call
    for terminal in terminals:
        await terminal.close()


async def test_a_terminal_has_bars_and_failures_above_them_and_a_table_at_the_end(
    at: At, upstream: FakeRegistry
) -> None:
    upstream.add_image("library/app", "v1", layers=[os.urandom(LARGE)])
    upstream.headers = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"}
    upstream.rate_total = 2 * LARGE
    terminal = await at("prefetch", "app:v1", "app:nothing", piped=False)
    await terminal.until(r"docker\.io/library/app:v1 +━+ .* of 3\.0 MiB .*/s")
    await terminal.until(r"1/2 images, 1 failed, .* of 3\.0 MiB, .*/s")
    await terminal.until(r"left: docker\.io 76 of 100")
    code, _ = await terminal.end()
    assert code == 1
    shown = terminal.shown
    assert "failed   docker.io/library/app:nothing: " in shown
    assert "fetched  docker.io" not in shown, "the bars say it"
    last = shown.rpartition("upstream")[2]
    assert re.search(r"docker\.io +2 +0 +1 +1 +3\.0 MiB +1 ", last)
    assert "1 image missing" in last


async def test_results_go_into_a_pipe_while_the_terminal_has_the_bars(at: At, upstream: FakeRegistry) -> None:
    upstream.add_image("library/app", "v1", layers=[os.urandom(LARGE)])
    upstream.rate_total = 4 * LARGE
    terminal = await at("prefetch", "app:v1")
    code, out = await terminal.end()
    assert code == 0
    assert "\x1b" not in out
    assert out.splitlines()[0].startswith("fetched  docker.io/library/app:v1  3.0 MiB in ")
    assert "app:v1" in terminal.shown


async def interrupted(at: At, upstream: FakeRegistry, number: signal.Signals, *arguments: str) -> tuple[str, str]:
    """Interrupt a prefetch when one of its two images is here, and half of the other; return what it printed."""
    layers = [upstream.add_pattern_blob("library/app", LARGE, seed=seed) for seed in (1, 2)]
    upstream.add_image("library/app", "v1", layers=layers)
    upstream.add_image("library/small", "v1", layers=[b"small"])
    rest = asyncio.Event()
    for layer in layers:
        upstream.fault(kind="blob", digest=str(layer), then=Gate(rest, LARGE // 3))
    terminal = await at("prefetch", "app:v1", "small:v1", *arguments)
    await terminal.until(r"1/2 images, [12]\.\d MiB of 6\.0 MiB")
    terminal.process.send_signal(number)
    code, out = await terminal.end()
    assert code == 1
    rest.set()
    return out, terminal.shown


async def test_an_interrupt_says_how_to_go_on_and_the_next_run_fetches_the_rest(
    at: At, upstream: FakeRegistry, tmp_path: Path
) -> None:
    lock = tmp_path / "images.lock"
    lock.write_text("# of last month\n")
    out, shown = await interrupted(at, upstream, signal.SIGINT, "--lock", str(lock))
    assert "docker.io/library/small:v1" in out
    assert re.search(r"interrupted: 1 of 2 images, [1-5]\.\d MiB; what has come stays", shown), (
        "bytes of cut off ones, too"
    )
    assert "Traceback" not in shown
    assert lock.read_text() == "# of last month\n", "it would lack what was not come to"
    before = upstream.log.stats()["bytes_total"]
    assert before > LARGE // 3
    again = await at("prefetch", "app:v1", "small:v1", "--json")
    code, out = await again.end()
    assert code == 0
    told = json.loads(out)
    assert [image["failure"] for image in told["images"]] == [None, None]
    assert (told["summary"]["counted_requests"], told["interrupted"]) == (0, False)
    assert upstream.log.stats()["bytes_total"] < 2.9 * LARGE, "most of what had come is not fetched again"


@pytest.mark.parametrize(
    ("number", "behind"),
    [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGHUP, False)],
    ids=["a service", "a script's job", "a session"],
)
async def test_the_end_of_a_service_or_a_session_is_an_interrupt(
    number: signal.Signals, behind: bool, at: At, upstream: FakeRegistry
) -> None:
    """A shell has SIGINT ignored in what a script runs behind itself."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if behind else signal.default_int_handler)
    try:
        _, shown = await interrupted(at, upstream, number)
    finally:
        signal.signal(signal.SIGINT, before)
    assert re.search(r"interrupted: 1 of 2 images, [1-5]\.\d MiB; what has come stays", shown), (
        "bytes of cut off ones, too"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_root_fetches_as_the_stores_owner_and_leaves_its_own_files_as_itself(upstream: FakeRegistry) -> None:
    upstream.add_image("library/app", "v1", layers=[b"one"])
    nobody = 65534
    with room("prefetch") as directory:  # pytest's own is closed to others
        directory.chmod(0o755)
        (directory / "data").mkdir()
        os.chown(directory / "data", nobody, nobody)
        (directory / "mirror.yaml").write_text(
            json.dumps(
                {
                    "storage": {"path": str(directory / "data"), "min_free": "0B"},
                    "upstreams": {"docker.io": {"url": upstream.url}},
                }
            )
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mirror", "prefetch", "app:v1", "nothing:v1", "--lock", "images.lock",
            "--missing", "missing.txt", "--config", "mirror.yaml", cwd=directory,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())}, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, err = await process.communicate()
        assert process.returncode == 1, err.decode()
        assert b"for the user nobody" in err
        assert {path.stat().st_uid for path in (directory / "data").rglob("*")} == {nobody}
        for name in ("images.lock", "missing.txt"):
            assert (directory / name).stat().st_uid == 0
        assert "app:v1@" in (directory / "images.lock").read_text()
