"""A made-up day of a cluster of 200 nodes, and what its images do meanwhile. The same for the same seed and scale.

What is assumed, since no public trace says it:
- 150 nodes, one in ten of them arm64, run all day; 50 empty ones (amd64) come at night, within ten minutes.
- 40 tags move. Six do every hour. Of the others three in four are moved by a release train from 09:00 to 09:40, the
  rest at any time from 07:00 to 19:00; two in five move a second time, from 13:00 to 17:00. 40 tags never move, 20
  images are pinned by digest, six are brand-new: half of those between 09:45 and 11:30, when the budget is lowest.
- Every image is an index of two platforms. Its first layers are those of one of eight bases, a move changes the last.
- 5 DaemonSets, two of them of moving tags, are on every node. 60 Deployments (two replicas and more, exponential, ten
  in the mean; one in ten of them on any platform) and 24 CronJobs (every 10, 15, 30 or 60 minutes). Each tag that
  moves has a Deployment; CronJobs use the hourly ones first.
- A move of a Deployment's tag is rolled out within ten minutes in 70 % of the cases (hourly tags: 15 %), a move of a
  DaemonSet's always. From 03:00 to 05:00 the nodes are drained, and each Deployment starts once anew. A rolling restart
  starts a quarter of the pods (DaemonSets: a tenth) every 20 s; a pod lands on any node that is there.
- A pod's start is a pull (`imagePullPolicy: Always`): a node that has the image asks for no more than the tag, another
  one for what it lacks. A failed pull is tried again as kubelet does, after 10 s, 20 s, … 300 s.
- At 10:00 the cache is restarted.
- When the day begins, the nodes have the images that they run, and the mirror has, for each platform, what it was asked
  for the days before; 30 counted requests (30 %) were made an hour and a half before.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.fakes.limit import RateLimit

if TYPE_CHECKING:
    from collections.abc import Callable

HOUR = 3600.0
DAY = 24 * HOUR
USED_BEFORE = 30  # per cent of the limit …
USED_AGO = 1.5 * HOUR  # … so long before the day begins
_DRAIN = (3 * HOUR, 5 * HOUR)
_TRAIN = (9 * HOUR, 9 * HOUR + 2400)
_NEWS = (9.75 * HOUR, 11.5 * HOUR)
_BACK_OFF = (10.0, 20.0, 40.0, 80.0, 160.0, 300.0)  # kubelet, seconds
_PERIODS = (600.0, 900.0, 1800.0, 3600.0)


@dataclass(frozen=True)
class Scale:
    """How large the cluster is, which part of the day is played, and what upstream allows. Times in seconds."""

    nodes: int = 150
    night_nodes: int = 50
    night: float = 22 * HOUR
    hourly: int = 6
    moving: int = 40
    fixed: int = 40
    pinned: int = 20
    new: int = 6
    daemons: int = 5
    deployments: int = 60
    crons: int = 24
    begin: float = 0.0
    end: float = DAY
    restart: float = 10 * HOUR  # of the cache, whose budget is low by then
    limit: int = 100  # counted requests
    window: float = 6 * HOUR
    abuse: int = 2000  # requests of any kind in a minute


@dataclass(frozen=True)
class Image:
    """One tag, or one digest. Version 0 is there from the beginning, or from `born` on; `moves` bring the next."""

    repo: str
    tag: str
    base: int
    pinned: bool = False
    born: float = -math.inf
    moves: tuple[float, ...] = ()

    def version(self, now: float) -> int:
        """Return which one the tag is."""
        return sum(at <= now for at in self.moves)


@dataclass(frozen=True, order=True)
class Pull:
    """A pod of `image` starts on `node`."""

    at: float
    node: int
    image: int


@dataclass(frozen=True)
class Day:
    """`running` says which images each node has when the day begins; `pulls` are in order."""

    scale: Scale
    images: tuple[Image, ...]
    running: tuple[frozenset[int], ...]
    pulls: tuple[Pull, ...]

    def is_arm(self, node: int) -> bool:
        """Say what a node is."""
        return node < self.scale.nodes and node % 10 == 9

    @property
    def moves(self) -> list[tuple[float, int, int]]:
        """Return the moves within the day, in order: when, which image, to which version."""
        found = [
            (at, number, version)
            for number, image in enumerate(self.images)
            for version, at in enumerate(image.moves, 1)
            if self.scale.begin <= at < self.scale.end
        ]
        return sorted(found)


def back_off(tries: int) -> float:
    """Return for how long kubelet waits after so many failures, the first is 1."""
    return _BACK_OFF[min(tries, len(_BACK_OFF)) - 1]


def limit_of(scale: Scale, clock: Callable[[], float]) -> RateLimit:
    """Return what upstream allows, some of it used already."""
    limit = RateLimit(scale.limit, scale.window, abuse=scale.abuse, clock=clock)
    limit.use(limit.sources[0], used_before(scale), ago=USED_AGO)
    return limit


def used_before(scale: Scale) -> int:
    """Return how many requests were counted before the day began."""
    return scale.limit * USED_BEFORE // 100


def make(seed: int, scale: Scale | None = None) -> Day:
    """Return a day."""
    return _Maker(random.Random(seed), scale or Scale()).day()  # noqa: S311 - no secret


class _Maker:
    def __init__(self, chance: random.Random, scale: Scale) -> None:
        self._chance = chance
        self._scale = scale
        self._images: list[Image] = []
        self._pulls: list[Pull] = []
        self._running: list[set[int]] = [set() for _ in range(scale.nodes + scale.night_nodes)]
        self._plain = [node for node in range(scale.nodes) if node % 10 != 9]
        self._any = list(range(scale.nodes))

    def day(self) -> Day:
        scale = self._scale
        moving = [self._add("moving", moves=self._moves(number)) for number in range(scale.moving)]
        fixed = [self._add("fixed") for _ in range(scale.fixed)]
        pinned = [self._add("pinned", pinned=True) for _ in range(scale.pinned)]
        daemons = [*moving[scale.hourly : scale.hourly + scale.daemons * 2 // 5], *fixed][: scale.daemons]
        for image in daemons:
            self._run_everywhere(image)
        others = itertools.cycle([*fixed, *pinned])
        deployed = [moving[number] if number < len(moving) else next(others) for number in range(scale.deployments)]
        for number, image in enumerate(deployed):
            self._deploy(image, mixed=number % 10 == 9)
        crons = [*moving[: scale.hourly] * 2, *moving[scale.hourly :], *fixed]
        for image in crons[: scale.crons]:
            self._run_by_time(image)
        self._come_at_night(daemons, deployed)
        for number in range(scale.new):
            self._bring_new(number)
        pulls = sorted(pull for pull in self._pulls if scale.begin <= pull.at < scale.end)
        return Day(scale, tuple(self._images), tuple(map(frozenset, self._running)), tuple(pulls))

    def _add(self, kind: str, **more: Any) -> int:
        number = len(self._images)
        image = Image(f"{kind}/app{number}", "latest" if kind == "moving" else "v1", number % 8, **more)
        self._images.append(image)
        return number

    def _moves(self, number: int) -> tuple[float, ...]:
        chance = self._chance
        if number < self._scale.hourly:
            minute = chance.uniform(0, HOUR)
            return tuple(hour * HOUR + minute for hour in range(24))
        first = chance.uniform(*_TRAIN) if chance.random() < 0.75 else chance.uniform(7 * HOUR, 19 * HOUR)
        second = chance.uniform(13 * HOUR, 17 * HOUR) if chance.random() < 0.4 else first
        return tuple(sorted({first, second}))

    def _run_everywhere(self, image: int) -> None:
        for node in self._any:
            self._running[node].add(image)
        rollouts = [at + self._chance.uniform(60, 300) for at in self._images[image].moves]
        for at in rollouts or [self._chance.uniform(6 * HOUR, 20 * HOUR)]:
            self._restart(image, at, self._chance.sample(self._any, len(self._any)), share=0.1)

    def _deploy(self, image: int, *, mixed: bool) -> None:
        chance, nodes = self._chance, self._any if mixed else self._plain
        replicas = min(len(nodes), 2 + int(chance.expovariate(1 / 8)))
        for node in chance.sample(nodes, replicas):
            self._running[node].add(image)
        moves = self._images[image].moves
        rolled_out = 0.15 if len(moves) > 2 else 0.7
        rollouts = [at + chance.uniform(60, 600) for at in moves if chance.random() < rolled_out]
        for at in (*rollouts, chance.uniform(*_DRAIN)):
            self._restart(image, at, chance.choices(nodes, k=replicas), share=0.25)

    def _restart(self, image: int, at: float, nodes: list[int], *, share: float) -> None:
        wave = max(1, round(len(nodes) * share))
        for number, node in enumerate(nodes):
            self._pulls.append(Pull(at + number // wave * 20.0, node, image))

    def _run_by_time(self, image: int) -> None:
        period = self._chance.choice(_PERIODS)
        at = self._chance.uniform(0, period)
        while at < DAY:
            self._pulls.append(Pull(at, self._chance.choice(self._plain), image))
            at += period

    def _come_at_night(self, daemons: list[int], deployed: list[int]) -> None:
        batch = self._chance.sample(deployed, min(8, len(deployed)))
        for node in range(self._scale.nodes, self._scale.nodes + self._scale.night_nodes):
            at = self._scale.night + self._chance.uniform(0, 600)
            for image in dict.fromkeys((*daemons, *batch)):
                self._pulls.append(Pull(at + self._chance.uniform(0, 30), node, image))

    def _bring_new(self, number: int) -> None:
        born = self._chance.uniform(*(_NEWS if number % 2 == 0 else (6 * HOUR, 20 * HOUR)))
        image = self._add("new", born=born)
        self._restart(image, born + 300, self._chance.choices(self._plain, k=5), share=0.25)
