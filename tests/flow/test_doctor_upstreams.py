"""`mirror doctor` on what the mirror fetches from, and on the clock, which the upstreams tell."""

from __future__ import annotations

import email.utils
import time
from typing import TYPE_CHECKING, Any

import pytest

from mirror import config
from mirror.doctor import upstreams
from mirror.doctor.finding import Level
from tests.fakes.faults import Html, Status
from tests.fakes.registry import FakeRegistry
from tests.flow.doctoring import Host, certificate, one, only, serving, wrong
from tests.parts.process import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.doctor.finding import Finding
    from tests.flow.conftest import StartMirror

pytestmark = pytest.mark.usefixtures("impatient")

CANARY = "canary-9d2e"
ME = {"username": "me", "password": CANARY}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
async def url(start: StartMirror, upstream: FakeRegistry) -> str:
    """A mirror that listens, so that nothing is wrong but the upstream."""
    return (await start(upstream)).url


def dated(seconds: float) -> dict[str, str]:
    return {"Date": email.utils.formatdate(time.time() + seconds, usegmt=True)}


async def test_good_credentials_are_said_to_be_good(host: Host, url: str, upstream: FakeRegistry) -> None:
    upstream.auth.mode, upstream.auth.users, upstream.auth.anonymous = "bearer", {"me": CANARY}, False
    findings = await host.examined({"docker.io": {"url": upstream.url, **ME}}, url)
    assert "the credentials are good" in one(findings, "upstreams", Level.OK).found


@pytest.mark.parametrize("mode", ["basic", "bearer"])
async def test_a_wrong_password(mode: str, host: Host, url: str, upstream: FakeRegistry) -> None:
    upstream.auth.mode, upstream.auth.users = mode, {"me": "something else"}
    findings = await host.examined({"docker.io": {"url": upstream.url, **ME}}, url)
    found = only([f for f in findings if "without encryption" not in f.found])
    assert (found.check, found.subject, found.level) == ("upstreams", "docker.io", Level.FAILURE)
    assert "401" in found.found
    assert "the password of upstreams.docker.io" in found.cure
    assert CANARY not in str(findings)


async def test_each_of_several_credentials_is_tried(host: Host, url: str, upstream: FakeRegistry) -> None:
    upstream.auth.mode, upstream.auth.users, upstream.auth.anonymous = "bearer", {"me": CANARY, "you": "else"}, False
    bound = {"username": "you", "password": CANARY, "name": "team", "repositories": ["acme/**"]}
    findings = await host.examined({"docker.io": {"url": upstream.url, "credentials": [ME, bound]}}, url)
    assert "the credentials are good" in one(findings, "upstreams", Level.OK).found
    found = only([f for f in findings if "without encryption" not in f.found])
    assert (found.subject, found.level) == ("docker.io, as team", Level.FAILURE)
    assert CANARY not in str(findings)


async def test_credentials_that_are_missing(host: Host, url: str, upstream: FakeRegistry) -> None:
    upstream.auth.mode = "basic"
    found = only(await host.examined(upstream, url))
    assert "none are configured" in found.found
    assert "upstreams.docker.io" in found.cure


async def test_credentials_that_nobody_may_see(
    host: Host, url: str, upstream: FakeRegistry, other: FakeRegistry
) -> None:
    """The token service is at another address, and addresses share no domain."""
    upstream.auth.mode, upstream.auth.realm = "bearer", f"{other.url.replace('127.0.0.1', 'localhost')}/token"
    tokens = upstream.auth.issue
    other.auth.issue = tokens  # type: ignore[method-assign]
    findings = await host.examined({"docker.io": {"url": upstream.url, **ME}}, url)
    found = one(findings, "upstreams", Level.FAILURE)
    where = upstream.auth.realm.split("/")[2]
    assert f"shown to nobody, so private images fail: its token service {where}" in found.found
    assert f"upstreams.docker.io.realms: [{where}]" in found.cure
    assert CANARY not in str(findings)


async def test_credentials_that_nobody_asks_for(host: Host, url: str, upstream: FakeRegistry) -> None:
    findings = await host.examined({"docker.io": {"url": upstream.url, **ME}}, url)
    assert "asked for no credentials" in one(findings, "upstreams", Level.OK).found


async def test_an_upstream_where_nobody_listens(host: Host, url: str) -> None:
    port = free_port()
    found = only(await host.examined({"docker.io": {"url": f"http://127.0.0.1:{port}"}}, url))
    assert "no connection" in found.found
    assert f"127.0.0.1:{port} is right" in found.cure
    assert "https_proxy" in found.cure


async def test_an_upstream_whose_name_does_not_resolve(host: Host, url: str) -> None:
    found = only(await host.examined({"docker.io": {"url": "http://does-not-resolve.invalid"}}, url))
    assert "its name does not resolve" in found.found
    assert "/etc/resolv.conf" in found.cure


async def test_what_all_upstreams_suffer_from_is_said_once(host: Host, url: str) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    found = only(await host.examined({name: {"url": dead} for name in ("docker.io", "quay.io", "ghcr.io")}, url))
    assert found.subject == "docker.io, quay.io, ghcr.io"
    assert "3 of 3 upstreams fail alike" in found.found


async def test_an_upstream_of_an_authority_that_is_not_trusted(host: Host, url: str) -> None:
    cert_file, key_file, ca_file = certificate(host.directory / "tls", authority="Acme Firewall")
    async with FakeRegistry(tls=serving(cert_file, key_file)) as registry:
        found = only(await host.examined(registry, url))
        assert "its certificate is not trusted" in found.found
        assert "by Acme Firewall" in found.found
        assert "upstreams.docker.io.ca_file" in found.cure
        findings = await host.examined({"docker.io": {"url": registry.url, "ca_file": str(ca_file)}}, url)
        assert "with a certificate by Acme Firewall" in one(findings, "upstreams", Level.OK).found


async def test_an_upstream_whose_certificate_has_expired(host: Host, url: str) -> None:
    cert_file, key_file, ca_file = certificate(host.directory / "tls", days=-1)
    async with FakeRegistry(tls=serving(cert_file, key_file)) as registry:
        found = only(await host.examined({"docker.io": {"url": registry.url, "ca_file": str(ca_file)}}, url))
    assert "expired" in found.found
    assert "renew its certificate" in found.cure


async def test_https_for_an_upstream_that_speaks_http(host: Host, url: str, upstream: FakeRegistry) -> None:
    found = only(await host.examined({"docker.io": {"url": upstream.url.replace("http:", "https:")}}, url))
    assert "TLS failed" in found.found
    assert "http:// in upstreams.docker.io.url" in found.cure


async def test_http_for_an_upstream_that_speaks_https(host: Host, url: str) -> None:
    cert_file, key_file, _ = certificate(host.directory / "tls")
    async with FakeRegistry(tls=serving(cert_file, key_file)) as registry:
        found = only(await host.examined({"docker.io": {"url": registry.url.replace("https:", "http:")}}, url))
    assert "write https:// in upstreams.docker.io.url" in found.cure


async def test_a_proxy_that_leads_nowhere(host: Host, url: str, upstream: FakeRegistry) -> None:
    port = free_port()
    host.environ = {"http_proxy": f"http://me:{CANARY}@127.0.0.1:{port}"}
    findings = await host.examined({"docker.io": {"url": upstream.url.replace("127.0.0.1", "0.0.0.0")}}, url)
    found = only(findings)
    assert "the proxy that leads there cannot be reached" in found.found
    assert "upstreams.docker.io.proxy: none" in found.cure
    assert CANARY not in str(findings)


async def test_an_upstream_in_trouble(host: Host, url: str, upstream: FakeRegistry) -> None:
    upstream.fault(then=Status(503))
    found = only(await host.examined(upstream, url))
    assert "503" in found.found
    assert "whoever runs it has trouble" in found.cure


async def test_an_upstream_that_limits_requests(host: Host, url: str, upstream: FakeRegistry) -> None:
    upstream.fault(then=Status(429, "TOOMANYREQUESTS", retry_after=3600))
    found = only(await host.examined(upstream, url))
    assert found.level is Level.WARNING
    assert "credentials" in found.cure
    assert "mirror ratelimit" in found.cure


async def test_an_upstream_whose_limit_is_used_up(host: Host, url: str, upstream: FakeRegistry) -> None:
    upstream.headers |= {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "30;w=21600"}
    assert "30 of 100 requests are left" in one(await host.examined(upstream, url), "upstreams", Level.OK).found
    upstream.headers["ratelimit-remaining"] = "7;w=21600"
    found = only(await host.examined(upstream, url))
    assert (found.level, "only 7 of 100 requests are left, so the mirror saves" in found.found) == (Level.WARNING, True)
    upstream.headers["ratelimit-remaining"] = "0;w=21600"
    found = only(await host.examined(upstream, url))
    assert (found.level, "nothing new until" in found.found) == (Level.WARNING, True)
    assert "upstreams.docker.io credentials" in found.cure


async def test_an_upstream_that_is_slow(
    host: Host, url: str, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstreams, "_SLOW", 0.05)
    upstream.latency = 0.1
    found = only(await host.examined(upstream, url))
    assert (found.level, "so long waits each image" in found.found) == (Level.WARNING, True)
    assert "DNS" in found.cure


async def test_an_authority_that_is_gone(host: Host, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file goes between the reading of the configuration and its use."""
    _, _, ca_file = certificate(host.directory / "tls")
    read = config.parse

    def parse(*arguments: Any) -> Any:
        settings = read(*arguments)
        ca_file.unlink()
        return settings

    monkeypatch.setattr(config, "parse", parse)
    found = only(await host.examined({"docker.io": {"url": "https://127.0.0.1:1", "ca_file": str(ca_file)}}, url))
    assert "upstreams.docker.io: " in found.found
    assert "cannot be read" in found.found
    assert "mirror check" in found.cure


async def test_an_upstream_that_is_no_registry(host: Host, url: str, upstream: FakeRegistry) -> None:
    upstream.fault(then=Html(404))
    found = only(await host.examined(upstream, url))
    assert "404" in found.found
    assert "upstreams.docker.io.url" in found.cure


async def test_an_offline_mirror_asks_nobody(host: Host, url: str, upstream: FakeRegistry) -> None:
    findings = await host.examined(upstream, url, server={"offline": True})
    assert wrong(findings) == []
    assert "offline" in one(findings, "upstreams", Level.OK).found
    assert upstream.requests == []


# The clock.


@pytest.mark.parametrize(
    ("ahead", "level", "says"),
    [
        (140, Level.WARNING, "2 min slow"),
        (-140, Level.WARNING, "2 min fast"),
        (3600 * 5, Level.FAILURE, "5 h slow, by the Date of one upstream: tokens and certificates"),
    ],
)
async def test_a_clock_that_is_wrong(  # noqa: PLR0917
    ahead: float, level: Level, says: str, host: Host, url: str, upstream: FakeRegistry
) -> None:
    upstream.headers |= dated(ahead)
    found = only(await host.examined(upstream, url))
    assert (found.check, found.level) == ("clock", level)
    assert says in found.found
    assert "timedatectl set-ntp true" in found.cure


async def test_one_upstream_of_three_with_a_wrong_clock_is_outvoted(
    host: Host, url: str, upstream: FakeRegistry, other: FakeRegistry
) -> None:
    other.headers |= dated(9000)
    findings: list[Finding] = await host.examined({"docker.io": upstream, "quay.io": upstream, "ghcr.io": other}, url)
    assert wrong(findings) == []
