"""A day of a cluster of 200 nodes before an upstream with Docker Hub's anonymous limits.

`python -m bench day` plays it with what an empty configuration means, and beside it with revalidation at every pull
(`ttl: 0s`, no `budget` rules); `bench.cluster` says what happens in it. `python -m bench.day` says more; `--seed` plays
another day, `--hours 9 15` a part of it. What docker-registry would do is modelled (`bench.plain_proxy`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

from bench import cluster
from bench.figures import Figure
from bench.nodes import Client
from bench.options import Options
from bench.plain_proxy import PlainProxy
from bench.playing import Player, Tally
from mirror import config, log
from mirror.config.upstreams import WELL_KNOWN
from mirror.server.run import Server
from tests.fakes.registry import FakeRegistry

if TYPE_CHECKING:
    from bench.cluster import Day
    from bench.nodes import Node, Pulled
    from tests.fakes.limit import RateLimit

OURS: dict[str, Any] = {}  # what is configured: nothing
EACH_TIME: dict[str, Any] = {"freshness": [{"match": "**", "ttl": "0s"}], "budget": []}
_MIDNIGHT = 1_790_035_200.0


@dataclass(frozen=True)
class Asked:
    """What upstream was asked in a day."""

    counted: int  # GETs of manifests that it answered, and counted
    counted_worst: int  # of them, in any six hours
    refused: int  # GETs of manifests that it refused
    heads: int
    requests_worst: int  # of any kind, tokens included, in any minute
    abused: int  # requests that met the abuse limit

    @classmethod
    def of(cls, day: Day, limit: RateLimit, *, heads: int, limited: int) -> Self:
        """Read what a limit has counted; what was used before the day is in the worst six hours, too."""
        return cls(
            counted=sum(map(len, limit.counted.values())) - cluster.used_before(day.scale),
            counted_worst=limit.worst(),
            refused=len(limit.refused),
            heads=heads,
            requests_worst=limit.worst([at for times in limit.asked.values() for at in times], 60.0),
            abused=limited - len(limit.refused),
        )


class MirrorSite:
    """A mirror before a fake upstream, both in this process, and a clock that both go by."""

    def __init__(self, day: Day) -> None:
        self._day = day
        self._now = 0.0
        self.upstream = FakeRegistry()
        self._digests: dict[tuple[int, int], str] = {}

    @classmethod
    async def open(cls, day: Day, store: Path, stack: AsyncExitStack, settings: dict[str, Any]) -> Self:
        """Start both on an empty store."""
        site = cls(day)
        up = await stack.enter_async_context(site.upstream)
        up.auth.mode, up.auth.clock, up.redirect_blobs = "bearer", site.clock, True
        site._stock()
        document = {
            "server": {"listen": "127.0.0.1:0"},
            "storage": {"path": str(store), "min_free": "0B"},
            "upstreams": {**dict.fromkeys(WELL_KNOWN, False), "docker.io": {"url": up.url}},
            **settings,
        }
        site._config = config.parse(json.dumps(document), "mirror.yaml", {})
        stack.push_async_callback(site._stop)
        await site._start()
        return site

    async def _start(self) -> None:
        self._running = AsyncExitStack()
        self._server = await Server.start(self._config, self._running, clock=self.clock)
        self._client = Client(self._server.bound[0])

    async def _stop(self) -> None:
        self._client.close()
        await self._running.aclose()

    async def restart(self) -> None:
        """See `Site.restart`."""
        await self._stop()
        await self._start()

    def clock(self) -> float:
        """Return what time it is, seconds since the epoch."""
        return _MIDNIGHT + self._now

    def begin(self) -> None:
        """Let upstream count from now on."""
        self.upstream.limit = cluster.limit_of(self._day.scale, self.clock)
        self.upstream.forget()

    def digest(self, image: int, version: int) -> str:
        """See `Site.digest`."""
        return self._digests[image, version]

    def at(self, now: float) -> None:
        """See `Site.at`."""
        self._now = now

    def move(self, image: int, version: int) -> None:
        """See `Site.move`."""
        it = self._day.images[image]
        if it.born > 0 and version == 0:
            self._add(image, 0)
        if not it.pinned:
            self.upstream.shelf(it.repo).tags[it.tag] = self._digests[image, version]

    async def pull(self, node: Node, image: int) -> Pulled:
        """See `Site.pull`."""
        it = self._day.images[image]
        return await self._client.pull(node, it, self._digests[image, 0] if it.pinned else None)

    async def settle(self) -> None:
        """See `Site.settle`."""
        records = self.upstream.log.records
        fills = self._server.cache.fills._tasks  # noqa: SLF001 - nobody else needs to know when nothing is under way
        while True:
            await self.upstream.log.wait(lambda: all(record.done for record in records[-500:]))
            if not fills:
                return
            await asyncio.gather(*fills, return_exceptions=True)

    def asked(self) -> Asked:
        """Return what upstream was asked since `begin`."""
        assert self.upstream.limit is not None
        heads = self.upstream.count(kind="manifest", method="HEAD", status=200)
        return Asked.of(self._day, self.upstream.limit, heads=heads, limited=self.upstream.count(limited=True))

    def _stock(self) -> None:
        for number, image in enumerate(self._day.images):
            if image.born <= 0:
                for version in range(len(image.moves) + 1):
                    self._add(number, version)

    def _add(self, number: int, version: int) -> None:
        image, up = self._day.images[number], self.upstream
        children = []
        for platform in ("linux/amd64", "linux/arm64"):
            base = [f"{platform} base {image.base} layer {layer} ".encode() * 50 for layer in range(2)]
            own = [f"{platform} {image.repo} ".encode() * 50, f"{platform} {image.repo} {version} ".encode() * 50]
            children.append(up.add_image(image.repo, layers=[*base, *own], platform=platform))
        self._digests[number, version] = str(up.add_index(image.repo, manifests=children))


async def play(day: Day, store: Path, settings: dict[str, Any]) -> tuple[Tally, Asked]:
    """Play `day` with a mirror that is configured so."""
    async with AsyncExitStack() as stack:
        site = await MirrorSite.open(day, store, stack, settings)
        player = Player(day, site)
        await player.warm()
        site.begin()
        tally = await player.play()
        return tally, site.asked()


async def model(day: Day) -> tuple[Tally, Asked]:
    """Play `day` with what docker-registry would do."""
    site = PlainProxy(day)
    player = Player(day, site)
    await player.warm()
    site.begin()
    tally = await player.play()
    return tally, Asked.of(day, site.limit, heads=site.heads, limited=len(site.limit.refused))


def figures(name: str, tally: Tally, asked: Asked, limit: int | None) -> list[Figure]:
    """Return what is to be shown; `limit` is what upstream allows, where it is to be kept."""
    none = None if limit is None else 0
    shown = [
        ("pulls", tally.pulls, "pulls", None),
        ("failed, of what was pulled before", tally.failed_known, "pulls", none),
        ("failed at first, of what is new", tally.failed_new, "pulls", None),
        ("longest wait after a failure", max(tally.waits, default=0) / 60, "minutes", None),
        ("counted requests, worst six hours", asked.counted_worst, "requests", limit),
        ("counted requests, all day", asked.counted, "requests", None),
        ("GETs that upstream refused", asked.refused, "requests", None),
        ("HEADs", asked.heads, "requests", None),
        ("requests of any kind, worst minute", asked.requests_worst, "requests", None),
        ("requests refused for abuse", asked.abused, "requests", none),
        ("answers out of date", tally.stale_share, "% of those for tags that move", None),
        ("pulls with a warning that says so", 100 * tally.marked / max(1, tally.pulls), "% of pulls", None),
        ("former digest served after a move, median", tally.late(0.5), "minutes", None),
        ("former digest served after a move, nine in ten", tally.late(0.9), "minutes at most", None),
        ("former digest served after a move, worst", tally.late(1), "minutes", None),
        ("answers older than an earlier one", tally.backwards, "answers", none),
    ]
    return [Figure(f"{name}: {what}", value, unit, held) for what, value, unit, held in shown]


def _play(day: Day, settings: dict[str, Any]) -> tuple[Tally, Asked]:
    log.setup("error", "json", sys.stderr)
    with TemporaryDirectory(prefix="bench-day-") as room:
        return asyncio.run(play(day, Path(room) / "store", settings))


def run(_room: Path, options: Options) -> list[Figure]:
    day = cluster.make(options.seed)
    with ProcessPoolExecutor(2) as processes:
        ours, each_time = processes.map(_play, (day, day), (OURS, EACH_TIME))
    plain, asked = asyncio.run(model(day))
    modelled = [
        Figure("docker-registry, modelled: failed, of what was pulled before", plain.failed_known, "pulls"),
        Figure("docker-registry, modelled: failed at first, of what is new", plain.failed_new, "pulls"),
        Figure("docker-registry, modelled: GETs that upstream refused", asked.refused, "requests"),
        Figure("docker-registry, modelled: HEADs", asked.heads, "requests"),
    ]
    return [
        Figure("seed", options.seed, ""),
        Figure("images", len(day.images), ""),
        Figure("moves of tags", len(day.moves), ""),
        *figures("the mirror", *ours, limit=day.scale.limit),
        *figures("asking at every pull", *each_time, limit=None),
        *modelled,
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.day", description="a cluster's day behind a rate limit")
    parser.add_argument("--seed", type=int, default=Options.seed)
    parser.add_argument("--hours", type=float, nargs=2, default=(0, 24), metavar=("FROM", "TO"))
    parser.add_argument("--revalidate", action="store_true", help="ask at every pull, and save nothing")
    parser.add_argument("--model", action="store_true", help="what docker-registry would do")
    asked = parser.parse_args()
    begin, end = (hour * cluster.HOUR for hour in asked.hours)
    day = cluster.make(asked.seed, cluster.Scale(begin=begin, end=end))
    tally, upstream = asyncio.run(model(day)) if asked.model else _play(day, EACH_TIME if asked.revalidate else OURS)
    found = figures("day", tally, upstream, day.scale.limit)
    print(f"seed {asked.seed}: {len(day.images)} images, {len(day.pulls)} pulls, {len(day.moves)} moves")
    for figure in found:
        print(f"{figure.what:56}{figure.value:>8.1f} {figure.unit:32}{figure.verdict}")
    for reason, count in tally.reasons.most_common(10):
        print(f"{count:>6}  {reason}")
    for example in tally.examples[:: max(1, len(tally.examples) // 20)]:
        print(f"       {example}")
    return 0 if all(figure.holds for figure in found) else 1


if __name__ == "__main__":
    sys.exit(main())
