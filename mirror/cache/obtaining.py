"""Blobs for whoever fills the cache in advance: no client waits, and nobody is sent them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from mirror.errors import NoSpace, UpstreamDenied, UpstreamNotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.cache.fill import Fill
    from mirror.cache.fills import Fills
    from mirror.cache.origins import Origin
    from mirror.cache.vouching import Vouching
    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository
    from mirror.store.blobs import BlobStore
    from mirror.store.index import Index

LOOK = 0.25  # seconds between two looks at how much has come
_TRIES = 3  # what goes at once each time it has come does not fit


class Obtaining:
    """Joins the fill that is under way, or starts one behind all that clients wait for; and sees that it is linked."""

    def __init__(self, *, store: BlobStore, index: Index, fills: Fills, vouching: Vouching) -> None:
        self._store = store
        self._index = index
        self._fills = fills
        self._vouching = vouching

    def here(self, repository: Repository, digest: Digest) -> bool:
        """Say whether it is on disk, and may be shown in `repository` without asking upstream (promise 10)."""
        return self._store.size(digest) is not None and self._index.standing(repository, digest).visible

    async def blob(
        self, repository: Repository, digest: Digest, *, size: int | None, came: Callable[[int], None]
    ) -> None:
        """See that the blob is here, for `repository` too; raise `UpstreamError`, `Overloaded` or `StoreError`.

        `size` is what a descriptor gives, in bytes. `came` is told from time to time how many bytes of it are here.
        """
        for _ in range(_TRIES):
            present = self._store.size(digest)
            if present is not None:
                standing = self._index.standing(repository, digest)
                if not standing.visible:
                    vouched = standing.vouched
                    await self._vouching.confirm(repository, digest, empty=present == 0, vouched=vouched, patience=None)
                return
            await self._fill(repository, digest, size, came)
        raise NoSpace(f"{digest} was evicted as soon as it was here: more is asked for at once than fits", passing=True)

    async def _fill(
        self, repository: Repository, digest: Digest, size: int | None, came: Callable[[int], None]
    ) -> None:
        """Wait for the end of a fill. It goes on if the caller is cancelled: others may have come to wait for it."""
        origin = self._fills.origin(repository)
        fill = self._fills.running(digest)
        if fill is None:
            fill = self._fills.start(origin, digest, expected=size, urgent=False)
        elif fill.namespace == repository.namespace:
            origin = fill.origins.join(origin)
        ended = asyncio.Event()
        fill.on_end.add(ended.set)
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await ended.wait()
            came(fill.spans.total())
        self._check(fill, origin)

    @staticmethod
    def _check(fill: Fill, origin: Origin) -> None:
        """Raise what went wrong, unless it says nothing of `origin`: then it is asked next."""
        error = origin.refused or fill.error
        if error is None:
            return
        if fill.namespace != origin.repository.namespace:
            return
        if isinstance(error, UpstreamNotFound | UpstreamDenied) and origin.refused is None:
            return  # it ended over other repositories, just when this one came to be asked
        raise error.with_traceback(None)
