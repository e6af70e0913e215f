"""A blob on its way: its headers read and checked, its bytes still to come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.errors import UpstreamBroken, UpstreamError, UpstreamUnavailable
from mirror.oci.mediatype import bare
from mirror.oci.range import parse_content_range

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from mirror.upstream.protocol import Sender
    from mirror.upstream.wire import Answer, Wire

OK, PARTIAL = 200, 206


class HttpBlobBody:
    """`mirror.upstream.protocol.BlobBody` over HTTP. `failed` is called when the transfer breaks.

    `came` hears how many bytes came, and returns when the next may be taken (`Pacing.came`).
    """

    def __init__(
        self,
        wire: Wire,
        answer: Answer,
        asked: tuple[int, int | None] | None,
        failed: Callable[[], None],
        *,
        sender: Sender,
        came: Callable[[int], Awaitable[None]],
    ) -> None:
        self.sender = sender
        self._came = came
        self._wire = wire
        self._answer = answer
        self._failed = failed
        self.public = answer.public
        self.ranged = answer.status == PARTIAL
        length = answer.response.content_length
        self.start, self.stop, self.size = self._partial(asked, length) if self.ranged else (0, length, length)
        if bare(answer.headers.get("Content-Type", "")) == "text/html":
            raise self._broken("sent a web page where a blob was due; perhaps something in between wants a login")

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the bytes as they come; see the protocol."""
        position, stop = self.start, self.stop
        try:
            async for piece in self._wire.pieces(self._answer):
                position += len(piece)
                if stop is not None and position > stop:
                    raise self._broken("sent more of a blob than its header says")
                await self._came(len(piece))
                yield piece
        except UpstreamError:
            self._failed()
            raise
        if stop is not None and position < stop:
            self._failed()
            raise UpstreamUnavailable(
                f"{self._wire.namespace} ended a blob {stop - position} bytes before its end",
                namespace=self._wire.namespace,
            )

    def _partial(self, asked: tuple[int, int | None] | None, length: int | None) -> tuple[int, int | None, int | None]:
        if asked is None:
            raise self._broken("sent a part of a blob where the whole was asked for")
        try:
            start, stop, size = parse_content_range(self._answer.headers.get("Content-Range", ""))
        except ValueError:
            raise self._broken("sent a part of a blob without saying which") from None
        due = asked[1] if asked[1] is not None else size
        if size is not None and due is not None:
            due = min(due, size)
        if start != asked[0] or (due is not None and stop != due) or (length is not None and length != stop - start):
            raise self._broken("sent another part of a blob than was asked for")
        return start, stop, size

    def _broken(self, what: str) -> UpstreamBroken:
        return UpstreamBroken(
            f"{self._wire.namespace} {what}", namespace=self._wire.namespace, upstream_status=self._answer.status
        )
