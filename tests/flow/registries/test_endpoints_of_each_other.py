"""Two mirrors that are endpoints of each other: neither waits for the other, and upstream is asked once."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from mirror.upstream import endpoints
from tests.flow.fills import REPO, path_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.internet import Internet
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Mirror, StartMirror

SIZE = 300_000


@pytest.fixture
async def pair(
    start: StartMirror, net: Internet, upstream: FakeRegistry, other: FakeRegistry, tmp_path: Path
) -> tuple[Mirror, Mirror]:
    """Two mirrors; the first reaches the registry as `upstream`, the second as `other`."""

    def told(registry: FakeRegistry, peer: str) -> dict[str, object]:
        return {"docker.io": {"url": registry.url, "endpoints": [peer], "read_ahead": False}}

    first = await start(told(upstream, "http://second.mirror.test"), storage={"path": str(tmp_path / "first")})
    second = await start(told(other, first.url), storage={"path": str(tmp_path / "second")})
    net.route("second.mirror.test", int(second.url.rpartition(":")[2]), at=80)
    return first, second


def asked(*registries: FakeRegistry) -> int:
    return sum(registry.count(kind="blob", method="GET") for registry in registries)


async def test_a_miss_costs_one_request_each_way_and_then_the_registry_is_asked(
    pair: tuple[Mirror, Mirror], upstream: FakeRegistry, other: FakeRegistry
) -> None:
    layer = upstream.add_pattern_blob(REPO, SIZE)
    other.add_pattern_blob(REPO, SIZE)
    first, second = pair
    began = time.monotonic()
    reply = await first.get(path_of(layer))
    assert (reply.status, reply.body) == (200, upstream.content(REPO, layer))
    assert time.monotonic() - began < 2
    assert (asked(other), asked(upstream)) == (1, 0), "the second one fetched it, and both have it now"
    await second.settled()
    assert (await second.get(path_of(layer))).cache == "registry-mirror; hit"
    missing = await first.get(f"/v2/{REPO}/manifests/v9")
    assert missing.status == 404
    assert upstream.count(reference="v9") == 1


async def test_two_that_want_the_same_at_once_do_not_wait_for_each_other(
    pair: tuple[Mirror, Mirror], upstream: FakeRegistry, other: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "FIRST_ANSWER", 60.0)
    first, second = pair
    for number in range(2):  # they come to know each other by name
        layer = upstream.add_pattern_blob(REPO, SIZE, seed=number)
        other.add_pattern_blob(REPO, SIZE, seed=number)
        assert (await pair[number].get(path_of(layer))).status == 200
        await first.settled()
        await second.settled()
    upstream.forget()
    other.forget()
    layer = upstream.add_pattern_blob(REPO, SIZE, seed=9)
    other.add_pattern_blob(REPO, SIZE, seed=9)
    async with asyncio.timeout(10):
        replies = await asyncio.gather(*(mirror.get(path_of(layer)) for mirror in pair for _ in range(3)))
    assert {(reply.status, len(reply.body)) for reply in replies} == {(200, SIZE)}
    assert asked(upstream, other) == 1
