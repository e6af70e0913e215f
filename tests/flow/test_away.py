"""While upstream is away: it starts and serves, and only what can be pulled to the end (promise 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirror.oci.digest import Digest
from tests.fakes.library import OCI_MANIFEST
from tests.fakes.registry import FakeRegistry

if TYPE_CHECKING:
    from tests.flow.conftest import Clock, Mirror, StartMirror

pytestmark = pytest.mark.usefixtures("impatient")

REPO = "library/app"
NEITHER = {"docker.io": {"url": "http://does-not-resolve.invalid"}}
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


@pytest.fixture(params=["offline", "gone"])
async def restarted(request: pytest.FixtureRequest, start: StartMirror, upstream: FakeRegistry, clock: Clock) -> object:
    """Return a function that stops a mirror, takes upstream away for good, and starts another on the same store."""

    async def again(mirror: Mirror) -> Mirror:
        await mirror.stop()
        await upstream.stop()
        clock.advance(30 * 24 * 3600)
        if request.param == "offline":
            return await start(NEITHER, server={"offline": True})
        return await start({"docker.io": {"url": upstream.url}})

    return again


async def test_everything_that_is_cached_is_served_after_a_restart(
    start: StartMirror, upstream: FakeRegistry, restarted: object
) -> None:
    image = upstream.add_image(REPO, "v1", layers=[b"one", bytes(300_000)])
    upstream.add_index(REPO, "all", manifests=[image])
    sig = f"sha256-{image.hex}.sig"
    upstream.add_artifact(REPO, image, b"signed", artifact_type="application/x-signature", tag=sig)
    mirror = await start(upstream)
    before = [*await mirror.pull(REPO, "v1"), *await mirror.pull(REPO, "all"), *await mirror.pull(REPO, sig)]
    listed = await mirror.get(f"/v2/{REPO}/referrers/{image}")
    away = await restarted(mirror)  # type: ignore[operator]
    assert (await away.get("/v2/")).status == 200
    assert (await away.get("/readyz")).status == 200
    after = [*await away.pull(REPO, "v1"), *await away.pull(REPO, "all"), *await away.pull(REPO, sig)]
    assert [(reply.status, reply.body) for reply in after] == [(200, reply.body) for reply in before]
    again = await away.get(f"/v2/{REPO}/referrers/{image}")
    assert (again.status, again.json, "Warning" in again.headers) == (200, listed.json, True)
    tags = await away.get(f"/v2/{REPO}/tags/list")
    assert (tags.status, tags.json["tags"], "Warning" in tags.headers) == (200, sorted(["all", sig, "v1"]), True)
    assert (await away.get("/v2/_catalog")).json == {"repositories": [f"docker.io/{REPO}"]}
    missing = await away.get(f"/v2/{REPO}/manifests/v2")
    assert (missing.status, missing.code) == (503, "UNAVAILABLE")


async def test_a_tag_whose_blobs_are_not_all_here_is_503(
    start: StartMirror, upstream: FakeRegistry, restarted: object
) -> None:
    """Podman and CRI-O chose this mirror with the manifest, and do not go elsewhere for a blob."""
    image = upstream.add_image(REPO, "v1", layers=[b"one", b"two"])
    mirror = await start(upstream)
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    await mirror.get(f"/v2/{REPO}/blobs/{Digest.of(b'one')}")
    await mirror.settled()
    away = await restarted(mirror)  # type: ignore[operator]
    for reference in ("v1", image):
        reply = await away.get(f"/v2/{REPO}/manifests/{reference}")
        assert (reply.status, reply.code) == (503, "UNAVAILABLE") or (reference == image and reply.status == 200)
    assert (await away.get(f"/v2/{REPO}/blobs/{Digest.of(b'one')}")).body == b"one"
    assert (await away.get(f"/v2/{REPO}/blobs/{Digest.of(b'two')}")).status == 404
    # The last contact has failed by now, at the latest.
    assert (await away.get(f"/v2/{REPO}/manifests/{image}")).status == 503
    assert (await away.head(f"/v2/{REPO}/manifests/{image}")).status == 503


async def test_one_platform_that_is_wholly_here_is_enough(
    start: StartMirror, upstream: FakeRegistry, restarted: object
) -> None:
    amd = upstream.add_image(REPO, layers=[b"amd64"])
    arm = upstream.add_image(REPO, layers=[b"arm64"], platform="linux/arm64/v8")
    upstream.add_index(REPO, "v1", manifests=[arm, amd])
    mirror = await start(upstream)
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    await mirror.pull(REPO, amd)
    away = await restarted(mirror)  # type: ignore[operator]
    assert (await away.get(f"/v2/{REPO}/manifests/v1")).status == 200
    assert [reply.status for reply in await away.pull(REPO, amd)] == [200, 200, 200]
    assert (await away.get(f"/v2/{REPO}/manifests/{arm}")).status == 503


async def test_an_attestation_is_not_a_platform(start: StartMirror, upstream: FakeRegistry, restarted: object) -> None:
    amd = upstream.add_image(REPO, layers=[b"amd64"])
    attestation = upstream.add_image(REPO, layers=[b"in-toto"], platform="unknown/unknown")
    upstream.add_index(REPO, "v1", manifests=[amd, (attestation, "unknown/unknown")])
    mirror = await start(upstream)
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    await mirror.pull(REPO, attestation)
    away = await restarted(mirror)  # type: ignore[operator]
    assert (await away.get(f"/v2/{REPO}/manifests/v1")).status == 503


async def test_an_attestation_that_is_missing_keeps_nobody_from_the_image(
    start: StartMirror, upstream: FakeRegistry, restarted: object
) -> None:
    amd = upstream.add_image(REPO, layers=[b"amd64"])
    attestation = upstream.add_image(REPO, layers=[b"in-toto"], platform="unknown/unknown")
    upstream.add_index(REPO, "v1", manifests=[(attestation, "unknown/unknown"), amd])
    mirror = await start(upstream)
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    await mirror.pull(REPO, amd)
    away = await restarted(mirror)  # type: ignore[operator]
    assert (await away.get(f"/v2/{REPO}/manifests/v1")).status == 200


async def test_a_foreign_layer_is_neither_required_nor_dialled(
    start: StartMirror, upstream: FakeRegistry, restarted: object
) -> None:
    async with FakeRegistry() as vendor:
        config = upstream.add_blob(REPO, b"{}")
        upstream.add_manifest(
            REPO,
            {
                "schemaVersion": 2, "mediaType": OCI_MANIFEST,
                "config": {"mediaType": "application/json", "digest": str(config), "size": 2},
                "layers": [{
                    "mediaType": FOREIGN, "digest": str(Digest.of(b"windows")), "size": 7,
                    "urls": [f"{vendor.url}/windows"],
                }],
            },
            tag="v1",
        )  # fmt: skip
        mirror = await start({"docker.io": {"url": upstream.url, "read_ahead": True}})
        assert [reply.status for reply in await mirror.pull(REPO, "v1")] == [200, 200]
        away = await restarted(mirror)  # type: ignore[operator]
        assert [reply.status for reply in await away.pull(REPO, "v1")] == [200, 200]
        assert vendor.requests == []


async def test_a_fresh_tag_is_not_served_either_while_upstream_is_away_and_a_blob_is_missing(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    upstream.add_image(REPO, "v1", layers=[b"one"])
    mirror = await start(upstream)
    assert (await mirror.get(f"/v2/{REPO}/manifests/v1")).status == 200
    await upstream.stop()
    await mirror.get(f"/v2/{REPO}/blobs/{Digest.of(b'one')}")  # this is how the mirror learns of it
    assert (await mirror.get(f"/v2/{REPO}/manifests/v1")).status == 503
    await upstream.start()
    assert (await mirror.get(f"/v2/{REPO}/manifests/v1")).status == 200
    assert [reply.status for reply in await mirror.pull(REPO, "v1")] == [200, 200, 200]


async def test_offline_says_so_and_dials_nobody(start: StartMirror, upstream: FakeRegistry) -> None:
    upstream.add_image(REPO, "v1")
    mirror = await start(upstream, server={"offline": True})
    for path in ("manifests/v1", "tags/list", f"referrers/{Digest.of(b'x')}"):
        reply = await mirror.get(f"/v2/{REPO}/{path}")
        assert (reply.status, reply.code) == (503, "UNAVAILABLE")
        assert "offline by its configuration" in reply.message
    blob = await mirror.get(f"/v2/{REPO}/blobs/{Digest.of(b'x')}")
    assert (blob.status, blob.code) == (404, "BLOB_UNKNOWN")
    assert "offline by its configuration" in blob.message
    assert upstream.requests == []
