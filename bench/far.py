"""A first pull of an image of ten layers over a long thin line: 80 ms there and back, by a shaping proxy.

First 400 KiB/s on each connection, where more connections are what helps; then 4 MiB/s in all, where nothing does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

from bench.figures import Figure, median, worst
from bench.stage import MIB, ROOT, Mirror, Upstream, pull

if TYPE_CHECKING:
    from pathlib import Path

    from bench.options import Options

LAYERS = [30 * MIB] * 10
ONE_WAY = 0.04  # seconds
PER_CONNECTION = 400 * 1024  # bytes/s
IN_ALL = 4 * MIB  # bytes/s
CONNECTIONS = 16  # the mirror's `max_connections`, unconfigured
DOCKERD, SKOPEO = 3, 6  # layers at once; containerd as dockerd
REPO = "library/ten"


def run(room: Path, options: Options) -> list[Figure]:
    with Upstream(room, images=[{"repo": REPO, "tag": "v1", "layers": LAYERS}]) as upstream:
        return [
            *_compare(room, options, upstream, "400 KiB/s each, 3 at once", 0.3, at_once=DOCKERD, rate=PER_CONNECTION),
            *_compare(room, options, upstream, "400 KiB/s each, 6 at once", None, at_once=SKOPEO, rate=PER_CONNECTION),
            *_compare(room, options, upstream, "4 MiB/s in all, 3 at once", 1.05, at_once=DOCKERD, rate_total=IN_ALL),
            *_compare(room, options, upstream, "4 MiB/s in all, 6 at once", 1.05, at_once=SKOPEO, rate_total=IN_ALL),
        ]


def _compare(
    room: Path, options: Options, upstream: Upstream, name: str, limit: float | None, *, at_once: int, **shape: Any
) -> list[Figure]:
    mirrored, peaks, copies = [], [], []
    with Line(upstream.url, **shape) as line:
        direct = pull(line.url, REPO, "v1", at_once=at_once).seconds  # once: the line decides, and it takes minutes
        for number in range(options.rounds):
            before = line.stats()["bytes"]
            with Mirror(room, line, f"{name.translate(str.maketrans(' /,', '---'))}-{number}") as mirror:
                mirrored.append(pull(mirror.url, REPO, "v1", at_once=at_once).seconds)
            stats = line.stats()
            peaks.append(stats["peak"])
            copies.append((stats["bytes"] - before) / sum(LAYERS))
    return [
        median(f"{name}: pulled directly", [direct], "s"),
        median(f"{name}: through the mirror", mirrored, "s"),
        median(f"{name}: against direct", [one / direct for one in mirrored], "x", limit),
        worst(f"{name}: connections at once, one of them for manifests", peaks, "", CONNECTIONS + 1),
        worst(f"{name}: copies from upstream", copies, "copies", 1.02),
    ]


class Line:
    """The shaping proxy (`tests.parts.shaper`), a process of its own, in front of what is at `url`."""

    def __init__(self, url: str, *, rate: int | None = None, rate_total: int | None = None) -> None:
        self._command = [sys.executable, "-m", "tests.parts.shaper", "--to", url.removeprefix("http://")]
        self._command += ["--delay", str(ONE_WAY)]
        self._command += ["--rate", str(rate)] if rate is not None else []
        self._command += ["--rate-total", str(rate_total)] if rate_total is not None else []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=ROOT
        )
        self.url = str(self._hear()["url"])
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)

    def stats(self) -> dict[str, int]:
        """Return what `Shaper.stats` does."""
        assert self._process.stdin is not None
        self._process.stdin.write("stats\n")
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        said: dict[str, Any] = json.loads(self._process.stdout.readline())
        return said
