"""A made-up site: 5,000 images that share layers, and 200,000 pulls of them. The same for the same seed.

What is assumed, since no public trace says it:
- 1,000 repositories, five versions each in the mean (geometric), which appear one after the other while the trace runs.
  The popularity of repositories is Zipf with exponent 1. Of the pulls of one 65 % want the newest version, 25 % one
  that is a few versions old (geometric), 10 % any older one.
- An image has 5 to 15 layers: those of one of 40 bases (popularity Zipf again; a base is made anew eight times in the
  trace), then its own. A version keeps its predecessor's own layers up to a place that is drawn at random; one in four
  starts again on the newest base.
- Layers are log-normal: median 4 MB, sigma 1.9, at most 2 GB. A manifest has 4 kB.
- 60 % of the pulls come from 300 nodes, each with an image store of 20 GB that drops its least recently used images.
  A node that has the image asks for the manifest alone, else also for the blobs that it lacks. One node in 500 pulls is
  replaced by an empty one. The other 40 % are build machines that start empty and ask for everything.
- Pulls are independent of each other, unless `repeats` says which share of them repeats one of the last 4,000 pulls,
  as a build that runs again or an image that goes to one node after the other; the more recent, the more likely (the
  distance is log-uniform).
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections import OrderedDict
from dataclasses import dataclass

PULLS = 200_000
IMAGES = 5_000
_REPOSITORIES = 1_000
_BASES = 40
_REMADE = 8  # times that a base is made in the trace
_NODES = 300
_NODE_STORE = 20_000_000_000  # bytes
_MANIFEST = 4_000
_LARGEST = 2_000_000_000
_RECENT = 4_000  # pulls


@dataclass(frozen=True)
class Trace:
    """`sizes` in bytes by content: the manifest of image `i` is content `i`, blobs come after all manifests.

    `images` says which blobs each image has; `pulls` is (image, blobs that are asked for).
    """

    sizes: list[int]
    images: list[tuple[int, ...]]
    pulls: list[tuple[int, tuple[int, ...]]]

    @property
    def total(self) -> int:
        """Bytes of everything that is ever asked for, each content once."""
        asked = {image for image, _ in self.pulls}
        asked.update(itertools.chain.from_iterable(blobs for _, blobs in self.pulls))
        return sum(self.sizes[content] for content in asked)


class _Zipf:
    """Draws numbers below `count`; the first is the most popular."""

    def __init__(self, count: int) -> None:
        self._sums = list(itertools.accumulate(1 / rank for rank in range(1, count + 1)))

    def draw(self, chance: random.Random) -> int:
        return bisect.bisect(self._sums, chance.random() * self._sums[-1])


class _Node:
    """A machine that keeps the images that it used last."""

    def __init__(self, sizes: list[int], images: list[tuple[int, ...]]) -> None:
        self._sizes, self._images = sizes, images
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._needed: dict[int, int] = {}  # blob -> how many of the images here have it
        self._taken = 0

    def pull(self, image: int) -> tuple[int, ...]:
        """Return what it asks for."""
        if image in self._kept:
            self._kept.move_to_end(image)
            return ()
        lacks = tuple(blob for blob in self._images[image] if blob not in self._needed)
        self._kept[image] = None
        for blob in self._images[image]:
            self._needed[blob] = self._needed.get(blob, 0) + 1
        self._taken += sum(self._sizes[blob] for blob in lacks)
        while self._taken > _NODE_STORE and len(self._kept) > 1:
            oldest, _ = self._kept.popitem(last=False)
            for blob in self._images[oldest]:
                self._needed[blob] -= 1
                if not self._needed[blob]:
                    del self._needed[blob]
                    self._taken -= self._sizes[blob]
        return lacks


def make(seed: int, *, pulls: int = PULLS, images: int = IMAGES, repeats: float = 0) -> Trace:
    """Return a trace; `images` is at least 50."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    repositories = max(10, _REPOSITORIES * images // IMAGES)
    versions = _versions(chance, repositories, images, pulls)
    sizes = [_MANIFEST] * images
    layers = _layers(chance, versions, images, pulls, sizes)
    nodes = [_Node(sizes, layers) for _ in range(_NODES)]
    popularity = _Zipf(repositories)
    made: list[tuple[int, tuple[int, ...]]] = []
    for now in range(pulls):
        if now and chance.random() < repeats:
            image = made[-min(now, int(_RECENT ** chance.random()))][0]
        else:
            image = _choose(chance, versions[popularity.draw(chance)], now)
        if chance.random() < 0.4:
            made.append((image, layers[image]))
            continue
        number = chance.randrange(_NODES)
        if chance.random() < 1 / 500:
            nodes[number] = _Node(sizes, layers)
        made.append((image, nodes[number].pull(image)))
    return Trace(sizes, layers, made)


def _versions(chance: random.Random, repositories: int, images: int, pulls: int) -> list[list[tuple[int, int]]]:
    """Return for each repository, by popularity, when its versions appear: (pull, image), oldest first."""
    weights = [chance.expovariate(1) for _ in range(repositories)]
    scale = (images - repositories) / sum(weights)
    counts = [1 + int(weight * scale) for weight in weights]
    for number in range(images - sum(counts)):
        counts[number] += 1
    numbers = iter(range(images))
    found = []
    for count in counts:
        appear = sorted(chance.randrange(-pulls // 2, pulls) for _ in range(count))
        appear[0] = min(appear[0], 0)
        found.append([(at, next(numbers)) for at in appear])
    return found


def _layers(
    chance: random.Random, versions: list[list[tuple[int, int]]], images: int, pulls: int, sizes: list[int]
) -> list[tuple[int, ...]]:
    """Return the blobs of each image, and add their sizes to `sizes`."""

    def make_some(count: int) -> list[int]:
        first = len(sizes)
        sizes.extend(
            min(_LARGEST, max(100, int(chance.lognormvariate(15.2, 1.9)))) for _ in range(count)
        )  # e^15.2: 4 MB
        return list(range(first, len(sizes)))

    bases = [[make_some(count) for _ in range(_REMADE)] for count in (chance.randint(1, 4) for _ in range(_BASES))]
    popularity = _Zipf(_BASES)
    found: list[tuple[int, ...]] = [()] * images
    for repository in versions:
        base = bases[popularity.draw(chance)]
        count = chance.randint(5, 15)
        own: list[int] = []
        stands_on: list[int] = []
        for at, image in repository:
            if not own or chance.random() < 0.25:
                stands_on = base[max(0, at) * _REMADE // pulls]
                own = make_some(count - len(stands_on))
            else:
                kept = chance.randrange(len(own))
                own = own[:kept] + make_some(len(own) - kept)
            found[image] = (*stands_on, *own)
    return found


def _choose(chance: random.Random, repository: list[tuple[int, int]], now: int) -> int:
    there = bisect.bisect_right(repository, (now, IMAGES))
    way = chance.random()
    back = 0
    if 0.65 <= way < 0.9:
        back = int(chance.expovariate(0.7)) + 1  # a mean of 2
    elif way >= 0.9:
        back = chance.randrange(there)
    return repository[max(0, there - 1 - back)][1]
