"""`multipart/byteranges` (RFC 9110 §14.6): what podman's partial pulls of zstd:chunked layers ask for."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from mirror.oci.mediatype import OCTET_STREAM
from mirror.oci.range import content_range

if TYPE_CHECKING:
    from collections.abc import Iterator


class Multipart:
    """Several ranges of one blob: what stands before each, and behind the last."""

    def __init__(self, ranges: list[tuple[int, int]], size: int) -> None:
        """`ranges` are half-open; `size` is that of the whole, in bytes."""
        boundary = secrets.token_hex(16)
        self.media_type = f"multipart/byteranges; boundary={boundary}"
        self._parts = [
            (
                f"\r\n--{boundary}\r\nContent-Type: {OCTET_STREAM}\r\n"
                f"Content-Range: {content_range(start, stop, size)}\r\n\r\n".encode(),
                start,
                stop,
            )
            for start, stop in ranges
        ]
        self.tail = f"\r\n--{boundary}--\r\n".encode()
        self.length = sum(len(head) + stop - start for head, start, stop in self._parts) + len(self.tail)

    def __iter__(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield (what stands before it, start, stop) of each part."""
        return iter(self._parts)
