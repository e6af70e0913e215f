"""What one fill takes of the room."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirror.store.room import Room


class Account:
    """The bytes that one unfinished fill holds of the store's room, from before the first one comes until it ends."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._held = 0
        self._outstanding = 0  # of them, not known to be allocated on disk
        self._open = False

    def found(self, on_disk: int) -> None:
        """Begin with what an earlier fill has left: `on_disk` bytes, which the room has counted."""
        self._held, self._open = on_disk, True

    def hold(self, total: int) -> None:
        """Hold at least `total` bytes from now on; raise `NoSpace` where there is no room for them."""
        more = max(0, total - self._held)
        self._room.reserve(more)
        self._held += more
        self._outstanding += more

    def grow(self, count: int) -> None:
        """Hold `count` bytes more, for content whose size nobody has told; raise `NoSpace`."""
        self.hold(self._held + count)

    def landed(self, on_disk: int) -> None:
        """Hear that the files take `on_disk` bytes now: the disk's own count of what is free has them."""
        if on_disk >= self._held:
            self._arrive(self._outstanding)

    def wrote(self, count: int) -> None:
        """Hear that `count` bytes went to the disk that were not allocated before."""
        self._arrive(min(count, self._outstanding))

    def settle(self, kept: int) -> None:
        """End: `kept` bytes stay on disk, the rest of what was held is given back. Once is enough."""
        if self._open:
            self._arrive(self._outstanding)
            self._room.release(self._held - kept)
            self._held, self._open = 0, False

    def _arrive(self, count: int) -> None:
        self._outstanding -= count
        self._room.landed(count)
