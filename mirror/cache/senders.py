"""Who sent what of one blob, and who is to blame where it is wrong (promise 3).

An upstream may have several endpoints. What breaks is gone on with from another one, so what is here may be of several.
Only where all of it is of one can that one be blamed; else all of them are avoided, and the next attempt tells.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mirror.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from mirror.oci.digest import Digest
    from mirror.upstream.protocol import BlobBody, Sender

ATTEMPTS = 2  # a wrong body is thrown away and fetched again once; oftener only where it was of several


class Senders:
    """Those that send one blob."""

    def __init__(self, digest: Digest) -> None:
        self._digest = digest
        self._here: dict[str, Sender] = {}  # what is here is theirs
        self._nameless = False  # and of somebody whom nobody remembers
        self._sizes: dict[str, tuple[Sender, int]] = {}  # that they said the whole has
        self._met: set[str] = set()
        self._avoided: set[str] = set()

    @property
    def avoid(self) -> frozenset[str]:
        """Those that broke off, or may have sent what was wrong: they are asked where there is no other."""
        return frozenset(self._avoided)

    @property
    def attempts(self) -> int:
        """How often what comes may be wrong: one of those that were met so far may have been right."""
        return max(ATTEMPTS, 1 + len(self._met))

    def resumed(self) -> None:
        """Hear that a part is here of which nobody knows whose it is."""
        self._nameless = True

    @asynccontextmanager
    async def opened(self, asked: AbstractAsyncContextManager[BlobBody]) -> AsyncIterator[BlobBody]:
        """Open a body, and remember who sends it."""
        async with asked as body:
            if body.size is not None:
                self._sizes[body.sender.label] = (body.sender, body.size)
            yield _Noted(body, self)

    def came(self, sender: Sender) -> None:
        """Hear that some of what is here is of `sender`."""
        if sender.label not in self._here:
            self._here[sender.label] = sender
            self._met.add(sender.label)

    def broke(self, sender: Sender) -> None:
        """Hear that a body broke off, or cannot be right: another one goes on."""
        self._met.add(sender.label)
        self._avoided.add(sender.label)

    def wrong(self, *, verdict: bool) -> None:
        """Hear that what is here is thrown away. `verdict`: all had come, and its hash was not the digest."""
        if verdict and len(self._here) == 1 and not self._nameless:
            for sender in self._here.values():
                sender.lied(f"what it sent for {self._digest} is not what the digest says")
        self._avoided |= self._here.keys()
        self._here.clear()
        self._nameless = False

    def right(self, size: int) -> None:
        """Hear that all is here, and right: whoever said that it has another size has been found out."""
        for sender, said in self._sizes.values():
            if said != size:
                sender.lied(f"it said that {self._digest} has {said} bytes, and it has {size}")


class _Noted:
    """A body whose sender is remembered once a byte of it has come."""

    def __init__(self, body: BlobBody, senders: Senders) -> None:
        self.start, self.stop, self.size, self.ranged = body.start, body.stop, body.size, body.ranged
        self.public, self.sender = body.public, body.sender
        self._body = body
        self._senders = senders

    async def pieces(self) -> AsyncIterator[bytes]:
        """See `BlobBody.pieces`."""
        try:
            async for piece in self._body.pieces():
                self._senders.came(self.sender)
                yield piece
        except UpstreamError:
            self._senders.broke(self.sender)
            raise
