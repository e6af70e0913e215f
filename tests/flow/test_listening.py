"""Where clients come in: several addresses, IPv6, Unix sockets, what systemd passes; and what systemd is told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import aiohttp
import pytest

from mirror.config import parse
from mirror.errors import ConfigError
from mirror.server.listening import Listeners, Own
from mirror.server.systemd import Notifier, PassedSocket, Systemd
from tests.flow.conftest import document
from tests.parts.certificate import certificate
from tests.parts.process import Program, room

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import StartMirror


async def status(url: str, unix: str | None = None) -> int:
    connector = aiohttp.UnixConnector(unix) if unix else aiohttp.TCPConnector(ssl=False)
    async with aiohttp.ClientSession(connector=connector) as client, client.get(f"{url}/v2/") as response:
        return response.status


async def test_ipv6_and_ipv4_share_a_port_and_neither_takes_the_other(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    mirror = await start(upstream, server={"listen": "[::]:0"})
    port = mirror.url.rpartition(":")[2]
    assert await status(f"http://[::1]:{port}") == 200
    with pytest.raises(aiohttp.ClientConnectionError):
        await status(f"http://127.0.0.1:{port}")
    await mirror.stop()
    mirror = await start(upstream, server={"listen": [f"[::]:{port}", f"0.0.0.0:{port}"]})
    assert mirror.server.bound == [f"http://[::]:{port}", f"http://0.0.0.0:{port}"]
    assert [await status(f"http://{host}:{port}") for host in ("[::1]", "127.0.0.1")] == [200, 200]


async def test_a_name_is_listened_on_at_all_its_addresses(start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream, server={"listen": "localhost:0"})
    assert mirror.url.startswith("http://localhost:")
    port = mirror.url.rpartition(":")[2]
    found = {one[4][0] for one in socket.getaddrinfo("localhost", int(port), type=socket.SOCK_STREAM)}
    assert "127.0.0.1" in found
    for host in found:
        assert await status(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}") == 200


async def test_plain_and_tls_stand_beside_each_other(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path
) -> None:
    cert_file, key_file = certificate(tmp_path)
    with room("mirror-socket") as directory:
        addresses = ["127.0.0.1:0", "http://127.0.0.1:0", "https://127.0.0.1:0", f"unix:{directory}/s"]
        tls = {"cert_file": str(cert_file), "key_file": str(key_file)}
        mirror = await start(upstream, server={"listen": addresses, "tls": tls})
        assert [url.partition(":")[0] for url in mirror.server.bound] == ["https", "http", "https", "unix"]
        for url in mirror.server.bound[:3]:
            assert await status(url) == 200
        assert await status("http://mirror", f"{directory}/s") == 200


async def test_a_unix_socket_is_open_to_whom_its_directory_admits_and_goes_with_the_mirror(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    with room("mirror-socket") as directory:
        path = directory / "s"
        mirror = await start(upstream, server={"listen": ["127.0.0.1:0", f"unix:{path}"]})
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        await mirror.stop()
        assert not path.exists()
        mirror = await start(upstream, server={"listen": ["127.0.0.1:0", f"unix:{path}"]})
        path.unlink()
        path.write_text("somebody else's")
        await mirror.stop()
        assert path.read_text() == "somebody else's"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("192.0.2.1:0", "this machine does not have that address"),
        ("no.such.host.invalid:0", "its name does not resolve"),
        (f"{'a' * 64}.example:0", "its name is none"),
        ("unix:/nowhere/s", "its directory does not exist"),
        ("systemd", "systemd passes no socket; start the mirror by its .socket unit"),
        ("systemd:web", "systemd passes no socket"),
    ],
)
async def test_what_cannot_be_listened_on_is_said_with_what_to_do(
    start: StartMirror, upstream: FakeRegistry, address: str, said: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        await start(upstream, server={"listen": address})
    assert said in str(raised.value)


# --- systemd ----------------------------------------------------------------------------------------------------------


def told(**variables: str) -> Systemd:
    return Systemd.take(dict(variables), 42)


def test_what_systemd_says_is_for_the_process_that_it_names_and_for_no_child() -> None:
    environ = {
        "LISTEN_PID": "42",
        "LISTEN_FDS": "3",
        "LISTEN_FDNAMES": "web:",
        "NOTIFY_SOCKET": "@x",
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": "42",
        "PATH": "/bin",
    }
    assert Systemd.take(environ, 42) == Systemd(
        (PassedSocket(3, "web"), PassedSocket(4, ""), PassedSocket(5, "unknown")), "@x", 30.0
    )
    assert environ == {"PATH": "/bin"}
    assert told(LISTEN_PID="43", LISTEN_FDS="1", WATCHDOG_USEC="1", WATCHDOG_PID="43") == Systemd()
    assert told(LISTEN_PID="42", LISTEN_FDS="many", WATCHDOG_USEC="soon") == Systemd()
    assert told() == Systemd()


async def test_sockets_of_systemd_that_nobody_listens_on_are_named() -> None:
    with socket.socket() as web:
        web.listen()
        passed = [PassedSocket(web.fileno(), "web"), PassedSocket(99, "local")]
        for listen, unnamed in (("127.0.0.1:0", ["local", "web"]), *[("systemd:web", ["local"])] * 2):
            listeners = Listeners(asyncio.Protocol, Own(passed))  # what was given up may be listened on again
            server = parse(f"server: {{listen: '{listen}'}}", "mirror.yaml", {}).server
            await listeners.commit(await listeners.prepare(server, None))
            assert listeners.unnamed() == unnamed
            listeners.stop()


@pytest.fixture
def notified() -> Callable[[], list[str]]:
    """Be systemd; return what reads the notes that have come."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(f"\0mirror-tests-{os.getpid()}-{time.monotonic_ns()}")
    sock.setblocking(False)

    def read() -> list[str]:
        notes = []
        while True:
            try:
                notes.append(sock.recv(4096).decode())
            except BlockingIOError:
                return notes

    read.address = "@" + sock.getsockname()[1:].decode()  # type: ignore[attr-defined]
    read.socket = sock  # type: ignore[attr-defined]
    yield read  # type: ignore[misc]
    sock.close()


async def test_the_watchdog_hears_from_the_loop_itself(notified: Callable[[], list[str]]) -> None:
    notifier = Notifier(Systemd(notify=notified.address, watchdog=0.02))
    watching = asyncio.create_task(notifier.watch())
    loop = asyncio.get_running_loop()
    for _ in range(3):
        await loop.sock_recv(notified.socket, 100)
    time.sleep(0.1)  # noqa: ASYNC251  # a loop that is stuck
    assert notified() == []
    await loop.sock_recv(notified.socket, 100)
    watching.cancel()
    notifier.close()


def test_a_systemd_that_does_not_listen_is_said_once_and_does_no_harm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notifier = Notifier(Systemd(notify=str(tmp_path / "gone")))
    for _ in range(3):
        notifier.ready("serving")
    notifier.close()
    assert capsys.readouterr().out.count("systemd cannot be told") == 1
    Notifier(Systemd()).ready("nobody hears")


_CHILD = """
import os, sys
sockets = [int(fd) for fd in sys.argv[1].split(",") if fd]
high = [os.dup2(fd, 100 + number) for number, fd in enumerate(sockets)]
for number, fd in enumerate(high):
    os.dup2(fd, 3 + number)
    os.set_inheritable(3 + number, True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(sockets))
os.execv(sys.executable, [sys.executable, "-m", "mirror", *sys.argv[2:]])
"""


class Passed(Program):
    """The mirror as systemd starts it: with sockets from file 3 on."""

    def __init__(self, directory: Path, upstream: FakeRegistry, listen: Sequence[str], fds: Sequence[int]) -> None:
        self.file = directory / "mirror.yaml"
        self.whole = document(upstream, directory / "store", server={"listen": list(listen)}, log={"format": "json"})
        self.file.write_text(json.dumps(self.whole))
        self._fds = fds
        command = [sys.executable, "-c", _CHILD, ",".join(map(str, fds)), "serve", "--config", str(self.file)]
        super().__init__(command, directory / "mirror.log")

    def begin(self, **env: str) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, stdout=log, stderr=log, pass_fds=self._fds, env={**os.environ, **env}
            )
        self.wait(self.ready)

    def ready(self) -> bool:
        return '"configured"' in self.log.read_text()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


async def test_sockets_of_systemd_are_served_by_name_and_systemd_is_told_how_the_mirror_fares(
    upstream: FakeRegistry, tmp_path: Path, notified: Callable[[], list[str]]
) -> None:
    with room("mirror-socket") as directory, socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        unix.bind(str(directory / "s"))
        unix.listen()
        url = f"http://127.0.0.1:{tcp.getsockname()[1]}"
        mirror = Passed(tmp_path, upstream, ["systemd:web", "systemd:local"], [tcp.fileno(), unix.fileno()])
        environ = {"LISTEN_FDNAMES": "web:local", "NOTIFY_SOCKET": notified.address, "WATCHDOG_USEC": "60000000"}
        early = asyncio.create_task(status(url))  # it waits in the socket's queue for the mirror to start
        await asyncio.to_thread(mirror.begin, **environ)
        try:
            assert await early == 200
            assert await status("http://mirror", str(directory / "s")) == 200
            notes = notified()
            assert "WATCHDOG=1" in notes
            assert [note for note in notes if note.startswith("READY=1\nSTATUS=serving at http://127.0.0.1:")]
            mirror.signal(signal.SIGHUP)
            await asyncio.to_thread(mirror.wait, lambda: "is reloaded, and in force" in mirror.said())
            assert await status(url) == 200
            mirror.whole["server"]["listen"] = ["systemd:other"]
            mirror.file.write_text(json.dumps(mirror.whole))
            mirror.signal(signal.SIGHUP)
            await asyncio.to_thread(mirror.wait, lambda: "nothing was changed" in mirror.said())
            assert "the sockets that systemd passes are called local, web" in mirror.said()
        finally:
            assert await asyncio.to_thread(mirror.terminate) == 0
        notes = [note for note in notified() if note != "WATCHDOG=1"]
        assert [note.partition("\n")[0] for note in notes] == [
            "RELOADING=1", "READY=1", "RELOADING=1", "READY=1", "STOPPING=1",
        ]  # fmt: skip
        stamp = int(notes[0].partition("MONOTONIC_USEC=")[2])
        assert 0 <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000 - stamp < 60_000_000
        assert "refused" in notes[3]
        assert (directory / "s").is_socket()  # it is systemd's


async def test_a_file_that_is_no_listening_socket_is_refused(upstream: FakeRegistry, tmp_path: Path) -> None:
    with socket.socket() as idle, (tmp_path / "file").open("w") as file:
        for fd, said in ((idle.fileno(), "is no socket to accept from"), (file.fileno(), "is no socket")):
            mirror = Passed(tmp_path, upstream, ["systemd"], [fd])
            with pytest.raises(Exception, match="ended with 2") as raised:
                await asyncio.to_thread(mirror.begin)
            assert said in str(raised.value)


@pytest.mark.needs("systemd-socket-activate")
async def test_systemds_own_tool_passes_sockets(upstream: FakeRegistry, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mirror = Passed(tmp_path, upstream, ["systemd"], [])
    mirror.command = [
        "systemd-socket-activate", "--listen", f"127.0.0.1:{port}", "--fdname", "web",
        f"--setenv=PATH={os.environ['PATH']}",
        sys.executable, "-m", "mirror", "serve", "--config", str(mirror.file),
    ]  # fmt: skip

    def listens() -> bool:
        return "Listening on" in mirror.log.read_text()

    mirror.ready = listens  # type: ignore[method-assign]
    await asyncio.to_thread(mirror.begin)
    try:
        assert await status(f"http://127.0.0.1:{port}") == 200
    finally:
        assert await asyncio.to_thread(mirror.terminate) == 0
