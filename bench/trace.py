"""Which content should go: 200,000 pulls of 5,000 images through caches of 5, 10 and 20 % of all bytes.

`python -m bench.trace` shows everything, `python -m bench trace` what matters. `bench.pulls` says what is assumed.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

from bench import pulls
from bench.caches import Result, belady, by_blob, by_image
from bench.figures import Figure, median
from bench.policies import Gdsf, Lfuda, Lru, S3Fifo, Segmented, Sieve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bench.options import Options
    from bench.pulls import Trace

SHARES = (5, 10, 20)  # per cent of all bytes
HIGH, LOW = 0.95, 0.90  # as storage.high_water and storage.low_water are unless configured
OURS = "the mirror: two classes by image, 95/90 %"
BOUND = "bound: Belady by byte"
_BY_IMAGE = {"LRU": Lru, "SIEVE": Sieve, "S3-FIFO": S3Fifo, "GDSF": Gdsf, "LFU-DA": Lfuda}
CACHES: dict[str, Callable[[Trace, int], Result]] = {
    OURS: lambda trace, cap: by_image(trace, cap, Segmented, high=HIGH, low=LOW),
    **{
        f"{name} by image, 95/90 %": functools.partial(by_image, make_order=order, high=HIGH, low=LOW)
        for name, order in _BY_IMAGE.items()
    },
    "LRU by image, 100/100 %": lambda trace, cap: by_image(trace, cap, Lru),
    "LRU by blob": lambda trace, cap: by_blob(trace, cap, Lru),
    "SIEVE by blob": lambda trace, cap: by_blob(trace, cap, Sieve),
    "Belady by blob, greedy": lambda trace, cap: belady(trace, cap, whole=True),
    BOUND: lambda trace, cap: belady(trace, cap, whole=False),
}


def replay(seed: int, repeats: float) -> dict[tuple[int, str], Result]:
    """Return what comes of one trace, by share and cache."""
    trace = pulls.make(seed, repeats=repeats)
    total = trace.total
    return {(share, name): cache(trace, total * share // 100) for share in SHARES for name, cache in CACHES.items()}


def replay_all(seeds: Sequence[int], repeats: float = 0) -> dict[tuple[int, str], list[Result]]:
    """Return the results of several seeds, two at a time."""
    found: dict[tuple[int, str], list[Result]] = {}
    with ProcessPoolExecutor(2) as processes:
        for results in processes.map(replay, seeds, itertools.repeat(repeats)):
            for key, result in results.items():
                found.setdefault(key, []).append(result)
    return found


def run(_room: Path, options: Options) -> list[Figure]:
    found = replay_all(range(options.rounds))
    figures = []
    for share in SHARES:
        for name in CACHES:
            rounds = [result.byte_hit_ratio for result in found[share, name]]
            figures.append(median(f"{share} % of the bytes: {name}", rounds, "% of bytes hit"))
        holes = sum(result.holes for result in found[share, OURS])
        figures.append(Figure(f"{share} % of the bytes: pulls that find a hole in the mirror", holes, "pulls", 0))
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.trace", description="compare what to evict")
    parser.add_argument("--seeds", type=int, default=3, help="traces to replay; the table has medians (default: 3)")
    parser.add_argument("--repeats", type=int, default=0, metavar="PERCENT", help="pulls that repeat a recent one")
    asked = parser.parse_args()
    seeds = range(asked.seeds)
    found = replay_all(seeds, asked.repeats / 100)
    print(f"medians of {len(seeds)} traces; in brackets the least and the most; {asked.repeats} % of the pulls repeat")
    print(f"{'cache':36}{'share':>6}  {'bytes hit':24}{'requests hit':>12}  {'pulls with holes':>16}")
    for share in SHARES:
        for name in CACHES:
            results = found[share, name]
            ratios = [result.byte_hit_ratio for result in results]
            spread = f"{statistics.median(ratios):5.1f} % ({min(ratios):.1f} to {max(ratios):.1f})"
            hits = statistics.median(result.hit_ratio for result in results)
            holed = statistics.median(result.holed for result in results)
            print(f"{name:36}{share:>4} %  {spread:24}{hits:>10.1f} %  {holed:>14.2f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
