"""Read-ahead: an image's blobs are filled as soon as a client asks for its manifest."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import structlog
from cachetools import TTLCache

from mirror import metrics
from mirror.errors import MirrorError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mirror.cache.fills import Fills
    from mirror.cache.space import Space
    from mirror.cache.thrift import Thrift
    from mirror.oci.digest import Digest
    from mirror.oci.manifest import Manifest
    from mirror.oci.name import Repository
    from mirror.store.blobs import BlobStore

log = structlog.get_logger(__name__)

MOST_WAITING = 128  # blobs of one upstream that are read ahead at once, waiting ones included
AGAIN_SECONDS = 60  # how soon the same manifest is looked through again


class ReadAhead:
    """Starts fills that nobody waits for yet. A client that comes for one makes it urgent."""

    def __init__(
        self,
        fills: Fills,
        blobs: BlobStore,
        vouch: Callable[[Repository, Digest], None],
        space: Space,
        wanted: Mapping[str, bool],
        *,
        thrift: Thrift,
        otherwise: bool,
    ) -> None:
        """`wanted` says by namespace whether to read ahead; `otherwise` holds for those it does not name.

        `vouch` asks upstream, behind what clients wait for, whether a repository holds content that is here.
        """
        self._fills = fills
        self._blobs = blobs
        self._vouch = vouch
        self._space = space
        self._thrift = thrift
        self._wanted = wanted
        self._otherwise = otherwise
        self._seen: TTLCache[tuple[Repository, Digest], bool] = TTLCache(4096, AGAIN_SECONDS)
        self._waiting: Counter[str] = Counter()

    def reconfigure(self, wanted: Mapping[str, bool]) -> None:
        """Go by another `wanted` from now on; what has begun goes on."""
        self._wanted = wanted

    def due(self, repository: Repository, digest: Digest) -> bool:
        """Say whether a manifest is to be looked through: not if it was a moment ago."""
        wanted = self._wanted.get(repository.namespace, self._otherwise)
        return wanted and (repository, digest) not in self._seen

    def follow(self, repository: Repository, digest: Digest, manifest: Manifest) -> None:
        """A client has asked by GET for the manifest `digest`: begin with what it will ask for next. Never an index."""
        self._seen[repository, digest] = True
        if manifest.is_index:
            return
        if not self._thrift.reads_ahead(repository):
            metrics.READ_AHEAD.labels("saved").inc()
            return
        for blob in manifest.blobs[:MOST_WAITING]:
            if self._blobs.size(blob.digest) is not None:
                # A client that has this layer from another image never asks for it here; without a link the image would
                # not count as whole once upstream is away.
                self._vouch(repository, blob.digest)
            elif (fill := self._fills.running(blob.digest)) is not None:
                fill.on_end.add(partial(self._vouch, repository, blob.digest))
            else:
                self._begin(repository, blob.digest, blob.size)

    def _begin(self, repository: Repository, digest: Digest, size: int | None) -> None:
        try:
            origin = self._fills.origin(repository)  # a reload may just have taken it away
            label = origin.upstream.label
            if self._waiting[label] >= MOST_WAITING:
                metrics.READ_AHEAD.labels("past the limit").inc()
                return
            if size is not None and not self._space.fits(size):
                metrics.READ_AHEAD.labels("no room").inc()
                return
            fill = self._fills.start(origin, digest, expected=size, urgent=False)
        except MirrorError as error:
            metrics.READ_AHEAD.labels("refused").inc()
            log.debug("not read ahead", digest=str(digest), reason=str(error))
            return
        metrics.READ_AHEAD.labels("begun").inc()
        self._waiting[label] += 1
        fill.on_end.add(lambda: self._waiting.subtract([label]))
