"""Several processes that are one mirror: `server.workers`, with real processes, real signals and real sockets."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import signal
import socket
import ssl
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes.faults import Await, Gate
from tests.flow.conftest import document
from tests.flow.fills import MIB
from tests.flow.test_listening import Passed
from tests.parts.certificate import certificate
from tests.parts.mirror import MirrorProcess
from tests.parts.process import ProgramError, room

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from tests.fakes.records import Record
    from tests.fakes.registry import FakeRegistry

REPO = "library/app"
PING = ("mirror_requests_total", (("cache", "none"), ("kind", "ping"), ("namespace", "none"), ("status", "200")))

# A process that joins another one's fill asks upstream for the first byte, to hear that the repository holds it.
FIRST_BYTES = 3

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Workers(MirrorProcess):
    """A mirror of several processes, whose file is rewritten while it runs."""

    def __init__(
        self, directory: Path, upstream: FakeRegistry | Mapping[str, Any], workers: int = 4, **sections: Any
    ) -> None:
        server = {"shutdown_timeout": "5s", **sections.pop("server", {})}
        whole = document(upstream, directory / "store", server={**server, "workers": workers}, **sections)
        if "listen" not in server:
            whole["server"].pop("listen")
        super().__init__(directory, whole)

    def write(self, **server: Any) -> None:
        """Write the file with other keys in its section `server`."""
        whole = json.loads(self.file.read_text())
        whole["server"].update(server)
        self.file.write_text(json.dumps(whole))

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def pids(self) -> list[int]:
        """The processes that serve."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def events(self, text: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if text in line["event"]]


@asynccontextmanager
async def running(mirror: Workers) -> AsyncIterator[Workers]:
    """Start it; end it with the block, whatever happened."""
    await asyncio.to_thread(mirror.start)
    try:
        yield mirror
    finally:
        if mirror._process is not None and mirror._process.poll() is None:
            await asyncio.to_thread(mirror.terminate)


async def get(
    mirror: MirrorProcess, path: str, *, trust: ssl.SSLContext | bool = True, within: float = 20
) -> tuple[int, bytes]:
    """GET over a connection of its own, which any of the workers may take; ask again where that breaks."""
    async with asyncio.timeout(within):
        while True:
            connector = aiohttp.TCPConnector(ssl=trust)
            try:
                async with (
                    aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
                    session.get(f"{mirror.url}{path}") as response,
                ):
                    return response.status, await response.read()
            except (aiohttp.ClientError, ConnectionError):
                await asyncio.sleep(0.02)


async def scrape(mirror: MirrorProcess) -> Series:
    status, body = await get(mirror, "/metrics")
    assert status == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def counters(series: Series) -> Series:
    return {key: value for key, value in series.items() if key[0].endswith(("_total", "_count", "_sum", "_bucket"))}


async def met(condition: Callable[[], bool], mirror: Workers) -> None:
    await asyncio.to_thread(mirror.wait, condition)


def is_get(record: Record) -> bool:
    return record.kind == "manifest" and record.method == "GET"


# --- one fill, one question -------------------------------------------------------------------------------------------


async def test_thirty_clients_of_four_workers_cost_upstream_one_copy(upstream: FakeRegistry, tmp_path: Path) -> None:
    size = 8 * MIB
    blob = upstream.add_pattern_blob(REPO, size)
    upstream.add_image(REPO, "v1", layers=[blob])
    asked, half = asyncio.Event(), asyncio.Event()
    upstream.fault(kind="manifest", then=Await(asked))
    upstream.fault(kind="blob", then=Gate(half, at_byte=size // 2))
    async with running(Workers(tmp_path, upstream)) as mirror:

        async def all_at_once(path: str, gate: asyncio.Event, kind: str) -> list[tuple[int, bytes]]:
            clients = [asyncio.create_task(get(mirror, path)) for _ in range(30)]
            await upstream.seen(kind=kind)
            before = await scrape(mirror)
            assert before["mirror_connections", ()] > 1
            gate.set()
            return await asyncio.gather(*clients)

        manifests = await all_at_once(f"/v2/{REPO}/manifests/v1", asked, "manifest")
        assert {status for status, _ in manifests} == {200}
        assert len({body for _, body in manifests}) == 1
        bodies = await all_at_once(f"/v2/{REPO}/blobs/{blob}", half, "blob")
        assert all(answer == (200, upstream.content(REPO, blob)) for answer in bodies)
        series = await scrape(mirror)
    assert sum(is_get(record) for record in upstream.requests) == 1
    assert size <= upstream.bytes_of(blob) <= size + FIRST_BYTES
    served = [
        value for key, value in series.items() if key[0] == "mirror_requests_total" and ("kind", "blob") in key[1]
    ]
    assert sum(served) == 30


async def test_a_stale_tag_is_asked_for_once_whatever_process_is_asked(upstream: FakeRegistry, tmp_path: Path) -> None:
    upstream.add_image(REPO, "v1", layers=[b"layer"])
    freshness = [{"match": "**", "ttl": "1s"}]
    async with running(Workers(tmp_path, upstream, freshness=freshness)) as mirror:
        await get(mirror, f"/v2/{REPO}/manifests/v1")
        await asyncio.sleep(1.1)  # the processes have a clock of their own
        gate = asyncio.Event()
        upstream.forget()
        upstream.fault(kind="manifest", then=Await(gate))
        clients = [asyncio.create_task(get(mirror, f"/v2/{REPO}/manifests/v1")) for _ in range(20)]
        await upstream.seen(kind="manifest")
        await scrape(mirror)
        gate.set()
        assert {status for status, _ in await asyncio.gather(*clients)} == {200}
    assert [record.method for record in upstream.requests if record.kind == "manifest"] == ["HEAD"]


# --- death ------------------------------------------------------------------------------------------------------------


def filling(mirror: Workers) -> int | None:
    """Return the process that has a `.part` locked for writing."""
    parts = {path.stat().st_ino for path in (mirror.store / "fills.v1").glob("*.part")}
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1:4] == ["FLOCK", "ADVISORY", "WRITE"] and int(fields[5].rpartition(":")[2]) in parts:
            return int(fields[4])
    return None


async def test_a_worker_that_is_killed_in_a_fill_is_started_again_and_another_one_goes_on_with_it(
    upstream: FakeRegistry, tmp_path: Path
) -> None:
    size = 8 * MIB
    blob = upstream.add_pattern_blob(REPO, size)
    gate = asyncio.Event()
    upstream.fault(kind="blob", times=1, then=Gate(asyncio.Event(), at_byte=size // 2))
    upstream.fault(kind="blob", then=Gate(gate, at_byte=size - MIB))
    async with running(Workers(tmp_path, upstream)) as mirror:
        before = set(mirror.pids)
        clients = [asyncio.create_task(get(mirror, f"/v2/{REPO}/blobs/{blob}")) for _ in range(12)]
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{mirror.url}/v2/{REPO}/blobs/{blob}") as response,
        ):
            await response.content.readexactly(3 * MIB)  # so much is on disk by now
        killed = await asyncio.to_thread(filling, mirror)
        assert killed in before
        os.kill(killed, signal.SIGKILL)
        await upstream.seen(2, kind="blob")
        gate.set()
        for status, body in await asyncio.gather(*clients):
            assert (status, body == upstream.content(REPO, blob)) == (200, True)
        await met(lambda: len(mirror.pids) == 4, mirror)
        assert killed not in mirror.pids
        (ended,) = mirror.events("a worker has ended, and is started again")
        assert ended["how"] == "signal 9"
        for _ in range(16):
            assert (await get(mirror, "/v2/"))[0] == 200
    assert upstream.bytes_of(blob) < size + 2 * MIB


async def test_counters_never_fall_whoever_answers_and_whoever_dies(upstream: FakeRegistry, tmp_path: Path) -> None:
    async with running(Workers(tmp_path, upstream)) as mirror:
        for _ in range(24):
            await get(mirror, "/v2/")
        before = await scrape(mirror)
        assert before[PING] == 24
        assert before["mirror_workers", ()] == 4
        for pid in mirror.pids[:2]:
            os.kill(pid, signal.SIGKILL)
        await met(lambda: len(mirror.events("a worker has ended")) == 2 and len(mirror.pids) == 4, mirror)
        for _ in range(10):
            await get(mirror, "/v2/")
        after = await scrape(mirror)
        assert after[PING] == 34
        assert after["mirror_workers_lost_total", ()] == 2
        fallen = {key for key, value in counters(before).items() if counters(after).get(key, -1) < value}
        assert fallen == set()
        assert {key for key in after if key[0] == "mirror_build_info"}


async def test_a_worker_that_hangs_holds_up_no_scrape_and_is_told_of_by_the_others(
    upstream: FakeRegistry, tmp_path: Path
) -> None:
    mirror = Workers(tmp_path, upstream, workers=2)
    mirror.command[1:3] = [
        "-c",
        "from mirror.server import supervisor; supervisor.STUCK_AFTER = 1.5; from mirror.cli.main import main; main()",
    ]
    async with running(mirror):
        await get(mirror, "/v2/")
        await scrape(mirror)
        hanging = mirror.pids[0]
        os.kill(hanging, signal.SIGSTOP)
        try:

            async def other(path: str) -> tuple[int, bytes]:
                """Ask until the one that does not hang gets the question."""
                while True:
                    try:
                        return await get(mirror, path, within=1.2)
                    except TimeoutError:
                        continue

            status, body = await other("/metrics")
            assert status == 200
            assert b'kind="ping",namespace="none",status="200"} 1.0' in body
            await met(lambda: bool(mirror.events("workers do not answer")), mirror)
            status, body = await other("/healthz")
            assert (status, body) == (503, b"worker 1 of this mirror does not answer; its log may say why\n")
        finally:
            os.kill(hanging, signal.SIGCONT)
        async with asyncio.timeout(30):  # its stacks may be written into the middle of the log's line that says so
            while (await get(mirror, "/healthz"))[0] != 200:  # noqa: ASYNC110  # it is another process that changes
                await asyncio.sleep(0.05)


async def test_workers_do_not_outlive_their_supervisor(upstream: FakeRegistry, tmp_path: Path) -> None:
    mirror = Workers(tmp_path, upstream)
    async with running(mirror):
        pids = mirror.pids
        await asyncio.to_thread(mirror.kill)
        until = time.monotonic() + 10
        while any(map(lives, pids)):
            assert time.monotonic() < until
            await asyncio.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- the beginning and the end ----------------------------------------------------------------------------------------


def refuses(mirror: Workers) -> bool:
    """Say whether nobody listens any more: who comes is to hear that, and not to wait for nobody."""
    host, _, port = mirror.host.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == errno.ECONNREFUSED


async def test_a_graceful_end_lets_the_transfers_of_all_workers_end(upstream: FakeRegistry, tmp_path: Path) -> None:
    size = 4 * MIB
    blob = upstream.add_pattern_blob(REPO, size)
    gate = asyncio.Event()
    upstream.fault(kind="blob", then=Gate(gate, at_byte=size // 2))
    async with running(Workers(tmp_path, upstream)) as mirror:
        clients = [asyncio.create_task(get(mirror, f"/v2/{REPO}/blobs/{blob}")) for _ in range(8)]
        await (await upstream.seen(kind="blob")).sent(size // 2)
        await scrape(mirror)
        mirror.signal(signal.SIGTERM)
        await met(lambda: bool(mirror.events("stopping")), mirror)
        await met(lambda: refuses(mirror), mirror)
        gate.set()
        for status, body in await asyncio.gather(*clients):
            assert (status, body == upstream.content(REPO, blob)) == (200, True)
        assert mirror._process is not None
        assert await asyncio.to_thread(mirror._process.wait, 10) == 0
    assert size <= upstream.bytes_of(blob) <= size + FIRST_BYTES


async def test_a_second_signal_ends_all_at_once(upstream: FakeRegistry, tmp_path: Path) -> None:
    blob = upstream.add_pattern_blob(REPO, MIB)
    upstream.fault(kind="blob", then=Gate(asyncio.Event(), at_byte=1000))
    async with running(Workers(tmp_path, upstream, server={"shutdown_timeout": "100s"})) as mirror:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{mirror.url}/v2/{REPO}/blobs/{blob}") as response,
        ):
            await response.content.readexactly(1000)
            mirror.signal(signal.SIGINT)
            await met(lambda: bool(mirror.events("stopping")), mirror)
            mirror.signal(signal.SIGINT)
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        assert mirror._process is not None
        assert await asyncio.to_thread(mirror._process.wait, 10) == 0


async def test_what_a_terminal_or_systemd_tells_every_process_counts_once(
    upstream: FakeRegistry, tmp_path: Path
) -> None:
    size = 4 * MIB
    blob = upstream.add_pattern_blob(REPO, size)
    gate = asyncio.Event()
    upstream.fault(kind="blob", then=Gate(gate, at_byte=size // 2))
    async with running(Workers(tmp_path, upstream, workers=2)) as mirror:
        client = asyncio.create_task(get(mirror, f"/v2/{REPO}/blobs/{blob}"))
        await (await upstream.seen(kind="blob")).sent(size // 2)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            for pid in mirror.pids:
                os.kill(pid, number)
        os.killpg(mirror.pid, signal.SIGTERM)
        await met(lambda: bool(mirror.events("stopping")), mirror)
        gate.set()
        status, body = await client
        assert (status, body == upstream.content(REPO, blob)) == (200, True)
        assert mirror._process is not None
        assert await asyncio.to_thread(mirror._process.wait, 10) == 0


async def test_an_address_in_use_is_told_as_one_process_tells_it(upstream: FakeRegistry, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with running(Workers(tmp_path, upstream, workers=2)) as mirror:
        other = Workers(tmp_path / "other", upstream, workers=2, server={"listen": mirror.host})
        with pytest.raises(ProgramError, match=r"ended with 2(?s:.*)the address is in use; is another"):
            await asyncio.to_thread(other.start)


async def test_a_store_that_cannot_be_used_is_told_once_and_ends_all(upstream: FakeRegistry, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    mirror = Workers(tmp_path, upstream, storage={"path": str(tmp_path / "file")})
    with pytest.raises(ProgramError, match="ended with 1"):
        await asyncio.to_thread(mirror.start)
    said = mirror.said()
    assert said.count(str(tmp_path / "file")) == 1
    assert "Traceback" not in said


async def test_every_line_says_which_worker_wrote_it_and_the_start_is_told_once(
    upstream: FakeRegistry, tmp_path: Path
) -> None:
    upstream.add_image(REPO, "v1", layers=[b"layer"])
    async with running(Workers(tmp_path, upstream)) as mirror:
        for _ in range(20):
            await get(mirror, f"/v2/{REPO}/manifests/v1")
        requests = [line for line in mirror.lines() if "status" in line]
        assert len({line["worker"] for line in requests}) > 1
        assert len(mirror.events("configured")) == len(mirror.events("listening")) == 1
        mirror.signal(signal.SIGUSR1)
        await met(lambda: len(mirror.events("debug lines are logged")) == 1, mirror)
        mirror.signal(signal.SIGUSR1)
        await met(lambda: len(mirror.events("debug lines have ended")) == 1, mirror)


# --- where clients come in --------------------------------------------------------------------------------------------


async def test_all_workers_answer_at_each_kind_of_address(upstream: FakeRegistry, tmp_path: Path) -> None:
    cert_file, key_file = certificate(tmp_path)
    trust = ssl.create_default_context(cafile=str(cert_file))
    with room("mirror-socket") as directory:
        path = directory / "s"
        mirror = Workers(
            tmp_path,
            upstream,
            workers=3,
            server={
                "listen": ["https://127.0.0.1:0", "http://127.0.0.1:0", f"unix:{path}"],
                "tls": {"cert_file": str(cert_file), "key_file": str(key_file)},
            },
        )
        mirror._tls = (cert_file, key_file)
        async with running(mirror):
            secure, plain = (line["address"] for line in mirror.events("listening")[:2])
            assert (secure[:8], plain[:7]) == ("https://", "http://")
            for _ in range(12):
                assert (await get(mirror, "/v2/", trust=trust))[0] == 200
                async with aiohttp.ClientSession() as client, client.get(f"{plain}/v2/") as response:
                    assert response.status == 200
            clients = [aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) for _ in range(30)]
            try:
                answers = await asyncio.gather(*(client.get("http://mirror/v2/") for client in clients))
                assert {answer.status for answer in answers} == {200}
            finally:
                for client in clients:
                    await client.close()
            lines = [line for line in mirror.lines() if line.get("client") == "unix"]
            assert len({line["worker"] for line in lines}) in (0, 2, 3)  # who pings leaves no line, unless it is debug
        assert not path.exists()


async def test_sockets_of_systemd_serve_all_workers_and_systemd_is_told_by_the_supervisor_alone(
    upstream: FakeRegistry, tmp_path: Path
) -> None:
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        systemd.bind(f"\0mirror-workers-{os.getpid()}")
        mirror = Passed(tmp_path, upstream, ["systemd"], [tcp.fileno()])
        mirror.whole["server"]["workers"] = 3
        mirror.file.write_text(json.dumps(mirror.whole))
        environ = {"NOTIFY_SOCKET": "@" + systemd.getsockname()[1:].decode(), "WATCHDOG_USEC": "60000000"}
        await asyncio.to_thread(mirror.begin, **environ)
        try:
            url = f"http://127.0.0.1:{tcp.getsockname()[1]}/v2/"
            for _ in range(12):
                async with aiohttp.ClientSession() as client, client.get(url) as response:
                    assert response.status == 200
        finally:
            assert await asyncio.to_thread(mirror.terminate) == 0
        systemd.setblocking(False)
        notes = []
        while len(notes) < 3:
            notes.append(systemd.recv(4096).decode().partition("\n")[0])
        assert sorted(notes) == ["READY=1", "STOPPING=1", "WATCHDOG=1"]


# --- reload -----------------------------------------------------------------------------------------------------------


async def test_a_reload_reaches_all_workers_and_fails_no_request(upstream: FakeRegistry, tmp_path: Path) -> None:
    async with running(Workers(tmp_path, upstream)) as mirror:
        stop = asyncio.Event()
        failures: list[object] = []

        async def ping() -> None:
            while not stop.is_set():
                try:
                    async with aiohttp.ClientSession() as client, client.get(f"{mirror.url}/v2/") as response:
                        if response.status != 200:
                            failures.append(response.status)
                except aiohttp.ClientError as error:
                    failures.append(error)

        pings = [asyncio.create_task(ping()) for _ in range(3)]
        for number in range(4):
            mirror.write(listen=[mirror.host, "127.0.0.1:0"][: 1 + number % 2], fallback=bool(number % 2))
            mirror.signal(signal.SIGHUP)
            await met(lambda done=number + 1: len(mirror.events("is reloaded, and in force")) == done, mirror)
        stop.set()
        await asyncio.gather(*pings)
        assert failures == []
        second = mirror.events("listening")[-1]["address"]
        for _ in range(12):
            async with aiohttp.ClientSession() as client, client.get(f"{second}/v2/") as response:
                assert response.status == 200
        mirror.write(deny_clients=["127.0.0.0/8"])
        mirror.signal(signal.SIGHUP)
        await met(lambda: len(mirror.events("is reloaded, and in force")) == 5, mirror)
        assert {(await get(mirror, "/v2/"))[0] for _ in range(16)} == {403}
        assert len(mirror.pids) == 4
        assert mirror.events("a worker has ended") == []
        os.kill(mirror.pids[0], signal.SIGKILL)
        await met(lambda: bool(mirror.events("a worker has ended")) and len(mirror.pids) == 4, mirror)
        assert {(await get(mirror, "/v2/"))[0] for _ in range(16)} == {403}


async def test_a_reload_that_one_worker_cannot_do_is_done_by_none(upstream: FakeRegistry, tmp_path: Path) -> None:
    """The second worker cannot write to its access file: it has no file descriptor left for it."""
    async with running(Workers(tmp_path, upstream, workers=2)) as mirror:
        hindered = mirror.pids[1]
        limits = resource.prlimit(hindered, resource.RLIMIT_NOFILE)
        resource.prlimit(hindered, resource.RLIMIT_NOFILE, (3, limits[1]))  # one may be free below any other
        whole = json.loads(mirror.file.read_text())
        whole["log"]["access_file"] = str(tmp_path / "access.log")
        whole["server"]["deny_clients"] = ["127.0.0.0/8"]
        mirror.file.write_text(json.dumps(whole))
        mirror.signal(signal.SIGHUP)
        await met(lambda: bool(mirror.events("nothing was changed")), mirror)
        (problem,) = mirror.events("the new configuration cannot be used")
        assert "access.log cannot be opened" in problem["problem"]
        resource.prlimit(hindered, resource.RLIMIT_NOFILE, limits)
        assert {(await get(mirror, "/v2/"))[0] for _ in range(12)} == {200}


async def test_what_cannot_be_reloaded_is_refused_whole(upstream: FakeRegistry, tmp_path: Path) -> None:
    async with running(Workers(tmp_path, upstream, workers=2)) as mirror:
        before = mirror.file.read_text()
        for number, (server, said) in enumerate(
            [
                ({"workers": 3}, "server.workers: 2 is in use, and another one needs a restart"),
                ({"listen": "192.0.2.1:5000"}, "this machine does not have that address"),
                ({"worker": 3}, "server.worker"),
            ]
        ):
            mirror.file.write_text(before)
            mirror.write(**server)
            mirror.signal(signal.SIGHUP)
            await met(lambda done=number + 1: len(mirror.events("nothing was changed")) == done, mirror)
            assert said in mirror.events("the new configuration cannot be used")[-1]["problem"]
            assert (await get(mirror, "/v2/"))[0] == 200


async def test_a_mirror_that_asks_itself_notices_whichever_worker_is_asked(
    upstream: FakeRegistry, tmp_path: Path
) -> None:
    async with running(Workers(tmp_path, upstream)) as mirror:
        whole = json.loads(mirror.file.read_text())
        whole["upstreams"]["docker.io"]["url"] = mirror.url
        mirror.file.write_text(json.dumps(whole))
        mirror.signal(signal.SIGHUP)
        await met(lambda: bool(mirror.events("is reloaded, and in force")), mirror)
        answers = await asyncio.gather(*(get(mirror, f"/v2/{REPO}/manifests/v{number}") for number in range(8)))
        assert {status for status, _ in answers} == {503}
        seen = Counter(line["status"] for line in mirror.lines() if "status" in line)
        assert seen.keys() == {503, 508}
        assert seen[503] == 8  # who asked is known at once, and nobody has asked in turn


# --- beside each other ------------------------------------------------------------------------------------------------


async def test_the_access_file_of_several_workers_has_whole_lines(upstream: FakeRegistry, tmp_path: Path) -> None:
    upstream.add_image(REPO, "v1", layers=[b"layer"])
    log = {"access_file": str(tmp_path / "access.log")}
    mirror = Workers(tmp_path, upstream)
    mirror._config["log"] = log
    mirror.command = [sys.executable, "-m", "mirror", "serve", "--config", str(mirror.file)]
    async with running(mirror):
        whole = json.loads(mirror.file.read_text())
        whole["log"] = {"format": "json", **log}
        mirror.file.write_text(json.dumps(whole))
        mirror.signal(signal.SIGHUP)
        await met(lambda: bool(mirror.events("is reloaded, and in force")), mirror)
        await asyncio.gather(*(get(mirror, f"/v2/{REPO}/manifests/v1") for _ in range(60)))
    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    assert len(lines) == 60
