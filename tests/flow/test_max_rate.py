"""What an upstream may take of the line, and what its trouble takes of the others: nothing."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import aiohttp
import pytest

from mirror.cache import fills
from mirror.metrics import UPSTREAM_CONNECTIONS
from mirror.server.worker import share_of
from tests.fakes.faults import Gate, Hang
from tests.flow.fills import MIB, REPO, fill_of, path_of, until

if TYPE_CHECKING:
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import StartMirror


async def test_blobs_keep_to_the_rate_two_images_share_it_and_a_manifest_waits_for_neither(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    many = [upstream.add_pattern_blob("library/many", 4 * MIB, seed) for seed in range(10)]
    one = upstream.add_pattern_blob("library/one", 4 * MIB, 20)
    upstream.add_image("library/other", "v1", layers=[b"other"])
    mirror = await start({"docker.io": {"url": upstream.url, "max_rate": "8MiB/s"}})
    began = time.monotonic()
    pulls = [asyncio.create_task(mirror.get(path_of(digest, "library/many"))) for digest in many]
    await upstream.seen(8, kind="blob")
    pulls.append(asyncio.create_task(mirror.get(path_of(one, "library/one"))))
    await upstream.seen(9, kind="blob")
    asked = time.monotonic()
    assert (await mirror.get("/v2/library/other/manifests/v1")).status == 200
    assert time.monotonic() - asked < 0.3
    ones = fill_of(mirror, one)
    await until(ones, lambda: ones.spans.total() >= 3 * MIB)
    assert time.monotonic() - asked < 2 * 3 / 4  # seconds: its share is half, though it has one connection of nine
    seconds = time.monotonic() - began
    came = sum(fill_of(mirror, digest).spans.total() for digest in (*many, one))
    assert 0.7 < came / (8 * MIB * seconds) < 1.2
    for pull in pulls:
        pull.cancel()
    await asyncio.gather(*pulls, return_exceptions=True)
    await mirror.server.cache.fills.close()


async def test_one_upstream_that_hangs_delays_no_other_and_takes_no_place_from_it(
    start: StartMirror, upstream: FakeRegistry, other: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fills, "MAX_FILLS", 100)
    monkeypatch.setattr(fills, "MAX_OF_ONE", 75)
    upstream.fault(then=Hang())
    layers = [other.add_blob("org/app", body) for body in (b"one", b"two")]
    other.add_image("org/app", "v1", layers=layers)
    mirror = await start({"docker.io": upstream, "quay.io": other})
    async with aiohttp.ClientSession(mirror.url, connector=aiohttp.TCPConnector(limit=0)) as session:
        hanging = [
            asyncio.create_task(session.get(f"/v2/library/app{number}/{what}"))
            for number in range(100)
            for what in ("manifests/v1", f"blobs/sha256:{number:064x}")
        ]
        await upstream.seen(100, kind="manifest")
        await upstream.seen(8, kind="blob")
        began = time.monotonic()
        assert (await mirror.get("/v2/quay.io/org/app/manifests/v1")).status == 200
        for layer in layers:
            assert (await mirror.get(path_of(layer, "quay.io/org/app"))).status == 200
        assert time.monotonic() - began < 1
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)


async def test_no_more_connections_than_are_configured(start: StartMirror, upstream: FakeRegistry) -> None:
    gate = asyncio.Event()
    upstream.fault(kind="blob", then=Gate(gate, 1000))
    blobs = [upstream.add_pattern_blob(REPO, 100_000, seed) for seed in range(6)]
    mirror = await start({"docker.io": {"url": upstream.url, "max_connections": 3}})
    pulls = [asyncio.create_task(mirror.get(path_of(digest))) for digest in blobs]
    await upstream.seen(3, kind="blob")
    assert UPSTREAM_CONNECTIONS.labels("docker.io")._value.get() == 3
    gate.set()
    assert {(await pull).status for pull in pulls} == {200}
    await mirror.settled()
    assert upstream.connections_peak == 3
    assert UPSTREAM_CONNECTIONS.labels("docker.io")._value.get() == 0


@pytest.mark.parametrize(("workers", "connections", "rate"), [(1, 10, 1000), (3, 4, 334)])
async def test_each_worker_has_its_part(
    start: StartMirror, upstream: FakeRegistry, *, workers: int, connections: int, rate: int
) -> None:
    mirror = await start({"docker.io": {"url": upstream.url, "max_connections": 10, "max_rate": "1000B/s"}})
    config = mirror.server.config
    part = share_of(replace(config, server=replace(config.server, workers=workers))).upstreams["docker.io"]
    assert (part.max_connections, part.max_rate) == (connections, rate)
