"""No address of this machine, this site, or a cloud's inside is dialled, whoever leads there: `"*"`, redirects, realms.

In each test a listener on loopback stands for what must not be asked, and the addresses that the mirror dials are seen.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from mirror.errors import UpstreamUnavailable
from mirror.oci.name import Repository
from mirror.upstream.protocol import Urgency
from tests.fakes.auth import Auth
from tests.fakes.faults import Redirect
from tests.fakes.registry import FakeRegistry
from tests.parts.proxy import ForwardProxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager

    from mirror.upstream.protocol import BlobBody, Upstream
    from tests.fakes.internet import Internet
    from tests.flow.conftest import Mirror, Reply, StartMirror

pytestmark = pytest.mark.usefixtures("impatient")

STRANGERS: dict[str, Any] = {"docker.io": {}, "*": True}

# What a name of a stranger's may resolve to.
PRIVATE = (
    "127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.5.4", "192.168.1.1", "100.64.0.1", "169.254.169.254", "0.0.0.0",
    "::1", "fe80::1", "fd00::1", "fec0::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "64:ff9b::7f00:1", "2002:7f00:1::",
)  # fmt: skip
# How an address of this machine, or of a cloud's metadata service, may be written.
SPELLINGS = (
    "127.0.0.1", "127.1", "2130706433", "0177.0.0.1", "0x7f.0.0.1", "0x7f000001", "0", "0.0.0.0", "localhost",
    "a.localhost", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "169.254.169.254",
    "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "[::ffff:169.254.169.254]", "[fd00:ec2::254]",
)  # fmt: skip


@dataclass
class Neighbour:
    """A server of this machine's own."""

    sockets: list[socket.socket]

    @property
    def port(self) -> int:
        port: int = self.sockets[0].getsockname()[1]
        return port

    @property
    def visited(self) -> bool:
        """Whether anybody has connected."""
        for server in self.sockets:
            try:
                connection, _ = server.accept()
            except BlockingIOError:
                continue
            connection.close()
            return True
        return False


@pytest.fixture
def neighbour() -> Iterator[Neighbour]:
    with socket.create_server(("127.0.0.1", 0)) as first:
        first.setblocking(False)
        with socket.create_server(("::1", first.getsockname()[1]), family=socket.AF_INET6) as second:
            second.setblocking(False)
            yield Neighbour([first, second])


def check(mirror: Mirror, net: Internet, neighbour: Neighbour, reply: Reply) -> None:
    """Nothing private was dialled (the mirror itself is, by this test), and the answer says why there is none."""
    assert not neighbour.visited
    own = mirror.url.rpartition(":")[2]
    strange = [(host, port) for host, port in net.dialled if not ipaddress.ip_address(host).is_global]
    assert [where for where in strange if str(where[1]) != own] == []
    assert (reply.status, reply.code) in ((503, "UNAVAILABLE"), (404, "BLOB_UNKNOWN"), (404, "NAME_INVALID"))
    assert "private address" in reply.message or "does not resolve" in reply.message, reply.message


@pytest.mark.parametrize("address", PRIVATE)
async def test_a_name_that_anybody_may_choose_does_not_lead_inside(
    start: StartMirror, net: Internet, neighbour: Neighbour, address: str
) -> None:
    net.name("registry.test", address)
    mirror = await start(STRANGERS)
    reply = await mirror.get(f"/v2/registry.test:{neighbour.port}/org/app/manifests/v1")
    check(mirror, net, neighbour, reply)
    assert "private address" in reply.message


@pytest.mark.parametrize("host", SPELLINGS)
async def test_no_spelling_of_an_address_leads_inside(
    start: StartMirror, net: Internet, neighbour: Neighbour, host: str
) -> None:
    mirror = await start(STRANGERS)
    namespace = f"{host}:{neighbour.port}"
    for path in (f"/v2/{namespace}/org/app/manifests/v1", f"/v2/org/app/manifests/v1?ns={namespace}"):
        check(mirror, net, neighbour, await mirror.get(path))


async def test_a_name_that_moves_inside_between_two_looks_is_not_followed(
    start: StartMirror, net: Internet, neighbour: Neighbour
) -> None:
    rebound = FakeRegistry()
    rebound.add_image("org/app", "v1", layers=[b"x" * 100_000])
    await net.host(rebound, "registry.test")
    net.name("registry.test", net.address("registry.test"), "127.0.0.1")
    mirror = await start(STRANGERS)
    reply = await mirror.get("/v2/registry.test/org/app/manifests/v1")
    assert reply.status == 200
    # Blobs have connections, and look-ups, of their own.
    check(
        mirror, net, neighbour, await mirror.get(f"/v2/registry.test/org/app/blobs/{reply.json['layers'][0]['digest']}")
    )
    assert net.looked_up == ["registry.test", "registry.test"]


async def test_of_two_addresses_the_one_inside_is_never_tried(
    start: StartMirror, net: Internet, neighbour: Neighbour
) -> None:
    net.name("registry.test", "1.2.9.9,127.0.0.1")  # nobody is at the first
    mirror = await start(STRANGERS)
    reply = await mirror.get(f"/v2/registry.test:{neighbour.port}/org/app/manifests/v1")
    assert ("1.2.9.9", neighbour.port) in net.dialled
    assert reply.status == 503
    assert not neighbour.visited
    assert ("127.0.0.1", neighbour.port) not in net.dialled


async def public_registry(net: Internet) -> FakeRegistry:
    """A registry on the Internet whose owner means ill."""
    hostile = FakeRegistry()
    hostile.add_image("org/app", "v1", layers=[b"x" * 100_000])
    await net.host(hostile, "registry.test")
    return hostile


KNOWN = {"by hand": {"docker.io": {}, "registry.test": {}}, "by the wildcard": STRANGERS}
# `inside.test` is a name of the hostile owner's; the others are read as they stand.
LEADS = (
    "inside.test",
    "localhost",
    "127.0.0.1",
    "2130706433",
    "0177.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "metadata.test",
)


def lead(net: Internet, neighbour: Neighbour, host: str) -> str:
    net.name("inside.test", "127.0.0.1")
    net.name("metadata.test", "169.254.169.254")
    return f"https://{host}:{neighbour.port}"


async def ask(mirror: Mirror, kind: str) -> Reply:
    manifest = "/v2/registry.test/org/app/manifests/v1"
    if kind != "blob":
        return await mirror.get(manifest)
    layer = (await mirror.get(manifest)).json["layers"][0]["digest"]
    return await mirror.get(f"/v2/registry.test/org/app/blobs/{layer}")


@pytest.mark.parametrize("host", LEADS)
@pytest.mark.parametrize("kind", ["manifest", "blob", "token"])
@pytest.mark.parametrize("known", KNOWN)
async def test_a_redirect_does_not_lead_inside(
    *, start: StartMirror, net: Internet, neighbour: Neighbour, known: str, kind: str, host: str
) -> None:
    hostile = await public_registry(net)
    hostile.auth.mode = "bearer" if kind == "token" else None
    hostile.fault(kind=kind, then=Redirect(f"{lead(net, neighbour, host)}/v2/org/app/somewhere"))
    mirror = await start(KNOWN[known])
    check(mirror, net, neighbour, await ask(mirror, kind))
    assert hostile.count(kind=kind) >= 1


@pytest.mark.parametrize("host", LEADS)
@pytest.mark.parametrize("known", KNOWN)
async def test_a_realm_does_not_lead_inside(
    *, start: StartMirror, net: Internet, neighbour: Neighbour, known: str, host: str
) -> None:
    hostile = await public_registry(net)
    hostile.auth = Auth(mode="bearer", realm=f"{lead(net, neighbour, host)}/token")
    mirror = await start(KNOWN[known])
    check(mirror, net, neighbour, await ask(mirror, "manifest"))


@pytest.mark.parametrize("scheme", ["http", "ftp", "file", "unix"])
async def test_a_realm_without_tls_or_of_another_kind_is_not_asked(
    start: StartMirror, net: Internet, neighbour: Neighbour, scheme: str
) -> None:
    hostile = await public_registry(net)
    hostile.auth = Auth(mode="bearer", realm=f"{scheme}://127.0.0.1:{neighbour.port}/token")
    mirror = await start(KNOWN["by hand"])
    reply = await ask(mirror, "manifest")
    assert (reply.status, neighbour.visited) == (503, False)


@pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "0xa9fea9fe", "10.0.0.1", "metadata.internal"])
@pytest.mark.parametrize("kind", ["manifest", "blob", "token"])
async def test_behind_a_proxy_nothing_leads_to_an_address_that_is_written_out(
    start: StartMirror, net: Internet, upstream: FakeRegistry, kind: str, host: str
) -> None:
    """The proxy looks names up, and may be allowed inside: what shows as it stands is refused before it is asked."""
    upstream.add_image("org/app", "v1", layers=[b"x" * 100_000])
    upstream.auth.mode = "bearer" if kind == "token" else None
    upstream.auth.realm = "http://registry.test/token"
    upstream.fault(kind=kind, then=Redirect(f"http://{host}/latest/meta-data"))
    net.route("registry.test", upstream.ports[0], at=80)
    async with ForwardProxy(user="mirror", password="canary-proxy") as proxy:
        mirror = await start({"docker.io": {}, "registry.test": {"url": "http://registry.test", "proxy": proxy.url}})
        reply = await ask(mirror, kind)
        assert reply.status in (404, 503)
        assert "private address" in reply.message
        assert len(proxy.asked) == len(upstream.requests) >= 1


# What is inside is for those whom the configuration puts there.


async def site_registry(net: Internet, names: dict[str, str | None], address: str) -> FakeRegistry:
    registry = FakeRegistry()
    registry.add_image("org/app", "v1", layers=[b"x" * 100_000])
    registry.auth = Auth(mode="bearer", realm=f"https://{names['tokens'] or names['name']}/token")
    registry.redirect_blobs = names["storage"] is not None
    await net.host(registry, names["name"] or "", tokens=names["tokens"], storage=names["storage"])
    for own in filter(None, names.values()):
        port = registry.ports[own == names["storage"]]
        net.route(own, port, address if own != names["storage"] else f"{address}1")
    return registry


async def pull(mirror: Mirror, namespace: str) -> list[int]:
    manifest = await mirror.get(f"/v2/{namespace}/org/app/manifests/v1")
    layers = manifest.json.get("layers", [])
    return [
        manifest.status,
        *[(await mirror.get(f"/v2/{namespace}/org/app/blobs/{x['digest']}")).status for x in layers],
    ]


async def test_a_registry_inside_may_lead_to_what_is_inside_with_it(start: StartMirror, net: Internet) -> None:
    names: dict[str, str | None] = {"name": "registry.corp", "tokens": "login.corp", "storage": "minio.corp"}
    registry = await site_registry(net, names, "10.1.2.3")
    mirror = await start({"docker.io": {}, "registry.corp": {}})
    assert await pull(mirror, "registry.corp") == [200, 200]
    assert {host for host, _ in net.dialled} >= {"10.1.2.3", "10.1.2.31"}
    assert registry.count(kind="storage") == 1


@pytest.mark.parametrize(("realms", "status"), [([], 503), (["login.corp"], 200)])
async def test_a_host_inside_that_the_configuration_names_may_be_asked(
    start: StartMirror, net: Internet, realms: list[str], status: int
) -> None:
    registry = await public_registry(net)
    service = FakeRegistry()
    registry.auth = service.auth = Auth(mode="bearer", realm="https://login.corp/token")
    await net.host(service, "login.corp", address="10.1.2.3")
    configured: dict[str, Any] = {"docker.io": {}, "registry.test": {"realms": realms}}
    mirror = await start(configured)
    reply = await mirror.get("/v2/registry.test/org/app/manifests/v1")
    assert reply.status == status
    assert (service.count(kind="token") > 0) is (status == 200)
    if status != 200:
        assert "`realms`" in reply.message


async def test_all_that_the_wildcard_admits_share_their_places_for_blobs(
    start: StartMirror, net: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a client with a domain of its own has as many transfers begun as it can think of names."""
    monkeypatch.setattr("mirror.upstream.registries._STRANGERS_BLOBS", 1)
    names = ("a.test", "b.test", "ours.test")
    digests = {}
    for name in names:
        fake = FakeRegistry()
        digests[name] = fake.add_blob("org/app", b"content")
        await net.host(fake, name)
    mirror = await start({"docker.io": {}, "ours.test": {}, "*": True})

    def blob(name: str) -> AbstractAsyncContextManager[BlobBody]:
        upstream: Upstream = mirror.server.cache._upstreams.of(name)
        asked = Repository(name, "org/app"), digests[name]
        return upstream.blob(*asked, urgency=Urgency(urgent=True), patience=0.5)

    async with blob("a.test"):
        with pytest.raises(UpstreamUnavailable, match="no place"):
            async with blob("b.test"):
                pass
        async with blob("ours.test"):
            pass
    async with blob("b.test"):
        pass
