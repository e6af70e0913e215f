"""Private stays private, and credentials go only where they belong (promises 9 and 10)."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from mirror.oci.digest import Digest
from tests.fakes.library import OCI_INDEX, OCI_LAYER, OCI_MANIFEST

if TYPE_CHECKING:
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Mirror, StartMirror

pytestmark = pytest.mark.usefixtures("impatient")

SMALL, LARGE = b"a private secret", b"a private secret" * 20_000
PASSWORD = "hunter2-canary"


def sign_in(upstream: FakeRegistry, user: str = "alice", password: str = PASSWORD) -> dict[str, Any]:
    """Let `upstream` ask for a password; return how it is configured."""
    upstream.auth.mode = upstream.auth.mode or "bearer"
    upstream.auth.users[user] = password
    return {"url": upstream.url, "username": user, "password": password}


def hostile(upstream: FakeRegistry, repo: str, *named: Digest, manifests: tuple[Digest, ...] = ()) -> Digest:
    """Put a manifest, or an index, into `repo` that names what it does not hold."""
    config = upstream.add_blob(repo, b"{}")
    body: dict[str, Any] = {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/json", "digest": str(config), "size": 2},
        "layers": [{"mediaType": OCI_LAYER, "digest": str(digest), "size": 16} for digest in named],
    }  # fmt: skip
    if manifests:
        body = {
            "schemaVersion": 2, "mediaType": OCI_INDEX,
            "manifests": [{"mediaType": OCI_MANIFEST, "digest": str(digest), "size": 100} for digest in manifests],
        }  # fmt: skip
    return upstream.add_manifest(repo, body, body["mediaType"], tag="hostile")


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("restart", [False, True], ids=["warm", "restarted"])
async def test_private_content_cannot_be_had_through_another_repository(
    start: StartMirror, upstream: FakeRegistry, body: bytes, *, restart: bool
) -> None:
    configured = sign_in(upstream)
    upstream.auth.private["org/private"] = {"alice"}
    image = upstream.add_image("org/private", "v1", layers=[body])
    config = upstream.blobs_of("org/private", image)[0]
    upstream.add_image("org/public", "v1", layers=[b"open"])
    mirror = await start({"docker.io": configured})
    assert [reply.status for reply in await mirror.pull("org/private", "v1")] == [200, 200, 200]
    await mirror.pull("org/public", "v1")
    if restart:
        await mirror.stop()
        mirror = await start({"docker.io": configured})
    for path in (f"blobs/{Digest.of(body)}", f"blobs/{config}", f"manifests/{image}", f"blobs/{image}"):
        for repo in ("org/public", "org/nothing", "quay.io/org/private"):
            for method in ("GET", "HEAD"):
                reply = await mirror.ask(method, f"/v2/{repo}/{path}")
                assert reply.status == 404, (repo, path)
                assert b"secret" not in reply.body
    listed = await mirror.get(f"/v2/org/public/referrers/{image}")
    assert listed.json["manifests"] == []
    await upstream.stop()
    for path in (f"blobs/{Digest.of(body)}", f"manifests/{image}"):
        assert (await mirror.get(f"/v2/org/public/{path}")).status in (404, 503)
        assert (await mirror.get(f"/v2/org/private/{path}")).status == 200


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
async def test_a_hostile_manifest_that_names_a_private_digest_gets_nothing(
    start: StartMirror, upstream: FakeRegistry, body: bytes
) -> None:
    upstream.auth.private["org/private"] = {"alice"}
    image = upstream.add_image("org/private", "v1", layers=[body])
    mirror = await start({"docker.io": {**sign_in(upstream), "read_ahead": True}})
    await mirror.pull("org/private", "v1")
    first = hostile(upstream, "org/hostile", Digest.of(body))
    assert (await mirror.get("/v2/org/hostile/manifests/hostile")).status == 200
    hostile(upstream, "org/hostile", manifests=(image,))
    assert (await mirror.get("/v2/org/hostile/manifests/hostile?x")).status == 200
    assert (await mirror.get(f"/v2/org/hostile/manifests/{first}")).status == 200
    await mirror.settled()
    for _ in range(2):
        for path in (f"blobs/{Digest.of(body)}", f"manifests/{image}", f"blobs/{image}"):
            reply = await mirror.get(f"/v2/org/hostile/{path}")
            assert reply.status == 404, path
            ranged = await mirror.get(f"/v2/org/hostile/{path}", Range="bytes=0-3")
            assert ranged.status == 404, path
        # What it may tell of the size is what the hostile manifest itself said.
        head = await mirror.head(f"/v2/org/hostile/blobs/{Digest.of(body)}")
        assert head.headers.get("Content-Length") in ("16", "0") or head.status == 404


async def test_public_layers_that_images_share_are_neither_fetched_nor_asked_for_twice(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    upstream.auth.mode = "bearer"  # as Hub: a token for everyone
    shared = bytes(200_000)
    upstream.add_image("library/one", "v1", layers=[b"same", shared])
    mirror = await start(upstream)
    await mirror.pull("library/one", "v1")
    upstream.forget()
    upstream.add_image("library/two", "v1", layers=[b"same", shared, b"different"])
    assert {reply.status for reply in await mirror.pull("library/two", "v1")} == {200}
    fetched = {record.digest for record in upstream.log.matching(kind="blob")}
    own = upstream.blobs_of("library/two", Digest.parse(upstream.shelf("library/two").tags["v1"]))
    assert fetched == {str(digest) for digest in own} - {str(Digest.of(b"same")), str(Digest.of(shared))}
    assert upstream.bytes_of(Digest.of(shared)) == 0


async def test_what_came_with_a_password_is_confirmed_for_each_repository_and_not_fetched_again(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    upstream.auth.anonymous = False
    shared = bytes(200_000)
    upstream.add_image("org/one", "v1", layers=[shared])
    upstream.add_image("org/two", "v1", layers=[shared, b"different"])
    mirror = await start({"docker.io": sign_in(upstream)})
    await mirror.pull("org/one", "v1")
    upstream.forget()
    for _ in range(3):
        assert {reply.status for reply in await mirror.pull("org/two", "v1")} == {200}
    asked = upstream.log.matching(digest=str(Digest.of(shared)))
    assert [(record.repo, record.range, record.bytes_sent) for record in asked if record.status == 206] == [
        ("org/two", "bytes=0-0", 1)
    ]


async def test_content_of_one_registry_is_no_content_of_another(
    start: StartMirror, upstream: FakeRegistry, other: FakeRegistry
) -> None:
    image = upstream.add_image("org/app", "v1", layers=[LARGE])
    mirror = await start({"docker.io": upstream, "quay.io": other})
    await mirror.pull("org/app", "v1")
    for path in (f"manifests/{image}", f"blobs/{Digest.of(LARGE)}"):
        assert (await mirror.get(f"/v2/quay.io/org/app/{path}")).status == 404
    await other.idle()
    other.forget()
    other.add_image("org/app", "v1", layers=[LARGE])
    again = await mirror.get(f"/v2/quay.io/org/app/blobs/{Digest.of(LARGE)}")
    assert (again.status, again.body) == (200, LARGE)
    assert other.bytes_of(Digest.of(LARGE)) <= 1


@pytest.mark.parametrize("mode", ["basic", "bearer"])
async def test_the_credentials_of_two_registries_never_cross(
    start: StartMirror, upstream: FakeRegistry, other: FakeRegistry, mode: str
) -> None:
    passwords = {"alice": "canary-of-hub", "bob": "canary-of-quay"}
    for registry in (upstream, other):
        registry.auth.mode = mode
        registry.auth.anonymous = False
        registry.redirect_blobs = True
        registry.add_image("org/app", "v1", layers=[LARGE])
    mirror = await start(
        {
            "docker.io": sign_in(upstream, "alice", passwords["alice"]),
            "quay.io": sign_in(other, "bob", passwords["bob"]),
        }
    )
    for repo in ("org/app", "quay.io/org/app"):
        assert {reply.status for reply in await mirror.pull(repo, "v1")} == {200}
    for registry, user in ((upstream, "alice"), (other, "bob")):
        own = base64.b64encode(f"{user}:{passwords[user]}".encode()).decode()
        sent = {record.headers["Authorization"] for record in registry.requests if "Authorization" in record.headers}
        assert sent
        assert {value for value in sent if value.startswith("Basic")} == {f"Basic {own}"}
        assert {value for value in sent if value.startswith("Bearer")} <= {
            f"Bearer {token.value}" for token in registry.tokens
        }
        assert (registry.auth.refused_passwords, registry.authorized_storage_requests) == (0, 0)
        assert registry.count(kind="storage") >= 1


async def test_what_a_client_sends_of_its_own_goes_no_further(mirror_of: Mirror, upstream: FakeRegistry) -> None:
    """Docker gives its user's Hub password to a mirror that asks; this one does not ask, and passes nothing on."""
    secret = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
    for path in ("manifests/v1", f"blobs/{Digest.of(SMALL)}", "tags/list", f"referrers/{Digest.of(SMALL)}"):
        reply = await mirror_of.get(
            f"/v2/library/app/{path}", Authorization=f"Basic {secret}", Cookie=f"c={PASSWORD}", X_Api_Key=PASSWORD
        )
        assert "WWW-Authenticate" not in reply.headers
    assert upstream.requests
    for record in upstream.requests:
        assert not {"Authorization", "Cookie", "X-Api-Key"} & set(record.headers)
        assert PASSWORD not in json.dumps(dict(record.headers))


@pytest.fixture
async def mirror_of(start: StartMirror, upstream: FakeRegistry) -> Mirror:
    upstream.add_image("library/app", "v1", layers=[SMALL])
    return await start(upstream)
