"""The fake upstream as a process of its own, for benches and for tests that measure memory.

    python -m tests.fakes.registry --config spec.json

The first line on standard output is `{"url": …, "storage_url": …, "digests": {…}}`. `GET /_stats` answers with counts,
`GET /_stats?reset` also starts them anew. It ends with its standard input (`--until-eof`) or with SIGTERM.

The specification, every key optional:

    {"port": 0,
     "latency": 0.05, "rate_per_connection": 10485760, "rate_total": null, "fast": true, "redirect_blobs": false,
     "auth": {"mode": "bearer", "users": {"u": "p"}, "anonymous": true},
     "limit": {"limit": 100, "window": 21600, "retry_after": true},
     "images": [{"repo": "library/eight", "tag": "v1", "layers": [16777216, 16777216]}],   layer sizes in bytes
     "blobs": [{"repo": "library/one", "size": 268435456, "seed": 1}],
     "faults": [{"kind": "blob", "times": 1, "then": {"Cut": {"at_byte": 1000}}}]}
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.fakes import faults
from tests.fakes.auth import Auth
from tests.fakes.limit import RateLimit
from tests.fakes.registry import FakeRegistry

_PLAIN = ("latency", "rate_per_connection", "rate_total", "fast", "redirect_blobs", "referrers_api", "page_limit")


def furnish(up: FakeRegistry, spec: dict[str, Any]) -> dict[str, str]:
    """Put into `up` what `spec` says; return digests by `repo:tag` (images) and `repo#number` (blobs)."""
    for name in _PLAIN:
        if name in spec:
            setattr(up, name, spec[name])
    if "auth" in spec:
        up.auth = Auth(**spec["auth"])
    if "limit" in spec:
        up.limit = RateLimit(**spec["limit"])
    digests: dict[str, str] = {}
    for image in spec.get("images", ()):
        repo, tag = image["repo"], image["tag"]
        first = image.get("seed", 1)
        layers = [up.add_pattern_blob(repo, size, first + number) for number, size in enumerate(image["layers"])]
        digests[f"{repo}:{tag}"] = str(up.add_image(repo, tag, layers=layers))
        digests |= {f"{repo}:{tag}#{number}": str(layer) for number, layer in enumerate(layers)}
    for number, blob in enumerate(spec.get("blobs", ())):
        digests[f"{blob['repo']}#{number}"] = str(up.add_pattern_blob(blob["repo"], blob["size"], blob.get("seed", 0)))
    for rule in spec.get("faults", ()):
        ((name, values),) = rule["then"].items()
        up.fault(**{**rule, "then": getattr(faults, name)(**values)})
    return digests


async def _run(spec: dict[str, Any], *, until_eof: bool) -> None:
    up = FakeRegistry()
    up.fast = True
    up._ports[0] = spec.get("port", 0)
    digests = furnish(up, spec)
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    if until_eof:

        def heard() -> None:
            if not os.read(sys.stdin.fileno(), 4096):
                over.set()

        loop.add_reader(sys.stdin.fileno(), heard)
    async with up:
        if up.fast:
            for shelf in up.shelves.values():
                for content in shelf.blobs.values():
                    await asyncio.to_thread(content.file)  # written before anybody measures
        print(json.dumps({"url": up.url, "storage_url": up.storage_url, "digests": digests}), flush=True)  # noqa: T201
        await over.wait()


def main() -> None:
    """Run until told to stop."""
    parser = argparse.ArgumentParser(description="a fake upstream registry")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--until-eof", action="store_true", help="end when standard input ends")
    options = parser.parse_args()
    asyncio.run(_run(json.loads(options.config.read_text()), until_eof=options.until_eof))
