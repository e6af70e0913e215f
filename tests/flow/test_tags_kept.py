"""Tags and manifests as eviction and the operator see them: pins, refreshes, uses, and what the disk has damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirror.errors import UpstreamNotFound
from mirror.oci.name import Repository, Tag
from mirror.store.changes import Pinned
from tests.fakes.faults import Status

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.oci.digest import Digest
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, StartMirror

REPO = "library/app"
REPOSITORY = Repository("docker.io", REPO)
V1 = f"/v2/{REPO}/manifests/v1"


def heads(upstream: FakeRegistry) -> int:
    return upstream.count(kind="manifest", method="HEAD")


def gets(upstream: FakeRegistry) -> int:
    return upstream.count(kind="manifest", method="GET")


async def test_a_pinned_tag_that_upstream_has_no_longer_is_served_stale_and_stays(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    image = upstream.add_image(REPO, "v1", layers=[b"layer"])
    upstream.add_image(REPO, "v2", layers=[b"another layer"])
    mirror = await start(upstream)
    await mirror.pull(REPO, "v1")
    await mirror.pull(REPO, "v2")
    await mirror.server.store.index.apply(Pinned(REPOSITORY, "v1", clock()))
    upstream.fault(kind="manifest", then=Status(404, "MANIFEST_UNKNOWN"))
    for _ in range(2):
        clock.advance(3600)
        reply = await mirror.get(V1)
        assert (reply.status, reply.headers["Docker-Content-Digest"]) == (200, str(image))
        assert "Warning" in reply.headers
    assert (await mirror.get(f"/v2/{REPO}/manifests/v2")).status == 404
    assert mirror.server.store.index.tags(REPOSITORY, limit=9) == ["v1"]


async def test_a_refresh_asks_however_fresh_a_tag_is_and_fetches_what_is_new(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    first = upstream.add_image(REPO, "v1", layers=[b"layer"])
    mirror = await start(upstream, freshness=[{"match": "**", "immutable": True}])
    tags = mirror.server.cache.tags
    before, after = await tags.refresh(REPOSITORY, Tag("v1"))
    assert (before, after.digest) == (None, first)
    clock.advance(10)
    before, after = await tags.refresh(REPOSITORY, Tag("v1"))
    assert before is not None
    assert (before.digest, after.digest, after.at - before.at) == (first, first, 10)
    assert (heads(upstream), gets(upstream)) == (1, 1)
    second = upstream.add_image(REPO, "v1", layers=[b"another layer"])
    before, after = await tags.refresh(REPOSITORY, Tag("v1"))
    assert before is not None
    assert (before.digest, after.digest) == (first, second)
    assert (heads(upstream), gets(upstream)) == (2, 2)
    assert (await mirror.get(V1)).headers["Docker-Content-Digest"] == str(second)
    assert (heads(upstream), gets(upstream)) == (2, 2)
    with pytest.raises(UpstreamNotFound):
        await tags.refresh(REPOSITORY, Tag("v9"))


def file_of(store: Path, digest: Digest) -> Path:
    (found,) = (store / "blobs.v1").rglob(digest.hex)
    return found


async def test_a_manifest_that_the_disk_has_damaged_is_fetched_again(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path
) -> None:
    image = upstream.add_image(REPO, "v1", layers=[b"layer"])
    mirror = await start(upstream)
    right = (await mirror.get(V1)).body
    await mirror.stop()
    file = file_of(tmp_path / "store", image)
    file.chmod(0o600)
    file.write_bytes(b"x" * len(right))
    again = await start(upstream)
    assert (await again.get(V1)).body == right
    assert gets(upstream) == 2
    assert file_of(tmp_path / "store", image).read_bytes() == right
    content = again.server.store.graph.content(image)
    assert content is not None
    assert content.taken > 0


async def test_every_answer_counts_as_a_use_of_its_image_hits_too(start: StartMirror, upstream: FakeRegistry) -> None:
    image = upstream.add_image(REPO, "v1", layers=[b"layer"])
    mirror = await start(upstream)
    recent = mirror.server.store.recent
    await mirror.get(V1)
    seen = recent.last(image)
    assert seen > 0
    for path in (V1, f"/v2/{REPO}/manifests/{image}"):
        for ask in (mirror.get, mirror.head):
            recent.touch(image, 1.0)
            assert (await ask(path)).status == 200
            assert recent.last(image) >= seen


async def test_what_a_manifest_needs_and_refers_to_is_recorded_with_it(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    image = upstream.add_image(REPO, "v1", layers=[b"layer"])
    mirror = await start(upstream)
    replies = await mirror.pull(REPO, "v1")
    graph = mirror.server.store.graph
    unit = graph.unit(image)
    assert unit is not None
    assert unit.media_type == replies[0].headers["Content-Type"]
    for reply in replies[1:]:
        digest = reply.headers["Docker-Content-Digest"]
        assert [str(root.digest) for root in graph.roots_of(type(image).parse(digest))] == [str(image)]
