"""Who asks, behind proxies too, and whether it may."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from multidict import CIMultiDict

from mirror import log
from tests.parts.process import room

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import StartMirror

REPO = "library/app"
TAG = f"/v2/{REPO}/manifests/v1"
PROXY = "127.0.0.1"
STRANGER = "127.0.0.2"

Lines = list[tuple[str, str]]


def lines(*values: str, name: str = "X-Forwarded-For") -> Lines:
    return [(name, value) for value in values]


def forwarded(*values: str) -> Lines:
    return lines(*values, name="Forwarded")


async def ask(url: str, source: str = PROXY, headers: Lines | None = None) -> tuple[int, Any, bytes]:
    """Ask from one of this machine's addresses, each header a line of its own."""
    connector = aiohttp.TCPConnector(local_addr=(source, 0))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(url, headers=CIMultiDict(headers or [])) as response,
    ):
        return response.status, response.headers, await response.read()


def clients_in(path: Path) -> dict[str, str]:
    """Return who has asked, by request id, as the access record has it."""
    return {line["request_id"]: line["client"] for line in map(json.loads, path.read_text().splitlines())}


async def test_only_a_trusted_proxy_is_believed_about_whom_it_asks_for(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path
) -> None:
    upstream.add_image(REPO, "v1", layers=[b"x"])
    record = tmp_path / "access.log"
    mirror = await start(
        upstream,
        server={"trusted_proxies": [PROXY, "10.0.0.0/8", "fd00::/8"]},
        log={"access_file": str(record)},
    )
    cases: list[tuple[str, Lines, str]] = [
        (PROXY, [], PROXY),
        (STRANGER, lines("192.0.2.1"), STRANGER),
        (STRANGER, forwarded("for=192.0.2.1"), STRANGER),
        (PROXY, lines("192.0.2.1"), "192.0.2.1"),
        # What stands to the left was written by whoever asked.
        (PROXY, lines("198.51.100.9, 192.0.2.1"), "192.0.2.1"),
        (PROXY, lines("garbage, 192.0.2.1"), "192.0.2.1"),
        (PROXY, lines("198.51.100.9", "192.0.2.1"), "192.0.2.1"),
        # Further trusted proxies are passed over; where there is nobody else, the first of them asks for itself.
        (PROXY, lines("198.51.100.9, 192.0.2.1, 10.1.2.3,fd00::1"), "192.0.2.1"),
        (PROXY, lines("10.9.9.9, 10.1.1.1"), "10.9.9.9"),
        # Every way to write an address is the same one.
        (PROXY, lines("192.0.2.1:4711"), "192.0.2.1"),
        (PROXY, lines("::ffff:192.0.2.1"), "192.0.2.1"),
        (PROXY, lines("2001:DB8:0::1"), "2001:db8::1"),
        (PROXY, lines("[2001:db8::1]"), "2001:db8::1"),
        (PROXY, lines("[2001:db8::1]:4711"), "2001:db8::1"),
        (PROXY, lines("fe80::1%eth0"), "fe80::1"),
        (PROXY, lines("unix:"), "unix"),
        # What is no address where a proxy should have written one says nothing.
        *((PROXY, lines(wrong), PROXY) for wrong in ("", ",", "192.0.2.1,", "192.0.2.1, garbage", "192.0.2.1:port")),
        *((PROXY, lines(wrong), PROXY) for wrong in ("[2001:db8::1", "192.0.2", "192.0.2.01", "1" * 9000, "unknown")),
        # RFC 7239, where the older header is not there.
        (PROXY, forwarded("for=192.0.2.1"), "192.0.2.1"),
        (PROXY, forwarded('proto=https; For="[2001:db8::1]:4711";by=_hidden'), "2001:db8::1"),
        (PROXY, forwarded("for=198.51.100.9, for=192.0.2.1;proto=http, for=10.1.2.3"), "192.0.2.1"),
        (PROXY, forwarded("for=198.51.100.9", "for=192.0.2.1"), "192.0.2.1"),
        (PROXY, forwarded('for="open, for=192.0.2.1'), "192.0.2.1"),
        (PROXY, forwarded("by=192.0.2.1"), PROXY),
        (PROXY, forwarded("for=unknown"), PROXY),
        (PROXY, forwarded("for=_obfuscated"), PROXY),
        (PROXY, [*forwarded("for=198.51.100.9"), *lines("192.0.2.1")], "192.0.2.1"),
        (PROXY, lines(",".join(["10.0.0.1"] * 3000)), "10.0.0.1"),
    ]
    for number, (source, headers, _) in enumerate(cases):
        status, _, _ = await ask(mirror.url + TAG, source, [("X-Request-Id", f"n{number}"), *headers])
        assert status == 200
    await mirror.stop()
    found = clients_in(record)
    assert {
        number: (case, found[f"n{number}"]) for number, case in enumerate(cases) if found[f"n{number}"] != case[2]
    } == {}


async def test_who_is_denied_is_told_why_and_never_asked_for_a_password(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    upstream.add_image(REPO, "v1", layers=[b"x"])
    mirror = await start(upstream, server={"allow_clients": ["127.0.0.0/8"], "deny_clients": [STRANGER]})
    assert (await ask(mirror.url + TAG))[0] == 200
    asked = len(upstream.requests)
    for path in ("/v2/", TAG, f"/v2/{REPO}/blobs/sha256:{'0' * 64}", f"/v2/{REPO}/tags/list", "/metrics", "/other"):
        status, headers, body = await ask(mirror.url + path, STRANGER)
        assert status == 403, path
        (error,) = json.loads(body)["errors"]
        assert error["code"] == "DENIED"
        assert STRANGER in error["message"]
        assert "server.deny_clients" in error["message"]
        assert "WWW-Authenticate" not in headers
        assert headers["Cache-Control"] == "no-store"
    assert len(upstream.requests) == asked
    for path in ("/healthz", "/readyz"):  # an orchestrator asks from wherever it is
        assert (await ask(mirror.url + path, STRANGER))[0] == 200
    assert (await ask(mirror.url + "/metrics"))[0] == 200


async def test_a_client_that_is_denied_leaves_a_line_in_the_log_even_where_it_asks_for_nothing_more(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    """Podman asks for `/v2/` alone then; that line is noise only where all is well."""
    stream = io.StringIO()
    log.setup("info", "json", stream)
    mirror = await start(upstream, server={"deny_clients": [STRANGER]})
    assert (await ask(mirror.url + "/v2/"))[0] == 200
    assert (await ask(mirror.url + "/v2/", STRANGER))[0] == 403
    (line,) = [line for line in map(json.loads, stream.getvalue().splitlines()) if line["event"] == "request"]
    assert (line["client"], line["status"]) == (STRANGER, 403)
    assert "server.deny_clients" in line["why"]


async def test_who_is_in_no_allowed_network_is_denied(start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream, server={"allow_clients": ["10.0.0.0/8", "127.0.0.7"]})
    status, _, body = await ask(mirror.url + "/v2/")
    assert status == 403
    assert "server.allow_clients" in json.loads(body)["errors"][0]["message"]
    assert (await ask(mirror.url + "/v2/", "127.0.0.7"))[0] == 200


@pytest.mark.parametrize(
    ("address", "status"), [("192.0.2.1", 403), ("::ffff:192.0.2.1", 403), ("192.0.3.1", 200), ("2001:db8::7", 403)]
)
async def test_a_client_behind_a_proxy_is_denied_by_its_own_address(
    start: StartMirror, upstream: FakeRegistry, address: str, status: int
) -> None:
    mirror = await start(upstream, server={"trusted_proxies": PROXY, "deny_clients": ["192.0.2.0/24", "2001:db8::/32"]})
    assert (await ask(mirror.url + "/v2/", headers=lines(address)))[0] == status
    assert (await ask(mirror.url + "/v2/", STRANGER, lines(address)))[0] == 200  # it has no say in who it is


@pytest.mark.parametrize(
    ("server", "status", "client"),
    [
        ({}, 200, "unix"),
        ({"allow_clients": ["10.0.0.0/8"]}, 403, "unix"),
        ({"allow_clients": ["10.0.0.0/8", "unix"]}, 200, "unix"),
        ({"deny_clients": ["unix"]}, 403, "unix"),
        ({"trusted_proxies": ["unix"]}, 200, "192.0.2.1"),
        ({"trusted_proxies": ["unix"], "deny_clients": ["192.0.2.1"]}, 403, "192.0.2.1"),
    ],
)
async def test_everybody_on_a_unix_socket_is_one_client_or_a_trusted_proxy(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path, *, server: dict[str, Any], status: int, client: str
) -> None:
    upstream.add_image(REPO, "v1", layers=[b"x"])
    record = tmp_path / "access.log"
    with room("mirror-socket") as directory:
        mirror = await start(
            upstream,
            server={"listen": ["127.0.0.1:0", f"unix:{directory}/s"], **server},
            log={"access_file": str(record)},
        )
        connector = aiohttp.UnixConnector(f"{directory}/s")
        headers = {"X-Forwarded-For": "192.0.2.1", "X-Request-Id": "one"}
        async with (
            aiohttp.ClientSession("http://mirror", connector=connector) as session,
            session.get(TAG, headers=headers) as response,
        ):
            assert response.status == status
        await mirror.stop()
        assert clients_in(record)["one"] == client
