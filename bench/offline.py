"""The upstream is gone before the mirror starts: what was cached is served all the same, tags past their ttl too."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from bench.figures import Figure
from bench.stage import MIB, BenchError, Mirror, Upstream, pull

if TYPE_CHECKING:
    from pathlib import Path

    from bench.options import Options

IMAGES = [{"repo": f"library/app-{n}", "tag": "v1", "layers": [MIB, 3 * MIB], "seed": 10 * n} for n in range(10)]


def run(room: Path, options: Options) -> list[Figure]:  # noqa: ARG001 - as every bench
    upstream = Upstream(room, images=IMAGES, auth={"mode": "bearer"})
    with upstream:
        mirror = Mirror(room, upstream, freshness=[{"match": "**", "ttl": "0s"}])
        with mirror:
            for image in IMAGES:
                pull(mirror.url, image["repo"], image["tag"])  # type: ignore[arg-type]
            before = _everything(mirror)
    with mirror:
        took: list[float] = []
        after = _everything(mirror, took)
    wrong = [path for path, answer in before.items() if after[path] != answer]
    if any(status not in (200, 206) for status, _, _ in before.values()):
        raise BenchError(f"not all is served even with upstream: {before}")
    for path in wrong[:5]:
        print(f"  not as before: {path}: {after[path][:2]}, was {before[path][:2]}")
    return [
        Figure("what was cached and is asked for", len(before), "requests"),
        Figure("of it not served as before, without upstream", len(wrong), "requests", 0),
        Figure("the slowest of them (one finds out that upstream is gone)", max(took), "s"),
        Figure("all of them, one after the other", sum(took), "s"),
    ]


def _everything(mirror: Mirror, took: list[float] | None = None) -> dict[str, tuple[int, str, bytes]]:
    """Ask by GET and HEAD for all that is cached: manifests by tag and by digest, blobs, ranges; and the catalogue.

    Return status, digest and body by request; add to `took` the seconds of each.
    """
    took = [] if took is None else took

    def ask(method: str, path: str, range_: str | None = None) -> tuple[int, str, bytes]:
        began = time.perf_counter()
        answer = _ask(mirror, method, path, range_)
        took.append(time.perf_counter() - began)
        return answer

    found = {"GET /v2/": ask("GET", "/v2/"), "catalog": ask("GET", "/v2/_catalog")}
    for image in IMAGES:
        base = f"/v2/{image['repo']}"
        status, _, body = ask("GET", f"{base}/manifests/{image['tag']}")
        document: dict[str, Any] = json.loads(body) if status == 200 else {"layers": []}
        paths = [f"{base}/manifests/{image['tag']}"]
        entries = [*document["layers"], *([document["config"]] if "config" in document else [])]
        paths += [f"{base}/blobs/{entry['digest']}" for entry in entries]
        for path in paths:
            answer = found[f"GET {path}"] = ask("GET", path)
            found[f"HEAD {path}"] = ask("HEAD", path)
            if path is paths[0]:
                by_digest = f"{base}/manifests/{answer[1]}"
                found[f"GET {by_digest}"] = ask("GET", by_digest)
            else:
                found[f"range {path}"] = ask("GET", path, "bytes=5-99")
    return found


def _ask(mirror: Mirror, method: str, path: str, range_: str | None = None) -> tuple[int, str, bytes]:
    request = urllib.request.Request(mirror.url + path, method=method)  # noqa: S310 - our own http
    if range_ is not None:
        request.add_header("Range", range_)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own http
            return answer.status, answer.headers.get("Docker-Content-Digest", ""), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, "", error.read()
