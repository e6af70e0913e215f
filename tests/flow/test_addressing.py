"""How clients address the mirror: every shape, the namespace that is meant, and who is never dialled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirror.oci.digest import Digest
from tests.fakes.faults import Redirect
from tests.fakes.registry import FakeRegistry

if TYPE_CHECKING:
    from pathlib import Path

    from tests.flow.conftest import Mirror, StartMirror

LAYER = b"a layer"


@pytest.fixture
async def mirror(start: StartMirror, upstream: FakeRegistry, other: FakeRegistry) -> Mirror:
    """docker.io with library/nginx and org/app, quay.io with org/app, and one that has a port."""
    upstream.add_image("library/nginx", "latest", layers=[b"hub"])
    upstream.add_image("org/app", "latest", layers=[b"hub"])
    other.add_image("org/app", "latest", layers=[b"quay"])
    other.add_image("nginx", "latest", layers=[b"quay"])
    return await start({"docker.io": upstream, "quay.io": other, "registry.example:5443": other})


HUB, QUAY = "hub", "quay"


@pytest.mark.parametrize(
    ("path", "who", "asked"),
    [
        # daemon.json: no namespace at all
        ("/v2/library/nginx/manifests/latest", HUB, "library/nginx"),
        ("/v2/nginx/manifests/latest", HUB, "library/nginx"),
        ("/v2/org/app/manifests/latest", HUB, "org/app"),
        # containerd, BuildKit, Docker's containerd store
        ("/v2/org/app/manifests/latest?ns=quay.io", QUAY, "org/app"),
        ("/v2/nginx/manifests/latest?ns=docker.io", HUB, "library/nginx"),
        ("/v2/nginx/manifests/latest?ns=quay.io", QUAY, "nginx"),
        ("/v2/org/app/manifests/latest?ns=registry.example:5443", QUAY, "org/app"),
        ("/v2/org/app/manifests/latest?ns=registry.example%3A5443", QUAY, "org/app"),
        # Podman, CRI-O, k3s, override_path
        ("/v2/quay.io/org/app/manifests/latest", QUAY, "org/app"),
        ("/v2/docker.io/library/nginx/manifests/latest", HUB, "library/nginx"),
        ("/v2/docker.io/nginx/manifests/latest", HUB, "library/nginx"),
        ("/v2/registry.example:5443/org/app/manifests/latest", QUAY, "org/app"),
        # hosts.toml without override_path, Docker since 25
        ("/quay.io/v2/org/app/manifests/latest", QUAY, "org/app"),
        ("/docker.io/v2/nginx/manifests/latest", HUB, "library/nginx"),
        # old CRI configurations whose endpoint ends with a slash
        ("/library/nginx/manifests/latest", HUB, "library/nginx"),
        ("/quay.io/org/app/manifests/latest", QUAY, "org/app"),
        # k3s and BuildKit send both: the host is dropped where it is the namespace
        ("/v2/quay.io/org/app/manifests/latest?ns=quay.io", QUAY, "org/app"),
        ("/quay.io/v2/org/app/manifests/latest?ns=quay.io", QUAY, "org/app"),
        ("/v2/docker.io/nginx/manifests/latest?ns=registry-1.docker.io", HUB, "library/nginx"),
        # aliases: case, default ports, Hub's other names
        ("/v2/nginx/manifests/latest?ns=index.docker.io", HUB, "library/nginx"),
        ("/v2/nginx/manifests/latest?ns=registry-1.docker.io:443", HUB, "library/nginx"),
        ("/v2/org/app/manifests/latest?ns=QUAY.io", QUAY, "org/app"),
        ("/v2/Quay.IO:443/org/app/manifests/latest", QUAY, "org/app"),
        ("/v2/index.docker.io/nginx/manifests/latest", HUB, "library/nginx"),
        # an escape is decoded once
        ("/v2/org/%61pp/manifests/latest?ns=quay%2Eio", QUAY, "org/app"),
    ],
)
async def test_every_shape_means_one_upstream_and_one_repository(
    *, mirror: Mirror, upstream: FakeRegistry, other: FakeRegistry, path: str, who: str, asked: str
) -> None:
    reply = await mirror.get(path)
    meant, not_meant = (upstream, other) if who == HUB else (other, upstream)
    assert reply.status == 200, reply.body
    assert [record.repo for record in meant.log.matching(kind="manifest")] == [asked]
    assert not_meant.requests == []
    assert "ns=" not in meant.requests[-1].query  # it is between the client and the mirror


@pytest.mark.parametrize(
    "path",
    [
        "/v2",
        "/v2/",
        "/quay.io/v2/",
        "/quay.io/v2",
        "/v2/?ns=quay.io",
        "/unknown.example/v2/",
        "/v2/?ns=unknown.example",
    ],
)
async def test_a_ping_is_answered_by_the_mirror_alone(
    mirror: Mirror, upstream: FakeRegistry, other: FakeRegistry, path: str
) -> None:
    for method in ("GET", "HEAD"):
        reply = await mirror.ask(method, path)
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
        assert reply.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
        assert reply.body == (b"{}" if method == "GET" else b"")
        assert "X-Registry-Supports-Signatures" not in reply.headers
    assert upstream.requests == other.requests == []


async def test_all_shapes_share_one_copy(mirror: Mirror, other: FakeRegistry) -> None:
    for path in ("/v2/quay.io/org/app", "/quay.io/v2/org/app", "/QUAY.io:443/v2/org/app"):
        assert (await mirror.get(f"{path}/manifests/latest")).status == 200
        assert (await mirror.get(f"{path}/blobs/{Digest.of(b'quay')}")).body == b"quay"
        await mirror.settled()
    assert (await mirror.get("/v2/org/app/manifests/latest?ns=quay.io")).cache == "registry-mirror; hit"
    assert [(record.method, record.kind) for record in other.requests] == [("GET", "manifest"), ("GET", "blob")]


async def test_the_namespace_that_a_client_names_is_echoed_on_every_kind_of_answer(mirror: Mirror) -> None:
    blob = Digest.of(b"quay")
    paths = (
        "manifests/latest", "manifests/nothing", f"blobs/{blob}", f"blobs/{blob}", "tags/list",
        f"referrers/{blob}", "blobs/nonsense",
    )  # fmt: skip
    for path in paths:
        reply = await mirror.get(f"/v2/org/app/{path}?ns=quay.io:443")
        assert reply.headers["OCI-Namespace"] == "quay.io:443", path
        assert "OCI-Namespace" not in (await mirror.get(f"/v2/quay.io/org/app/{path}")).headers


async def test_the_header_names_the_upstream_where_the_query_does_not(mirror: Mirror, other: FakeRegistry) -> None:
    reply = await mirror.get("/v2/org/app/manifests/latest", OCI_Namespace="quay.io")
    assert (reply.status, reply.headers["OCI-Namespace"]) == (200, "quay.io")
    assert other.count(kind="manifest") == 1
    reply = await mirror.get("/v2/org/app/manifests/latest?ns=docker.io", OCI_Namespace="quay.io")
    assert reply.headers["OCI-Namespace"] == "docker.io"
    assert other.count(kind="manifest") == 1


@pytest.mark.parametrize(
    "path",
    [
        "/v2/org/app/{0}?ns=ghcr.io",
        "/v2/ghcr.io/org/app/{0}",
        "/ghcr.io/v2/org/app/{0}",
        "/v2/org/app/{0}?ns=127.0.0.1:{1}",
        "/v2/127.0.0.1:{1}/org/app/{0}",
        "/v2/localhost:{1}/org/app/{0}",
    ],
)
@pytest.mark.parametrize(
    "what", ["manifests/latest", f"blobs/{Digest.of(b'x')}", "tags/list", f"referrers/{Digest.of(b'x')}"]
)
async def test_an_upstream_that_is_not_configured_is_refused_and_never_dialled(
    mirror: Mirror, path: str, what: str
) -> None:
    async with FakeRegistry() as stranger:
        stranger.add_image("org/app", "latest")
        for method in ("GET", "HEAD"):
            reply = await mirror.ask(method, path.format(what, stranger.host.rpartition(":")[2]))
            assert reply.status == 404
            assert reply.headers["Cache-Status"] == "registry-mirror; detail=local"
            if method == "GET":
                assert reply.code == "NAME_UNKNOWN"
                for needed in ("is not mirrored here", "docker.io, quay.io, registry.example:5443", '"upstreams:"'):
                    assert needed in reply.message
        assert stranger.requests == []


async def test_the_wildcard_does_not_reach_private_addresses(start: StartMirror, upstream: FakeRegistry) -> None:
    async with FakeRegistry() as stranger:
        mirror = await start({"docker.io": upstream, "*": True})
        for host in (stranger.host, f"localhost:{stranger.host.rpartition(':')[2]}"):
            reply = await mirror.get(f"/v2/{host}/org/app/manifests/latest")
            assert (reply.status, reply.code) == (503, "UNAVAILABLE")
            assert host.partition(":")[0] in reply.message
        assert stranger.requests == []


async def test_an_upstream_that_was_taken_away_is_not_mirrored_by_the_wildcard_either(start: StartMirror) -> None:
    mirror = await start({"docker.io": {}, "quay.io": False, "*": True})
    reply = await mirror.get("/v2/org/app/manifests/v1?ns=quay.io")
    assert (reply.status, reply.code) == (404, "NAME_UNKNOWN")
    assert 'says "quay.io: false"' in reply.message


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v2/UPPER/manifests/latest", 400, "NAME_INVALID"),
        ("/v2/a/b/manifests/-tag", 400, "TAG_INVALID"),
        (f"/v2/a/b/manifests/{'t' * 129}", 400, "TAG_INVALID"),
        ("/v2/a/b/manifests/sha256:abc", 400, "DIGEST_INVALID"),
        ("/v2/a/b/blobs/latest", 400, "DIGEST_INVALID"),
        (f"/v2/a/b/blobs/sha256:{'A' * 64}", 400, "DIGEST_INVALID"),
        ("/v2/a/b/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"),
        ("/v2/a/b/referrers/latest", 400, "DIGEST_INVALID"),
        (f"/v2/{'a' * 300}/manifests/latest", 400, "NAME_INVALID"),
        ("/v2/a/b/manifests/latest?ns=no%20host", 400, "NAME_INVALID"),
        ("/v2/a/b/manifests/latest?ns=../../etc", 400, "NAME_INVALID"),
        ("/v2/a/../b/manifests/latest", 404, "NAME_UNKNOWN"),
        ("/v2/a%2Fb/manifests/latest", 404, "NAME_UNKNOWN"),
        ("/v2/a//b/manifests/latest", 404, "NAME_UNKNOWN"),
        ("/v2/a/%2e%2e/manifests/latest", 404, "NAME_UNKNOWN"),
        ("/v2/a/b/nothing/latest", 404, "NAME_UNKNOWN"),
        ("/favicon.ico", 404, "NAME_UNKNOWN"),
        ("/", 404, "NAME_UNKNOWN"),
        ("/v1/search", 404, "NAME_UNKNOWN"),
    ],
)
async def test_what_is_no_name_is_refused_and_upstream_never_hears_of_it(
    mirror: Mirror, upstream: FakeRegistry, path: str, status: int, code: str
) -> None:
    reply = await mirror.get(path)
    assert (reply.status, reply.code) == (status, code)
    assert reply.cache == "registry-mirror; detail=local"
    assert upstream.requests == []


@pytest.mark.usefixtures("impatient")
async def test_a_mirror_that_is_led_back_to_itself_refuses(start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream)
    upstream.fault(kind="manifest", then=Redirect(f"{mirror.url}/v2/org/app/manifests/latest"))
    upstream.fault(kind="blob", then=Redirect(f"{mirror.url}/v2/org/app/blobs/{Digest.of(b'x')}"))
    reply = await mirror.get("/v2/org/app/manifests/latest")
    assert (reply.status, reply.code) == (503, "UNAVAILABLE")
    assert "it answered 508" in reply.message
    assert upstream.count(kind="manifest") == 1  # it has not gone round
    assert (await mirror.get(f"/v2/org/app/blobs/{Digest.of(b'x')}")).status == 404
    assert upstream.count(kind="blob") == 1


async def test_two_mirrors_may_stand_in_a_row(start: StartMirror, upstream: FakeRegistry, tmp_path: Path) -> None:
    upstream.add_image("org/app", "latest", layers=[LAYER])
    far = await start(upstream)
    near = await start({"docker.io": {"url": far.url}}, storage={"path": str(tmp_path / "near")})
    replies = await near.pull("org/app", "latest")
    assert [reply.status for reply in replies] == [200, 200, 200]
    assert upstream.count() == 3
