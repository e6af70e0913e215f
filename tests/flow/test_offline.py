"""`server.offline: true`: nothing is dialled, no name is looked up, and what is not here is said to be so at once."""

from __future__ import annotations

import json
import socket
import sys
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mirror import config
from mirror.oci.digest import Digest
from tests.flow.conftest import document
from tests.parts.process import Program, room

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Mirror, Reply, StartMirror

REPO = "library/app"
ABSENT = Digest.of(b"absent")
AT_ONCE = 1.0  # seconds, on a machine that serves others too; the least patience with any upstream is three
OFFLINE = {"offline": True}

_heard: list[list[tuple[str, Any]]] = []  # an audit hook stays for ever: it is heard only while somebody listens


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _heard and event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "subprocess.Popen"}:
        _heard[-1].append((event, arguments[1] if event == "socket.connect" else arguments[0]))


sys.addaudithook(_hook)


@contextmanager
def dials(mirror: Mirror) -> Iterator[list[tuple[str, Any]]]:
    """Hear every connection that this process makes, but to the mirror, every name looked up, every program run."""
    heard: list[tuple[str, Any]] = []
    _heard.append(heard)
    try:
        yield heard
    finally:
        _heard.pop()
        own = int(mirror.url.rpartition(":")[2])
        heard[:] = [one for one in heard if one[0] != "socket.connect" or one[1][1] != own]


@pytest.fixture
async def offline(start: StartMirror, upstream: FakeRegistry, other: FakeRegistry, tmp_path: Path) -> Mirror:
    """A mirror that has the image v1 whole, of v2 the manifest only, and is offline now, though all upstreams are up.

    It has everything that could make it dial: read-ahead, a wildcard, credentials of a program, a proxy.
    """
    upstream.add_image(REPO, "v1", layers=[b"one", bytes(300_000)])
    upstream.add_image(REPO, "v2", layers=[b"two"])
    mirror = await start(upstream)
    await mirror.pull(REPO, "v1")
    await mirror.get(f"/v2/{REPO}/manifests/v2")
    await mirror.stop()
    upstream.forget()
    return await start(
        {
            "docker.io": {"url": upstream.url, "read_ahead": True, "exec": ["touch", str(tmp_path / "ran")]},
            "quay.io": {"url": other.url},
            "registry.example": {"url": "https://registry.example.invalid", "proxy": "http://proxy.invalid:3128"},
            "*": True,
        },
        server=OFFLINE,
        freshness=[{"match": "**", "ttl": "0s"}],
        storage={"scrub_rate": "0"},
    )


async def test_what_is_here_is_served_and_nobody_is_asked(offline: Mirror) -> None:
    with dials(offline) as heard:
        replies = await offline.pull(REPO, "v1")
    assert [reply.status for reply in replies] == [200] * 4
    assert heard == []


ASKED = [
    ("/manifests/absent", 503, "docker.io/library/app:absent is not cached, and this mirror is offline"),
    ("/manifests/v2", 503, "docker.io/library/app:v2 is here, but not wholly for any platform, and this mirror is off"),
    (f"/manifests/{ABSENT}", 503, f"docker.io/library/app@{ABSENT} is not cached, and this mirror is offline"),
    (f"/manifests/sha256-{ABSENT.hex}.sig", 503, f"docker.io/library/app:sha256-{ABSENT.hex}.sig is not cached, and"),
    (f"/referrers/{ABSENT}", 503, "this mirror is offline by its configuration"),
    (f"/blobs/{ABSENT}", 404, "this mirror is offline by its configuration"),
    (f"/blobs/{Digest.of(b'two')}", 404, "this mirror is offline by its configuration"),
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_is_not_here_is_answered_at_once_with_the_truth(method: str, offline: Mirror) -> None:
    for path, status, message in ASKED:
        with dials(offline) as heard:
            reply, took = await timed(offline, method, f"/v2/{REPO}{path}")
        assert (reply.status, heard) == (status, []), path
        assert took < AT_ONCE, path
        if method == "GET":
            assert reply.message.startswith(message)


STRANGE = [
    "/v2/absent/absent/tags/list",
    "/v2/quay.io/org/app/manifests/v1",
    "/v2/registry.example/app/manifests/v1",
    "/v2/org/app/manifests/v1?ns=unknown.example",
    "/v2/org/app/manifests/v1?ns=203.0.113.7",
    f"/v2/org/app/blobs/{ABSENT}?ns=unknown.example:5000",
]


async def test_no_upstream_is_asked_nor_its_name_looked_up(offline: Mirror, tmp_path: Path) -> None:
    for path in STRANGE:
        with dials(offline) as heard:
            reply, took = await timed(offline, "GET", path)
        assert (reply.status, heard) == (404 if "/blobs/" in path else 503, []), path
        assert "offline by its configuration" in reply.message
        assert took < AT_ONCE, path
    assert not (tmp_path / "ran").exists()  # the program that has credentials


async def timed(mirror: Mirror, method: str, path: str) -> tuple[Reply, float]:
    began = time.monotonic()
    reply = await mirror.ask(method, path)
    return reply, time.monotonic() - began


async def test_where_clients_have_nowhere_else_to_go_an_absent_blob_is_503_and_at_once_too(start: StartMirror) -> None:
    mirror = await start(
        {"docker.io": {"url": "http://does-not-resolve.invalid"}}, server={**OFFLINE, "fallback": False}
    )
    with dials(mirror) as heard:
        reply, took = await timed(mirror, "GET", f"/v2/{REPO}/blobs/{ABSENT}")
    assert (reply.status, heard) == (503, [])
    assert took < AT_ONCE


async def test_the_tags_that_are_here_are_listed_with_a_warning(offline: Mirror) -> None:
    with dials(offline) as heard:
        reply, took = await timed(offline, "GET", f"/v2/{REPO}/tags/list")
    assert (reply.status, reply.json["tags"], "Warning" in reply.headers) == (200, ["v1", "v2"], True)
    assert took < AT_ONCE
    assert heard == []


async def test_it_is_ready_and_says_that_it_is_offline(start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream, server=OFFLINE)
    ready = await mirror.get("/readyz")
    assert (ready.status, ready.body) == (200, b"ok; offline by configuration: only what is here is served\n")
    assert (await mirror.get("/healthz")).body == b"ok\n"
    assert await gauge(mirror) == 1
    path = mirror.server.config.storage.path
    await mirror.server.reconfigure(config.parse(json.dumps(document(upstream, path)), "mirror.yaml", {}))
    assert (await mirror.get("/readyz")).body == b"ok\n"
    assert await gauge(mirror) == 0


async def gauge(mirror: Mirror) -> float:
    text = (await mirror.get("/metrics")).body.decode()
    [family] = [family for family in text_string_to_metric_families(text) if family.name == "mirror_offline"]
    return family.samples[0].value


class Alone(Program):
    """A mirror that listens on a Unix socket."""

    def __init__(self, command: list[str], log: Path, path: Path) -> None:
        super().__init__(command, log)
        self._path = path

    def ready(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._path)) == 0


@pytest.mark.needs("unshare")
def test_the_program_starts_and_serves_where_there_is_no_network_at_all() -> None:
    """Not even a loopback that is up: the mirror listens on a Unix socket."""
    with room("offline") as directory:
        file, path = directory / "mirror.yaml", directory / "mirror.sock"
        server = {"listen": f"unix:{path}", "offline": True}
        file.write_text(json.dumps({"server": server, "storage": {"path": str(directory / "store"), "min_free": "0B"}}))
        command = ["unshare", "--net", sys.executable, "-m", "mirror", "serve", "--config", str(file)]
        with Alone(command, directory / "mirror.log", path):
            assert ask(path, "/v2/") == (200, "{}")
            status, body = ask(path, "/v2/library/app/manifests/v1")
            assert status == 503
            assert "offline by its configuration" in body


def ask(path: Path, target: str) -> tuple[int, str]:
    connection = HTTPConnection("mirror")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request("GET", target)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, body
