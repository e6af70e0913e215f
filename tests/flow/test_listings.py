"""Tags, referrers and the catalog over HTTP."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from mirror.oci.digest import Digest
from tests.fakes.faults import Headers, Status
from tests.fakes.library import OCI_INDEX

if TYPE_CHECKING:
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, Mirror, Reply, StartMirror

pytestmark = pytest.mark.usefixtures("impatient")

REPO = "library/app"
SBOM, SIGNATURE = "application/x-sbom", "application/x-signature"


@pytest.fixture
async def mirror(start: StartMirror, upstream: FakeRegistry) -> Mirror:
    return await start(upstream)


def following(reply: Reply) -> str | None:
    link = reply.headers.get("Link")
    if link is None:
        return None
    found = re.fullmatch(r'<([^>]+)>; rel="next"', link)
    assert found
    return found[1]


async def walk(mirror: Mirror, path: str, key: str) -> list[list[str]]:
    """Return the pages of a list."""
    pages = []
    after: str | None = path
    while after is not None:
        reply = await mirror.get(after)
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
        pages.append(reply.json[key])
        after = following(reply)
    return pages


TAGS = [f"v{number:03}" for number in range(25)]


@pytest.mark.parametrize(
    "shape", ["/v2/{}/tags/list{}", "/docker.io/v2/{}/tags/list{}", "/v2/docker.io/{}/tags/list{}"]
)
async def test_tags_come_in_pages_that_link_to_each_other(mirror: Mirror, upstream: FakeRegistry, shape: str) -> None:
    image = upstream.add_image(REPO)
    for tag in TAGS:
        upstream.retag(REPO, tag, image)
    assert await walk(mirror, shape.format(REPO, ""), "tags") == [TAGS]
    assert await walk(mirror, shape.format(REPO, "?n=10"), "tags") == [TAGS[:10], TAGS[10:20], TAGS[20:]]
    assert await walk(mirror, shape.format(REPO, "?n=10&last=v012"), "tags") == [TAGS[13:23], TAGS[23:]]
    assert await walk(mirror, shape.format(REPO, "?n=5&ns=docker.io"), "tags") == [
        TAGS[i : i + 5] for i in range(0, 25, 5)
    ]
    assert await walk(mirror, shape.format(REPO, "?n=0"), "tags") == [[]]
    assert await walk(mirror, shape.format(REPO, "?last=v024"), "tags") == [[]]


async def test_a_page_that_upstream_makes_shorter_is_linked_on_from(mirror: Mirror, upstream: FakeRegistry) -> None:
    image = upstream.add_image(REPO)
    for tag in TAGS:
        upstream.retag(REPO, tag, image)
    upstream.page_limit = 7
    assert await walk(mirror, f"/v2/{REPO}/tags/list", "tags") == [TAGS[i : i + 7] for i in range(0, 25, 7)]


async def test_the_name_in_a_list_of_tags_is_the_one_that_the_client_used(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.add_image(REPO, "v1")
    for name in (REPO, "app", f"docker.io/{REPO}"):
        assert (await mirror.get(f"/v2/{name}/tags/list")).json == {"name": name, "tags": ["v1"]}


@pytest.mark.parametrize("n", ["-1", "x", "1.5", "1e3", "%20", "9999999999999999999999"])
async def test_a_page_size_that_is_no_number_is_refused(mirror: Mirror, upstream: FakeRegistry, n: str) -> None:
    for path in (f"/v2/{REPO}/tags/list", "/v2/_catalog"):
        reply = await mirror.get(f"{path}?n={n}")
        assert (reply.status, reply.code) == (400, "PAGINATION_NUMBER_INVALID")
    assert upstream.requests == []


async def test_the_catalog_lists_what_is_cached_in_pages(
    start: StartMirror, upstream: FakeRegistry, other: FakeRegistry
) -> None:
    mirror = await start({"docker.io": upstream, "quay.io": other})
    assert (await mirror.get("/v2/_catalog")).json == {"repositories": []}
    repos = [f"org/app{number}" for number in range(5)]
    for repo in repos:
        upstream.add_image(repo, "v1")
        await mirror.get(f"/v2/{repo}/manifests/v1")
    other.add_image("org/app", "v1")
    await mirror.get("/v2/quay.io/org/app/manifests/v1")
    await mirror.get("/v2/quay.io/org/absent/manifests/v1")
    names = [*(f"docker.io/{repo}" for repo in repos), "quay.io/org/app"]
    assert await walk(mirror, "/v2/_catalog", "repositories") == [names]
    assert await walk(mirror, "/v2/_catalog?n=4", "repositories") == [names[:4], names[4:]]
    assert await walk(mirror, "/v2/_catalog?n=2&last=docker.io/org/app2", "repositories") == [names[3:5], names[5:]]
    assert await walk(mirror, "/v2/_catalog?n=0", "repositories") == [[]]


async def test_referrers_are_an_index_that_may_be_filtered(mirror: Mirror, upstream: FakeRegistry) -> None:
    image = upstream.add_image(REPO, "v1")
    for number in range(3):
        upstream.add_artifact(REPO, image, b"sbom %d" % number, artifact_type=SBOM)
    signature = upstream.add_artifact(REPO, image, b"signature", artifact_type=SIGNATURE)
    for _ in range(2):
        reply = await mirror.get(f"/v2/{REPO}/referrers/{image}")
        assert (reply.status, reply.headers["Content-Type"]) == (200, OCI_INDEX)
        assert (reply.json["schemaVersion"], reply.json["mediaType"]) == (2, OCI_INDEX)
        assert len(reply.json["manifests"]) == 4
        assert "OCI-Filters-Applied" not in reply.headers
        some = await mirror.get(f"/v2/{REPO}/referrers/{image}?artifactType={SIGNATURE}")
        assert some.headers["OCI-Filters-Applied"] == "artifactType"
        assert [entry["digest"] for entry in some.json["manifests"]] == [str(signature)]
        none = await mirror.get(f"/v2/{REPO}/referrers/{image}?artifactType=application/x-other")
        assert (none.status, none.json["manifests"]) == (200, [])
    assert upstream.count(kind="referrers") == 1


async def test_a_digest_without_referrers_has_an_empty_index(mirror: Mirror, upstream: FakeRegistry) -> None:
    image = upstream.add_image(REPO, "v1")
    reply = await mirror.get(f"/v2/{REPO}/referrers/{image}")
    assert (reply.status, reply.headers["Content-Type"], reply.json["manifests"]) == (200, OCI_INDEX, [])
    head = await mirror.head(f"/v2/{REPO}/referrers/{image}")
    assert (head.status, head.headers["Content-Length"], head.body) == (200, str(len(reply.body)), b"")


async def test_referrers_in_pages_are_joined(mirror: Mirror, upstream: FakeRegistry) -> None:
    image = upstream.add_image(REPO, "v1")
    added = {str(upstream.add_artifact(REPO, image, b"%d" % n, artifact_type=SBOM)) for n in range(10)}
    upstream.page_limit = 3
    reply = await mirror.get(f"/v2/{REPO}/referrers/{image}")
    assert {entry["digest"] for entry in reply.json["manifests"]} == added
    assert "Link" not in reply.headers


async def test_referrers_are_asked_for_again_when_they_are_stale(
    mirror: Mirror, upstream: FakeRegistry, clock: Clock
) -> None:
    image = upstream.add_image(REPO, "v1")
    assert (await mirror.get(f"/v2/{REPO}/referrers/{image}")).json["manifests"] == []
    upstream.add_artifact(REPO, image, b"new", artifact_type=SBOM)
    clock.advance(61)
    assert len((await mirror.get(f"/v2/{REPO}/referrers/{image}")).json["manifests"]) == 1


async def test_without_the_referrers_api_the_fallback_tag_is_found(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.referrers_api = False
    image = upstream.add_image(REPO, "v1")
    artifact = upstream.add_artifact(REPO, image, b"signature", artifact_type=SIGNATURE)
    upstream.add_index(REPO, f"sha256-{image.hex}", manifests=[artifact])
    reply = await mirror.get(f"/v2/{REPO}/referrers/{image}")
    assert (reply.status, reply.code) == (404, "MANIFEST_UNKNOWN")
    tagged = await mirror.get(f"/v2/{REPO}/manifests/sha256-{image.hex}")
    assert [entry["digest"] for entry in tagged.json["manifests"]] == [str(artifact)]


async def test_a_signature_that_upstream_cannot_tell_of_is_not_said_to_be_absent(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    """A 404 here means `not signed`, and the client goes on."""
    image = upstream.add_image(REPO, "v1")
    for suffix in ("", ".sig", ".att", ".sbom"):
        assert (await mirror.get(f"/v2/{REPO}/manifests/sha256-{image.hex}{suffix}")).status == 404
    for status in (401, 403, 429, 500, 503):
        upstream.heal()
        upstream.fault(then=Status(status, retry_after=0))
        other = Digest.of(b"%d" % status)
        for suffix in ("", ".sig", ".att", ".sbom"):
            reply = await mirror.get(f"/v2/{REPO}/manifests/sha256-{other.hex}{suffix}")
            assert reply.status == 503, (status, suffix)
        assert (await mirror.get(f"/v2/{REPO}/referrers/{other}")).status == 503


@pytest.mark.parametrize("kind", ["tags", "referrers"])
async def test_a_list_past_its_limit_is_refused(mirror: Mirror, upstream: FakeRegistry, kind: str) -> None:
    body = json.dumps({"tags": ["t" * 100] * 100_000, "manifests": [{"x": "y" * 100}] * 100_000}).encode()
    assert len(body) > 8 * 1024 * 1024
    upstream.fault(kind=kind, then=Status(200, body=body, headers={"Content-Type": OCI_INDEX}))
    path = "tags/list" if kind == "tags" else f"referrers/{Digest.of(b'x')}"
    reply = await mirror.get(f"/v2/{REPO}/{path}")
    assert (reply.status, reply.code) == (503, "UNAVAILABLE")
    assert "KiB" in reply.message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"tags":{},"manifests":{}}',
        b'{"tags":[1],"manifests":[1]}',
        b"[" * 100_000,
        b"\xff",
    ],
)
async def test_a_list_that_is_none_is_upstreams_fault(mirror: Mirror, upstream: FakeRegistry, body: bytes) -> None:
    upstream.fault(then=Status(200, body=body, headers={"Content-Type": OCI_INDEX}))
    for path in ("tags/list", f"referrers/{Digest.of(b'x')}"):
        reply = await mirror.get(f"/v2/{REPO}/{path}")
        assert (reply.status, reply.code) == (503, "UNAVAILABLE")
        assert reply.headers["Retry-After"]


async def test_a_next_page_on_another_host_is_not_followed(
    mirror: Mirror, upstream: FakeRegistry, other: FakeRegistry
) -> None:
    image = upstream.add_image(REPO, "v1")
    upstream.fault(then=Headers({"Link": f'<{other.url}/v2/{REPO}/referrers/{image}>; rel="next"'}))
    for path in ("tags/list", f"referrers/{image}"):
        reply = await mirror.get(f"/v2/{REPO}/{path}")
        assert reply.status == 503
        assert "Link" not in reply.headers
    assert other.requests == []
