"""A rate limit that runs out: what is counted is not spent, what is cached is served, and all processes know."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from tests.fakes.limit import GARBAGE, PAST, YEARS, RateLimit

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, Reply, StartMirror

MINE = "192.0.2.1"  # the address that the fake upstream counts for
TTL_0: list[dict[str, Any]] = [{"match": "**", "ttl": "0s"}]


@pytest.fixture
def limit(upstream: FakeRegistry, clock: Clock) -> RateLimit:
    """Docker Hub's hundred in six hours, and a few images."""
    upstream.limit = RateLimit(100, clock=clock)
    for name in "abcde":
        upstream.add_image(f"library/{name}", "v1")
    return upstream.limit


def path(name: str) -> str:
    return f"/v2/library/{name}/manifests/v1"


def sent(upstream: FakeRegistry, method: str = "GET") -> int:
    return upstream.count(kind="manifest", method=method)


async def in_time(asking: Any) -> Reply:
    async with asyncio.timeout(1):
        reply: Reply = await asking
    return reply


async def test_when_nothing_is_left_nothing_counted_is_sent_and_what_is_cached_is_served(
    start: StartMirror, upstream: FakeRegistry, limit: RateLimit, clock: Clock
) -> None:
    limit.use(MINE, 99, ago=3000)
    mirror = await start(upstream, freshness=TTL_0, budget=[])
    await mirror.pull("library/a", "v1")
    upstream.forget()
    for name in "bcd":
        reply = await in_time(mirror.get(path(name)))
        assert (reply.status, reply.code) == (503, "TOOMANYREQUESTS")
        assert 0 < int(reply.headers["Retry-After"]) <= 3600
    assert [reply.status for reply in await mirror.pull("library/a", "v1")] == [200, 200, 200]
    assert (sent(upstream), upstream.count(limited=True)) == (0, 0)
    assert sent(upstream, "HEAD") <= 2  # of the cached tag, and a look whether there is something again

    clock.advance(6 * 3600 - 3000)  # the window has slid: the first look finds it out
    assert (await in_time(mirror.get(path("b")))).status == 200
    assert sent(upstream) == 1


async def test_a_restart_and_another_process_know_what_is_left(
    start: StartMirror, upstream: FakeRegistry, limit: RateLimit, tmp_path: Path
) -> None:
    limit.use(MINE, 99)
    first = await start(upstream)
    second = await start(upstream)  # another one on the same store
    assert (await first.get(path("a"))).status == 200
    first.server.store.dealings.flush()
    assert (await in_time(second.get(path("b")))).status == 503
    await first.stop()
    await second.stop()
    third = await start(upstream)
    assert (await in_time(third.get(path("c")))).status == 503
    assert (sent(upstream), upstream.count(limited=True)) == (1, 0)

    file = tmp_path / "mirror.yaml"
    file.write_text(json.dumps({"storage": {"path": str(tmp_path / "store")}}))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mirror", "ratelimit", "docker.io", "--cached", "--json", "--config", str(file)),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    [said] = json.loads(printed)["upstreams"]
    assert (said["credential"], said["remaining"], said["limit"], said["source"]) == ("anonymous", 0, 100, MINE)


@pytest.mark.parametrize("wrong", [PAST, YEARS, GARBAGE, "-1", "1e9"])
async def test_a_wrong_retry_after_neither_hammers_nor_silences(
    start: StartMirror, upstream: FakeRegistry, limit: RateLimit, clock: Clock, wrong: str | int
) -> None:
    limit.retry_after = wrong
    mirror = await start(upstream)
    await mirror.pull("library/a", "v1")
    limit.use(MINE, 100)  # by others behind this address: the mirror has not heard of it
    for _ in range(10):
        reply = await in_time(mirror.get(path("b")))
        assert (reply.status, reply.code) == (503, "TOOMANYREQUESTS")
        assert 0 < int(reply.headers["Retry-After"]) <= 3600
    assert upstream.count(limited=True) <= 2
    clock.advance(6 * 3600 + 1)
    assert (await in_time(mirror.get(path("b")))).status == 200


async def test_the_limit_on_abuse_rests_everything_for_a_minute_while_the_cache_serves(
    start: StartMirror, upstream: FakeRegistry, limit: RateLimit, clock: Clock
) -> None:
    mirror = await start(upstream, freshness=TTL_0)
    await mirror.pull("library/a", "v1")
    limit.abuse = 0
    limit.abuse_retry_after = 60
    for name in "bcd":
        assert (await in_time(mirror.get(path(name)))).status == 503
    replies = await mirror.pull("library/a", "v1")
    assert [reply.status for reply in replies] == [200, 200, 200]
    assert "Warning" in replies[0].headers
    assert upstream.count(limited=True) == 1
    limit.abuse = None
    clock.advance(61)
    assert (await in_time(mirror.get(path("b")))).status == 200


async def test_it_is_told_once_at_50_20_and_5_percent(
    start: StartMirror, upstream: FakeRegistry, limit: RateLimit
) -> None:
    def warnings(percent: int) -> float:
        labels = {"namespace": "docker.io", "credential": "anonymous", "percent": str(percent)}
        return REGISTRY.get_sample_value("mirror_upstream_ratelimit_warnings_total", labels) or 0.0

    before = {percent: warnings(percent) for percent in (50, 20, 5)}
    mirror = await start(upstream, budget=[])
    told: list[list[int]] = []
    for name, used in zip("abcde", (40, 20, 25, 8, 0), strict=True):
        limit.use(MINE, used)
        with capture_logs() as logs:
            assert (await mirror.get(path(name))).status == 200
        told.append([entry["less_than_percent"] for entry in logs if "less_than_percent" in entry])
    assert told == [[], [50], [20], [5], []]
    assert {percent: warnings(percent) - before[percent] for percent in before} == {50: 1, 20: 1, 5: 1}
    gauge = REGISTRY.get_sample_value(
        "mirror_upstream_ratelimit_remaining", {"namespace": "docker.io", "credential": "anonymous"}
    )
    assert gauge == limit.remaining(MINE, 100) == 2


async def test_a_site_with_two_uplinks_goes_by_the_one_that_was_heard_of_last(
    start: StartMirror, upstream: FakeRegistry, limit: RateLimit
) -> None:
    limit.sources = (MINE, "198.51.100.7")
    limit.use(MINE, 90)
    mirror = await start(upstream)
    for name in "ab":
        assert (await mirror.get(path(name))).status == 200
    [state] = mirror.server.cache.upstream("docker.io").accounts.states()
    assert state.budget is not None
    assert {(budget.source, budget.remaining) for budget in (state.budget, *state.others)} == {
        (MINE, 9),
        ("198.51.100.7", 99),
    }
