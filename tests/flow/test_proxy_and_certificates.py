"""Upstreams behind a proxy of their own, and those that want to see a certificate."""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from mirror import config
from mirror.errors import UpstreamUnavailable
from mirror.oci.name import Repository, Tag
from mirror.upstream import watched
from mirror.upstream.protocol import Urgency
from mirror.upstream.registries import Registries
from tests.fakes.registry import FakeRegistry
from tests.parts.certificate import certificate
from tests.parts.proxy import ForwardProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from aiohttp import web

    from mirror.oci.digest import Digest
    from mirror.upstream.protocol import Upstream
    from tests.fakes.records import Record
    from tests.flow.conftest import StartMirror

NAME = "up.test"
REPO = Repository(NAME, "org/app")
V1 = Tag("v1")


class Seeing(FakeRegistry):
    """A registry that notes, for each request, whose certificate it was shown."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(tls=tls)
        self.seen: list[tuple[str, str | None]] = []

    def _record(self, request: web.BaseRequest) -> Record:
        record = super()._record(request)
        assert request.transport is not None
        shown = request.transport.get_extra_info("ssl_object").getpeercert()
        subject = dict(pair for (pair,) in shown["subject"])["commonName"] if shown else None
        self.seen.append((record.path.split("/")[-1].split("?")[0][:8], subject))
        return record


def pair(directory: Path, name: str) -> tuple[Path, Path]:
    directory.mkdir(exist_ok=True)
    return certificate(directory, name=name)


@pytest.fixture
def server(tmp_path: Path) -> ssl.SSLContext:
    """The registry's side of TLS; its certificate is its own authority."""
    cert_file, key_file = pair(tmp_path / "server", "localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert_file, key_file)
    return context


@pytest.fixture
async def seeing(server: ssl.SSLContext, tmp_path: Path) -> AsyncIterator[Seeing]:
    for name in ("one", "two"):
        server.load_verify_locations(pair(tmp_path / name, name)[0])
    server.verify_mode = ssl.CERT_OPTIONAL
    async with Seeing(server) as up:
        up.auth.mode = "bearer"
        up.redirect_blobs = True
        up.add_image("org/app", "v1")
        up.blob_digest = up.add_blob("org/app", b"content")  # type: ignore[attr-defined]
        yield up


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Upstream]]:
    """Make the upstream that a configuration describes."""
    made: list[Registries] = []

    def make(environ: dict[str, str] | None = None, **entry: Any) -> Upstream:
        written = {key: str(value) if not isinstance(value, list) else value for key, value in entry.items()}
        text = config.parse(_yaml(written), "mirror.yaml", environ or {})
        made.append(Registries(text, instance="test", request_id=lambda: None))
        return made[-1].of(NAME)

    yield make
    for registries in made:
        await registries.close()


def _yaml(entry: dict[str, Any]) -> str:
    return json.dumps({"upstreams": {NAME: entry}})


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at files whenever they are needed, and ask a failing upstream once."""
    monkeypatch.setattr(watched, "INTERVAL", 0.0)
    monkeypatch.setattr("mirror.upstream.attempts.TRIES", 1)


async def pull(upstream: Upstream, digest: Digest) -> bytes:
    await upstream.manifest(REPO, V1, patience=5)
    async with upstream.blob(REPO, digest, urgency=Urgency(urgent=True), patience=5) as body:
        return b"".join([piece async for piece in body.pieces()])


# Certificates.


async def test_a_client_certificate_is_shown_to_the_registry_and_to_no_redirects_target(
    seeing: Seeing, connect: Callable[..., Upstream], tmp_path: Path
) -> None:
    upstream = connect(
        url=seeing.url,
        ca_file=tmp_path / "server/cert.pem",
        client_cert_file=tmp_path / "one/cert.pem",
        client_key_file=tmp_path / "one/key.pem",
    )
    assert await pull(upstream, seeing.blob_digest) == b"content"  # type: ignore[attr-defined]
    assert [subject for _, subject in seeing.seen] == ["one", "one", "one", "one", None]
    assert seeing.requests[-1].kind == "storage"


@pytest.mark.parametrize("shown", [True, False])
async def test_what_a_client_certificate_opened_is_not_public(
    seeing: Seeing, connect: Callable[..., Upstream], tmp_path: Path, shown: bool
) -> None:
    files = {"client_cert_file": tmp_path / "one/cert.pem", "client_key_file": tmp_path / "one/key.pem"}
    upstream = connect(url=seeing.url, ca_file=tmp_path / "server/cert.pem", **(files if shown else {}))
    seeing.auth.mode = None
    assert (await upstream.manifest(REPO, V1, patience=5)).public is not shown
    digest = seeing.blob_digest  # type: ignore[attr-defined]
    async with upstream.blob(REPO, digest, urgency=Urgency(urgent=True), patience=5) as body:
        assert body.public is not shown  # although the storage behind the redirect saw no certificate


@pytest.mark.parametrize("named", [True, False])
async def test_a_token_service_elsewhere_sees_it_only_if_the_configuration_names_it(
    seeing: Seeing, connect: Callable[..., Upstream], tmp_path: Path, named: bool
) -> None:
    seeing.auth.realm = seeing.url.replace("127.0.0.1", "localhost") + "/token"
    upstream = connect(
        url=seeing.url,
        ca_file=tmp_path / "server/cert.pem",
        client_cert_file=tmp_path / "one/cert.pem",
        client_key_file=tmp_path / "one/key.pem",
        realms=["localhost"] if named else [],
    )
    await upstream.manifest(REPO, V1, patience=5)
    assert [subject for path, subject in seeing.seen if path == "token"] == ["one" if named else None]


async def test_a_proxy_that_is_spoken_to_over_tls_does_not_see_it(
    seeing: Seeing, connect: Callable[..., Upstream], tmp_path: Path
) -> None:
    upstream = connect(
        {"https_proxy": seeing.url},
        url="https://registry.invalid",
        ca_file=tmp_path / "server/cert.pem",
        client_cert_file=tmp_path / "one/cert.pem",
        client_key_file=tmp_path / "one/key.pem",
    )
    with structlog.testing.capture_logs() as logs, pytest.raises(UpstreamUnavailable, match="the proxy"):
        await upstream.manifest(REPO, V1, patience=5)
    assert [subject for _, subject in seeing.seen] == [None]
    assert "client certificate withheld" in logs[0]["event"]


async def test_a_changed_client_certificate_is_shown_and_a_broken_one_is_told_of(
    seeing: Seeing, connect: Callable[..., Upstream], tmp_path: Path
) -> None:
    shown = tmp_path / "shown"
    shown.mkdir()

    def put(name: str, *files: str) -> None:
        for file in files:
            (shown / "new").write_bytes((tmp_path / name / file).read_bytes())
            (shown / "new").replace(shown / file)

    put("one", "cert.pem", "key.pem")
    upstream = connect(
        url=seeing.url,
        ca_file=tmp_path / "server/cert.pem",
        client_cert_file=shown / "cert.pem",
        client_key_file=shown / "key.pem",
    )
    await upstream.manifest(REPO, V1, patience=5)
    put("two", "cert.pem")
    with structlog.testing.capture_logs() as logs:
        await upstream.manifest(REPO, V1, patience=5)
    assert [line["cause"] for line in logs] == [
        f"{shown}/cert.pem and {shown}/key.pem are no certificate and its own unencrypted key, as PEM"
    ]
    assert seeing.seen[-1] == ("v1", "one")
    put("two", "key.pem")
    await upstream.manifest(REPO, V1, patience=5)
    assert seeing.seen[-1] == ("v1", "two")


async def test_a_changed_authority_counts(seeing: Seeing, connect: Callable[..., Upstream], tmp_path: Path) -> None:
    trusted = tmp_path / "ca.pem"
    trusted.write_bytes((tmp_path / "one/cert.pem").read_bytes())
    upstream = connect(url=seeing.url, ca_file=trusted)
    with pytest.raises(Exception, match="certificate is not trusted"):
        await upstream.manifest(REPO, V1, patience=5)
    trusted.write_bytes((tmp_path / "server/cert.pem").read_bytes())
    await upstream.manifest(REPO, V1, patience=5)


# Proxies.

PASS = "canary p@ss:wörd/?#"
ESCAPED = "canary%20p%40ss%3Aw%C3%B6rd%2F%3F%23"


@pytest.fixture
async def proxy() -> AsyncIterator[ForwardProxy]:
    async with ForwardProxy("me", PASS) as running:
        yield running


async def test_everything_of_an_upstream_goes_through_its_proxy_over_tls(
    proxy: ForwardProxy, server: ssl.SSLContext, connect: Callable[..., Upstream], tmp_path: Path
) -> None:
    async with FakeRegistry(tls=server) as up:
        up.auth.mode = "bearer"
        up.redirect_blobs = True
        up.add_image("org/app", "v1")
        digest = up.add_blob("org/app", b"content")
        upstream = connect(
            url=up.url, ca_file=tmp_path / "server/cert.pem", proxy=f"http://me:{ESCAPED}@{proxy.address}"
        )
        assert await pull(upstream, digest) == b"content"
        storage = up.storage_url.removeprefix("https://")
        assert set(proxy.asked) == {f"CONNECT {up.host}", f"CONNECT {storage}"}
        assert not any("Proxy-Authorization" in record.headers for record in up.requests)
        assert proxy.refused == 0


async def test_plain_http_goes_through_it_by_whole_addresses(
    proxy: ForwardProxy, upstream: FakeRegistry, connect: Callable[..., Upstream]
) -> None:
    upstream.auth.mode = "bearer"
    upstream.add_image("org/app", "v1")
    asking = connect({"P": ESCAPED}, url=upstream.url, proxy=f"http://me:${{P}}@{proxy.address}")
    await asking.manifest(REPO, V1, patience=5)
    assert proxy.asked[0] == f"GET {upstream.url}/v2/org/app/manifests/v1"
    assert len(proxy.asked) == len(upstream.requests) == 3
    assert not any("Proxy-Authorization" in record.headers for record in upstream.requests)


@pytest.mark.parametrize("tls", [True, False])
async def test_a_proxy_that_refuses_the_password_is_named_without_it(  # noqa: PLR0917
    proxy: ForwardProxy,
    upstream: FakeRegistry,
    server: ssl.SSLContext,
    connect: Callable[..., Upstream],
    tmp_path: Path,
    tls: bool,
) -> None:
    assert server
    more = {"ca_file": tmp_path / "server/cert.pem"} if tls else {}
    url = upstream.url.replace("http://", "https://") if tls else upstream.url
    asking = connect(url=url, proxy=f"http://me:canary-wrong@{proxy.address}", **more)
    with (
        structlog.testing.capture_logs() as logs,
        pytest.raises(Exception, match=r"proxy.*407|wants a login") as caught,
    ):
        await asking.manifest(REPO, V1, patience=5)
    assert "canary" not in f"{caught.value} {logs}"
    assert not upstream.requests


async def test_none_dials_directly_in_spite_of_the_environment(
    upstream: FakeRegistry, connect: Callable[..., Upstream]
) -> None:
    upstream.add_image("org/app", "v1")
    here = upstream.url.replace("127.0.0.1", "0.0.0.0")  # leads to the same server, and is no loopback address
    environ = {"http_proxy": "http://127.0.0.1:9"}
    with pytest.raises(Exception, match="the proxy that leads there cannot be reached"):
        await connect(environ, url=here).manifest(REPO, V1, patience=5)
    await connect(environ, url=here, proxy="none").manifest(REPO, V1, patience=5)


async def test_a_mirror_pulls_through_a_proxy_that_alone_knows_the_name(
    proxy: ForwardProxy, upstream: FakeRegistry, start: StartMirror
) -> None:
    upstream.add_image("org/app", "v1")
    host, port = upstream.host.split(":")
    proxy.hosts["registry.invalid"] = host, int(port)
    mirror = await start(
        {NAME: {"url": "http://registry.invalid", "proxy": f"http://me:{ESCAPED}@{proxy.address}"}},
        default_upstream=NAME,
    )
    assert {reply.status for reply in await mirror.pull("org/app", "v1")} == {200}


def test_no_representation_shows_the_proxys_password() -> None:
    settings = config.parse(_yaml({"proxy": "http://me:canary@proxy.example:3128"}), "mirror.yaml", {})
    assert "canary" not in f"{settings!r} {config.effective(settings)}"
    assert config.effective(settings)["upstreams"][NAME]["proxy"] == "http://***@proxy.example:3128"
