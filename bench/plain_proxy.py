"""What docker-registry (distribution 2.8 and 3, `proxy:`) would do in the same day: a model, nothing is measured.

From its sources: each question for a tag, HEAD or GET, is a HEAD upstream (`registry/proxy/proxytagservice.go`), and
what that names is got by GET, and kept, where it is not here (`proxymanifeststore.go`); a GET that fails fails the
client's question, though a former image may be here. The model is kind to it: no two nodes ask at the same moment (it
would send a GET for each), nothing it has expires within the day, and a token costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import cluster
from bench.nodes import Pulled
from tests.fakes.limit import RateLimit
from tests.fakes.records import Log, Record

if TYPE_CHECKING:
    from bench.cluster import Day
    from bench.nodes import Node


class PlainProxy:
    """See `playing.Site`. Digests are made up: `IMAGE:VERSION`, and with a platform for what an index names."""

    def __init__(self, day: Day) -> None:
        self._day = day
        self._now = 0.0
        self._versions: dict[int, int] = {}
        self._here: set[str] = set()
        self.limit = RateLimit(None)
        self.heads = 0

    def begin(self) -> None:
        """Let upstream count from now on."""
        self.limit = cluster.limit_of(self._day.scale, lambda: self._now)
        self.heads = 0

    def digest(self, image: int, version: int) -> str:
        """See `Site.digest`."""
        return f"{image}:{version}"

    def at(self, now: float) -> None:
        """See `Site.at`."""
        self._now = now

    def move(self, image: int, version: int) -> None:
        """See `Site.move`."""
        self._versions[image] = version

    async def pull(self, node: Node, image: int) -> Pulled:
        """See `Site.pull`."""
        index = self.digest(image, self._versions[image])
        self.heads += not self._day.images[image].pinned
        if not self._got(index):
            return Pulled(index, "HEAD of manifests: 429")
        if index not in node.images and not self._got(f"{index} {node.arm}"):
            return Pulled(index, "GET of manifests: 429")
        node.images.add(index)
        return Pulled(index, None)

    async def settle(self) -> None:
        """See `Site.settle`."""

    async def restart(self) -> None:
        """See `Site.restart`."""

    def _got(self, digest: str) -> bool:
        if digest not in self._here:
            record = Record(Log(), "GET", "", "", None, self._now)  # type: ignore[arg-type]  # of which the method counts
            if self.limit.admit(record)[1] is not None:
                return False
            self._here.add(digest)
        return True
