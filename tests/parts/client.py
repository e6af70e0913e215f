"""What the tests want of a real client, whichever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tests.images import Image

# A client that gives its mirror up must not find the true registries: it then fails, and at once.
NO_WAY_OUT = {
    name: value
    for upper, value in (
        ("HTTP_PROXY", "http://127.0.0.1:1"),
        ("HTTPS_PROXY", "http://127.0.0.1:1"),
        ("NO_PROXY", "127.0.0.1,localhost"),
    )
    for name in (upper, upper.lower())
}


class Client(Protocol):
    """A real client that is set up to use one mirror."""

    def pull(self, reference: str) -> None:
        """Pull an image; raise `ProgramError` where the client fails."""
        ...

    def check(self, reference: str, image: Image) -> None:
        """Compare what the client got with what was pushed, digest by digest."""
        ...

    def forget(self) -> None:
        """Take away everything that was pulled."""
        ...

    def run(self, reference: str, *command: str) -> str:
        """Start a container without network from a pulled image and return its output."""
        ...
