"""Thirty clients want one cold blob at once, behind an uplink that all of them share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.figures import Figure, median, worst
from bench.stage import MIB, Mirror, Peer, Upstream, blob_url, fetch, write

if TYPE_CHECKING:
    from pathlib import Path

    from bench.options import Options

SIZE = 256 * MIB
UPLINK = 100 * MIB  # bytes/s
CLIENTS = 30


def run(room: Path, options: Options) -> list[Figure]:
    direct, crowded, copies, grown = [], [], [], []
    blobs = [{"repo": "library/one", "size": SIZE, "seed": seed} for seed in range(options.rounds + 1)]
    with Upstream(room, blobs=blobs, rate_total=UPLINK) as upstream:
        for number in range(options.rounds):
            digest = upstream.blob(number)
            direct.append(fetch(blob_url(upstream.url, digest)).checked(size=SIZE).slowest)
            with Mirror(room, upstream, f"mirror-{number}") as mirror:
                fetch(f"{mirror.url}/v2/", upto=1)
                write(room, SIZE)
                before = mirror.rss
                upstream.stats(reset=True)
                url = blob_url(mirror.url, digest)
                crowded.append(fetch(*[url] * CLIENTS).checked(size=SIZE).slowest)
                grown.append((mirror.peak_rss - before) / MIB)
                copies.append(upstream.stats().copies(digest, SIZE))
                fetch(url, hash=True).checked(sha256=digest)
        peer_seconds = peer_copies = None
        if options.peers:
            digest = upstream.blob(options.rounds)
            with Peer(room, upstream) as peer:
                upstream.stats(reset=True)
                peer_seconds = fetch(*[blob_url(peer.url, digest)] * CLIENTS).checked(size=SIZE).slowest
                peer_copies = upstream.stats().copies(digest, SIZE)
    times = [crowd / one for crowd, one in zip(crowded, direct, strict=True)]
    return [
        median("one direct fetch", direct, "s"),
        worst("upstream's shape, against 256 MiB at 100 MiB/s", [d / (SIZE / UPLINK) for d in direct], "x", 1.02),
        worst("copies from upstream", copies, "copies", 1.02, peer=peer_copies),
        median("the last of 30 clients is done", crowded, "s", peer=peer_seconds),
        median("against one direct fetch", times, "x", 3),
        worst("memory of the process, more than idle", grown, "MiB", 64),
    ]
