"""What a run of the benches is told."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """`rounds` of direct and mirrored fetches in turn; `peers`: measure docker-registry too."""

    rounds: int = 3
    peers: bool = False
