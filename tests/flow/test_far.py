"""An upstream that is far away, over a line that is thin: 80 ms there and back, so much for each connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mirror.cache import segments, transfer
from mirror.upstream import governor, pacing
from tests.fakes.faults import NoRange
from tests.flow.fills import REPO, path_of, ranges_asked
from tests.parts.shaper import Shaper

if TYPE_CHECKING:
    from mirror.oci.digest import Digest
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Mirror, StartMirror

KIB = 1024
AWAY = 0.04  # seconds, one way
LAYER = 300 * KIB  # bytes; ten of them are an image


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a hundredth of the bytes go with a tenth of the times."""
    monkeypatch.setattr(governor, "WATCH", 0.15)
    monkeypatch.setattr(governor, "SETTLE", 0.25)
    monkeypatch.setattr(pacing, "TICK", 0.05)
    monkeypatch.setattr(transfer, "TICK", 0.08)
    monkeypatch.setattr(transfer, "SLOW", 0.4)
    for name, value in (("HALF_SECONDS", 0.2), ("KNOWN_SECONDS", 0.1)):
        monkeypatch.setattr(segments, name, value)


async def pull(mirror: Mirror, layers: list[Digest], at_once: int) -> None:
    """Pull as dockerd does, so many layers at once."""
    assert (await mirror.get(f"/v2/{REPO}/manifests/v1")).status == 200
    left = list(layers)

    async def work() -> None:
        while left:
            reply = await mirror.get(path_of(left.pop(0)))
            assert (reply.status, len(reply.body) % LAYER) == (200, 0)

    await asyncio.gather(*[work() for _ in range(at_once)])


async def test_where_each_connection_is_slow_more_are_used_and_never_more_than_are_configured(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    layers = [upstream.add_pattern_blob(REPO, LAYER, seed) for seed in range(10)]
    upstream.add_image(REPO, "v1", layers=layers)
    async with Shaper(upstream.host, delay=AWAY, rate=300 * KIB) as line:
        mirror = await start({"docker.io": {"url": line.url, "read_ahead": True, "max_connections": 14}})
        await pull(mirror, layers, 3)  # how long it takes is for `python -m bench far` to say
        assert 10 <= line.peak <= 14 + 1  # one for manifests


async def test_where_the_line_as_a_whole_is_slow_hardly_a_byte_comes_twice(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    layers = [upstream.add_pattern_blob(REPO, LAYER, seed) for seed in range(10)]
    upstream.add_image(REPO, "v1", layers=layers)
    rate = 3000 * KIB
    async with Shaper(upstream.host, delay=AWAY, rate_total=rate) as line:
        mirror = await start({"docker.io": {"url": line.url, "read_ahead": True}})
        await pull(mirror, layers, 3)
        assert line.peak <= 16 + 1
        assert line.bytes < 1.1 * 10 * LAYER


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_blob_of_one_request_is_shared_out_where_that_is_slow_unless_the_server_knows_no_ranges(
    start: StartMirror, upstream: FakeRegistry, *, ranges: bool
) -> None:
    layer = upstream.add_pattern_blob(REPO, 15 * LAYER, 1)
    upstream.add_image(REPO, "v1", layers=[layer])
    if not ranges:
        upstream.fault(kind="blob", then=NoRange())
    async with Shaper(upstream.host, delay=AWAY, rate=6 * LAYER) as line:
        mirror = await start({"docker.io": {"url": line.url, "read_ahead": True}})
        await pull(mirror, [layer], 1)
        assert line.bytes < 1.1 * 15 * LAYER
    assert ranges_asked(upstream, layer)[0] is None
    assert len(ranges_asked(upstream, layer)) >= 2
