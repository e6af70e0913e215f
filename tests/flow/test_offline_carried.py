"""What was carried in (`SETTLED`): it stands as it came, offline and with an uplink, until somebody asks for more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirror.oci.digest import Digest
from mirror.oci.name import Repository, Tag
from mirror.store.changes import SETTLED, ListingSet, Pinned, TagSet

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, Mirror, StartMirror

pytestmark = pytest.mark.usefixtures("impatient")

REPO, STRANGER = "library/app", "library/stranger"
REPOSITORY = Repository("docker.io", REPO)
EAGER = [{"match": "**", "ttl": "0s", "stale_if_error": "0s"}]  # nothing else is ever fresh, or served stale
NOWHERE = {"docker.io": {"url": "http://does-not-resolve.invalid"}}
MONTHS = 90 * 24 * 3600.0


async def carry_in(mirror: Mirror, tag: str, digest: Digest) -> None:
    """Record a tag as the import of a bundle does."""
    await mirror.server.store.index.apply(
        TagSet(REPOSITORY, tag, digest, SETTLED), Pinned(REPOSITORY, tag, 1_790_000_000.0)
    )


@pytest.fixture
async def carried(start: StartMirror, upstream: FakeRegistry, clock: Clock) -> Callable[..., Awaitable[Mirror]]:
    """Return a function that starts a mirror which has a tag from a bundle, of an image that has moved on upstream."""

    async def begin(**sections: object) -> Mirror:
        image = upstream.add_image(REPO, "v1", layers=[b"one", bytes(300_000)])
        mirror = await start(upstream, freshness=EAGER)
        await mirror.pull(REPO, "v1")
        await carry_in(mirror, "v1", image)
        await mirror.stop()
        upstream.add_image(REPO, "v1", layers=[b"another"])
        upstream.forget()
        clock.advance(MONTHS)
        return await start({"docker.io": {"url": upstream.url, "read_ahead": True}}, freshness=EAGER, **sections)

    return begin


async def test_a_tag_that_was_carried_in_is_never_asked_for_though_upstream_is_there(
    carried: Callable[..., Awaitable[Mirror]], upstream: FakeRegistry
) -> None:
    mirror = await carried()
    replies = [await mirror.head(f"/v2/{REPO}/manifests/v1"), *await mirror.pull(REPO, "v1")]
    assert [reply.status for reply in replies] == [200] * 5
    assert replies[-1].body == bytes(300_000)
    for reply in replies:
        assert reply.cache == "registry-mirror; hit"
        assert "Warning" not in reply.headers
    assert upstream.requests == []


async def test_it_does_not_age_where_a_part_of_it_cannot_be_kept(
    carried: Callable[..., Awaitable[Mirror]],
) -> None:
    """Other tags do then, so that upstream is asked."""
    mirror = await carried()
    store, layer = mirror.server.store, Digest.of(b"one")
    validated = store.index.tag(REPOSITORY, "v1")
    assert validated is not None
    await store.index.apply(TagSet(REPOSITORY, "v2", validated.digest, 1_790_000_000.0))
    mirror.server.cache._unkept.note(REPOSITORY, layer)
    await mirror.server.cache._unkept.close()
    tags = {tag: store.index.tag(REPOSITORY, tag) for tag in ("v1", "v2")}
    assert {tag: known.at for tag, known in tags.items() if known} == {"v1": SETTLED, "v2": 0.0}


async def test_it_stays_so_when_the_index_is_made_again_from_the_journal(
    carried: Callable[..., Awaitable[Mirror]], start: StartMirror, upstream: FakeRegistry
) -> None:
    mirror = await carried()
    layout = mirror.server.store.layout
    await mirror.stop()
    for path in (layout.index, layout.root / "index.sqlite-wal", layout.root / "index.sqlite-shm"):
        path.unlink(missing_ok=True)
    mirror = await start(upstream, freshness=EAGER)
    reply = await mirror.get(f"/v2/{REPO}/manifests/v1")
    assert (reply.status, reply.cache) == (200, "registry-mirror; hit")
    assert upstream.requests == []


async def test_a_refresh_makes_it_an_ordinary_tag(
    carried: Callable[..., Awaitable[Mirror]], upstream: FakeRegistry
) -> None:
    mirror = await carried()
    before, after = await mirror.server.cache.refresh(REPOSITORY, Tag("v1"))
    assert before is not None
    assert before.at == SETTLED
    assert after.at < SETTLED
    assert after.digest != before.digest
    upstream.forget()
    assert (await mirror.get(f"/v2/{REPO}/manifests/v1")).headers["Docker-Content-Digest"] == str(after.digest)
    assert [record.method for record in upstream.requests if record.kind == "manifest"] == ["HEAD"]


async def test_of_one_that_the_disk_has_lost_upstream_is_asked_for_the_digest_alone(
    carried: Callable[..., Awaitable[Mirror]], upstream: FakeRegistry
) -> None:
    mirror = await carried()
    validated = mirror.server.store.index.tag(REPOSITORY, "v1")
    assert validated is not None
    mirror.server.store.layout.blob(validated.digest).unlink()
    reply = await mirror.get(f"/v2/{REPO}/manifests/v1")
    assert (reply.status, Digest.of(reply.body)) == (200, validated.digest)
    assert {record.reference for record in upstream.requests if record.kind == "manifest"} == {str(validated.digest)}
    assert mirror.server.store.index.tag(REPOSITORY, "v1") == validated


async def test_and_where_upstream_does_not_have_that_digest_the_tag_is_not_denied(
    carried: Callable[..., Awaitable[Mirror]], upstream: FakeRegistry
) -> None:
    mirror = await carried()
    validated = mirror.server.store.index.tag(REPOSITORY, "v1")
    assert validated is not None
    mirror.server.store.layout.blob(validated.digest).unlink()
    upstream.remove_manifest(REPO, validated.digest)
    reply = await mirror.get(f"/v2/{REPO}/manifests/v1")
    assert (reply.status, reply.code) == (503, "UNAVAILABLE")
    assert "does not have that" in reply.message


async def test_a_list_of_referrers_that_was_carried_in_is_not_asked_for(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    image = upstream.add_image(REPO, "v1")
    upstream.add_artifact(REPO, image, b"signed", artifact_type="application/x-signature")
    mirror = await start(upstream, freshness=EAGER)
    await mirror.pull(REPO, "v1")
    first = await mirror.get(f"/v2/{REPO}/referrers/{image}")
    known = mirror.server.store.index.listing(REPOSITORY, image)
    assert known is not None
    await mirror.server.store.index.apply(ListingSet(REPOSITORY, image, known.digest, SETTLED))
    upstream.forget()
    clock.advance(MONTHS)
    again = await mirror.get(f"/v2/{REPO}/referrers/{image}")
    assert (again.status, again.json, "Warning" in again.headers) == (200, first.json, False)
    assert upstream.requests == []


@pytest.fixture(params=["offline", "gone"])
async def sparse(
    request: pytest.FixtureRequest, start: StartMirror, upstream: FakeRegistry
) -> tuple[Mirror, Digest, Digest]:
    """Return a mirror without an uplink, an index of which only amd64 was carried in, and its arm64."""
    amd = upstream.add_image(REPO, layers=[b"amd64"])
    arm = upstream.add_image(REPO, layers=[b"arm64"], platform="linux/arm64/v8")
    index = upstream.add_index(REPO, "v1", manifests=[arm, amd])
    upstream.add_image(STRANGER, "v1", layers=[b"strange"])
    mirror = await start(upstream)
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    await mirror.pull(REPO, amd)
    await mirror.pull(STRANGER, "v1")
    await carry_in(mirror, "v1", index)
    await mirror.stop()
    await upstream.stop()
    if request.param == "offline":
        return await start(NOWHERE, server={"offline": True}), index, arm
    return await start({"docker.io": {"url": upstream.url}}), index, arm


async def test_who_asks_for_a_platform_that_was_not_carried_in_is_told_which(
    sparse: tuple[Mirror, Digest, Digest],
) -> None:
    mirror, index, arm = sparse
    assert (await mirror.get(f"/v2/{REPO}/manifests/v1")).headers["Docker-Content-Digest"] == str(index)
    reply = await mirror.get(f"/v2/{REPO}/manifests/{arm}")
    assert (reply.status, reply.code) == (503, "UNAVAILABLE")
    assert reply.message.startswith(f"linux/arm64/v8 of docker.io/{REPO}:v1 was not carried in, and ")
    assert (await mirror.head(f"/v2/{REPO}/manifests/{arm}")).status == 503


async def test_what_another_repository_names_is_not_told(sparse: tuple[Mirror, Digest, Digest]) -> None:
    """Promise 10: neither the tag nor the platform is anything to whoever asks elsewhere."""
    mirror, _, arm = sparse
    reply = await mirror.get(f"/v2/{STRANGER}/manifests/{arm}")
    assert reply.status == 503
    assert REPO not in reply.message
    assert "arm64" not in reply.message


async def test_of_an_image_that_was_pulled_it_says_that_the_platform_is_not_cached(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    amd = upstream.add_image(REPO, layers=[b"amd64"])
    arm = upstream.add_image(REPO, layers=[b"arm64"], platform="linux/arm64/v8")
    attestation = upstream.add_image(REPO, layers=[b"in-toto"], platform="unknown/unknown")
    upstream.add_index(REPO, "v1", manifests=[arm, amd, (attestation, "unknown/unknown")])
    mirror = await start(upstream)
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    await upstream.stop()
    for digest, part in ((arm, "linux/arm64/v8"), (attestation, "an attestation")):
        reply = await mirror.get(f"/v2/{REPO}/manifests/{digest}")
        assert reply.status == 503
        assert reply.message.startswith(f"{part} of docker.io/{REPO}:v1 is not cached, and docker.io")
    reply = await mirror.get(f"/v2/{REPO}/manifests/v1")
    assert reply.message.startswith(f"docker.io/{REPO}:v1 is here, but not wholly for any platform, and ")


async def test_an_upstream_that_denies_a_platform_is_believed(start: StartMirror, upstream: FakeRegistry) -> None:
    arm = upstream.add_image(REPO, layers=[b"arm64"], platform="linux/arm64/v8")
    upstream.add_index(REPO, "v1", manifests=[arm])
    mirror = await start(upstream)
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    upstream.remove_manifest(REPO, arm)
    reply = await mirror.get(f"/v2/{REPO}/manifests/{arm}")
    assert (reply.status, reply.code) == (404, "MANIFEST_UNKNOWN")
    assert "cached" not in reply.message
