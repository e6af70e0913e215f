"""The mirror is killed in the middle of a fill and started again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.figures import Figure, median, worst
from bench.stage import MIB, BenchError, Client, Mirror, Upstream, blob_url, fetch

if TYPE_CHECKING:
    from pathlib import Path

    from bench.options import Options

SIZE = 512 * MIB
LINE = 100 * MIB  # bytes/s


def run(room: Path, options: Options) -> list[Figure]:
    copies, seconds = [], []
    blobs = [{"repo": "library/one", "size": SIZE, "seed": seed} for seed in range(options.rounds)]
    with Upstream(room, blobs=blobs, rate_total=LINE) as upstream:
        for number in range(options.rounds):
            digest = upstream.blob(number)
            upstream.stats(reset=True)
            mirror = Mirror(room, upstream, f"mirror-{number}")
            with mirror:
                client = Client({"do": "fetch", "urls": [blob_url(mirror.url, digest)]})
                mirror.wait(lambda digest=digest: upstream.stats().copies(digest, SIZE) >= 0.5)  # type: ignore[misc]
                mirror.kill()
                answer = client.outcome().answers[0]
                if answer["status"] != 200 or answer["error"] is None:
                    raise BenchError(f"the client was not in the middle of a 200 when the mirror was killed: {answer}")
            # `stats` counts what has gone out; a body that is on its way when the mirror dies is counted with it.
            with mirror:
                outcome = fetch(blob_url(mirror.url, digest), hash=True).checked(size=SIZE, sha256=digest)
                seconds.append(outcome.slowest)
                copies.append(upstream.stats().copies(digest, SIZE))
    return [
        worst("copies from upstream in all", copies, "copies", 1.1),
        median("the pull after the restart", seconds, "s"),
    ]
