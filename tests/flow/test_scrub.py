"""What the disk has changed is found, put aside, and fetched again; and it is never served twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from mirror import config, metrics
from mirror.cache import heal, scrub
from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from mirror.store.changes import Checked, Linked, Lost, Pinned, Stored
from tests.fakes.faults import Status
from tests.flow.conftest import document
from tests.flow.evictions import here, image, pull
from tests.flow.fills import MIB, REPO, path_of
from tests.parts.mirror import MirrorProcess
from tests.unit.cache.stores import opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mirror.config import Config
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Mirror, StartMirror

FAST = {"scrub_rate": "4GiB/s"}
OTHER = "library/other"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look every few milliseconds where the mirror looks every few seconds."""
    monkeypatch.setattr(heal, "LOOK", 0.005)
    monkeypatch.setattr(heal, "COUNT", 0.005)
    monkeypatch.setattr(heal, "FIRST", 0.05)
    monkeypatch.setattr(scrub, "LOOK", 0.005)


async def until(condition: Callable[[], Any]) -> None:
    """Wait until `condition()` holds: what works behind everybody's back gives no sign."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def damage(mirror: Mirror, digest: Digest, body: bytes | None = None) -> None:
    """Flip a bit of content on the disk, or write another body."""
    path = mirror.server.store.layout.blob(digest)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(content) if body is None else body)


async def age(mirror: Mirror, *digests: Digest) -> None:
    """Have content looked at: nobody did so for long."""
    await mirror.server.store.index.apply(*(Checked(digest, 1.0) for digest in digests))


def right(mirror: Mirror, digest: Digest) -> bool:
    """Say whether content is on the disk as it should be."""
    return here(mirror, digest) and digest.matches(mirror.server.store.layout.blob(digest).read_bytes())


def aside(mirror: Mirror) -> list[str]:
    """Return what is put aside."""
    return sorted(path.name for path in mirror.server.store.layout.aside.iterdir())


def results(result: str) -> float:
    return metrics.SCRUB_RESULTS.labels(result)._value.get()


def forget(mirror: Mirror) -> None:
    """Have nothing in memory."""
    mirror.server.cache.manifests._memory._bodies.clear()


def settings(upstream: FakeRegistry, directory: Path, storage: dict[str, str]) -> Config:
    """Return a configuration to reload."""
    text = json.dumps(document(upstream, directory / "store", storage=storage))
    return config.parse(text, "mirror.yaml", {})


@pytest.mark.parametrize("part", ["layer", "config", "manifest"])
@pytest.mark.parametrize("in_memory", [False, True])
async def test_a_flipped_bit_is_found_and_healed_before_anybody_asks(
    part: str, in_memory: bool, start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = image(upstream, "v1", 2)
    blobs = upstream.blobs_of(REPO, digest)
    victim = {"manifest": digest, "config": blobs[0], "layer": blobs[-1]}[part]
    mirror = await start(upstream, storage=FAST)
    await pull(mirror, "v1")
    before = {result: results(result) for result in ("wrong", "healed")}
    if not in_memory:
        forget(mirror)
    damage(mirror, victim)
    with capture_logs() as lines:
        await age(mirror, victim)
        await until(lambda: right(mirror, victim) and not aside(mirror))
    assert {result: results(result) - count for result, count in before.items()} == {"wrong": 1, "healed": 1}
    (told,) = [line for line in lines if line["log_level"] == "error"]
    assert (told["digest"], told["images"]) == (str(victim), ["docker.io/library/app:v1"])
    assert [line["event"] for line in lines if line["log_level"] == "info"][-1] == "damaged content is healed"
    forget(mirror)
    await upstream.stop()
    await pull(mirror, "v1")


async def test_what_is_in_memory_needs_no_upstream_to_be_healed(start: StartMirror, upstream: FakeRegistry) -> None:
    manifest = image(upstream, "v1", 1)
    small = [manifest, upstream.blobs_of(REPO, manifest)[0]]
    mirror = await start(upstream, storage=FAST)
    await pull(mirror, "v1")
    for digest in small:
        assert (await mirror.get(path_of(digest))).status == 200
    await upstream.stop()
    for digest in small:
        damage(mirror, digest)
    await age(mirror, *small)
    await until(lambda: all(right(mirror, digest) for digest in small) and not aside(mirror))
    forget(mirror)
    await pull(mirror, "v1")


@pytest.mark.usefixtures("impatient")
async def test_while_upstream_is_away_a_damaged_image_is_not_served_as_whole_and_is_healed_when_it_is_back(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = image(upstream, "v1", 2)
    layer = upstream.blobs_of(REPO, digest)[-1]
    mirror = await start(upstream, storage=FAST)
    await pull(mirror, "v1")
    await mirror.server.store.index.apply(Pinned(Repository("docker.io", REPO), "v1", 1.0))
    await upstream.stop()
    damage(mirror, layer)
    await age(mirror, layer)
    await until(lambda: mirror.server.cache._upstreams.away("docker.io") and aside(mirror))
    assert not here(mirror, layer)
    assert (await mirror.get(f"/v2/{REPO}/manifests/v1")).status == 503
    store = mirror.server.store
    assert store.index.tag(Repository("docker.io", REPO), "v1") is not None
    assert store.index.pinned(Repository("docker.io", REPO), None, "v1")
    await upstream.start()
    await until(lambda: right(mirror, layer))
    await upstream.stop()
    await pull(mirror, "v1")


async def test_content_is_healed_through_another_repository_where_the_first_has_it_no_more(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    layer = upstream.add_pattern_blob(REPO, 2 * MIB)
    upstream.add_pattern_blob(OTHER, 2 * MIB)
    mirror = await start(upstream, storage=FAST)
    for repo in (REPO, OTHER):
        assert (await mirror.get(path_of(layer, repo))).status == 200
        await mirror.settled()
    upstream.fault(repo=REPO, then=Status(404))
    damage(mirror, layer)
    await age(mirror, layer)
    await until(lambda: right(mirror, layer))


async def test_what_another_process_put_aside_is_healed_too(start: StartMirror, upstream: FakeRegistry) -> None:
    layer = upstream.add_pattern_blob(REPO, 2 * MIB)
    mirror = await start(upstream, storage={"scrub_rate": "0"})
    assert (await mirror.get(path_of(layer))).status == 200
    await mirror.settled()
    with opened(mirror.server.store.layout.root) as theirs:
        damage(mirror, layer)
        assert theirs.blobs.set_aside(layer)
        await theirs.index.apply(Lost(layer))
        await until(lambda: right(mirror, layer) and not aside(mirror))


async def test_an_offline_mirror_dials_nobody_and_heals_when_it_may(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path
) -> None:
    layer = upstream.add_pattern_blob(REPO, 2 * MIB)
    mirror = await start(upstream)
    assert (await mirror.get(path_of(layer))).status == 200
    await mirror.settled()
    await mirror.stop()
    mirror = await start(upstream, storage=FAST, server={"offline": True})
    upstream.forget()
    damage(mirror, layer)
    await age(mirror, layer)
    with capture_logs() as lines:
        await until(lambda: aside(mirror) and mirror.server.cache._heal._patients)
        for _ in range(10):
            await asyncio.sleep(heal.LOOK)
    assert [line for line in lines if "not healed yet" in line["event"]] == []
    assert upstream.count() == 0
    assert not here(mirror, layer)
    await mirror.server.reconfigure(settings(upstream, tmp_path, FAST))
    await until(lambda: right(mirror, layer))


async def test_what_no_repository_holds_any_more_is_forgotten(start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream, storage=FAST)
    store, body = mirror.server.store, b"of nobody" * 1000
    digest = Digest.of(body)
    await store.index.apply(Stored(digest, await store.blobs.put(digest, body), 1.0))
    with capture_logs() as lines:
        damage(mirror, digest)
        await age(mirror, digest)
        await until(lambda: any("no repository holds it" in line["event"] for line in lines))
    assert aside(mirror) == []


async def test_what_upstream_has_no_more_is_tried_ever_later(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heal, "LAST", 0.15)
    layer = upstream.add_pattern_blob(REPO, 2 * MIB)
    mirror = await start(upstream, storage=FAST)
    assert (await mirror.get(path_of(layer))).status == 200
    await mirror.settled()
    upstream.fault(kind="blob", then=Status(404))
    damage(mirror, layer)
    with capture_logs() as lines:
        await age(mirror, layer)
        await until(lambda: sum("not healed yet" in line["event"] for line in lines) == 3)
        upstream.heal()
        await until(lambda: right(mirror, layer))
    waits = [line["again_in_seconds"] for line in lines if "not healed yet" in line["event"]]
    assert waits[:3] == [0.05, 0.15, 0.15]


async def test_a_large_blob_that_was_sent_wrong_is_never_sent_again(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub.Scrub, "run", lambda _: asyncio.Event().wait())
    monkeypatch.setattr(heal.Heal, "run", lambda _: asyncio.Event().wait())
    layer = upstream.add_pattern_blob(REPO, 2 * MIB)
    mirror = await start(upstream, storage=FAST)
    assert (await mirror.get(path_of(layer))).status == 200
    await mirror.settled()
    damage(mirror, layer)
    await age(mirror, layer)
    assert not layer.matches((await mirror.get(path_of(layer))).body), "nobody has looked at it: the client finds out"
    await until(lambda: aside(mirror))
    reply = await mirror.get(path_of(layer))
    assert layer.matches(reply.body)
    assert "fwd=uri-miss" in reply.cache
    await mirror.settled()


async def test_what_was_looked_at_lately_is_not_read_again_when_it_is_sent(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = upstream.add_pattern_blob(REPO, 2 * MIB)
    mirror = await start(upstream, storage=FAST)
    await mirror.get(path_of(layer))
    await mirror.settled()
    looks: list[Digest] = []
    real = scrub.Sent._look

    async def look(sent: scrub.Sent, digest: Digest) -> None:
        await real(sent, digest)
        looks.append(digest)

    monkeypatch.setattr(scrub.Sent, "_look", look)
    before = metrics.SCRUBBED_BYTES._value.get()
    for _ in range(3):
        await mirror.get(path_of(layer))
    await until(lambda: looks)
    assert (looks, metrics.SCRUBBED_BYTES._value.get()) == ([layer], before)


async def test_a_file_that_is_gone_is_no_longer_taken_to_be_there(start: StartMirror, upstream: FakeRegistry) -> None:
    layer = upstream.add_pattern_blob(REPO, 2 * MIB)
    mirror = await start(upstream, storage=FAST)
    await mirror.get(path_of(layer))
    await mirror.settled()
    store = mirror.server.store
    content = store.room.balance().content
    store.layout.blob(layer).unlink()
    await age(mirror, layer)
    await until(lambda: store.graph.content(layer) is None)
    await until(lambda: store.room.balance().content == content - 2 * MIB)
    assert aside(mirror) == []


async def test_the_scrub_stops_at_once_and_a_reload_sets_its_pace(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path
) -> None:
    layer = upstream.add_pattern_blob(REPO, 3 * MIB)
    mirror = await start(upstream, storage={"scrub_rate": "0"})
    await mirror.get(path_of(layer))
    await mirror.settled()
    damage(mirror, layer)
    await age(mirror, layer)
    before = metrics.SCRUBBED_BYTES._value.get()
    await mirror.server.reconfigure(settings(upstream, tmp_path, {"scrub_rate": "1B/s", "scrub_every": "7d"}))
    await until(lambda: metrics.SCRUBBED_BYTES._value.get() == before + MIB)
    assert mirror.server.cache.checker.every == 7 * 24 * 3600
    assert here(mirror, layer), "the rest of it comes in twelve days"
    async with asyncio.timeout(2):
        await mirror.stop()


async def test_what_is_right_is_recorded_and_the_next_start_goes_on_behind_it(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [upstream.add_pattern_blob(REPO, 2 * MIB, seed) for seed in range(3)]
    mirror = await start(upstream, storage={"scrub_rate": "0"})
    for layer in layers:
        await mirror.get(path_of(layer))
    await mirror.settled()
    await age(mirror, *layers)
    checker = mirror.server.cache.checker
    work = scrub.Scrub(checker)
    before = metrics.SCRUBBED_BYTES._value.get()
    checker.pace.set(1)
    checker.pace._next = float("-inf")
    real = checker.check

    async def check(digest: Digest) -> Checked | None:
        if digest != order[0]:
            await asyncio.Event().wait()
        checker.pace.set(2**40)
        return await real(digest)

    order = [content.digest for content in mirror.server.store.graph.due(2.0, 3)]
    monkeypatch.setattr(checker, "check", check)
    task = asyncio.create_task(work.some())
    await until(lambda: metrics.SCRUBBED_BYTES._value.get() >= before + 2 * MIB and work._right)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert [content.digest for content in mirror.server.store.graph.due(2.0, 3)] == order[1:]


async def test_a_registry_that_is_mirrored_no_more_is_passed_over(start: StartMirror, upstream: FakeRegistry) -> None:
    layer = upstream.add_pattern_blob(REPO, 2 * MIB)
    mirror = await start(upstream, storage=FAST)
    await mirror.get(path_of(layer))
    await mirror.settled()
    await mirror.server.store.index.apply(Linked(Repository("a.example", "gone"), layer))
    damage(mirror, layer)
    await age(mirror, layer)
    await until(lambda: right(mirror, layer))


async def test_a_kill_during_a_scrub_loses_nothing_and_the_next_start_goes_on(
    upstream: FakeRegistry, tmp_path: Path
) -> None:
    digest = image(upstream, "v1", 2, 2, 2)
    layers = upstream.blobs_of(REPO, digest)[1:]
    storage = {"scrub_rate": "0"}
    mirror = MirrorProcess(tmp_path, {"upstreams": {"docker.io": {"url": upstream.url}}, "storage": storage})
    url = f"/v2/{REPO}/blobs/"

    async def got(path: str) -> bytes:
        async with aiohttp.ClientSession() as session, session.get(mirror.url + path) as response:
            assert response.status == 200
            return await response.read()

    async def scrubbed() -> float:
        (line,) = [line for line in (await got("/metrics")).splitlines() if line.startswith(b"mirror_scrubbed_bytes_t")]
        return float(line.split()[1])

    await asyncio.to_thread(mirror.start)
    await got(f"/v2/{REPO}/manifests/v1")
    for layer in layers:
        await got(f"{url}{layer}")
    await asyncio.to_thread(mirror.terminate)
    with opened(mirror.store) as store:
        await store.survey()  # the last of them may have been stored just as the mirror ended
        await store.index.apply(*(Checked(layer, 1.0) for layer in layers))
    storage["scrub_rate"] = "64KiB/s"
    await asyncio.to_thread(mirror.start)
    while not await scrubbed():  # noqa: ASYNC110  # another process gives no sign
        await asyncio.sleep(0.01)
    await asyncio.to_thread(mirror.kill)
    with opened(mirror.store) as store:
        assert len(store.graph.due(2.0, 9)) == 3, "a file that was not read to its end was not checked"
    storage["scrub_rate"] = "1GiB/s"
    await asyncio.to_thread(mirror.start)
    while await scrubbed() < 6 * MIB:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await asyncio.to_thread(mirror.terminate)
    with opened(mirror.store) as store:
        assert store.graph.due(2.0, 9) == []
        assert list(store.layout.aside.iterdir()) == []
        assert all(store.blobs.size(layer) == 2 * MIB for layer in layers)
