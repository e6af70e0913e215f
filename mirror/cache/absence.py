"""What is not here, said so that a person knows what to carry in or to fetch: the platform, and the image it is of.

A mirror often has some platforms of an image only: those that were pulled, or carried in. Whoever asks for another one
gets the index, and then asks for a digest that tells nobody anything.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog

from mirror.cache.parsing import parsed
from mirror.errors import ContentBroken, StoreError, UpstreamDenied, UpstreamNotFound
from mirror.oci.digest import Digest
from mirror.oci.manifest import ManifestMalformed
from mirror.store.changes import SETTLED

if TYPE_CHECKING:
    from mirror.cache.memory import Memory
    from mirror.errors import UpstreamError
    from mirror.oci.name import Reference, Repository
    from mirror.store.graph import Graph, Namer
    from mirror.store.index import Index

log = structlog.get_logger(__name__)


class Absence:
    """Finds out what a manifest is that nobody can send now."""

    def __init__(self, index: Index, graph: Graph, memory: Memory) -> None:
        self._index = index
        self._graph = graph
        self._memory = memory

    async def told(self, repository: Repository, reference: Reference, error: UpstreamError) -> UpstreamError:
        """Return `error`, which a request for a manifest has met, with what it is that is missed.

        What upstream itself denies is not missed here.
        """
        if isinstance(error, UpstreamNotFound | UpstreamDenied):
            return error
        try:
            missed = await self._missed(repository, reference)
        except StoreError as trouble:  # the error stands without it
            log.debug("what is missed is not known", repository=str(repository), error=str(trouble))
            return error
        return type(error)(
            f"{missed}, and {error}",
            namespace=error.namespace,
            upstream_status=error.upstream_status,
            retry_after=error.retry_after,
        )

    async def _missed(self, repository: Repository, reference: Reference) -> str:
        if not isinstance(reference, Digest):
            known = self._index.tag(repository, reference.name)
            if known is not None and await self._memory.read(known.digest) is not None:
                return f"{repository}:{reference} is here, but not wholly for any platform"
            return f"{repository}:{reference} is not cached"
        for namer in await asyncio.to_thread(partial(self._graph.namers, repository, reference)):
            part = await self._part(namer, reference)
            if part is not None:
                title = f"{repository}:{namer.tag}" if namer.tag else f"{repository}@{namer.digest}"
                carried = namer.at is not None and namer.at >= SETTLED
                return f"{part} of {title} {'was not carried in' if carried else 'is not cached'}"
        return f"{repository}@{reference} is not cached"

    async def _part(self, namer: Namer, digest: Digest) -> str | None:
        """Return what an index says of a manifest that it names: its platform, mostly."""
        try:
            body = await self._memory.read(namer.digest)
            manifest = None if body is None else await parsed(body, namer.media_type)
        except (ContentBroken, ManifestMalformed):
            return None
        child = next((one for one in manifest.manifests if one.digest == digest), None) if manifest else None
        if child is None:
            return None
        if child.platform is None:
            return f"the manifest {digest}"
        return str(child.platform) if child.platform.known else "an attestation"
