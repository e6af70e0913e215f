"""One tag, pulled twenty times, inside its ttl and with none: what upstream is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.figures import Figure
from bench.stage import Mirror, Peer, Stats, Upstream, pull

if TYPE_CHECKING:
    from pathlib import Path

    from bench.options import Options

PULLS = 20
IMAGE = {"repo": "library/app", "tag": "v1", "layers": [1 << 20, 1 << 20]}
BLOBS = 3  # with the config


def run(room: Path, options: Options) -> list[Figure]:
    figures = []
    for client, head in (("HEAD, then GET by digest", True), ("GET", False)):
        for name, ttl, heads in (("inside ttl", "1h", 0), ("ttl 0", "0s", PULLS)):
            # Tokens are counted with an upstream that asks for them, and requests with one that does not: there none
            # is asked twice because of a challenge.
            tokens = _pulled(room, f"{name}-{head}-tokens", ttl, head=head, auth={"mode": "bearer"}).tokens
            seen = _pulled(room, f"{name}-{head}", ttl, head=head)
            peer = _pulled_by_peer(room) if options.peers and head and not heads else None
            figures += [
                Figure(f"{name} ({client}): tokens", tokens, "", 1),
                _count(f"{name} ({client}): GETs of manifests", "manifest GET", 1, seen, peer),
                _count(f"{name} ({client}): HEADs of manifests", "manifest HEAD", heads, seen, peer),
                _count(f"{name} ({client}): GETs of blobs", "blob GET", BLOBS, seen, peer),
            ]
    return figures


def _pulled(room: Path, name: str, ttl: str, *, head: bool, **spec: Any) -> Stats:
    name = name.replace(" ", "-")
    rule = {"match": "**", "ttl": ttl}
    with (
        Upstream(room, f"upstream-{name}", images=[IMAGE], **spec) as upstream,
        Mirror(room, upstream, f"mirror-{name}", freshness=[rule]) as mirror,
    ):
        pull(mirror.url, "library/app", "v1", times=PULLS, head=head)
        return upstream.stats()


def _pulled_by_peer(room: Path) -> Stats:
    with Upstream(room, "upstream-peer", images=[IMAGE]) as upstream, Peer(room, upstream) as peer:
        pull(peer.url, "library/app", "v1", times=PULLS)
        return upstream.stats()


def _count(name: str, what: str, limit: int, seen: Stats, peer: Stats | None) -> Figure:
    of_peer = None if peer is None else peer.requests.get(what, 0)
    return Figure(name, seen.requests.get(what, 0), "", limit, peer=of_peer)
