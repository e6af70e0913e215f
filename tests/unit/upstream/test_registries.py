from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from yarl import URL

from mirror.config import Proxies, UpstreamConfig
from mirror.errors import ConfigError, NameUnknown, UpstreamAway, UpstreamBroken, UpstreamUnavailable
from mirror.metrics import UPSTREAM_ANSWERS
from mirror.oci.digest import Digest
from mirror.oci.name import Repository, Tag
from mirror.upstream.protocol import Urgency
from mirror.upstream.registries import Registries
from tests.fakes.faults import Redirect
from tests.fakes.registry import FakeRegistry
from tests.parts.certificate import certificate
from tests.unit.upstream.dial import NAMESPACE, REPO, config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from mirror.upstream.protocol import Upstream

V1 = Tag("v1")


@pytest.fixture
async def registries() -> AsyncIterator[Callable[..., Registries]]:
    made: list[Registries] = []

    def make(upstreams: dict[str, UpstreamConfig] | None = None, **more: object) -> Registries:
        made.append(Registries(config(upstreams or {}, **more), instance="test", request_id=lambda: None))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        await each.close()


def test_a_namespace_that_is_not_mirrored_is_refused_with_what_to_do(registries: Callable[..., Registries]) -> None:
    with pytest.raises(NameUnknown, match="add it under `upstreams`"):
        registries().of("quay.io")


def test_an_upstream_is_one_object(registries: Callable[..., Registries]) -> None:
    made = registries({NAMESPACE: UpstreamConfig(NAMESPACE, "https://x.test")}, wildcard=True)
    assert made.of(NAMESPACE) is made.of(NAMESPACE)
    assert made.of("quay.io") is made.of("quay.io")


@pytest.mark.parametrize("name", ["", "a:b:c", "x.test:99999", "[::1", "x.test/v2", "me@x.test", "x.test?a=b"])
def test_what_is_no_host_is_refused(registries: Callable[..., Registries], name: str) -> None:
    with pytest.raises(NameUnknown):
        registries(wildcard=True).of(name)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "10.0.0.1"])
async def test_an_upstream_that_nobody_configured_is_not_dialled_on_a_private_address(
    registries: Callable[..., Registries], host: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        upstream = registries(wildcard=True).of(f"{host}:{server.getsockname()[1]}")
        with pytest.raises(UpstreamBroken, match="private address"):
            await upstream.manifest(Repository(upstream.namespace, "a"), V1, patience=5)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not UPSTREAM_ANSWERS.labels(upstream.namespace, "manifest", "connect")._value.get()


async def test_an_upstream_that_nobody_configured_is_not_followed_to_a_private_address(
    registries: Callable[..., Registries], up: FakeRegistry
) -> None:
    upstream = registries(wildcard=True).of("example.test")
    with pytest.raises(UpstreamBroken, match="private address"):
        await upstream._wire.send("GET", URL(up.url), {}, kind="blob")  # type: ignore[attr-defined]
    assert not up.requests


async def test_offline_nothing_is_dialled(registries: Callable[..., Registries], up: FakeRegistry) -> None:
    made = registries({NAMESPACE: UpstreamConfig(NAMESPACE, up.url)}, offline=True, wildcard=True)
    assert [made.of(name).label for name in (NAMESPACE, "quay.io")] == [NAMESPACE, "*"]
    for upstream in (made.of(NAMESPACE), made.of("quay.io")):
        assert upstream.away
        digest = Digest.of(b"")
        with pytest.raises(UpstreamAway):
            await upstream.head(REPO, V1, patience=5)
        with pytest.raises(UpstreamAway):
            await upstream.manifest(REPO, V1, patience=5)
        with pytest.raises(UpstreamAway):
            await upstream.tags(REPO, n=None, last=None, patience=5)
        with pytest.raises(UpstreamAway):
            await upstream.referrers(REPO, digest, patience=5)
        with pytest.raises(UpstreamAway):
            async with upstream.blob(REPO, digest, urgency=Urgency(urgent=True), patience=5):
                pass
    assert not up.requests


def test_a_ca_file_that_cannot_be_used_is_a_mistake_in_the_configuration(
    registries: Callable[..., Registries], tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    upstream = UpstreamConfig(NAMESPACE, "https://x.test", ca_file=tmp_path / "ca.pem")
    with pytest.raises(ConfigError, match=r"upstreams\.up\.test: .*ca\.pem holds no certificate"):
        registries({NAMESPACE: upstream})


async def test_a_private_authority_is_trusted_where_the_configuration_names_it(
    registries: Callable[..., Registries], tmp_path: Path
) -> None:
    cert_file, key_file = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert_file, key_file)
    async with FakeRegistry(tls=context) as up:
        up.redirect_blobs = True
        up.auth.mode = "bearer"
        digest = up.add_blob("org/app", b"content")
        up.add_image("org/app", "v1")
        known = registries({NAMESPACE: UpstreamConfig(NAMESPACE, up.url, ca_file=cert_file)}).of(NAMESPACE)
        await known.manifest(REPO, V1, patience=5)
        async with known.blob(REPO, digest, urgency=Urgency(urgent=True), patience=5) as body:
            assert b"".join([piece async for piece in body.pieces()]) == b"content"
        unknown = registries({NAMESPACE: UpstreamConfig(NAMESPACE, up.url)}).of(NAMESPACE)
        with pytest.raises(UpstreamUnavailable, match="certificate is not trusted"):
            await unknown.manifest(REPO, V1, patience=5)


@pytest.fixture
async def proxy() -> AsyncIterator[tuple[str, list[str]]]:
    """A proxy that answers by itself; what it was asked for."""
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(str(request.raw_path))
        return web.json_response({"errors": [{"message": "from the proxy"}]}, status=404)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    await runner.cleanup()


async def test_a_proxy_is_used_unless_no_proxy_names_the_host(
    registries: Callable[..., Registries], up: FakeRegistry, proxy: tuple[str, list[str]]
) -> None:
    address, asked = proxy
    up.add_image("org/app", "v1")
    here = up.url.replace("127.0.0.1", "0.0.0.0")  # leads to the same server, and is no loopback address
    upstreams = {NAMESPACE: UpstreamConfig(NAMESPACE, here)}
    through = registries(upstreams, proxies=Proxies(http=address)).of(NAMESPACE)
    with pytest.raises(Exception, match="from the proxy"):
        await through.manifest(REPO, V1, patience=5)
    assert asked == [f"{here}/v2/org/app/manifests/v1"]
    past = registries(upstreams, proxies=Proxies(http=address, no_proxy="x.test, 0.0.0.0/8")).of(NAMESPACE)
    await past.manifest(REPO, V1, patience=5)
    assert len(asked) == 1


async def test_a_loopback_address_is_never_asked_through_a_proxy(
    registries: Callable[..., Registries], up: FakeRegistry, proxy: tuple[str, list[str]]
) -> None:
    address, asked = proxy
    up.add_image("org/app", "v1")
    upstreams = {NAMESPACE: UpstreamConfig(NAMESPACE, up.url)}
    await registries(upstreams, proxies=Proxies(http=address)).of(NAMESPACE).manifest(REPO, V1, patience=5)
    assert not asked


async def test_behind_a_proxy_a_private_address_that_is_written_out_is_refused(
    registries: Callable[..., Registries], proxy: tuple[str, list[str]]
) -> None:
    address, asked = proxy
    upstream = registries(wildcard=True, proxies=Proxies(https=address)).of("169.254.169.254")
    with pytest.raises(UpstreamBroken, match="private address"):
        await upstream.head(Repository("169.254.169.254", "a"), V1, patience=5)
    assert not asked


async def test_an_upstream_with_a_path_is_asked_below_it(connect: Callable[..., Upstream], up: FakeRegistry) -> None:
    up.fault(then=Redirect("/v2/org/app/manifests/v1"), times=1)
    digest = up.add_image("org/app", "v1")
    assert (await connect(url=f"{up.url}/hub").manifest(REPO, V1, patience=5)).digest == digest
    assert up.requests[0].path == "/hub/v2/org/app/manifests/v1"
