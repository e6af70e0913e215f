"""A first pull of an image of eight layers, three at a time, from an upstream that is 50 ms away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.figures import Figure, median, worst
from bench.stage import MIB, Mirror, Peer, Upstream, pull

if TYPE_CHECKING:
    from pathlib import Path

    from bench.options import Options

LAYERS = [16 * MIB] * 8
AWAY = 0.05  # seconds
PER_CONNECTION = 10 * MIB  # bytes/s
IN_ALL = 30 * MIB  # bytes/s


def run(room: Path, options: Options) -> list[Figure]:
    return [
        *_compare(room, options, "10 MiB/s each", 0.5, rate_per_connection=PER_CONNECTION),
        *_compare(room, options, "30 MiB/s in all", 1.05, rate_total=IN_ALL),
    ]


def _compare(room: Path, options: Options, name: str, limit: float, **shape: Any) -> list[Figure]:
    repos = [f"library/eight-{number}" for number in range(options.rounds + 1)]
    images = [{"repo": repo, "tag": "v1", "layers": LAYERS, "seed": 100 * n} for n, repo in enumerate(repos)]
    key = "-".join(shape)
    direct, mirrored, peaks, copies = [], [], [], []
    peer_seconds = None
    with Upstream(room, f"upstream-{key}", images=images, latency=AWAY, **shape) as upstream:
        for number, repo in enumerate(repos[: options.rounds]):
            direct.append(pull(upstream.url, repo, "v1").seconds)
            with Mirror(room, upstream, f"mirror-{key}-{number}") as mirror:
                upstream.stats(reset=True)
                mirrored.append(pull(mirror.url, repo, "v1").seconds)
                stats = upstream.stats()
                peaks.append(stats.connections_peak)
                copies.append(sum(stats.bytes.values()) / sum(LAYERS))
        if options.peers:
            with Peer(room, upstream, f"peer-{key}") as peer:
                peer_seconds = pull(peer.url, repos[-1], "v1").seconds
    against = [one / other for one, other in zip(mirrored, direct, strict=True)]
    return [
        median(f"{name}: pulled directly", direct, "s"),
        median(f"{name}: through the mirror", mirrored, "s", peer=peer_seconds),
        median(f"{name}: against direct", against, "x", limit),
        worst(f"{name}: connections at once", peaks, "", 16),
        worst(f"{name}: copies from upstream", copies, "copies", 1.02),
    ]
