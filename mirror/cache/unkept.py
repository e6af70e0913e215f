"""Images that could not be kept whole: their tags are not fresh, whatever upstream said a moment ago.

A fresh tag is answered without asking upstream. If part of its image had to be streamed past the store, and upstream
went away now, a client would get the manifest and then not the blobs (promises 7 and 8). A tag that is not fresh is
asked for again, by a HEAD, and is refused where upstream is away and the image is not whole.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog

from mirror.errors import StoreError
from mirror.store.changes import SETTLED, TagSet

if TYPE_CHECKING:
    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository
    from mirror.store.graph import Graph
    from mirror.store.index import Index

log = structlog.get_logger(__name__)

_TAGS = 1000  # of a repository that are looked through
_TURN = 64  # of them before others get their turn on the loop
_MOST = 64  # blobs looked into at once; the next pull comes to it again


class Unkept:
    """Ages the tags of images of which something is not kept."""

    def __init__(self, index: Index, graph: Graph) -> None:
        self._index = index
        self._graph = graph
        self._tasks: dict[tuple[Repository, Digest], asyncio.Task[None]] = {}

    def note(self, repository: Repository, digest: Digest) -> None:
        """Hear that a blob was asked for through `repository`, and is not kept."""
        key = repository, digest
        if key in self._tasks or len(self._tasks) >= _MOST:
            return
        task = self._tasks[key] = asyncio.create_task(self._age(repository, digest), name=f"unkept {digest}")
        task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def close(self) -> None:
        """Finish what has begun."""
        await asyncio.gather(*self._tasks.values())

    async def _age(self, repository: Repository, digest: Digest) -> None:
        try:
            needing = await asyncio.to_thread(partial(self._graph.roots_of, digest, absent=True))
            roots = {unit.digest for unit in needing}
            aged = []
            for number, tag in enumerate(self._index.tags(repository, limit=_TAGS) if roots else ()):
                if number % _TURN == _TURN - 1:
                    await asyncio.sleep(0)
                known = self._index.tag(repository, tag)
                if known is not None and known.digest in roots and 0 < known.at < SETTLED:
                    aged.append(TagSet(repository, tag, known.digest, 0.0))
            await self._index.apply(*aged)
        except StoreError as error:  # the disk that refuses this has refused the blob, too
            log.debug("tags of what is not kept stay fresh", repository=str(repository), error=str(error))
