"""What trouble upstream made last over a tag, so that a limited one is left in peace while the cached image serves.

A tag that has moved while requests are limited would otherwise be asked for by every pull, and each would wait for it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from mirror.errors import UpstreamError, UpstreamLimited, UpstreamNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirror.oci.name import Repository, Tag
    from mirror.store.dealings import Dealings

KIND = "tag"
LOOK_EVERY = 60.0  # seconds between two looks at one upstream, behind answers, whether the trouble is over


class Troubles:
    """Kept in the store, by tag. `clock` gives seconds since the epoch."""

    def __init__(self, book: Dealings, clock: Callable[[], float]) -> None:
        self._book = book
        self._clock = clock
        self._looked: dict[str, float] = {}
        self._since = clock()  # what was before is not held against whom the configuration has now: they are asked once

    @contextmanager
    def noted(self, repository: Repository, tag: Tag) -> Iterator[None]:
        """Note how asking upstream for a tag, within, ends."""
        key = f"{repository}:{tag}"
        try:
            yield
        except UpstreamNotFound:
            self._book.put(KIND, key, None)
            raise
        except UpstreamError as error:
            now = self._clock()
            row = {"at": now, "why": str(error)}
            if isinstance(error, UpstreamLimited):
                row["until"] = now + (error.retry_after or 0.0)
            self._book.put(KIND, key, row)
            raise
        else:
            self._book.put(KIND, key, None)

    def lasting(self, repository: Repository, tag: Tag, seconds: float) -> str | None:
        """Return why a limited upstream is not to be asked for a tag now: it said when, or it is not so long ago."""
        row = self._book.get(KIND, f"{repository}:{tag}")
        if row is None or "until" not in row:
            return None
        now, at = self._clock(), row["at"]
        self._since = min(self._since, now)  # it was set back
        why: str = row["why"]
        return why if self._since <= at <= now < max(row["until"], at + seconds) else None

    def forgive(self) -> None:
        """Ask again: upstreams are other ones, or asked with other credentials."""
        self._since = self._clock()
        self._looked.clear()

    def look(self, namespace: str) -> bool:
        """Say whether to ask an upstream all the same, behind an answer: once a minute, for whichever tag it is."""
        now = self._clock()
        if 0 <= now - self._looked.get(namespace, -LOOK_EVERY) < LOOK_EVERY:
            return False
        self._looked[namespace] = now
        return True
