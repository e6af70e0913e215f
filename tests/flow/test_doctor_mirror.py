"""`mirror doctor` on the mirror itself: whether it listens, is the mirror, and answers from here."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from mirror.doctor.finding import Level
from tests.flow.doctoring import Host, certificate, listening, one, only, wrong
from tests.parts.process import free_port, room

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import StartMirror


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


async def shop(_request: web.BaseRequest) -> web.Response:
    return web.Response(text="welcome to our shop", headers={"Server": "shop/1.0"})


async def gateway(_request: web.BaseRequest) -> web.Response:
    return web.Response(status=502, headers={"Server": "nginx/1.22.1"})


async def test_all_is_well_where_all_is_well(host: Host, start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream)
    findings = await host.examined(upstream, mirror.url)
    assert wrong(findings) == []
    assert {finding.check for finding in findings} == {
        "configuration", "listening", "upstreams", "clock", "storage", "limits", "clients",
    }  # fmt: skip


async def test_a_port_where_nobody_listens(host: Host, upstream: FakeRegistry) -> None:
    found = only(await host.examined(upstream, f"127.0.0.1:{free_port()}"))
    assert (found.check, found.level) == ("listening", Level.FAILURE)
    assert "refused" in found.found
    assert "mirror serve" in found.cure


async def test_something_else_has_the_port(host: Host, upstream: FakeRegistry) -> None:
    async with listening(shop) as port:
        found = only(await host.examined(upstream, f"127.0.0.1:{port}"))
    assert "something else listens there (shop/1.0)" in found.found
    assert f"what has port {port} with `ss -ltnp`" in found.cure


async def test_another_registry_has_the_port(host: Host, upstream: FakeRegistry, other: FakeRegistry) -> None:
    other.headers["Docker-Distribution-Api-Version"] = "registry/2.0"
    found = only(await host.examined(upstream, other.url))
    assert "a registry that is not this mirror" in found.found
    assert "server.listen" in found.cure


async def test_what_answers_speaks_no_http(host: Host, upstream: FakeRegistry) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail ESMTP\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        found = only(await host.examined(upstream, f"127.0.0.1:{port}"))
    assert "does not speak http" in found.found
    assert "another port" in found.cure


async def test_what_listens_never_answers(host: Host, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.flow.doctoring.PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # it takes connections, and nobody answers
        found = only(await host.examined(upstream, f"127.0.0.1:{server.getsockname()[1]}"))
    assert "nothing came back within 0.2 s" in found.found
    assert "firewalls" in found.cure


async def test_a_name_that_does_not_resolve(host: Host, upstream: FakeRegistry) -> None:
    found = only(await host.examined(upstream, url="http://does-not-resolve.invalid:5000"))
    assert "does not resolve" in found.found
    assert "DNS or /etc/hosts" in found.cure


async def test_a_proxy_in_front_that_does_not_reach_the_mirror(host: Host, upstream: FakeRegistry) -> None:
    async with listening(gateway) as port:
        found = only(await host.examined(upstream, server={"public_url": f"http://127.0.0.1:{port}"}, url=None))
    assert "a proxy (nginx/1.22.1) answers in the mirror's place, with 502" in found.found
    assert "passes requests to an address of server.listen" in found.cure


async def test_a_public_url_that_leads_elsewhere(host: Host, start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream)
    dead = f"http://127.0.0.1:{free_port()}"
    findings = await host.examined(upstream, mirror.url, server={"public_url": dead})
    assert only(findings).subject == dead
    assert one(findings, "listening", Level.OK).subject == mirror.url


async def test_a_socket_that_is_not_there(host: Host, upstream: FakeRegistry) -> None:
    found = only(await host.examined(upstream, f"unix:{host.directory}/m.sock"))
    assert "no such socket" in found.found
    assert "mirror serve" in found.cure


async def test_a_mirror_on_a_socket(host: Host, start: StartMirror, upstream: FakeRegistry) -> None:
    with room("doctor") as short:
        await start(upstream, server={"listen": ["127.0.0.1:0", f"unix:{short}/m.sock"]})
        assert wrong(await host.examined(upstream, f"unix:{short}/m.sock")) == []


async def test_a_mirror_that_is_stopping(host: Host, start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream)
    mirror.server._health.drain()
    found = only(await host.examined(upstream, mirror.url))
    assert "not ready" in found.found
    assert "wait a moment" in found.cure


async def test_a_machine_that_may_not_ask(host: Host, start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream, server={"allow_clients": ["192.0.2.0/24"]})
    found = only(await host.examined(upstream, mirror.url))
    assert "refuses this machine (403)" in found.found
    assert "server.allow_clients" in found.cure


async def test_a_mirror_that_is_asked_too_much(host: Host, upstream: FakeRegistry) -> None:
    async def busy(_request: web.BaseRequest) -> web.Response:
        return web.Response(status=429, headers={"Cache-Status": "registry-mirror; detail=local"})

    async with listening(busy) as port:
        found = only(await host.examined(upstream, f"127.0.0.1:{port}"))
    assert "the mirror answers 429" in found.found
    assert "server.max_" in found.cure


async def test_a_port_that_the_configuration_leaves_open(host: Host, upstream: FakeRegistry) -> None:
    found = only(await host.examined(upstream, "127.0.0.1:0"))
    assert found.level is Level.WARNING
    assert "--url" in found.cure


async def test_the_one_who_serves_this_host_alone_is_told_so(
    host: Host, start: StartMirror, upstream: FakeRegistry
) -> None:
    mirror = await start(upstream)
    said = [f for f in await host.examined(upstream, mirror.url) if f.subject == "server.listen"]
    assert [finding.level for finding in said] == [Level.OK]
    assert "0.0.0.0:5000" in said[0].cure


# TLS.


async def test_http_where_https_is_spoken(host: Host, start: StartMirror, upstream: FakeRegistry) -> None:
    cert_file, key_file, _ = certificate(host.directory)
    mirror = await start(upstream, server={"tls": {"cert_file": str(cert_file), "key_file": str(key_file)}})
    found = only(await host.examined(upstream, url=mirror.url.replace("https:", "http:")))
    assert "https is spoken there, not http" in found.found
    assert "write https://" in found.cure


async def test_https_where_http_is_spoken(host: Host, start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream)
    found = only(await host.examined(upstream, url=mirror.url.replace("http:", "https:")))
    assert "http is spoken there, not https" in found.found
    assert "write http://" in found.cure


@pytest.mark.parametrize(
    ("certified", "says"),
    [
        ({"since": -30, "days": -1}, ("has expired, on 20", "renew it")),
        ({"since": 1}, ("is not valid before 20", "timedatectl")),
        ({"name": "other.example"}, ("is not for 127.0.0.1, but for other.example", "subjectAltName")),
        ({"days": 3}, ("expires soon, on 20", "renew it")),
    ],
)
async def test_a_certificate_that_is_no_good(
    certified: dict[str, Any], says: tuple[str, str], host: Host, start: StartMirror, upstream: FakeRegistry
) -> None:
    cert_file, key_file, ca_file = certificate(host.directory, **certified)
    tls = {"tls": {"cert_file": str(cert_file), "key_file": str(key_file)}}
    mirror = await start(upstream, server=tls)
    port = mirror.url.rpartition(":")[2]
    host.put(f"/etc/docker/certs.d/127.0.0.1:{port}/ca.crt", ca_file.read_text())
    findings = await host.examined(upstream, mirror.url, server=tls)
    bad = only(findings)
    assert bad.level is (Level.WARNING if "soon" in says[0] else Level.FAILURE)
    assert says[0] in bad.found
    assert says[1] in bad.cure


async def test_a_certificate_of_an_authority_that_nobody_here_trusts(
    host: Host, start: StartMirror, upstream: FakeRegistry
) -> None:
    cert_file, key_file, ca_file = certificate(host.directory)
    tls = {"tls": {"cert_file": str(cert_file), "key_file": str(key_file)}}
    mirror = await start(upstream, server=tls)
    found = only(await host.examined(upstream, mirror.url, server=tls))
    assert "signed by Acme Root, whom this host does not trust" in found.found
    place = f"/etc/docker/certs.d/{mirror.url.removeprefix('https://')}/ca.crt"
    assert place in found.cure

    file = host.put(place, ca_file.read_text())
    findings = await host.examined(upstream, mirror.url, server=tls)
    assert f"trust it through {file}" in one(findings, "listening", Level.OK).found


# The proxy in the way. 0.0.0.0 leads to this machine, and is not among what no proxy is ever asked for.


async def test_a_proxy_in_the_way_of_the_mirror(host: Host, start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream, server={"listen": "0.0.0.0:0"})
    url = mirror.url
    async with listening(gateway) as port:
        host.environ = {"http_proxy": f"http://me:canary@127.0.0.1:{port}"}
        findings = await host.examined(upstream, url=url)
        found = only(findings)
        host.environ["no_proxy"] = "0.0.0.0"
        assert wrong(await host.examined(upstream, url=url)) == []
    assert found.check == "proxy in the way"
    assert f"to the proxy 127.0.0.1:{port}, which fails to bring them there: it answered 502" in found.found
    assert "add 0.0.0.0 to no_proxy" in found.cure
    assert "canary" not in str(findings)


async def test_a_detour_by_a_proxy(host: Host, start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream, server={"listen": "0.0.0.0:0"})
    host.environ = {"http_proxy": mirror.url.replace("0.0.0.0", "127.0.0.1")}  # it takes an absolute URL as a path
    found = only(await host.examined(upstream, url=mirror.url))
    assert (found.check, found.level) == ("proxy in the way", Level.WARNING)
    assert "no_proxy" in found.cure
