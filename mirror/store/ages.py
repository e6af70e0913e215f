"""The last use of an image as its file tells it: what is left of that where the index is lost."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import structlog
from cachetools import LRUCache

if TYPE_CHECKING:
    from collections.abc import Collection

    from mirror.oci.digest import Digest
    from mirror.store.layout import Layout

log = structlog.get_logger(__name__)

_EVERY = 3600  # seconds; a day of use costs a file two dozen changes of its inode
_REMEMBERED = 10_000  # roots


class Ages:
    """Sets the time of change of a root's own file to now when it was used, at most once an hour."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._told: LRUCache[Digest, float] = LRUCache(_REMEMBERED)
        self._refused = False

    def tell(self, used: Collection[Digest]) -> None:
        """Tell the files of these roots. Blocks on the disk."""
        now = time.monotonic()
        for digest in used:
            if now - self._told.get(digest, -_EVERY) < _EVERY:
                continue
            self._told[digest] = now
            try:
                os.utime(self._layout.blob(digest))
            except FileNotFoundError:
                continue  # it went meanwhile
            except OSError as error:
                if not self._refused:
                    self._refused = True
                    log.warning("last use cannot be noted at files; the index has it", error=str(error))
