"""A store with 100,000 images and 1,000,000 blobs beside one with 100: the start, warm hits, eviction, the commands.

What is made of the large store takes a minute; its index and journal take a gigabyte.
"""

from __future__ import annotations

import statistics
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

from bench import large_store
from bench.figures import Figure, median, worst
from bench.stage import Client, Mirror, Upstream, pull
from mirror import config
from mirror.cache.candidates import Candidates
from mirror.store.store import Store
from tests.parts.process import run as run_program

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.options import Options

IMAGES, FEW = 100_000, 100
ROUNDS = 9  # of warm hits, whatever is asked for: that many were promised
PULLS = 150  # in each
CHOICES = 50
REPO, TAG = "library/app", "v1"
# Nobody reads the files of which there are only rows.
_STORAGE = {"max_size": "1TiB", "high_water": "100%", "low_water": "99%", "scrub_rate": 0}


def run(room: Path, options: Options) -> list[Figure]:
    with Upstream(room, images=[{"repo": REPO, "tag": TAG, "layers": [1000, 200_000]}]) as upstream:
        freshness = [{"match": "**", "ttl": "1h"}]
        large = Mirror(room, upstream, "large", storage=_STORAGE, freshness=freshness)
        small = Mirror(room, upstream, "small", storage=_STORAGE, freshness=freshness)
        began = time.perf_counter()
        large_store.make(large.store, IMAGES)
        made = time.perf_counter() - began
        large_store.make(small.store, FEW)
        figures = [Figure(f"making {IMAGES} images with {large_store.OWN} blobs of their own each", made, "s")]
        for mirror in (large, small):
            with mirror:
                pull(mirror.url, REPO, TAG)
        figures.append(worst("large: start to first answer", _starts(large, options.rounds), "s", 2))
        with large, small:
            figures += _hits(large, small)
            figures += [
                Figure("large: memory after that", large.rss / 2**20, "MiB", 200),
                Figure("large: most memory", large.peak_rss / 2**20, "MiB"),
                Figure("small: memory after that", small.rss / 2**20, "MiB"),
            ]
            figures += _commands(large)
            figures += _evictions(large)
    return figures


def _starts(mirror: Mirror, rounds: int) -> list[float]:
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        with mirror:
            pull(mirror.url, REPO, TAG, at_once=1)
            seconds.append(time.perf_counter() - began)
    return seconds


def _hits(large: Mirror, small: Mirror) -> list[Figure]:
    """Ask both in turn, and compare them round by round."""
    kinds = {"tag (HEAD)": 0, "manifest": 1, "blob of 1 kB": 3, "blob of 200 kB": 4}  # of the requests of one pull
    rounds: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for number in range(ROUNDS):
        pair = (large, small) if number % 2 else (small, large)
        seen = {mirror: _pulled(mirror, len(kinds) + 1) for mirror in pair}
        for kind, place in kinds.items():
            rounds[kind].append((seen[large][place], seen[small][place]))
    figures = []
    for kind, pairs in rounds.items():
        ratios = [one / other for one, other in pairs]
        figures.append(median(f"warm {kind}: large to small", ratios, "", 1.1))
        figures.append(Figure(f"warm {kind}: large", 1e6 * statistics.median(one for one, _ in pairs), "µs"))
    return figures


def _pulled(mirror: Mirror, requests: int) -> list[float]:
    """Return the median seconds of each request of a pull."""
    plan = {"do": "pull", "url": mirror.url, "repo": REPO, "tag": TAG, "at_once": 1, "times": PULLS}
    answers = Client(plan).outcome().checked().answers
    assert len(answers) == PULLS * requests, "a pull has another number of requests"
    return [statistics.median(answer["seconds"] for answer in answers[place::requests]) for place in range(requests)]


def _commands(mirror: Mirror) -> list[Figure]:
    """Run the commands beside the running mirror, as a person does."""
    blob = large_store.digest_of("base", 0, 0)  # many images need it
    image = f"{large_store.repository_of(1)}:v1"
    asked: Sequence[tuple[str, Sequence[str]]] = [
        ("mirror ls", ("ls", "--json")),
        ("mirror ls of one image", ("ls", image, "--json")),
        ("mirror du", ("du", "--json")),
        ("mirror why, of a blob that many images need", ("why", str(blob), "--json")),
        ("mirror purge --dry-run of one image", ("purge", image, "--dry-run", "--json")),
    ]
    figures = []
    for what, words in asked:
        began = time.perf_counter()
        run_program(sys.executable, "-m", "mirror", *words, "--config", mirror.file)
        figures.append(Figure(f"large: {what}", time.perf_counter() - began, "s"))
    return figures


def _evictions(mirror: Mirror) -> list[Figure]:
    """Choose and remove as an evictor in a process of its own would."""
    choices, counts, removals = [], [], []
    with closing(Store.open(config.load(mirror.file, {}).storage)) as store:
        for _ in range(CHOICES):
            began = time.perf_counter()
            unit, used = next(iter(Candidates(store.graph, store.recent, once=100_000, again=0)))
            chosen = time.perf_counter()
            removal = store.remover.remove(unit.digest, used=used)
            removals.append(time.perf_counter() - chosen)
            choices.append(chosen - began)
            assert removal is not None
            began = time.perf_counter()
            store.graph.totals()
            counts.append(time.perf_counter() - began)
    return [
        Figure("large: choosing what to evict, median", 1e3 * statistics.median(choices), "ms", 5),
        Figure(f"large: the same, worst of {CHOICES}", 1e3 * max(choices), "ms"),
        Figure("large: counting what there is, median", 1e3 * statistics.median(counts), "ms"),
        Figure("large: taking an image out of the index, median", 1e3 * statistics.median(removals), "ms"),
        Figure(f"large: the same, worst of {CHOICES}", 1e3 * max(removals), "ms"),
    ]
