"""What a client is sent a blob from: whole content, or a fill that is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

ENDLESS = 2**63 - 1  # stands for the end of a blob whose size nobody knows yet


class BlobSource(Protocol):
    """Bytes that can be sent from a file, now or as they come. To be used as a context manager, and by one client."""

    file: BinaryIO
    size: int | None  # bytes; None while a fill does not know it
    whole: bool  # everything is here and verified

    @property
    def moving(self) -> bool:
        """Whether any byte of it has come."""
        ...

    async def ready(self, position: int, stop: int) -> int:
        """Wait until the byte at `position` may go out; return up to where bytes may, at most `stop`.

        Where `position` is the end already, wait until the whole is verified, and return it. Raises `MirrorError`
        where the bytes will not come, or what was sent before turned out wrong: then the transfer must be broken off.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class StoredBlob:
    """Whole content in the store."""

    whole = True
    moving = True

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.size: int | None = size
        self._size = size

    async def ready(self, position: int, stop: int) -> int:
        """See `BlobSource.ready`: everything may go out at once."""
        return max(position, min(stop, self._size))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
