"""What a prefetch brings is whole: signatures too, in every repository that holds it, however it was interrupted."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from mirror.airgap.choice import ReferrerTypes
from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from mirror.store.changes import SETTLED, TagSet
from tests.fakes.faults import Gate, Status
from tests.flow.fills import until
from tests.flow.prefetching import Site, site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, StartMirror

MIB = 1024 * 1024
APP = Repository("docker.io", "library/app")
SIG = "application/vnd.dev.cosign.simplesigning.v1+json"


@pytest.fixture
async def here(upstream: FakeRegistry, tmp_path: Path, clock: Clock) -> AsyncIterator[Site]:
    async with site(upstream, tmp_path / "store", clock) as opened:
        yield opened


def sign(upstream: FakeRegistry, subject: Digest, suffix: str = ".sig", payload: bytes = b"signed") -> Digest:
    """Sign as cosign does, by a tag."""
    tag = f"sha256-{subject.hex}{suffix}"
    return upstream.add_artifact("library/app", None, payload, artifact_type=SIG, tag=tag)


# --- signatures --------------------------------------------------------------------------------------------------


async def test_referrers_come_and_the_signatures_of_referrers(upstream: FakeRegistry, here: Site) -> None:
    image = upstream.add_image("library/app")
    index = upstream.add_index("library/app", "v1", manifests=[image])
    attestation = upstream.add_artifact("library/app", image, b"sbom", artifact_type="application/spdx+json")
    signature = upstream.add_artifact("library/app", attestation, b"of the sbom", artifact_type=SIG)
    upstream.add_artifact("library/app", signature, b"too deep", artifact_type="application/x.deep")
    of_index = sign(upstream, index)
    [fetched] = await here.fetch("app:v1")
    assert fetched.failure is None
    assert fetched.planned.referrers == 3
    for digest in (attestation, signature, of_index):
        assert here.cache.obtaining.here(APP, digest)
        assert all(here.cache.obtaining.here(APP, blob) for blob in upstream.blobs_of("library/app", digest))
    tag = here.store.index.tag(APP, f"sha256-{index.hex}.sig")
    assert tag is not None
    assert tag.digest == of_index
    assert here.store.index.listing(APP, image) is not None
    assert upstream.count(kind="manifest", method="GET") == fetched.counted == 5


async def test_signatures_are_answered_with_no_upstream(
    upstream: FakeRegistry, tmp_path: Path, clock: Clock, start: StartMirror
) -> None:
    image = upstream.add_image("library/app", "v1")
    upstream.add_artifact("library/app", image, b"sbom", artifact_type="application/spdx+json")
    sign(upstream, image)
    async with site(upstream, tmp_path / "store", clock) as here:
        [fetched] = await here.fetch("app:v1")
    assert fetched.failure is None
    await upstream.stop()
    mirror = await start(upstream)
    listed = await mirror.get(f"/v2/library/app/referrers/{image}")
    assert [entry["artifactType"] for entry in listed.json["manifests"]] == ["application/spdx+json"]
    assert [r.status for r in await mirror.pull("library/app", listed.json["manifests"][0]["digest"])] == [200] * 3
    assert [r.status for r in await mirror.pull("library/app", f"sha256-{image.hex}.sig")] == [200] * 3
    await upstream.start()


async def test_where_there_are_no_lists_of_referrers_the_tag_has_one(upstream: FakeRegistry, here: Site) -> None:
    upstream.referrers_api = False
    image = upstream.add_image("library/app", "v1")
    attestation = upstream.add_artifact("library/app", image, b"sbom", artifact_type="application/spdx+json")
    upstream.add_index("library/app", f"sha256-{image.hex}", manifests=[(attestation, None)])
    [fetched] = await here.fetch("app:v1")
    assert fetched.failure is None
    assert here.cache.obtaining.here(APP, attestation)
    assert here.store.index.tag(APP, f"sha256-{image.hex}") is not None


async def test_types_choose_referrers_and_none_asks_for_none(upstream: FakeRegistry, here: Site) -> None:
    image = upstream.add_image("library/app", "v1")
    sbom = upstream.add_artifact("library/app", image, b"sbom", artifact_type="application/spdx+json")
    other = upstream.add_artifact("library/app", image, b"other", artifact_type="application/x.other")
    signature = sign(upstream, image)
    await here.fetch("app:v1", referrers=ReferrerTypes.parse("none"))
    assert upstream.count(kind="referrers") == upstream.count(kind="tags") == 0
    await here.fetch("app:v1", referrers=ReferrerTypes.parse("application/spdx+json"))
    assert [here.store.blobs.size(digest) is not None for digest in (sbom, other, signature)] == [True, False, False]
    await here.fetch("app:v1", referrers=ReferrerTypes.parse(SIG))
    assert [here.store.blobs.size(digest) is not None for digest in (sbom, other, signature)] == [True, False, True]


async def test_signature_tags_are_found_where_the_list_of_tags_is_long_or_refused(
    upstream: FakeRegistry, here: Site
) -> None:
    image = upstream.add_image("library/app", "v1")
    signature = sign(upstream, image)
    upstream.fault(kind="tags", then=Status(403))
    [fetched] = await here.fetch("app:v1")
    assert fetched.failure is None
    assert here.cache.obtaining.here(APP, signature)


@pytest.mark.usefixtures("impatient")
async def test_an_image_whose_signatures_are_not_known_is_not_whole(upstream: FakeRegistry, here: Site) -> None:
    image = upstream.add_image("library/app", "v1")
    upstream.fault(kind="referrers", then=Status(500))
    [fetched] = await here.fetch("app:v1")
    assert fetched.failure is not None
    assert fetched.failure.startswith(f"what refers to the image ({image}): docker.io failed to send")


# --- tags --------------------------------------------------------------------------------------------------------


async def test_a_tag_moves_when_what_is_new_is_whole_and_not_before(upstream: FakeRegistry, here: Site) -> None:
    old = upstream.add_image("library/app", "v1", layers=[b"old"])
    await here.fetch("app:v1")
    new = upstream.add_image("library/app", "v1", layers=[b"new"])
    layer = Digest.of(b"new")
    upstream.fault(kind="blob", digest=layer, times=1, then=Status(404, "BLOB_UNKNOWN"))
    [failed] = await here.fetch("app:v1")
    assert failed.failure is not None
    assert here.store.index.tag(APP, "v1").digest == old  # type: ignore[union-attr]
    here.clock.advance(10)
    [fetched] = await here.fetch("app:v1")
    assert fetched.failure is None
    assert here.store.index.tag(APP, "v1").digest == new  # type: ignore[union-attr]
    assert here.store.index.tag(APP, "v1").at == here.clock.now  # type: ignore[union-attr]
    assert fetched.counted == 0


async def test_a_tag_that_was_carried_in_stays_settled_while_upstream_says_the_same(
    upstream: FakeRegistry, here: Site
) -> None:
    image = upstream.add_image("library/app", "v1", layers=[b"old"])
    await here.fetch("app:v1")
    await here.store.index.apply(TagSet(APP, "v1", image, SETTLED))
    await here.fetch("app:v1")
    assert here.store.index.tag(APP, "v1").at == SETTLED  # type: ignore[union-attr]
    upstream.add_image("library/app", "v1", layers=[b"new"])
    await here.fetch("app:v1")
    assert here.store.index.tag(APP, "v1").at == here.clock.now  # type: ignore[union-attr]


async def test_a_lock_says_what_tags_are_and_upstream_is_not_asked(upstream: FakeRegistry, here: Site) -> None:
    old = upstream.add_image("library/app", "v1", layers=[b"old"])
    upstream.add_image("library/app", "v1", layers=[b"new"])
    locked = {"docker.io/library/app:v1": old}
    one, two = await here.fetch("app:v1", "app:v2", locked=locked)
    assert one.failure is None
    assert one.digest == old
    assert two.failure is not None
    assert "it is not in the lock file; with --lock as well" in two.failure
    assert upstream.count(kind="manifest", method="HEAD") == 0
    tag = here.store.index.tag(APP, "v1")
    assert tag is not None
    assert (tag.digest, tag.at) == (old, 0.0)  # the next client asks upstream
    [chosen] = await here.fetch("app:v*", locked=locked)
    assert chosen.digest == old


async def test_what_was_wanted_by_digest_and_tag_is_pinned_by_its_digest(upstream: FakeRegistry, here: Site) -> None:
    image = upstream.add_image("library/app", "v1", layers=[b"old"])
    upstream.add_image("library/app", "v1", layers=[b"new"])
    by_both, by_tag = await here.fetch(f"app:v1@{image}", "app:v1", pin=True, jobs=1)
    assert (by_both.pinned, by_tag.pinned) == (True, True)
    assert here.store.index.pinned(APP, image, None)
    assert here.store.index.pinned(APP, None, "v1")


# --- sharing -----------------------------------------------------------------------------------------------------


async def test_what_is_here_through_another_registry_is_confirmed_and_not_fetched_again(
    upstream: FakeRegistry, other: FakeRegistry, tmp_path: Path, clock: Clock, start: StartMirror
) -> None:
    layer = upstream.add_pattern_blob("library/app", MIB)
    other.add_pattern_blob("org/app", MIB)
    upstream.add_image("library/app", "v1", layers=[layer])
    other.add_image("org/app", "v1", layers=[layer, b"more"])
    upstreams = {"docker.io": upstream, "quay.io": other}
    async with site(upstreams, tmp_path / "store", clock) as here:
        [one] = await here.fetch("app:v1")
        [two] = await here.fetch("quay.io/org/app:v1")
    assert (one.failure, two.failure) == (None, None)
    assert two.planned.here.bytes >= MIB
    assert other.bytes_of(layer) <= 64 * 1024  # a first byte, and what was on its way behind it
    await upstream.stop()
    await other.stop()
    mirror = await start(upstreams)
    assert [reply.status for reply in await mirror.pull("quay.io/org/app", "v1")] == [200] * 4
    await upstream.start()
    await other.start()


async def test_a_client_of_the_mirror_beside_it_shares_the_fill(
    upstream: FakeRegistry, tmp_path: Path, clock: Clock, start: StartMirror
) -> None:
    layer = upstream.add_pattern_blob("library/app", 4 * MIB)
    upstream.add_image("library/app", "v1", layers=[layer])
    mirror = await start(upstream)
    async with site(upstream, tmp_path / "store", clock) as here:
        go = asyncio.Event()
        upstream.fault(kind="blob", digest=layer, times=1, then=Gate(go, at_byte=MIB))
        fetching = asyncio.create_task(here.fetch("app:v1"))
        await (await upstream.seen(kind="blob", digest=str(layer))).sent(MIB)
        pulling = asyncio.create_task(mirror.pull("library/app", "v1"))
        await asyncio.sleep(0)
        go.set()
        [fetched] = await fetching
        assert [reply.status for reply in await pulling] == [200] * 3
    assert fetched.failure is None
    assert upstream.bytes_of(layer) <= 4 * MIB + 1  # the mirror may ask for a first byte, to see whose it is
    assert upstream.count(kind="manifest", method="GET") == 1


async def test_images_at_once_share_the_fill_of_a_layer(upstream: FakeRegistry, here: Site) -> None:
    layer = upstream.add_pattern_blob("library/app", 2 * MIB)
    upstream.add_pattern_blob("library/other", 2 * MIB)
    for tag in ("v1", "v2"):
        upstream.add_image("library/app", tag, layers=[layer, tag.encode()])
    upstream.add_image("library/other", "v1", layers=[layer, b"other"])
    go = asyncio.Event()
    upstream.fault(kind="blob", digest=layer, times=1, then=Gate(go, at_byte=MIB))
    fetching = asyncio.create_task(here.fetch("app:v1", "app:v2", "other:v1"))
    await upstream.seen(3, kind="manifest", method="GET")
    await upstream.seen(7, kind="blob")  # three configs, three layers, and one for all
    go.set()
    fetched = await fetching
    assert [one.failure for one in fetched] == [None] * 3
    assert upstream.bytes_of(layer) <= 2 * MIB + 64 * 1024  # the other repository is asked for a first byte
    assert sum(one.came.bytes for one in fetched) == sum(one.planned.to_fetch.bytes for one in fetched)


# --- interruptions -------------------------------------------------------------------------------------------------


async def test_what_came_before_an_interrupt_is_not_fetched_again(
    upstream: FakeRegistry, tmp_path: Path, clock: Clock
) -> None:
    layer = upstream.add_pattern_blob("library/app", 4 * MIB)
    upstream.add_image("library/app", "v1", layers=[layer])
    upstream.fault(kind="blob", digest=layer, times=1, then=Gate(asyncio.Event(), at_byte=2 * MIB))
    async with site(upstream, tmp_path / "store", clock) as here:
        fetching = asyncio.create_task(here.fetch("app:v1"))
        await (await upstream.seen(kind="blob", digest=str(layer))).sent(2 * MIB)
        fill = here.cache.fills.running(layer)
        assert fill is not None
        await until(fill, lambda: fill.spans.total() == 2 * MIB)
        fetching.cancel()
        async with asyncio.timeout(1):
            with pytest.raises(asyncio.CancelledError):
                await fetching
    async with site(upstream, tmp_path / "store", clock) as here:
        [fetched] = await here.fetch("app:v1")
    assert fetched.failure is None
    assert fetched.counted == 0
    assert upstream.bytes_of(layer) == 4 * MIB


async def test_what_came_before_a_kill_is_not_fetched_again(
    upstream: FakeRegistry, tmp_path: Path, clock: Clock
) -> None:
    layer = upstream.add_pattern_blob("library/app", 4 * MIB)
    upstream.add_image("library/app", "v1", layers=[layer])
    upstream.fault(kind="blob", digest=layer, times=1, then=Gate(asyncio.Event(), at_byte=3 * MIB))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.flow.prefetching", upstream.url, str(tmp_path / "store"), "app:v1"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        while (line := await process.stdout.readline()) and not (line.strip().isdigit() and int(line) > 3 * MIB):
            pass
        assert line
    finally:
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
    async with site(upstream, tmp_path / "store", clock) as here:
        [fetched] = await here.fetch("app:v1")
    assert fetched.failure is None
    assert fetched.counted == 0
    assert upstream.bytes_of(layer) == 4 * MIB
