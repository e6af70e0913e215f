"""What a prefetch has brought stays while it runs: it does not push out its own images, and says what does not fit.

Each image's own manifest is held open. Eviction takes images whole and nothing that is open, whichever process evicts,
so one descriptor an image is enough; and a killed prefetch leaves nothing behind that would have to be undone.
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, BinaryIO

from mirror.errors import NoSpace
from mirror.store.inventory import Inventory
from mirror.store.packing import pack
from mirror.store.room import on_disk

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mirror.airgap.prefetch.anatomy import Part
    from mirror.cache.space import Space
    from mirror.oci.digest import Digest
    from mirror.store.store import Store

_KEY = 17  # bytes of a packed digest that tell it from all others: there may be a million


class Keeping:
    """The content that may not go: of this prefetch, and of what is pinned."""

    def __init__(self, store: Store, space: Space, *, pin: bool) -> None:
        """`pin` says that what comes is pinned, and so may fill the store to its end."""
        self._store = store
        self._space = space
        self._pin = pin
        self._files: dict[Digest, BinaryIO] = {}
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2  # the rest is for fills and connections
        self._known: set[bytes] = set()
        self._taken = 0  # bytes on disk, of what is here and of what is to come

    def count_pinned(self) -> None:
        """Count what is pinned. Reads the index: call it in a thread."""
        with Inventory(self._store.layout) as inventory:
            nodes = {inventory.node(pin.digest) for pin in inventory.pins() if pin.digest is not None}
            pinned = inventory.needed(inventory.roots(node for node in nodes if node is not None)) if nodes else []
        for digest in pinned:
            content = self._store.graph.content(digest)
            if content is not None:
                self._count(digest, content.taken)

    def hold(self, digest: Digest) -> None:
        """Keep an image from eviction until `close`, if it is here, and the system allows so many open files."""
        if digest in self._files or len(self._files) >= self._most:
            return
        opened = self._store.blobs.open(digest)
        if opened is not None:
            self._files[digest] = opened[0]

    def let_go(self, digest: Digest) -> None:
        """Keep it no longer."""
        if (file := self._files.pop(digest, None)) is not None:
            file.close()

    def new(self, parts: Iterable[Part]) -> list[Part]:
        """Return what of an image was not counted before."""
        return [part for part in parts if pack(part.digest)[:_KEY] not in self._known]

    def claim(self, new: Sequence[Part]) -> None:
        """Count what is `new`, and needed by an image; raise `NoSpace` where it cannot fit.

        Then nothing of it is counted, and nothing was evicted in vain.
        """
        need = sum(on_disk(part.size or 0) for part in new)
        capacity = self._space.capacity(pinned=self._pin)
        if self._taken + need > capacity:
            more = self._taken + need - capacity
            raise NoSpace(
                f"it needs {need} bytes more, and the store may hold {max(0, capacity)}, of which this prefetch and "
                f"what is pinned keep {self._taken}; raise storage.max_size by {more} or more, lower "
                "storage.min_free, free the disk, or prefetch less at a time"
            )
        for part in new:
            self._count(part.digest, on_disk(part.size or 0))

    def give_back(self, parts: Iterable[Part]) -> None:
        """Count what was claimed and did not come no more: it leaves its room to others."""
        for part in parts:
            key = pack(part.digest)[:_KEY]
            if key in self._known:
                self._known.remove(key)
                self._taken -= on_disk(part.size or 0)

    def close(self) -> None:
        """Let all of it go as eviction pleases."""
        while self._files:
            self._files.popitem()[1].close()

    def _count(self, digest: Digest, taken: int) -> None:
        self._known.add(pack(digest)[:_KEY])
        self._taken += taken
