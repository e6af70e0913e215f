"""How bytes of a bundle go to the disk: reading, hashing and writing at the same time, each in a thread of its own.

OpenSSL and the kernel let go of the interpreter while they work on a piece, so that the slowest of the three is what
the time goes by.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from typing import TYPE_CHECKING

from mirror.airgap.bundle.tar import shown
from mirror.errors import BundleRefused
from mirror.oci.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from mirror.airgap.bundle.reader import Entry
    from mirror.store.staging import Staged, Staging

SMALL = 256 * 1024  # bytes: a thread would take longer to be told of it than it takes to hash it
_QUEUE = 8  # pieces of up to 1 MiB that wait for each thread


class Arrival:
    """One file of the bundle on its way in. `digest` is what it has to be; where nobody said, what it is."""

    def __init__(self, name: str, digest: Digest | None, size: int, staged: Staged | None) -> None:
        """What is not `staged` is only hashed."""
        self.name = name
        self.size = size
        self.staged = staged
        self._expected = digest
        self._hash = hashlib.sha256() if digest is None else digest.hasher()
        self._came = 0
        self.digest = digest

    def hash(self, piece: bytes) -> None:
        """Take a piece, in the order of the file."""
        self._hash.update(piece)
        self._came += len(piece)

    def judge(self) -> None:
        """See that it is what it has to be, all of it having come; raise `BundleRefused`."""
        found = Digest(self._hash.name, self._hash.hexdigest())
        if self._came != self.size or self._expected not in (None, found):
            raise BundleRefused(
                f"{shown(self.name)} is not what its name says: its digest is {found}; it is damaged, or tampered with"
            )
        self.digest = found


class Flow:
    """Takes files in, one after another; leaving it waits until all of them are hashed and written.

    The first error of a thread is raised at the next call. Where it is left by an error nothing more is done.
    """

    def __init__(self, staging: Staging | None, stopped: Callable[[], None]) -> None:
        """`stopped` is called for each piece, and raises where somebody wants to stop. No `staging`: only hash."""
        self._staging = staging
        self._stopped = stopped
        self._error: BaseException | None = None
        self._hashing: _Worker | None = None
        self._writing: _Worker | None = None

    def take(
        self, entry: Entry, digest: Digest | None, staged: Staged | None, advance: Callable[[int], None]
    ) -> Arrival:
        """Take one in; it may be on its way yet when this returns. `advance` hears of bytes that were read."""
        self._check()
        arrival = Arrival(entry.name, digest, entry.size, staged)
        small = entry.size <= SMALL
        for piece in entry.chunks():
            self._stopped()
            self._check()
            advance(len(piece))
            if small:
                arrival.hash(piece)
                self._write(arrival, piece)
            else:
                self._give(arrival, piece)
        if small:
            arrival.judge()
            self._end(arrival)
        else:
            self._give(arrival, None)
        return arrival

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and self._error is None:
            self._error = error  # the threads pass over what they still have
        for worker in (self._hashing, self._writing):
            if worker is not None:
                worker.join()
        if error is None:
            self._check()

    def _give(self, arrival: Arrival, piece: bytes | None) -> None:
        if self._hashing is None:
            self._writing = _Worker("carried-write", self._written, self._fail)
            self._hashing = _Worker("carried-hash", self._hashed, self._fail)
        assert self._writing is not None  # noqa: S101  # both are made together
        self._hashing.give(arrival, piece)
        if piece is not None:
            self._writing.give(arrival, piece)

    def _hashed(self, arrival: Arrival, piece: bytes | None) -> None:
        if piece is not None:
            arrival.hash(piece)
            return
        arrival.judge()
        assert self._writing is not None  # noqa: S101  # as above
        self._writing.give(arrival, None)

    def _written(self, arrival: Arrival, piece: bytes | None) -> None:
        if piece is not None:
            self._write(arrival, piece)
        else:
            self._end(arrival)

    def _write(self, arrival: Arrival, piece: bytes) -> None:
        if arrival.staged is not None and self._staging is not None:
            self._staging.write(arrival.staged, piece)

    def _end(self, arrival: Arrival) -> None:
        if arrival.staged is not None and arrival.digest is not None:
            arrival.staged.end(arrival.digest)

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error

    def _check(self) -> None:
        if self._error is not None:
            raise self._error


class _Worker:
    """A thread with a bounded queue. After a first error it only empties it, so that nobody waits for it in vain."""

    def __init__(
        self, name: str, work: Callable[[Arrival, bytes | None], None], fail: Callable[[BaseException], None]
    ) -> None:
        self._work = work
        self._fail = fail
        self._queue: queue.Queue[tuple[Arrival, bytes | None] | None] = queue.Queue(_QUEUE)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def give(self, arrival: Arrival, piece: bytes | None) -> None:
        self._queue.put((arrival, piece))

    def join(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        failed = False
        while (item := self._queue.get()) is not None:
            if failed:
                continue
            try:
                self._work(*item)
            except BaseException as error:  # noqa: BLE001  # it is raised where the bundle is read
                failed = True
                self._fail(error)
