"""What a run of the benches is told."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """`rounds` of direct and mirrored fetches in turn; `peers`: docker-registry too; `seed`: of a made-up day."""

    rounds: int = 3
    peers: bool = False
    seed: int = 1
