"""A range far into a cold blob, over 64 MiB/s: alone, open-ended as containerd asks, and behind another client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.figures import Figure, worst
from bench.stage import MIB, Client, Mirror, Upstream, blob_url, fetch

if TYPE_CHECKING:
    from pathlib import Path

    from bench.options import Options

SIZE = 256 * MIB
LINE = 64 * MIB  # bytes/s
OFFSET = 200 * MIB
LENGTH = MIB
CLOSED: dict[str, Any] = {"range": f"bytes={OFFSET}-{OFFSET + LENGTH - 1}"}
OPEN: dict[str, Any] = {"range": f"bytes={OFFSET}-", "upto": LENGTH}  # and then the client hangs up


def run(room: Path, options: Options) -> list[Figure]:
    seconds: dict[str, list[float]] = {"a range": [], "an open range": [], "behind a whole GET": []}
    copies, direct = [], []
    blobs = [{"repo": "library/one", "size": SIZE, "seed": seed} for seed in range(3 * options.rounds)]
    with Upstream(room, blobs=blobs, rate_total=LINE) as upstream:
        for number in range(options.rounds):
            with Mirror(room, upstream, f"mirror-{number}") as mirror:
                for kind, asked, place in zip(seconds, (CLOSED, OPEN, CLOSED), range(3), strict=True):
                    digest = upstream.blob(3 * number + place)
                    url = blob_url(mirror.url, digest)
                    direct.append(fetch(blob_url(upstream.url, digest), **CLOSED).checked(size=LENGTH).slowest)
                    upstream.stats(reset=True)
                    whole = None
                    if kind == "behind a whole GET":
                        whole = Client({"do": "fetch", "urls": [url]})
                        mirror.wait(lambda digest=digest: upstream.stats().bytes.get(digest, 0) > 0)  # type: ignore[misc]
                    answer = fetch(url, **asked).checked()
                    seconds[kind].append(answer.slowest)
                    if whole is not None:
                        whole.outcome().checked(size=SIZE)
                    # What is left of the fill comes in, and is right.
                    fetch(url, hash=True).checked(sha256=digest)
                    copies.append(upstream.stats().copies(digest, SIZE))
    return [
        worst("1 MiB at 200 MiB, directly", direct, "s", 1),
        *[worst(f"1 MiB at 200 MiB of a cold blob: {kind}", took, "s", 1) for kind, took in seconds.items()],
        worst("copies from upstream in the end", copies, "copies", 1.02),
    ]
