"""One client's view of a fill."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mirror.errors import UpstreamBroken

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from mirror.cache.fill import Fill


class FillReader:
    """See `source.BlobSource`.

    While its client has been sent nothing it goes along when a fill begins again with other content, whose `size` may
    be another one too; afterwards it breaks off.
    """

    whole = False

    def __init__(self, fill: Fill) -> None:
        """`fill` is `readable`."""
        self._fill = fill
        self._given = False  # the client may have been told a size, or sent bytes
        self._generation = fill.generation
        self.size = fill.size
        self.file = fill.duplicate()

    @property
    def moving(self) -> bool:
        """See `source.BlobSource.moving`."""
        return self._fill.spans.total() > 0

    async def ready(self, position: int, stop: int) -> int:
        """See `source.BlobSource.ready`."""
        fill = self._fill
        try:
            while True:
                if fill.generation == self._generation or self._goes_along():
                    end = min(fill.spans.end_of(position), fill.limit(), stop)
                    if end > position or fill.verified:
                        break
                if fill.error is not None:
                    raise fill.error
                fill.demand(self, position, stop)
                await fill.pulse.wait(position)
        except asyncio.CancelledError:
            self._given = True  # the server waits no longer: it sends the header now
            raise
        if not self._given:
            self._given, self.size = True, fill.size
        fill.leave(self)
        return max(end, position)

    def _goes_along(self) -> bool:
        """Take the content with which the fill began again; say whether it is there yet. Raise where it is too late."""
        fill = self._fill
        if self._given or (fill.ended and not fill.readable):
            raise fill.error or UpstreamBroken(
                f"what {fill.origins.namespace} sent for {fill.digest} was wrong", namespace=fill.origins.namespace
            )
        if not fill.readable:
            return False
        self.file.close()
        self.file, self.size, self._generation = fill.duplicate(), fill.size, fill.generation
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._fill.leave(self)
        self.file.close()
