"""Run the benches, say what was measured, and end with 1 if a limit is missed or a bench could not be run.

`python -m bench` runs all, `python -m bench crowd cold` some. `--json` is for machines. `--peers` measures Debian's
docker-registry beside the mirror; its `crowd` alone takes more than a minute.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import traceback
from typing import TYPE_CHECKING

from bench import (
    airgap,
    cold,
    crash,
    crowd,
    day,
    endpoints,
    far,
    far_range,
    first_pull,
    large,
    offline,
    tag,
    tls,
    trace,
)
from bench.figures import Figure, document, table
from bench.options import Options
from bench.stage import BenchError
from tests.parts.process import ProgramError, room

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BENCHES: dict[str, Callable[[Path, Options], list[Figure]]] = {
    "crowd": crowd.run,
    "first_pull": first_pull.run,
    "far": far.run,
    "far_range": far_range.run,
    "tag": tag.run,
    "crash": crash.run,
    "cold": cold.run,
    "offline": offline.run,
    "tls": tls.run,
    "large": large.run,
    "trace": trace.run,
    "airgap": airgap.run,
    "day": day.run,
    "endpoints": endpoints.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="measure what the promises cost")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}; all if none is given")
    parser.add_argument("--rounds", type=int, default=3, help="direct and mirrored in turn, so often (default: 3)")
    parser.add_argument("--peers", action="store_true", help="measure docker-registry as a proxy too")
    parser.add_argument("--seed", type=int, default=Options.seed, help="which day `day` plays (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    asked = parser.parse_args()
    for name in asked.names:
        if name not in BENCHES:
            parser.error(f"there is no bench {name}; there are {', '.join(BENCHES)}")
    if asked.rounds < 1:
        parser.error("--rounds must be at least 1")
    if asked.peers and shutil.which("docker-registry") is None:
        parser.error("--peers needs docker-registry (Debian: apt install docker-registry)")
    results, broken = [], 0
    for name in asked.names or BENCHES:
        print(f"{name} … (load {os.getloadavg()[0]:.2f})", file=sys.stderr, flush=True)
        try:
            with room(f"bench-{name}") as place:
                figures = BENCHES[name](place, Options(asked.rounds, asked.peers, asked.seed))
        except (BenchError, ProgramError):
            traceback.print_exc()
            broken += 1
            continue
        results.append((name, figures))
    print(document(results) if asked.json else table(results))
    missed = sum(not figure.holds for _, figures in results for figure in figures)
    if missed or broken:
        print(f"{missed} limits missed, {broken} benches broken", file=sys.stderr)
    return 1 if missed or broken else 0


if __name__ == "__main__":
    sys.exit(main())
