"""Limits: on the connections in all and of one client, on its requests at once, and on how slowly it may ask."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from prometheus_client import REGISTRY
from yarl import URL

from mirror import config
from mirror.oci.digest import Digest
from mirror.server import connections, limits
from mirror.server.policy import Policy
from tests.fakes.faults import Gate
from tests.flow.conftest import document
from tests.parts.certificate import certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from mirror.server.front import Front
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Mirror, StartMirror

REPO = "library/app"
TAG = f"/v2/{REPO}/manifests/v1"
LARGE = bytes(range(251)) * 4000  # about 1 MB
SMALL = b"small"
STRANGER = "127.0.0.2"


def front(mirror: Mirror) -> Front:
    return mirror.server._front


def refused(reason: str) -> float:
    return REGISTRY.get_sample_value("mirror_refused_total", {"reason": reason}) or 0.0


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the mirror does in this very loop."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # of most things there is no event
            await asyncio.sleep(0)


def waiting(mirror: Mirror, client: str = "127.0.0.1") -> int:
    found = front(mirror)._limit._clients.get(client)
    return len(found.waiting) if found else 0


def session(mirror: Mirror, source: str = "127.0.0.1") -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(local_addr=(source, 0), limit=0)
    return aiohttp.ClientSession(mirror.url, connector=connector, auto_decompress=False)


@asynccontextmanager
async def busy(mirror: Mirror, upstream: FakeRegistry) -> AsyncIterator[asyncio.Event]:
    """Keep one request of 127.0.0.1 under way until the event is set, which the end of the block does too."""
    blob = upstream.add_blob(REPO, LARGE)
    gate = asyncio.Event()
    upstream.fault(kind="blob", digest=blob, then=Gate(gate, at_byte=300_000))
    async with session(mirror) as client, client.get(f"/v2/{REPO}/blobs/{blob}") as response:
        await response.content.readexactly(1000)
        try:
            yield gate
        finally:
            gate.set()
            assert len(await response.content.read()) == len(LARGE) - 1000


async def test_a_request_past_the_limit_waits_for_a_place(start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream, server={"max_requests_per_client": 1})
    upstream.add_image(REPO, "v1", layers=[SMALL])
    async with busy(mirror, upstream) as gate:
        asked = [asyncio.create_task(mirror.get(path)) for path in (TAG, f"/v2/{REPO}/blobs/{Digest.of(SMALL)}")]
        await until(lambda: waiting(mirror) == 2)
        assert (await mirror.get("/v2/")).status == 200  # pings, health and metrics stand in no queue
        assert (await mirror.get("/healthz")).status == 200
        assert not any(task.done() for task in asked)
        gate.set()
        assert [(await task).status for task in asked] == [200, 200]
    await until(lambda: not front(mirror)._limit._clients)


@pytest.mark.parametrize("fallback", [True, False])
async def test_who_waits_too_long_is_told_what_makes_its_client_do_the_right_thing(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch, *, fallback: bool
) -> None:
    """A 5xx on a blob stalls Docker for 50 s, and a 404 ends Podman's pull."""
    monkeypatch.setattr(limits, "PATIENCE", 0.05)
    mirror = await start(upstream, server={"max_requests_per_client": 1, "fallback": fallback})
    before = refused("max_requests_per_client")
    async with busy(mirror, upstream):
        for path, status in {
            TAG: 503,
            f"/v2/{REPO}/manifests/sha256-{'0' * 64}": 503,
            f"/v2/{REPO}/tags/list": 503,
            f"/v2/{REPO}/referrers/{Digest.of(SMALL)}": 503,
            f"/v2/{REPO}/blobs/{Digest.of(SMALL)}": 429,
        }.items():
            reply = await mirror.get(path)
            assert (reply.status, reply.code) == (status, "TOOMANYREQUESTS"), path
            assert reply.headers["Retry-After"] == "5"
            assert "127.0.0.1 has 1 requests under way" in reply.message
            assert "server.max_requests_per_client" in reply.message
        assert upstream.count(kind="manifest") == 0
    assert refused("max_requests_per_client") == before + 5


async def test_one_client_takes_no_place_of_another(start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream, server={"max_requests_per_client": 1})
    upstream.add_image(REPO, "v1", layers=[SMALL])
    async with busy(mirror, upstream), session(mirror, STRANGER) as other, other.get(TAG) as response:
        assert response.status == 200


async def test_clients_behind_a_trusted_proxy_are_counted_each(start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream, server={"max_requests_per_client": 1, "trusted_proxies": ["127.0.0.1"]})
    upstream.add_image(REPO, "v1", layers=[SMALL])
    async with busy(mirror, upstream):
        assert (await mirror.get(TAG, X_Forwarded_For="192.0.2.1")).status == 200


async def test_who_leaves_the_queue_holds_up_nobody(start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream, server={"max_requests_per_client": 1})
    upstream.add_image(REPO, "v1", layers=[SMALL])
    async with busy(mirror, upstream) as gate:
        leaving = asyncio.create_task(mirror.get(TAG))
        await until(lambda: waiting(mirror) == 1)
        staying = asyncio.create_task(mirror.get(TAG))
        await until(lambda: waiting(mirror) == 2)
        leaving.cancel()
        await until(lambda: waiting(mirror) == 1)
        gate.set()
        assert (await staying).status == 200
    await until(lambda: not front(mirror)._limit._clients)


@pytest.mark.parametrize("leaves_first", [True, False])
async def test_a_place_is_not_lost_with_who_leaves_as_it_comes_free(*, leaves_first: bool) -> None:
    limit = limits.RequestLimit(1)
    assert limit.try_enter("client")
    leaving, staying = asyncio.create_task(limit.enter("client")), asyncio.create_task(limit.enter("client"))
    await until(lambda: len(limit._clients["client"].waiting) == 2)
    for step in (leaving.cancel, lambda: limit.leave("client"))[:: 1 if leaves_first else -1]:
        step()
    async with asyncio.timeout(5):
        await asyncio.gather(leaving, return_exceptions=True)
        await staying
    assert leaving.cancelled()
    limit.leave("client")
    assert not limit._clients


async def test_a_queue_is_bounded(start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_WAITING", 1)
    mirror = await start(upstream, server={"max_requests_per_client": 1})
    upstream.add_image(REPO, "v1", layers=[SMALL])
    async with busy(mirror, upstream) as gate:
        waits = asyncio.create_task(mirror.get(TAG))
        await until(lambda: waiting(mirror) == 1)
        assert (await mirror.get(TAG)).status == 503
        gate.set()
        assert (await waits).status == 200


async def test_a_higher_limit_lets_in_who_waits(start: StartMirror, upstream: FakeRegistry, tmp_path: Path) -> None:
    mirror = await start(upstream, server={"max_requests_per_client": 1})
    upstream.add_image(REPO, "v1", layers=[SMALL])
    async with busy(mirror, upstream):
        waits = asyncio.create_task(mirror.get(TAG))
        await until(lambda: waiting(mirror) == 1)
        text = json.dumps(document(upstream, tmp_path, server={"max_requests_per_client": 2}))
        front(mirror).reconfigure(Policy.of(config.parse(text, "mirror.yaml", {})), None)
        assert (await waits).status == 200


class Raw:
    """A connection on which the test writes and reads bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, path: str = "/v2/", *, more: str = "") -> bytes:
        """Send a request; return the answer, which has a `Content-Length`."""
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: mirror\r\n{more}\r\n".encode())
        async with asyncio.timeout(5):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
            return head + await self.reader.readexactly(int(length.split(b":")[1]))

    async def end(self) -> bytes:
        """Return what comes until the mirror closes the connection."""
        async with asyncio.timeout(5):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""


@pytest.fixture
async def dial() -> AsyncIterator[Any]:
    """Connect to a mirror from one of this machine's addresses."""
    async with AsyncExitStack() as stack:

        async def connect(mirror: Mirror, source: str = "127.0.0.1") -> Raw:
            url = URL(mirror.url)
            reader, writer = await asyncio.open_connection(url.host, url.port, local_addr=(source, 0))
            stack.callback(writer.close)
            return Raw(reader, writer)

        yield connect


async def test_a_connection_past_the_limit_is_told_so_and_closed(
    start: StartMirror, upstream: FakeRegistry, dial: Any
) -> None:
    mirror = await start(upstream, server={"max_connections": 2})
    before = refused("max_connections")
    first, second = [await dial(mirror) for _ in range(2)]
    assert b" 200 OK" in await first.ask()
    assert b" 200 OK" in await second.ask()
    assert REGISTRY.get_sample_value("mirror_connections") == 2
    third = await dial(mirror)
    head, _, body = (await third.ask()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert {b"Retry-After: 5", b"Connection: close"} <= set(head.splitlines())
    (error,) = json.loads(body)["errors"]
    assert error["code"] == "TOOMANYREQUESTS"
    assert "server.max_connections" in error["message"]
    assert await third.end() == b""
    assert refused("max_connections") == before + 1
    assert b" 200 OK" in await first.ask()
    first.writer.close()
    await until(lambda: REGISTRY.get_sample_value("mirror_connections") == 1)
    assert b" 200 OK" in await (await dial(mirror)).ask()


async def test_a_full_mirror_still_answers_for_its_health(
    start: StartMirror, upstream: FakeRegistry, dial: Any
) -> None:
    mirror = await start(upstream, server={"max_connections": 1})
    first = await dial(mirror)
    await first.ask()
    for path in ("/healthz", "/readyz"):
        probe = await dial(mirror)
        assert b" 200 OK" in await probe.ask(path)
        assert await probe.end() == b""
    assert b" 503 " in await (await dial(mirror)).ask("/metrics")
    assert REGISTRY.get_sample_value("mirror_connections") == 1
    assert front(mirror)._connections._refused == 0


async def test_a_refused_connection_that_asks_for_nothing_is_closed_without_a_word(
    start: StartMirror, upstream: FakeRegistry, dial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Go's clients take an answer that comes before the request for a broken connection, and ask again at once."""
    monkeypatch.setattr(connections, "REFUSED_WITHIN", 0.05)
    mirror = await start(upstream, server={"max_connections": 1})
    await (await dial(mirror)).ask()
    silent = await dial(mirror)
    assert await silent.end() == b""
    await until(lambda: front(mirror)._connections._refused == 0)


async def test_a_crowd_past_the_limit_costs_no_room(
    start: StartMirror, upstream: FakeRegistry, dial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_MAX_REFUSED", 2)
    mirror = await start(upstream, server={"max_connections": 1})
    first = await dial(mirror)
    await first.ask()
    crowd = [await dial(mirror) for _ in range(5)]
    await until(lambda: front(mirror)._connections._refused == 2)
    ends = [await one.end() for one in crowd[2:]]
    assert ends == [b""] * 3
    assert b" 503 " in await crowd[0].ask()
    assert b" 200 OK" in await first.ask()


async def test_one_address_has_its_own_limit_of_connections(
    start: StartMirror, upstream: FakeRegistry, dial: Any
) -> None:
    mirror = await start(upstream, server={"max_connections_per_client": 1})
    first = await dial(mirror)
    await first.ask()
    answer = await (await dial(mirror)).ask()
    assert b" 503 " in answer
    assert b"server.max_connections_per_client" in answer
    assert b" 200 OK" in await (await dial(mirror, STRANGER)).ask()


async def test_a_trusted_proxy_may_have_as_many_connections_as_it_needs(
    start: StartMirror, upstream: FakeRegistry, dial: Any
) -> None:
    mirror = await start(upstream, server={"max_connections_per_client": 1, "trusted_proxies": ["127.0.0.1"]})
    for _ in range(3):
        assert b" 200 OK" in await (await dial(mirror)).ask()


async def test_where_it_is_crowded_no_connection_is_kept(start: StartMirror, upstream: FakeRegistry, dial: Any) -> None:
    mirror = await start(upstream, server={"max_connections": 4})
    first = await dial(mirror)
    assert b"Connection: close" not in await first.ask()
    for _ in range(3):
        await (await dial(mirror)).ask()
    assert b"Connection: close" in await first.ask()


async def test_a_header_that_does_not_come_to_its_end_is_not_waited_for(
    start: StartMirror, upstream: FakeRegistry, dial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADER_WITHIN", 0.1)
    mirror = await start(upstream)
    before = refused("slow_header")
    idle, pieces = await dial(mirror), await dial(mirror)
    await idle.ask()
    pieces.writer.write(b"GET /v2/ HTTP/1.1\r\n")
    await until(lambda: any(one._timer for one in mirror.server._http.connections))
    pieces.writer.write(b"X-Odd: ")
    assert b" 200 OK" in await pieces.ask()
    slow = await dial(mirror)
    slow.writer.write(b"GET /v2/ HTTP/1.1\r\nHo")
    assert (await slow.end()).startswith(b"HTTP/1.1 408 ")
    after_one = await dial(mirror)
    await after_one.ask()
    after_one.writer.write(b"GET")
    assert (await after_one.end()).startswith(b"HTTP/1.1 408 ")
    assert refused("slow_header") == before + 2
    for one in (idle, pieces):  # who has asked for nothing may be silent for longer
        assert b" 200 OK" in await one.ask()


async def test_a_handshake_that_does_not_end_takes_a_place_and_one_that_fails_gives_it_back(
    start: StartMirror, upstream: FakeRegistry, dial: Any, tmp_path: Path
) -> None:
    """A connection that says nothing must not pass the limits because it says so to a TLS port."""
    cert_file, key_file = certificate(tmp_path)
    tls = {"cert_file": str(cert_file), "key_file": str(key_file)}
    mirror = await start(upstream, server={"max_connections": 2, "tls": tls})
    connections = front(mirror)._connections

    async def ask() -> bytes:
        url = URL(mirror.url)
        trusting = ssl.create_default_context(cafile=str(cert_file))
        reader, writer = await asyncio.open_connection(url.host, url.port, ssl=trusting)
        answer = await Raw(reader, writer).ask(more="Connection: close\r\n")
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        return answer

    silent, noisy = await dial(mirror), await dial(mirror)
    await until(lambda: connections._open == 2)
    assert b"server.max_connections" in await ask()
    await until(lambda: connections._refused == 0)
    noisy.writer.write(b"GET /v2/ HTTP/1.1\r\n\r\n")  # no TLS
    await noisy.end()
    await until(lambda: connections._open == 1)
    assert b" 200 OK" in await ask()
    silent.writer.close()
    await until(lambda: connections._open == 0)
    await until(lambda: not mirror.server._http.handshakes)


async def test_a_handshake_does_not_hold_up_the_end(
    start: StartMirror, upstream: FakeRegistry, dial: Any, tmp_path: Path
) -> None:
    cert_file, key_file = certificate(tmp_path)
    mirror = await start(upstream, server={"tls": {"cert_file": str(cert_file), "key_file": str(key_file)}})
    silent = await dial(mirror)
    await until(lambda: len(mirror.server._http.handshakes) == 1)
    await mirror.stop()
    assert await silent.end() == b""
    await until(lambda: front(mirror)._connections._open == 0)


async def test_a_request_that_comes_together_with_the_end_of_the_handshake_is_answered_and_timed(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADER_WITHIN", 0.2)
    cert_file, key_file = certificate(tmp_path)
    mirror = await start(upstream, server={"tls": {"cert_file": str(cert_file), "key_file": str(key_file)}})
    request = b"GET /v2/ HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n"
    assert b" 200 OK" in await asyncio.to_thread(in_one_flight, mirror, cert_file, request)
    assert b" 408 " in await asyncio.to_thread(in_one_flight, mirror, cert_file, request[:20])


def in_one_flight(mirror: Mirror, cert_file: Path, data: bytes) -> bytes:
    """Send the last flight of the handshake and `data` by one call; return the answer."""
    url = URL(mirror.url)
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context(cafile=str(cert_file)).wrap_bio(coming, going, server_hostname=url.host)
    with socket.create_connection((url.host or "", url.port or 0), timeout=5) as plain:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                plain.sendall(going.read())
                coming.write(plain.recv(65536))
        tls.write(data)
        plain.sendall(going.read())
        while True:
            try:
                return tls.read(65536)
            except ssl.SSLWantReadError:
                coming.write(plain.recv(65536))


async def test_a_header_is_bounded_as_a_whole(start: StartMirror, upstream: FakeRegistry, dial: Any) -> None:
    mirror = await start(upstream)
    before = refused("large_header")
    client = await dial(mirror)
    token = f"Authorization: Bearer {'x' * 60_000}\r\n"
    assert b" 200 OK" in await client.ask(more=token)
    client.writer.write(b"GET /v2/ HTTP/1.1\r\n")
    for number in range(20):
        client.writer.write(f"X-{number}: {'x' * 60_000}\r\n".encode())
    await client.end()
    assert refused("large_header") == before + 1


async def test_a_header_in_pieces_is_a_header(start: StartMirror, upstream: FakeRegistry, dial: Any) -> None:
    mirror = await start(upstream)
    slow = await dial(mirror)
    request = b"GET /v2/ HTTP/1.1\r\nHost: mirror\r\n\r\n"
    for start_ in range(len(request)):
        slow.writer.write(request[start_ : start_ + 1])
        await slow.writer.drain()
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert (await slow.reader.readline()).startswith(b"HTTP/1.1 200 ")


async def test_a_body_that_nobody_wants_is_neither_read_into_memory_nor_decoded(
    start: StartMirror, upstream: FakeRegistry, dial: Any
) -> None:
    mirror = await start(upstream)
    upstream.add_image(REPO, "v1", layers=[SMALL])
    client = await dial(mirror)
    odd = "Content-Length: 9\r\nContent-Encoding: gzip\r\n"
    client.writer.write(f"GET {TAG} HTTP/1.1\r\nHost: mirror\r\n{odd}\r\nnot gzip!".encode())
    async with asyncio.timeout(5):
        assert (await client.reader.readline()).startswith(b"HTTP/1.1 200 ")
    while (await client.reader.readline()).strip():
        pass
    manifest = await client.reader.readuntil(b"}]}")
    assert Digest.of(manifest) in upstream_digests(upstream)
    assert b" 200 OK" in await client.ask()  # the body is passed over, and the connection goes on


def upstream_digests(upstream: FakeRegistry) -> set[Digest]:
    return {Digest.parse(digest) for digest in upstream.shelves[REPO].manifests}
