"""What the mirror has served is remembered, whatever became of it: `mirror prefetch --served-since` goes by it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from mirror.airgap.history import begun, served
from mirror.cache import served as module
from mirror.errors import StoreError
from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from mirror.store.history import History

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirror.store.history import Served
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, Mirror, StartMirror

REPO = "library/app"
NAME = f"docker.io/{REPO}"
HOUR, DAY = 3600.0, 86400.0


async def history(mirror: Mirror, since: float = 0.0) -> list[str]:
    """Return what was served, once the mirror has written it down, as lines of a list."""
    await mirror.server.cache.served.flush()
    return [str(one) for one in served(mirror.server.store.layout, since)]


def written(mirror: Mirror) -> int:
    """How many lines the history has."""
    return len(mirror.server.store.layout.served.read_text().splitlines()) - 1  # the first says since when it is kept


@pytest.fixture
def index(upstream: FakeRegistry) -> tuple[Digest, Digest]:
    """An index under the tag v1, and its image for amd64."""
    amd = upstream.add_image(REPO, layers=[b"amd64"])
    arm = upstream.add_image(REPO, layers=[b"arm64"], platform="linux/arm64/v8")
    return upstream.add_index(REPO, "v1", manifests=[arm, amd]), amd


async def test_a_pull_as_docker_and_containerd_do_it_is_one_tag(
    start: StartMirror, upstream: FakeRegistry, index: tuple[Digest, Digest]
) -> None:
    mirror = await start(upstream)
    await mirror.head(f"/v2/{REPO}/manifests/v1")
    for digest in index:
        await mirror.get(f"/v2/{REPO}/manifests/{digest}")
    assert await history(mirror) == [f"{NAME}:v1"]
    assert written(mirror) == 1


async def test_a_pull_as_podman_does_it_is_one_tag(
    start: StartMirror, upstream: FakeRegistry, index: tuple[Digest, Digest]
) -> None:
    mirror = await start(upstream)
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    await mirror.get(f"/v2/{REPO}/manifests/{index[1]}")
    assert await history(mirror) == [f"{NAME}:v1"]


async def test_a_pull_by_digest_is_that_digest_without_its_platforms(
    start: StartMirror, upstream: FakeRegistry, index: tuple[Digest, Digest]
) -> None:
    mirror = await start(upstream)
    await mirror.head(f"/v2/{REPO}/manifests/{index[0]}")
    assert await history(mirror) == []
    for digest in index:
        await mirror.get(f"/v2/{REPO}/manifests/{digest}")
    assert await history(mirror) == [f"{NAME}@{index[0]}"]
    [wanted] = served(mirror.server.store.layout, 0.0)
    assert (wanted.tag, wanted.digest) == (None, index[0])


async def test_one_platform_that_is_asked_for_alone_is_an_image(
    start: StartMirror, upstream: FakeRegistry, index: tuple[Digest, Digest]
) -> None:
    mirror = await start(upstream)
    await mirror.get(f"/v2/{REPO}/manifests/{index[1]}")
    assert await history(mirror) == [f"{NAME}@{index[1]}"]


async def test_a_platform_that_is_asked_for_long_after_its_index_is_an_image(
    start: StartMirror, upstream: FakeRegistry, index: tuple[Digest, Digest]
) -> None:
    mirror = await start(upstream)
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    mirror.server.store.recent.touch(index[0], time.time() - 2 * HOUR)
    await mirror.get(f"/v2/{REPO}/manifests/{index[1]}")
    assert await history(mirror) == [f"{NAME}:v1", f"{NAME}@{index[1]}"]


async def test_a_platform_that_another_process_serves_is_no_image_of_its_own(
    start: StartMirror, upstream: FakeRegistry, index: tuple[Digest, Digest]
) -> None:
    one, other = await start(upstream), await start(upstream)
    await one.head(f"/v2/{REPO}/manifests/v1")
    for digest in index:
        await other.get(f"/v2/{REPO}/manifests/{digest}")
    await one.server.cache.served.flush()
    assert await history(other) == [f"{NAME}:v1"]


async def test_signatures_and_other_referrers_go_with_their_image(start: StartMirror, upstream: FakeRegistry) -> None:
    image = upstream.add_image(REPO, "v1")
    sig = f"sha256-{image.hex}.sig"
    upstream.add_image(REPO, sig, layers=[b"signed"])
    artifact = upstream.add_artifact(REPO, image, b"attested", artifact_type="application/x-attestation")
    mirror = await start(upstream)
    for reference in ("v1", image, sig, artifact):
        assert (await mirror.get(f"/v2/{REPO}/manifests/{reference}")).status == 200
    signature = (await mirror.get(f"/v2/{REPO}/manifests/{sig}")).headers["Docker-Content-Digest"]
    await mirror.get(f"/v2/{REPO}/manifests/{signature}")
    assert await history(mirror) == [f"{NAME}:v1"]


async def test_what_was_not_served_is_not_in_it(start: StartMirror, upstream: FakeRegistry) -> None:
    upstream.add_image(REPO, "v1")
    mirror = await start(upstream)
    for reference in ("absent", Digest.of(b"absent"), "not~a~tag"):
        assert (await mirror.get(f"/v2/{REPO}/manifests/{reference}")).status in (400, 404)
    await mirror.get(f"/v2/{REPO}/tags/list")
    assert await history(mirror) == []
    assert begun(mirror.server.store.layout) is None


async def test_it_outlives_eviction_and_the_index(start: StartMirror, upstream: FakeRegistry, clock: Clock) -> None:
    upstream.add_image(REPO, "v1")
    mirror = await start(upstream)
    await mirror.pull(REPO, "v1")
    store = mirror.server.store
    for unit in store.graph.oldest(10):
        assert store.remover.remove(unit.digest) is not None
    assert store.index.tags(Repository("docker.io", REPO), limit=1) == []
    await mirror.stop()
    for path in (*store.layout.root.glob("index.sqlite*"), store.layout.journal, store.layout.room):
        path.unlink(missing_ok=True)
    clock.advance(30 * DAY)
    mirror = await start(upstream)
    await mirror.server.store.survey()
    assert await history(mirror) == [f"{NAME}:v1"]
    assert await history(mirror, since=clock.now - 29 * DAY) == []


async def test_it_is_written_once_an_hour_and_knows_the_last_time(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    upstream.add_image(REPO, "v1")
    mirror = await start(upstream)
    began = clock.now
    for _ in range(10):
        await mirror.head(f"/v2/{REPO}/manifests/v1")
        await history(mirror)
        clock.advance(600)
    assert written(mirror) == 2
    [last] = History(mirror.server.store.layout).read()
    assert last.at == began + HOUR
    assert await history(mirror, since=began + HOUR) == [f"{NAME}:v1"]
    assert await history(mirror, since=began + HOUR + 1) == []


async def test_a_tag_that_moved_is_one_tag_with_two_digests(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    one = upstream.add_image(REPO, "v1", layers=[b"one"])
    mirror = await start(upstream)
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    await history(mirror)
    other = upstream.add_image(REPO, "v1", layers=[b"other"])
    clock.advance(DAY)
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    assert await history(mirror) == [f"{NAME}:v1"]
    assert [entry.digest for entry in History(mirror.server.store.layout).read()] == [one, other]


async def test_it_is_written_behind_within_seconds_for_a_process_that_is_killed(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, loop, done = History.add, asyncio.get_running_loop(), asyncio.Event()

    def observed(history: History, entries: Iterable[Served]) -> None:
        add(history, entries)
        loop.call_soon_threadsafe(done.set)

    monkeypatch.setattr(History, "add", observed)
    monkeypatch.setattr(module, "EVERY", 0.01)
    upstream.add_image(REPO, "v1")
    mirror = await start(upstream)
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    await asyncio.wait_for(done.wait(), 5)  # nobody has told it to write
    assert [str(one) for one in served(mirror.server.store.layout, 0.0)] == [f"{NAME}:v1"]


async def test_what_the_disk_refuses_is_written_later(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.add_image(REPO, "v1")
    mirror = await start(upstream)

    def refuse(*_: object) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as full:
        full.setattr(History, "add", refuse)
        assert (await mirror.get(f"/v2/{REPO}/manifests/v1")).status == 200
        with pytest.raises(StoreError):
            await mirror.server.cache.served.flush()
    assert await history(mirror) == [f"{NAME}:v1"]


async def test_an_offline_mirror_keeps_it_too(start: StartMirror, upstream: FakeRegistry) -> None:
    upstream.add_image(REPO, "v1")
    mirror = await start(upstream)
    await mirror.pull(REPO, "v1")
    await mirror.stop()
    mirror.server.store.layout.served.unlink()
    mirror = await start(upstream, server={"offline": True})
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    assert await history(mirror) == [f"{NAME}:v1"]


async def test_it_counts_as_taken_room(start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream)
    layout = mirror.server.store.layout
    assert layout.served in layout.facts()
    layout.served.write_bytes(bytes(3 << 20))
    mirror.server.store.room._look_beside = 0.0
    before = mirror.server.store.room.used
    layout.served.write_bytes(b"")
    mirror.server.store.room._look_beside = 0.0
    assert before - mirror.server.store.room.used >= 3 << 20
