"""Images are there before anybody asks for them, whole, and for as few counted requests as there can be."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from mirror.airgap.choice import Platforms, ReferrerTypes
from mirror.airgap.prefetch.outcome import Amount, Came, Ended, Expanded, Resolved
from mirror.oci.digest import Digest
from mirror.oci.mediatype import OCI_INDEX, OCI_MANIFEST
from mirror.oci.platform import Platform
from tests.fakes.faults import Status
from tests.flow.prefetching import Site, site, wanted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, StartMirror


@pytest.fixture
async def here(upstream: FakeRegistry, tmp_path: Path, clock: Clock) -> AsyncIterator[Site]:
    async with site(upstream, tmp_path / "store", clock) as opened:
        yield opened


async def test_an_image_is_here_whole_and_served_with_no_upstream(
    upstream: FakeRegistry, tmp_path: Path, clock: Clock, start: StartMirror
) -> None:
    amd = upstream.add_image("library/app", layers=[b"base", b"one"])
    arm = upstream.add_image("library/app", layers=[b"other base"], platform="linux/arm64")
    index = upstream.add_index("library/app", "v1", manifests=[amd, arm])
    async with site(upstream, tmp_path / "store", clock) as here:
        [fetched] = await here.fetch("app:v1")
    assert fetched.failure is None
    assert (fetched.digest, fetched.platforms) == (index, ("linux/amd64", "linux/arm64"))
    assert fetched.came == fetched.planned.whole == fetched.planned.to_fetch
    assert fetched.came.manifests == 3
    assert fetched.came.blobs == 5
    await upstream.stop()
    mirror = await start(upstream)
    clock.advance(3600)
    assert [reply.status for reply in await mirror.pull("library/app", "v1")] == [200] * 8
    await upstream.start()


async def test_an_index_with_two_children_costs_three_counted_requests_and_then_none(
    upstream: FakeRegistry, here: Site
) -> None:
    images = [upstream.add_image("library/app", platform=f"linux/{name}") for name in ("amd64", "arm64")]
    upstream.add_index("library/app", "v1", manifests=images)
    [first] = await here.fetch("app:v1")
    assert first.counted == upstream.count(kind="manifest", method="GET") == 3
    [again] = await here.fetch("app:v1")
    assert again.failure is None
    assert again.counted == 0
    assert again.came == Amount()
    assert again.planned.here == again.planned.whole == first.planned.whole
    assert upstream.count(kind="manifest", method="GET") == 3
    assert upstream.count(kind="blob") == 3


async def test_only_the_platforms_that_are_wanted_come_and_their_attestations(
    upstream: FakeRegistry, here: Site
) -> None:
    amd = upstream.add_image("library/app", layers=[b"amd"])
    arm = upstream.add_image("library/app", layers=[b"arm"], platform="linux/arm64")
    ours, theirs = (
        upstream.add_artifact("library/app", None, b"sbom of " + name, artifact_type="application/vnd.in-toto+json")
        for name in (b"amd", b"arm")
    )
    entries = []
    for digest, about in ((amd, None), (arm, None), (ours, amd), (theirs, arm)):
        entry = upstream.descriptor("library/app", digest)
        platform = upstream.platform("library/app", digest) if about is None else "unknown/unknown"
        assert platform is not None
        entry["platform"] = dict(zip(("os", "architecture"), platform.split("/"), strict=True))
        if about is not None:
            entry["annotations"] = {"vnd.docker.reference.digest": str(about)}
        entries.append(entry)
    media_type = "application/vnd.oci.image.index.v1+json"
    upstream.add_manifest(
        "library/app",
        {"schemaVersion": 2, "mediaType": media_type, "manifests": entries},
        media_type,
        tag="v1",
    )
    [fetched] = await here.fetch("app:v1", platforms=Platforms.parse(["linux/arm64"]))
    assert fetched.failure is None
    assert fetched.platforms == ("linux/arm64",)
    assert {
        record.reference for record in upstream.requests if record.method == "GET" and record.kind == "manifest"
    } == {
        str(fetched.digest),
        str(arm),
        str(theirs),
    }
    assert here.store.blobs.size(amd) is None


async def test_an_image_without_the_wanted_platform_says_which_it_has(upstream: FakeRegistry, here: Site) -> None:
    upstream.add_index("library/app", "v1", manifests=[upstream.add_image("library/app")])
    [fetched] = await here.fetch("app:v1", platforms=Platforms.parse(["linux/s390x"]))
    assert fetched.failure == "it has no image for linux/s390x; it has linux/amd64"


async def test_the_tags_of_a_repository_are_asked_for_once_for_all_its_selections(
    upstream: FakeRegistry, here: Site
) -> None:
    for tag in ("v1.0", "v1.1", "v2.0"):
        upstream.add_image("library/app", tag, layers=[tag.encode()])
    fetched = await here.fetch("app:v1.*", "app:v2.*", "app:*.0", referrers=ReferrerTypes.parse("none"))
    assert [str(one.wanted.tag) for one in fetched] == ["v1.0", "v1.1", "v2.0"]
    assert upstream.count(kind="tags") == 1


async def test_selections_become_the_tags_that_they_choose_each_image_once(upstream: FakeRegistry, here: Site) -> None:
    upstream.page_limit = 2
    for tag in ("v1.0", "v1.1", "v1.2", "v2.0", "latest"):
        upstream.add_image("library/app", tag, layers=[tag.encode()])
    fetched = await here.fetch("app:v2.0", "app:v1.*", "app:v1.1", "app:nothing*")
    assert [one.reference for one in fetched] == [
        "docker.io/library/app:v2.0",
        "docker.io/library/app:v1.0",
        "docker.io/library/app:v1.1",
        "docker.io/library/app:v1.2",
        "docker.io/library/app:nothing*",
    ]
    assert [one.failure is None for one in fetched] == [True] * 4 + [False]
    assert fetched[-1].failure is not None
    assert "no tag matches nothing*; docker.io has 5 tags of it" in fetched[-1].failure
    assert here.said(Expanded) == [Expanded(5)]
    assert len(here.said(Ended)) == 5


async def test_a_plan_fetches_no_blob_and_tells_what_would_come(upstream: FakeRegistry, here: Site) -> None:
    shared = b"a base that both have"
    upstream.add_image("library/one", "v1", layers=[shared, b"1"])
    upstream.add_image("library/one", "v2", layers=[shared, b"22"])
    one, two = await here.plan("one:v1", "one:v2", jobs=1)
    assert (one.to_fetch.blobs, one.shared.blobs) == (3, 0)
    assert (two.to_fetch.blobs, two.shared.blobs) == (2, 1)
    assert two.shared.bytes == len(shared)
    assert one.counted == two.counted == 1
    assert upstream.count(kind="blob") == 0
    assert here.store.index.tag(one.wanted.repository, "v1") is None
    fetched = await here.fetch("one:v1", "one:v2")
    assert sum(item.counted for item in fetched) == 0
    total = sum(event.planned.to_fetch.bytes for event in here.said(Resolved)[2:])
    assert sum(event.count for event in here.said(Came)) == total == sum(item.came.bytes for item in fetched)


async def test_a_failure_names_digest_size_and_cause_and_stops_no_other(upstream: FakeRegistry, here: Site) -> None:
    lost = upstream.add_blob("library/app", b"gone!")
    broken = upstream.add_image("library/app", layers=[b"here", lost], platform="linux/arm64")
    upstream.add_index("library/app", "v1", manifests=[upstream.add_image("library/app"), broken])
    upstream.remove_blob("library/app", lost)
    upstream.add_image("library/other", "v1", layers=[b"another"], platform="linux/386")
    app, absent, other = await here.fetch("app:v1", "absent:v1", "other:v1")
    assert other.failure is None
    assert absent.failure is not None
    assert "docker.io does not have docker.io/library/absent:v1" in absent.failure
    assert app.failure is not None
    assert app.failure.startswith(f"the blob {lost} (5 bytes) of linux/arm64: docker.io does not have ")
    assert [(one.digest, one.size) for one in app.missing] == [(lost, 5)]
    assert app.came.blobs == 5 - 1
    assert here.slept == []  # a 404 is final


async def test_fail_fast_stops_at_the_first_failure(upstream: FakeRegistry, here: Site) -> None:
    upstream.add_image("library/app", "v1")
    fetched = await here.fetch("absent:v1", "app:v1", "app:v2", jobs=1, fail_fast=True)
    assert [one.failure is None for one in fetched] == [False] * 3
    assert fetched[1].failure == "stopped, since docker.io/library/absent:v1 had failed"
    assert upstream.count(kind="manifest", repo="library/app") == 0


async def test_a_list_may_ask_for_platforms_of_its_own(upstream: FakeRegistry, here: Site) -> None:
    images = [upstream.add_image("library/app", platform=f"linux/{name}") for name in ("amd64", "arm64")]
    upstream.add_index("library/app", "v1", manifests=images)
    asked = replace(wanted("app:v1"), platforms=(Platform("linux", "arm64"),))
    [fetched] = await here.prefetch(platforms=Platforms.parse(["linux/amd64"])).run([asked])
    assert fetched.platforms == ("linux/arm64",)


async def test_a_registry_that_is_not_mirrored_fails_its_images_alone(upstream: FakeRegistry, here: Site) -> None:
    upstream.add_image("library/app", "v1")
    stranger, app = await here.fetch("registry.example/org/app:v1", "app:v1")
    assert stranger.failure is not None
    assert "registry.example" in stranger.failure
    assert app.failure is None


async def test_a_registry_that_knows_no_head_is_asked_otherwise(upstream: FakeRegistry, here: Site) -> None:
    image = upstream.add_image("library/app", "v1")
    upstream.fault(kind="manifest", method="HEAD", then=Status(405))
    [fetched] = await here.fetch("app:v1")
    assert (fetched.failure, fetched.digest, fetched.counted) == (None, image, 1)


async def test_two_prefetches_at_once_fetch_each_byte_once(
    upstream: FakeRegistry, here: Site, tmp_path: Path, clock: Clock
) -> None:
    layer = upstream.add_pattern_blob("library/app", 3 * 1024 * 1024)
    upstream.add_image("library/app", "v1", layers=[layer])
    async with site(upstream, tmp_path / "store", clock) as other:
        [one], [two] = await asyncio.gather(here.fetch("app:v1"), other.fetch("app:v1"))
    assert (one.failure, two.failure) == (None, None)
    assert upstream.bytes_of(layer) <= 3 * 1024 * 1024 + 1  # one may ask for a first byte, to see whose it is
    assert upstream.count(kind="manifest", method="GET") == one.counted + two.counted == 1


async def test_what_is_thrown_away_before_the_end_is_reported(upstream: FakeRegistry, here: Site) -> None:
    upstream.add_image("library/app", "v1", layers=[b"1"])
    upstream.add_image("library/app", "v2", layers=[b"2"])

    class Thief(list[Any]):
        def append(self, event: object) -> None:
            super().append(event)
            if isinstance(event, Ended) and event.outcome.reference.endswith(":v1"):
                here.store.blobs.set_aside(Digest.of(b"1"))

    here.events = Thief()
    one, two = await here.fetch("app:v1", "app:v2", jobs=1)
    assert two.failure is None
    assert one.failure is not None
    assert one.failure.startswith("1 of its 3 parts are here no longer")
    assert [missing.digest for missing in one.missing] == [Digest.of(b"1")]
    assert here.said(Ended)[-1].outcome is one


async def test_an_index_made_to_trap_is_left_where_it_is(upstream: FakeRegistry, here: Site) -> None:
    inner = upstream.add_image("library/app")
    for _ in range(6):
        inner = upstream.add_index("library/app", "deep", manifests=[(inner, None)])
    absent = [
        {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(b"%d" % number)), "size": 10} for number in range(104)
    ]
    upstream.add_manifest(
        "library/app", {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": absent}, OCI_INDEX, tag="wide"
    )
    deep, wide = await here.fetch("app:deep", "app:wide")
    assert deep.failure is not None
    assert "indexes within indexes without end" in deep.failure
    assert wide.failure is not None
    assert (wide.lacking, len(wide.missing)) == (104, 100)
    assert wide.failure.endswith("(and 103 more)")
