"""The one page of the account book: a header with what all hold, and a slot for each process. Bytes only, no file."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mirror.store.part import BOOT_ID

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 4096  # bytes: one system call writes it, and no kill cuts that
_MAGIC, _VERSION = b"RM-ROOM\n", 1
# magic, version, flags, boot id, then content, held, outstanding, added, gone, epoch as in `Balance`
_HEADER = struct.Struct("<8sII16sqqqqqQ")
_DIRTY = 1  # the flag: a count is due
_SLOT = struct.Struct("<qqIIQ")  # as in `Slot`
_SLOTS_AT = 256
SLOTS = (SIZE - _SLOTS_AT) // _SLOT.size  # processes that may have one store open: 120


@dataclass(frozen=True, slots=True)
class Balance:
    """What the book says in all; all but the last two in bytes."""

    content: int = 0  # on disk, and of no living process
    held: int = 0  # by living processes: reserved, or on disk and not yet content
    outstanding: int = 0  # of that, not yet allocated on disk
    added: int = 0  # became content since the book was made …
    gone: int = 0  # … and ceased to be. Both only grow, so that who counts the disk sees what happened meanwhile
    epoch: int = 0  # another one from when a process ended without closing, or the book was made anew
    dirty: bool = True  # content may be less than that; somebody has to count


class Slot(NamedTuple):
    """What one process holds, in bytes, and who it is, as `mirror.store.processes.Process` has it."""

    held: int = 0
    outstanding: int = 0
    pid: int = 0  # 0: of nobody
    mirror: int = 0
    started: int = 0


class Page:
    """The page, read and written in memory."""

    def __init__(self, data: bytes = b"") -> None:
        """Take what the file holds; an empty one is `readable` as soon as a balance is set."""
        self.data = bytearray(data[:SIZE].ljust(SIZE, b"\0"))

    @property
    def readable(self) -> bool:
        """Whether it is a page of this kind."""
        magic, version, *_ = _HEADER.unpack_from(self.data)
        return (magic, version) == (_MAGIC, _VERSION)

    @property
    def current(self) -> bool:
        """Whether it was written since this machine was booted."""
        _, _, _, boot, *_ = _HEADER.unpack_from(self.data)
        return bool(boot == BOOT_ID)

    @property
    def balance(self) -> Balance:
        """What it says in all."""
        _, _, flags, _, content, held, outstanding, added, gone, epoch = _HEADER.unpack_from(self.data)
        return Balance(content, held, outstanding, added, gone, epoch, bool(flags & _DIRTY))

    def put(self, balance: Balance) -> None:
        """Say that in all."""
        flags = _DIRTY if balance.dirty else 0
        figures = balance.content, balance.held, balance.outstanding, balance.added, balance.gone, balance.epoch
        _HEADER.pack_into(self.data, 0, _MAGIC, _VERSION, flags, BOOT_ID, *figures)

    def slot(self, number: int) -> Slot:
        """Return the slot of one process."""
        return Slot(*_SLOT.unpack_from(self.data, _SLOTS_AT + number * _SLOT.size))

    def put_slot(self, number: int, slot: Slot) -> None:
        """Say what one process holds."""
        _SLOT.pack_into(self.data, _SLOTS_AT + number * _SLOT.size, *slot)

    def slots(self) -> Iterator[tuple[int, Slot]]:
        """Yield all slots, those of nobody, too."""
        for number, slot in enumerate(_SLOT.iter_unpack(self.data[_SLOTS_AT:])):
            yield number, Slot(*slot)
