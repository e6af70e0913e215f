"""Taking images off the disk: whole, and nothing of them that is in use."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from mirror.errors import NoSpace
from mirror.store.graph import Removal
from mirror.store.locks import pending, seize, share, unnaming
from mirror.store.refusal import refusal, refusing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.oci.digest import Digest
    from mirror.store.graph import Graph
    from mirror.store.layout import Layout
    from mirror.store.room import Room

_BLOCK = 512  # bytes that st_blocks counts in (stat(2))


class Remover:
    """Removes roots. Its method blocks: call it in a thread. Thread-safe."""

    def __init__(self, layout: Layout, graph: Graph, room: Room) -> None:
        self._layout = layout
        self._graph = graph
        self._room = room

    def remove(self, root: Digest, *, used: float | None = None, force: bool = False) -> Removal | None:
        """Remove a root and all content that only it needs; when this returns its bytes are free on the disk.

        None where nothing was done: it is no root any more, is pinned (unless `force`), was used after `used`, somebody
        reads some of what would go, or some of what it names is being filled. Raise `StoreError` where the disk
        refuses; what could be unlinked then is gone and counted so, the rest belongs to nobody until the next survey.
        """
        with contextlib.ExitStack() as until_told:
            held = _Held(self._layout)
            try:
                with refusing(self._layout.root), unnaming(self._layout):
                    if self._is_read(root):  # a prefetch or an export holds thousands: the index is not asked for each
                        return None
                    until_told.callback(os.close, pending(self._layout))
                    try:
                        removal = self._graph.remove(root, held.take, used=used, force=force)
                    except NoSpace:
                        removal = self._remove_first(root, held, force=force)
                    if removal is not None:
                        held.unlink()
            finally:
                held.close()  # the kernel frees what has no name when the last descriptor goes
                self._room.freed(held.freed)
        if held.refused is not None:
            raise refusal(self._layout.root, held.refused) from held.refused
        return removal

    def _is_read(self, digest: Digest) -> bool:
        """Say whether somebody reads this content just now."""
        try:
            fd = os.open(self._layout.blob(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not seize(fd)
        finally:
            os.close(fd)

    def _remove_first(self, root: Digest, held: _Held, *, force: bool) -> Removal | None:
        """Unlink what is held, and tell the index then: the disk is so full that it could not be told before.

        It may be in the journal already, and be told of from there later, so there is no way back. A crash in between
        leaves rows without files, which a survey finds; whoever asks for one of them is told that it is not here.
        """
        unit = self._graph.unit(root)
        if not held.whole or unit is None:
            raise NoSpace(f"the disk that holds {self._layout.root} is full; free some of it")
        gone = tuple(content for digest in held.goes if (content := self._graph.content(digest)) is not None)
        held.unlink()
        held.close()
        return self._graph.remove(root, held.take, force=force) or Removal(unit, gone, ())


class _Held:
    """The files that are about to go, each opened and locked exclusively."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._files: dict[Digest, int] = {}
        self.goes: tuple[Digest, ...] = ()
        self.whole = False  # all that goes is held
        self.freed = 0  # bytes
        self.refused: OSError | None = None  # what the disk said first of a name that it did not let go

    def take(self, goes: Sequence[Digest], needs: Sequence[Digest]) -> bool:
        """Lock what goes; False where somebody uses it, or fills any of `needs`."""
        self.goes = tuple(goes)
        with refusing(self._layout.root):
            self.whole = all(map(self._take, goes)) and not any(map(self._is_filled, needs))
        return self.whole

    def unlink(self) -> None:
        """Take the names away, of as many as the disk lets go."""
        for digest, fd in self._files.items():
            taken = os.fstat(fd).st_blocks * _BLOCK
            try:
                self._layout.blob(digest).unlink(missing_ok=True)
            except OSError as error:
                self.refused = self.refused or error
            else:
                self.freed += taken

    def close(self) -> None:
        """Let go of all."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _take(self, digest: Digest) -> bool:
        try:
            fd = os.open(self._layout.blob(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True  # there is nothing to lose
        self._files[digest] = fd
        return seize(fd)

    def _is_filled(self, digest: Digest) -> bool:
        try:
            fd = os.open(self._layout.part(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not share(fd)
        finally:
            os.close(fd)
