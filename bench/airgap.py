"""Export and import of a gigabyte, beside `tar` into `sha256sum` and `sync` over the same bytes.

What is compared reads as much, hashes as much, writes as much and waits for the disk as well. The three take turns, and
are compared round by round: a machine is not as fast from one minute to the next. `tar` without the copy is shown, too.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from typing import TYPE_CHECKING

from bench.figures import Figure, median, worst
from bench.stage import MIB
from tests.parts.process import run as run_program
from tests.unit.airgap.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.options import Options

IMAGES, LAYER = 16, 64 * MIB
LEAST = 0.7  # of the speed
MOST = 150  # MiB of memory

_WATCH = """
import resource, subprocess, sys, time
began = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def run(room: Path, options: Options) -> list[Figure]:
    _stock(room)
    target = room / "target"
    target.mkdir()
    (target / "mirror.yaml").write_text(json.dumps({"storage": {"path": str(target / "store"), "min_free": "0B"}}))
    bundle, copy = room / "bundle.tar", room / "copy.tar"
    tar = f"tar -cf - -C {room / 'store'} blobs.v1"
    ways: dict[str, Sequence[str | Path]] = {
        "tar | tee | sha256sum, sync": ("bash", "-c", f"set -e; {tar} | tee {copy} | sha256sum; sync {copy}"),
        "tar | sha256sum, sync": ("bash", "-c", f"set -e; {tar} | sha256sum; sync"),
        "export": _mirror("export", "*", "-o", bundle, "--config", room / "mirror.yaml"),
        "import": _mirror("import", bundle, "--config", target / "mirror.yaml"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    memory: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds):
        names = list(ways)
        # Import needs what export wrote; the others take turns in who is first.
        order = [*names[:2], "export", "import"] if number % 2 else ["export", "import", *names[:2]]
        for name in order:
            if name == "import":
                shutil.rmtree(target / "store", ignore_errors=True)
            elif name != "tar | sha256sum, sync":
                (bundle if name == "export" else copy).unlink(missing_ok=True)
            took, peak = _timed(ways[name])
            seconds[name].append(took)
            memory[name].append(peak)
    alike, bare = (seconds[name] for name in list(ways)[:2])
    figures = []
    for name in ("export", "import"):
        figures += [
            median(f"{name}: speed to tar that copies", _ratios(alike, seconds[name]), "x", LEAST, at_least=True),
            median(f"{name}: speed to tar that does not", _ratios(bare, seconds[name]), "x"),
            median(f"{name}: speed", [IMAGES * LAYER / MIB / took for took in seconds[name]], "MiB/s"),
            worst(f"{name}: most memory", memory[name], "MiB", MOST),
        ]
    return figures


def _stock(room: Path) -> None:
    block = random.Random(7).randbytes(LAYER)  # noqa: S311 - content, not a secret
    with Shelf(room) as shelf:
        for number in range(IMAGES):
            shelf.image("docker.io/library/large", f"v{number}", number.to_bytes(8, "big") + block[8:])


def _mirror(*words: str | Path) -> Sequence[str | Path]:
    return (sys.executable, "-m", "mirror", *words)


def _ratios(others: Sequence[float], own: Sequence[float]) -> list[float]:
    return [other / one for other, one in zip(others, own, strict=True)]


def _timed(command: Sequence[str | Path]) -> tuple[float, float]:
    """Run a command when the disk is idle; return its seconds, and the most memory that it had in MiB.

    A small program starts it: what a process has had at most counts from before it became another one (getrusage(2)).
    """
    os.sync()
    told = run_program(sys.executable, "-c", _WATCH, *command, within=600)
    took, peak = told.split()[-2:]
    return float(took), int(peak) / 1024
