"""Plays a day: events in their order, the clock set to each, and what the pulls came to.

Time is compressed: all that happens within five seconds of the day happens at once, and nothing happens between.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from bench import cluster
from bench.nodes import Node

if TYPE_CHECKING:
    from bench.cluster import Day, Pull
    from bench.nodes import Pulled

_STEP = 5.0  # seconds of the day that are one moment
_AT_ONCE = 24  # pulls


class Site(Protocol):
    """A cache, and the upstream behind it."""

    def digest(self, image: int, version: int) -> str:
        """Return what a version of an image is."""
        ...

    def at(self, now: float) -> None:
        """Let it be that time: seconds since the day's midnight."""
        ...

    def move(self, image: int, version: int) -> None:
        """Let upstream's tag be that version."""
        ...

    async def pull(self, node: Node, image: int) -> Pulled:
        """Pull what a node lacks of it."""
        ...

    async def settle(self) -> None:
        """Let end what goes on behind the answers."""
        ...

    async def restart(self) -> None:
        """Stop, and start again with what is on disk."""
        ...


@dataclass
class Tally:
    """What came of a day. Times in seconds."""

    pulls: int = 0  # that were asked for; a pull that is tried again is one
    failed_known: int = 0  # of them failed at first, of what had been pulled before
    failed_new: int = 0
    attempts: int = 0  # that failed
    waits: list[float] = field(default_factory=list)  # until something that failed at first could be pulled
    never: int = 0  # pulls that had not succeeded when the day ended
    by_tag: int = 0  # answers that say what a tag is
    stale: int = 0  # of them: not what the tag was upstream at that moment
    marked: int = 0  # pulls with a `Warning`
    backwards: int = 0  # answers that are older than an earlier one
    served_late: dict[tuple[int, int], float] = field(default_factory=dict)  # version of an image -> by how much
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def stale_share(self) -> float:
        """Per cent of the answers by tag."""
        return 100 * self.stale / max(1, self.by_tag)

    def late(self, share: float) -> float:
        """Return for how long a former digest was still served, at most, after this share of the moves, in minutes.

        Moves that nobody pulled after do not count; one that was seen at once counts as 0.
        """
        found = sorted(self.served_late.values())
        return found[max(0, math.ceil(share * len(found)) - 1)] / 60 if found else 0.0


class Player:
    """Plays `day` on `site`."""

    def __init__(self, day: Day, site: Site) -> None:
        self._day, self._site = day, site
        self._nodes = [Node(arm=day.is_arm(number)) for number in range(len(day.running))]
        self._known: set[tuple[int, bool]] = set()  # what was pulled before, and for which platform
        self._newest: Counter[int] = Counter()  # the newest version of each image that was served
        self._order = itertools.count()
        self._room = asyncio.Semaphore(_AT_ONCE)
        self.tally = Tally()

    async def warm(self) -> None:
        """Pull what is used when the day begins, once for each platform, and give the nodes what they run."""
        day, begin = self._day, self._day.scale.begin
        self._site.at(begin)
        for number, image in enumerate(day.images):
            if image.born <= begin:
                self._site.move(number, image.version(begin))
        wanted = {(image, day.is_arm(node)) for node, images in enumerate(day.running) for image in images}
        wanted |= {(pull.image, day.is_arm(pull.node)) for pull in day.pulls if day.images[pull.image].born <= begin}
        models = {}
        for image, arm in sorted(wanted):
            node = models[image, arm] = Node(arm=arm)
            pulled = await self._site.pull(node, image)
            assert pulled.why is None, pulled.why
            self._known.add((image, arm))
            self._newest[image] = day.images[image].version(begin)
        for node, images in zip(self._nodes, day.running, strict=True):
            for image in images:
                node.images |= models[image, node.arm].images
                node.blobs |= models[image, node.arm].blobs
        await self._site.settle()

    async def play(self) -> Tally:
        """Play it all."""
        day = self._day
        births = [(image.born, number, 0) for number, image in enumerate(day.images) if image.born > day.scale.begin]
        moves = sorted([*day.moves, *births], reverse=True)
        queue = [(pull.at, next(self._order), pull, 0) for pull in day.pulls]
        heapq.heapify(queue)
        self.tally.pulls = len(queue)
        restarted = False
        while queue and queue[0][0] < day.scale.end:
            now = queue[0][0] // _STEP * _STEP
            if not restarted and now >= day.scale.restart:
                restarted = True
                await self._site.restart()
            together = []
            while queue and queue[0][0] < now + _STEP:
                together.append(heapq.heappop(queue))
            while moves and moves[-1][0] < now + _STEP:
                at, image, version = moves.pop()
                self._site.at(at)
                self._site.move(image, version)
            self._site.at(now + _STEP)
            for again in await asyncio.gather(*[self._try(now + _STEP, pull, tries) for _, _, pull, tries in together]):
                if again is not None:
                    heapq.heappush(queue, (again[0], next(self._order), *again[1:]))
            await self._site.settle()
        self.tally.never = len(queue)
        return self.tally

    async def _try(self, now: float, pull: Pull, tries: int) -> tuple[float, Pull, int] | None:
        """Pull once; return when it is to be tried again, where it failed."""
        tally, node = self.tally, self._nodes[pull.node]
        async with self._room:
            pulled = await self._site.pull(node, pull.image)
        tally.marked += pulled.marked
        if pulled.digest is not None and self._day.images[pull.image].moves:
            self._note(now, pull.image, pulled.digest)
        if pulled.why is None:
            self._known.add((pull.image, node.arm))
            if tries:
                tally.waits.append(now - pull.at)
            return None
        known = (pull.image, node.arm) in self._known
        tally.attempts += 1
        if not tries:
            tally.failed_known += known
            tally.failed_new += not known
            what = "known" if known else "new"
            tally.reasons[f"{what}: {_plain(pulled.why)}"] += 1
            image = self._day.images[pull.image]
            tally.examples.append(f"{now / 3600:.2f} h {image.repo} ({what}, arm {node.arm}): {pulled.why}")
        return now + cluster.back_off(tries + 1), pull, tries + 1

    def _note(self, now: float, number: int, digest: str) -> None:
        """Note how old an answer is."""
        tally, image = self.tally, self._day.images[number]
        true = image.version(now)
        said = next(version for version in range(true, -1, -1) if self._site.digest(number, version) == digest)
        tally.by_tag += 1
        tally.stale += said < true
        tally.backwards += said < self._newest[number]
        self._newest[number] = max(said, self._newest[number])
        for version, at in enumerate(image.moves[:true], 1):
            if at < self._day.scale.begin:
                continue
            late = now - at if said < version else 0.0
            tally.served_late[number, version] = max(late, tally.served_late.get((number, version), 0.0))


def _plain(why: str) -> str:
    """Return a reason without what is of this one pull."""
    return " ".join(word if len(word) < 24 else "…" for word in why.split())[:160]
