"""Where the content of one import comes together: what was here before is held, what is new is staged."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO, Self

from mirror.airgap.bundle.flow import Arrival, Flow
from mirror.airgap.bundle.reader import Entry
from mirror.airgap.bundle.source import Stopped
from mirror.config.units import show_bytes
from mirror.errors import BundleRefused, MirrorError, NoSpace
from mirror.oci.digest import Digest
from mirror.oci.manifest import MAX_SIZE
from mirror.store.room import on_disk
from mirror.store.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mirror.store.staging import Staged
    from mirror.store.store import Store

_BLOCK = 512  # bytes that st_blocks counts in (stat(2))
_MOST_KEPT = 64 * 1024 * 1024  # bytes of small files that a dry run keeps in memory


class Bay:
    """A context: leaving it by an error removes what came, but an interrupt leaves it for the next run.

    With `dry` nothing is written; small files are kept in memory, since manifests are among them.
    """

    def __init__(
        self,
        store: Store,
        reserve: Callable[[int], None],
        *,
        stopped: Callable[[], bool],
        advance: Callable[[int], None],
        dry: bool,
    ) -> None:
        """`reserve` takes bytes of the store's room, or raises `NoSpace`; `advance` hears of bytes that were read."""
        self._store = store
        self._reserve = reserve
        self._stopped = stopped
        self._advance = advance
        self._dry = dry
        self._staging = Staging(store.layout, store.room)
        self._held: dict[Digest, tuple[BinaryIO, int]] = {}
        self._arrived: dict[Digest, Arrival] = {}
        self._bodies: dict[Digest, bytes] = {}
        self._kept = 0
        self._ended = False
        self._flow: Flow | None = None

    # --- what is here ----------------------------------------------------------------------------------------------

    def hold(self, digest: Digest) -> int | None:
        """Keep content that is here from eviction until the end; return its size in bytes, None where it is not."""
        if digest not in self._held:
            opened = self._store.blobs.open(digest)
            if opened is None:
                return None
            self._held[digest] = opened
        return self._held[digest][1]

    def size(self, digest: Digest) -> int | None:
        """Return the size of what is held or has arrived."""
        if digest in self._held:
            return self._held[digest][1]
        arrival = self._arrived.get(digest)
        return None if arrival is None else arrival.size

    def held(self, digest: Digest) -> bool:
        """Say whether it was here before."""
        return digest in self._held

    def arrived(self, digest: Digest) -> bool:
        """Say whether it came, whether or not it was here before."""
        return digest in self._arrived

    def body(self, digest: Digest) -> bytes | None:
        """Return small content; None where it is not here, or too large for a manifest."""
        if digest in self._bodies:
            return self._bodies[digest]
        if (self.size(digest) or 0) > MAX_SIZE:
            return None
        return self.head(digest, MAX_SIZE)

    def head(self, digest: Digest, size: int) -> bytes | None:
        """Return up to the first `size` bytes of content; None where they are not at hand."""
        if digest in self._held:
            file, whole = self._held[digest]
            body = os.pread(file.fileno(), size, 0)
            if whole <= size and not digest.matches(body):
                raise BundleRefused(f"{digest} is damaged in the store; mirror verify --repair, then import again")
            return body
        if digest in self._bodies:
            return self._bodies[digest][:size]
        arrival = self._arrived.get(digest)
        return None if arrival is None or arrival.staged is None else os.pread(arrival.staged.fd, size, 0)

    # --- what comes ------------------------------------------------------------------------------------------------

    def make_room(self, sizes: Iterable[tuple[Digest | None, int]], label: str) -> int:
        """Reserve what all of this takes on disk, before any of it is written; return the bytes.

        What an earlier run left is not needed twice. Raise `NoSpace` with both figures.
        """
        need = sum(
            max(0, on_disk(size) - (0 if digest is None else self._staging.left(digest))) for digest, size in sizes
        )
        if self._dry or not need:
            return need
        try:
            self._reserve(need)
        except NoSpace as error:
            raise NoSpace(f"{label} brings {show_bytes(need)} that is not here yet, and {error}") from error
        self._staging.reserved(need)
        return need

    def take(self, entry: Entry, digest: Digest | None) -> Arrival:
        """Take an entry in. It is whole, and what it has to be, when `drained` returns; small ones are at once."""
        assert self._flow is not None  # noqa: S101  # the bay was entered
        staged: Staged | None = None
        if not (self._dry or (digest is not None and digest in self._held)):
            staged = self._staging.open(digest, entry.size)
        arrival = self._flow.take(_keeping(entry, self._keep) if self._dry else entry, digest, staged, self._advance)
        if digest is not None:
            self._arrived[digest] = arrival
        return arrival

    def name(self, arrival: Arrival) -> None:
        """Hear of an arrival whose digest nobody had said, and that is known by now. One of a kind is enough."""
        assert arrival.digest is not None  # noqa: S101  # it was drained
        known = self._arrived.setdefault(arrival.digest, arrival)
        if arrival.staged is not None and (known is not arrival or self.hold(arrival.digest) is not None):
            self._staging.drop(arrival.staged)
            arrival.staged = None

    def drained(self) -> None:
        """Wait until all that was taken is hashed and written; raise what went wrong."""
        if self._flow is not None:
            flow, self._flow = self._flow, None
            flow.__exit__(None, None, None)

    def add(self, digest: Digest, body: bytes) -> None:
        """Add content that is made here; it counts as what came."""
        if digest in self._arrived:
            return
        staged = None
        if self._dry:
            self._keep(body)
        elif self.hold(digest) is None:
            self.make_room([(digest, len(body))], "what is made here")
            staged = self._staging.add(digest, body)
        self._arrived[digest] = Arrival(str(digest), digest, len(body), staged)

    def keep_only(self, needed: Callable[[Digest], bool]) -> None:
        """Throw away what arrived and nobody needs."""
        for digest, arrival in list(self._arrived.items()):
            if not needed(digest):
                del self._arrived[digest]
                if arrival.staged is not None:
                    self._staging.drop(arrival.staged)

    def brought(self) -> dict[Digest, int]:
        """Return what is new, with its size in bytes."""
        return {digest: arrival.size for digest, arrival in self._arrived.items() if digest not in self._held}

    # --- the end ---------------------------------------------------------------------------------------------------

    def commit(self, tell: Callable[[dict[Digest, int]], None]) -> None:
        """Make all that came content; `tell` is to tell the index, and gets the bytes that each takes on disk."""
        taken = {digest: os.fstat(file.fileno()).st_blocks * _BLOCK for digest, (file, _) in self._held.items()}
        taken |= self._staging.commit(self._give_way)
        try:
            tell(taken)
        except MirrorError:
            raise
        except BaseException:  # nobody waited for the answer, and the index may know of all: then it has to be there
            self._ended = True
            self._staging.settle()
            raise
        self._staging.settle()
        self._ended = True

    def __enter__(self) -> Self:
        self._flow = Flow(self._staging, self._give_way).__enter__()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        with ExitStack() as closing:
            closing.callback(self._close)
            if self._flow is not None:
                self._flow.__exit__(None, error or Stopped(), None)
            if isinstance(error, Stopped):
                self._staging.leave()
            elif not self._ended:
                self._staging.withdraw()

    def _close(self) -> None:
        self._staging.close()
        while self._held:
            self._held.popitem()[1][0].close()

    def _give_way(self) -> None:
        if self._stopped():
            raise Stopped

    def _keep(self, body: bytes) -> None:
        self._kept += len(body)
        if self._kept > _MOST_KEPT:
            raise BundleRefused("it has too many small files to be looked at without writing them; leave --dry-run out")
        self._bodies[Digest.of(body)] = body


def _keeping(entry: Entry, keep: Callable[[bytes], None]) -> Entry:
    """Return an entry whose content is kept, too, where it may be a manifest."""
    if entry.size > MAX_SIZE:
        return entry
    body = b"".join(entry.chunks())
    if body.startswith(b"{"):
        keep(body)
    return Entry(entry.name, len(body), lambda: iter([body] if body else []))
