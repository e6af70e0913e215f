"""The mirror as a service: how it ends, what it listens on, and what it tells whoever looks after it."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from mirror import log
from mirror.errors import ConfigError
from mirror.oci.digest import Digest
from tests.fakes.faults import Drop, Gate, Hang, Status
from tests.parts.certificate import certificate
from tests.parts.process import room

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import StartMirror

REPO = "library/app"
LARGE = bytes(range(251)) * 4000  # about 1 MB
CANARY = "canary-5b1f"

Lines = list[dict[str, Any]]


@pytest.fixture
def logged() -> Callable[[], Lines]:
    """Log as a process does; return what reads the lines."""
    stream = io.StringIO()
    log.setup("debug", "json", stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


async def test_a_graceful_end_lets_transfers_end_and_takes_no_more(start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream)
    blob = upstream.add_blob(REPO, LARGE)
    gate = asyncio.Event()
    upstream.fault(kind="blob", then=Gate(gate, at_byte=300_000))
    assert (await mirror.get("/readyz")).status == 200  # and the connection stays
    async with (
        aiohttp.ClientSession(mirror.url, auto_decompress=False) as slow,
        aiohttp.ClientSession(mirror.url) as late,
        slow.get(f"/v2/{REPO}/blobs/{blob}") as response,
    ):
        begun = await response.content.readexactly(1000)
        end = asyncio.create_task(mirror.server.drain())
        await asyncio.sleep(0)
        ready = await mirror.get("/readyz")
        assert (ready.status, (await mirror.get("/healthz")).status) == (503, 200)
        with pytest.raises(aiohttp.ClientConnectionError):
            await late.get("/v2/")
        assert not end.done()
        gate.set()
        assert begun + await response.content.read() == LARGE
        await asyncio.wait_for(end, 5)


async def test_an_end_that_takes_too_long_breaks_transfers_off_and_never_ends_them_cleanly(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    mirror = await start(upstream, server={"shutdown_timeout": "1s"})
    blob = upstream.add_blob(REPO, LARGE)
    upstream.fault(kind="blob", then=Gate(asyncio.Event(), at_byte=300_000))
    async with (
        aiohttp.ClientSession(mirror.url, auto_decompress=False) as client,
        client.get(f"/v2/{REPO}/blobs/{blob}") as response,
    ):
        await response.content.readexactly(1000)
        await asyncio.wait_for(mirror.stop(), 10)
        with pytest.raises(aiohttp.ClientError):
            await response.content.read()


async def test_a_connection_is_not_kept_while_the_mirror_ends(start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream)
    assert "Connection" not in (await mirror.get("/v2/")).headers
    await mirror.server.drain()
    assert (await mirror.get("/v2/")).headers["Connection"] == "close"


async def test_it_listens_with_tls(start: StartMirror, upstream: FakeRegistry, tmp_path: Path) -> None:
    cert_file, key_file = certificate(tmp_path)
    mirror = await start(upstream, server={"tls": {"cert_file": str(cert_file), "key_file": str(key_file)}})
    assert mirror.url.startswith("https://127.0.0.1:")
    upstream.add_image(REPO, "v1", layers=[b"small", LARGE])
    trusting = ssl.create_default_context(cafile=str(cert_file))
    connector = aiohttp.TCPConnector(ssl=trusting)
    async with aiohttp.ClientSession(mirror.url, connector=connector, auto_decompress=False) as client:
        for _ in range(2):
            async with client.get(f"/v2/{REPO}/manifests/v1") as response:
                assert response.status == 200
            for body in (b"small", LARGE):
                async with client.get(f"/v2/{REPO}/blobs/{Digest.of(body)}") as response:
                    assert await response.read() == body
            async with client.get(f"/v2/{REPO}/blobs/{Digest.of(LARGE)}", headers={"Range": "bytes=-9"}) as response:
                assert (response.status, await response.read()) == (206, LARGE[-9:])
            await mirror.settled()


async def test_it_listens_on_several_addresses_and_a_unix_socket(start: StartMirror, upstream: FakeRegistry) -> None:
    upstream.add_image(REPO, "v1", layers=[LARGE])
    with room("mirror-socket") as directory:
        address = f"unix:{directory}/s"
        mirror = await start(upstream, server={"listen": ["127.0.0.1:0", address]})
        assert mirror.server.bound[1] == address
        connector = aiohttp.UnixConnector(f"{directory}/s")
        async with aiohttp.ClientSession("http://mirror", connector=connector, auto_decompress=False) as client:
            for _ in range(2):
                async with client.get(f"/v2/{REPO}/blobs/{Digest.of(LARGE)}") as response:
                    assert await response.read() == LARGE
                await mirror.settled()
        assert (await mirror.get(f"/v2/{REPO}/blobs/{Digest.of(LARGE)}")).body == LARGE


async def test_what_was_left_of_a_unix_socket_does_not_keep_it_from_starting(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    with room("mirror-socket") as directory:
        listen = {"listen": ["127.0.0.1:0", f"unix:{directory}/s"]}
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(directory / "s"))
        mirror = await start(upstream, server=listen)
        await mirror.stop()
        again = await start(upstream, server=listen)
        assert (await again.get("/v2/")).status == 200


async def test_a_path_that_is_no_socket_or_is_in_use_is_left_alone(start: StartMirror, upstream: FakeRegistry) -> None:
    with room("mirror-socket") as directory:
        file = directory / "file"
        file.write_text("precious")
        with pytest.raises(ConfigError, match="is no socket"):
            await start(upstream, server={"listen": f"unix:{file}"})
        assert file.read_text() == "precious"
        with socket.socket(socket.AF_UNIX) as live:
            live.bind(str(directory / "s"))
            live.listen()
            with pytest.raises(ConfigError, match="in use"):
                await start(upstream, server={"listen": f"unix:{directory}/s"})
            assert (directory / "s").is_socket()


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_the_health_of_the_mirror_depends_on_no_upstream(
    start: StartMirror, upstream: FakeRegistry, path: str
) -> None:
    mirror = await start(upstream)
    await upstream.stop()
    for method in ("GET", "HEAD"):
        reply = await mirror.ask(method, path)
        assert (reply.status, reply.headers["Cache-Control"]) == (200, "no-store")
        assert reply.cache.startswith("registry-mirror")


async def test_the_metrics_tell_of_requests_bytes_fills_and_room(start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream)
    upstream.add_image(REPO, "v1", layers=[LARGE])
    await mirror.pull(REPO, "v1")
    await mirror.get(f"/v2/{REPO}/blobs/{Digest.of(b'x')}")
    text = (await mirror.get("/metrics")).body.decode()
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    for family in (
        "mirror_requests_total", "mirror_request_seconds", "mirror_sent_bytes_total", "mirror_upstream_bytes_total",
        "mirror_upstream_answers_total", "mirror_fills_total", "mirror_fills_running", "mirror_read_ahead_total",
        "mirror_store_bytes", "mirror_store_room_bytes", "mirror_ready",
    ):  # fmt: skip
        assert family in families, family
    assert 'mirror_requests_total{cache="miss",kind="manifest",namespace="docker.io",status="200"}' in text
    assert 'mirror_requests_total{cache="miss",kind="blob",namespace="docker.io",status="404"}' in text
    assert "mirror_ready 1.0" in text
    assert REPO not in text  # names of repositories would make the metrics grow without bound


async def test_every_request_leaves_one_line_with_an_id_that_upstream_hears_too(
    start: StartMirror, upstream: FakeRegistry, logged: Callable[[], Lines]
) -> None:
    mirror = await start(upstream)
    image = upstream.add_image(REPO, "v1", layers=[LARGE])
    asked = {
        "of-manifest": (f"/v2/{REPO}/manifests/v1", "manifest", 200),
        "of-blob": (f"/v2/{REPO}/blobs/{Digest.of(LARGE)}", "blob", 200),
        "of-tags": (f"/v2/{REPO}/tags/list", "tags", 200),
        "of-referrers": (f"/v2/{REPO}/referrers/{image}", "referrers", 200),
        "of-absent": (f"/v2/{REPO}/manifests/v2", "manifest", 404),
    }
    bodies = {}
    for number, (path, _, status) in asked.items():
        reply = await mirror.get(path, X_Request_Id=number)
        bodies[number] = reply.body
        assert (reply.status, reply.headers["X-Request-Id"]) == (status, number)
    await mirror.settled()
    lines = {line["request_id"]: line for line in logged() if line["event"] == "request"}
    assert set(lines) == set(asked)
    for number, (_, kind, status) in asked.items():
        line = lines[number]
        assert (line["kind"], line["status"], line["method"], line["image"]) == (
            kind,
            status,
            "GET",
            f"docker.io/{REPO}",
        )
        assert (line["upstream"], line["cache"], line["bytes"]) == ("docker.io", "miss", len(bodies[number]))
        assert 0 < line["ms"] < 60_000
        heard = [record for record in upstream.requests if record.headers.get("X-Request-Id") == number]
        assert [record.kind for record in heard] == [kind]
    assert lines["of-blob"]["bytes"] == len(LARGE)
    await mirror.get(asked["of-blob"][0], X_Request_Id="again")
    (again,) = [line for line in logged() if line.get("request_id") == "again" and line["event"] == "request"]
    assert (again["status"], again["cache"], again["bytes"]) == (200, "hit", len(LARGE))
    assert "does not have" in lines["of-absent"]["why"]


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", 'a"b', "a\tb", "\u00e9"])
async def test_an_id_that_could_forge_a_line_is_replaced(
    start: StartMirror, upstream: FakeRegistry, given: str
) -> None:
    mirror = await start(upstream)
    reply = await mirror.get("/v2/", X_Request_Id=given)
    assert reply.headers["X-Request-Id"] != given
    assert reply.headers["X-Request-Id"].isalnum()


async def test_a_client_that_speaks_tls_or_noise_to_a_plain_port_is_no_news(
    start: StartMirror, upstream: FakeRegistry, logged: Callable[[], Lines]
) -> None:
    """Podman tries TLS first."""
    mirror = await start(upstream)
    for noise in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), b"\x00\x00\r\n\r\n", b"GET\r\n\r\n"):
        answer = await mirror.raw(noise)
        assert answer == b"" or answer.startswith(b"HTTP/1.")
        assert b" 500 " not in answer[:20]
    assert (await mirror.get("/v2/")).status == 200
    assert [line for line in logged() if line["level"] in ("warning", "error", "critical")] == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("mode", ["basic", "bearer"])
async def test_a_password_is_never_in_a_log_an_answer_or_a_metric(
    start: StartMirror, upstream: FakeRegistry, logged: Callable[[], Lines], mode: str
) -> None:
    upstream.auth.mode = mode
    upstream.auth.anonymous = False
    upstream.auth.users["alice"] = CANARY
    upstream.redirect_blobs = True
    upstream.add_image(REPO, "v1", layers=[LARGE])
    mirror = await start({"docker.io": {"url": upstream.url, "username": "alice", "password": CANARY}})
    replies = await mirror.pull(REPO, "v1")
    assert {reply.status for reply in replies} == {200}
    # Upstream itself repeats what it was sent, and its tokens and signed addresses must not be shown either.
    echo = Status(500, message=f"bad password {CANARY} or token {[token.value for token in upstream.tokens]}")
    for fault in (
        echo,
        Status(401, message=CANARY),
        Status(302, headers={"Location": f"http://alice:{CANARY}@x/"}),
        Drop(),
        Hang(),
    ):
        upstream.heal()
        upstream.fault(then=fault)
        for path in ("manifests/v2", f"blobs/{Digest.of(b'x')}", "tags/list", f"referrers/{Digest.of(b'y')}"):
            replies.append(await mirror.get(f"/v2/{REPO}/{path}?token={CANARY}", Authorization=f"Basic {CANARY}"))
    replies.append(await mirror.get("/metrics"))
    told = json.dumps(logged()) + "".join(repr(reply) for reply in replies)
    for secret in (
        CANARY,
        *(token.value for token in upstream.tokens),
        *(url.partition("?")[2] for url in upstream.signed),
    ):
        assert secret not in told, secret
    assert any(line["event"] == "request" for line in logged())
