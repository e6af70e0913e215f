"""One cold 512 MiB blob and one client: speed, memory; and how soon the mirror answers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bench.figures import Figure, median, worst
from bench.stage import MIB, Mirror, Peer, Upstream, blob_url, fetch, write

if TYPE_CHECKING:
    from pathlib import Path

    from bench.options import Options

SIZE = 512 * MIB
LINE = 100 * MIB  # bytes/s
STARTS = 5


def run(room: Path, options: Options) -> list[Figure]:
    rounds = options.rounds
    blobs = [{"repo": "library/one", "size": SIZE, "seed": seed} for seed in range(rounds + 1)]
    figures: list[Figure] = []
    with Upstream(room, "unlimited", blobs=blobs, fast=True) as upstream:
        disk = [SIZE / MIB / write(room, SIZE) for _ in range(rounds)]
        direct, through, peaks, after, peer = _compare(room, options, upstream, "unlimited")
        figures += [
            median("unlimited: only writing such a file", disk, "MiB/s"),
            median("unlimited: directly", [SIZE / MIB / took for took in direct], "MiB/s"),
            median("unlimited: through the mirror", [SIZE / MIB / took for took in through], "MiB/s", 400,
                   at_least=True, peer=None if peer is None else SIZE / MIB / peer),
        ]  # fmt: skip
    with Upstream(room, "limited", blobs=blobs, rate_total=LINE) as upstream:
        direct, through, more_peaks, more_after, peer = _compare(room, options, upstream, "limited")
        shape = [took / (SIZE / LINE) for took in direct]
        against = [one / other for one, other in zip(through, direct, strict=True)]
        figures += [
            worst("100 MiB/s in all: upstream's shape", shape, "x", 1.02),
            median("100 MiB/s in all: directly", direct, "s"),
            median("100 MiB/s in all: through the mirror", through, "s", peer=peer),
            median("100 MiB/s in all: against direct", against, "x", 1.05),
        ]
        figures += [
            worst("memory throughout", peaks + more_peaks, "MiB", 120),
            worst("memory, idle again afterwards", after + more_after, "MiB", 70),
            *_starts(room, upstream),
        ]
    return figures


def _compare(
    room: Path, options: Options, upstream: Upstream, name: str
) -> tuple[list[float], list[float], list[float], list[float], float | None]:
    """Return seconds directly and through the mirror, most memory and memory after (MiB), and the peer's seconds."""
    direct, through, peaks, after = [], [], [], []
    for number in range(options.rounds):
        digest = upstream.blob(number)
        direct.append(fetch(blob_url(upstream.url, digest)).checked(size=SIZE).slowest)
        with Mirror(room, upstream, f"mirror-{name}-{number}") as mirror:
            url = blob_url(mirror.url, digest)
            write(room, SIZE)
            through.append(fetch(url).checked(size=SIZE).slowest)
            fetch(url, hash=True).checked(sha256=digest)
            peaks.append(mirror.peak_rss / MIB)
            after.append(mirror.rss / MIB)
    peer_seconds = None
    if options.peers:
        with Peer(room, upstream, f"peer-{name}") as peer:
            url = blob_url(peer.url, upstream.blob(options.rounds))
            write(room, SIZE)
            peer_seconds = fetch(url).checked(size=SIZE).slowest
    return direct, through, peaks, after, peer_seconds


def _starts(room: Path, upstream: Upstream) -> list[Figure]:
    """Start it over a store that holds something: the time until it answers, and the memory that it then has."""
    seconds, idle = [], []
    mirror = Mirror(room, upstream, "mirror-starts")
    with mirror:
        fetch(blob_url(mirror.url, upstream.blob(0))).checked(size=SIZE)
    for _ in range(STARTS):
        began = time.perf_counter()
        with mirror:
            fetch_began = time.perf_counter()
            fetch(f"{mirror.url}/v2/").checked()
            idle.append(mirror.rss / MIB)
        seconds.append(fetch_began - began)
    return [
        worst("memory, idle after the start", idle, "MiB", 70),
        worst("from start to first answer", seconds, "s", 1),
    ]
