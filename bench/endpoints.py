"""Three endpoints, one dead, one that lies, one slow: ten pulls of ten images, beside the slow one alone."""

from __future__ import annotations

import json
from statistics import median as middle
from typing import TYPE_CHECKING, Any

from bench.figures import Figure, median, worst
from bench.stage import MIB, BenchError, Client, Mirror, Upstream
from tests.parts.process import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from bench.options import Options

REPO = "library/three"
IMAGES = 10
LAYERS = [4 * MIB, 2 * MIB, MIB]
SLOW: dict[str, Any] = {"latency": 0.05, "rate_total": 16 * MIB}
AGAIN = 5  # times that a client asks for what broke off, as Docker does
WRONG: dict[str, dict[str, Any]] = {
    "a wrong byte": {"Corrupt": {"at_byte": 0}},
    "wrong from the middle on": {"Corrupt": {"at_byte": MIB}},
    "a wrong length": {"WrongLength": {"delta": -1000}},
}


def run(room: Path, options: Options) -> list[Figure]:
    images = [
        {"repo": REPO, "tag": f"v{number}", "layers": LAYERS, "seed": 1 + number * len(LAYERS)}
        for number in range(IMAGES)
    ]
    figures, alone = [], []
    with Upstream(room, "slow", images=images, **SLOW) as slow:
        for number in range(options.rounds):
            with Mirror(room, slow, f"alone-{number}") as mirror:
                alone.append(middle(_pulls(mirror)[1:]))
        figures.append(median("pulls 2 to 10, the slow one alone", alone, "s"))
        for number, (name, fault) in enumerate(WRONG.items()):
            faults = [{"kind": "blob", "then": fault}]
            with (
                Upstream(room, f"wrong-{number}", images=images, faults=faults) as wrong,
                Upstream(room, f"silent-{number}", images=images, faults=[{"then": {"Hang": {}}}]) as silent,
            ):
                for dead, url in (("refuses", f"http://127.0.0.1:{free_port()}"), ("says nothing", silent.url)):
                    config = _config(slow, url, wrong)
                    with Mirror(room, slow, f"several-{number}-{dead.partition(' ')[0]}", **config) as mirror:
                        wrong.stats(reset=True)
                        first = _pulls(mirror, 0, 1)
                        before = wrong.stats(reset=True).requests.get("blob GET", 0)
                        rest = _pulls(mirror, 1)
                        asked = wrong.stats().requests.get("blob GET", 0)
                    what = f"one {dead}, one has {name}"
                    figures += [
                        median(f"{what}: pull 1", first, "s"),
                        median(f"{what}: pulls 2 to 10, against the slow one alone", _ratios(rest, alone), "x", 1.3),
                        worst(f"{what}: blobs asked of the wrong one in pull 1", [before], "", 8),
                        worst(f"{what}: the same in pulls 2 to 10", [asked], "", 0),
                    ]
    return figures


def _config(slow: Upstream, dead: str, wrong: Upstream) -> dict[str, Any]:
    return {"upstreams": {"docker.io": {"url": slow.url, "endpoints": [dead, wrong.url, "registry"]}}}


def _ratios(rest: list[float], alone: list[float]) -> list[float]:
    return [seconds / middle(alone) for seconds in rest]


def _pulls(mirror: Mirror, start: int = 0, stop: int | None = None) -> list[float]:
    """Pull images, each until it is whole and right; return the seconds of each."""
    return [_pull(mirror, f"v{number}") for number in range(start, stop or IMAGES)]


def _pull(mirror: Mirror, tag: str) -> float:
    seconds = 0.0
    for _ in range(AGAIN):
        outcome = Client({"do": "pull", "url": mirror.url, "repo": REPO, "tag": tag, "hash": True}).outcome()
        seconds += outcome.seconds
        if all(_right(answer) for answer in outcome.answers):
            return seconds
    raise BenchError(f"{tag} did not come in {AGAIN} tries: {json.dumps(outcome.answers)[:500]}")


def _right(answer: Any) -> bool:
    wanted = str(answer["path"]).rpartition("sha256:")[2] if "sha256:" in str(answer["path"]) else None
    return not answer["error"] and answer["status"] == 200 and answer["sha256"] in (None, wanted)
