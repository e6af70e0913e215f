"""Reading much of the store again at full speed, in threads, beside whoever uses it."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TYPE_CHECKING, Self

from mirror.store.changes import Checked
from mirror.store.inspection import Finding, Inspection, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from mirror.oci.digest import Digest
    from mirror.store.graph import Content
    from mirror.store.store import Store

_PAGE = 1000  # rows of the index at once
_RECORD = 5.0  # seconds until what is right is recorded: whoever is interrupted goes on from there
_AHEAD = 4  # files that wait for each thread


class Verification:
    """Reads content again. To be used as a context manager, by one thread; leaving it stops what is under way."""

    def __init__(self, store: Store, *, jobs: int, advance: Callable[[int], None]) -> None:
        """`jobs` is how many files are read at once; `advance` hears from the threads how many bytes were read."""
        self._store = store
        self._jobs = jobs
        self._advance = advance
        self._pool = ThreadPoolExecutor(jobs, thread_name_prefix="verify")
        self._stop = threading.Event()
        self._right: list[Checked] = []
        self._recorded = time.monotonic()
        self.files = 0
        self.size = 0  # bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)
        self._record()

    def run(self, contents: Iterable[Digest]) -> Iterator[Finding]:
        """Yield what is not right. What is right is recorded as checked. Raise `StoreError`."""
        left = iter(contents)
        running: set[Future[Finding | None]] = set()
        while True:
            some = islice(left, self._jobs * _AHEAD - len(running))
            running |= {self._pool.submit(self._inspect, digest) for digest in some}
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                finding = future.result()
                if finding is not None:
                    self.files += 1
                    self.size += finding.size
                    yield from self._judge(finding)
            if time.monotonic() - self._recorded > _RECORD:
                self._record()

    def _judge(self, finding: Finding) -> Iterator[Finding]:
        if finding.verdict is Verdict.RIGHT:
            self._right.append(Checked(finding.digest, time.time()))
        else:
            yield finding

    def _inspect(self, digest: Digest) -> Finding | None:
        """Return what was found; None where it went meanwhile, or it is to stop."""
        inspection = Inspection(self._store.layout, digest)
        while inspection.finding is None:
            if self._stop.is_set():
                return None
            self._advance(inspection.step())
        finding = inspection.finding
        if finding.verdict is Verdict.BUSY or (finding.verdict is Verdict.MISSING and not self._is_lost(digest)):
            return None
        return finding

    def _is_lost(self, digest: Digest) -> bool:
        """Say whether there is no file, and the index takes it to be here: evicted content it has forgotten before."""
        return self._store.graph.content(digest) is not None and self._store.blobs.size(digest) is None

    def _record(self) -> None:
        right, self._right = self._right, []
        self._recorded = time.monotonic()
        asyncio.run(self._store.index.apply(*right))


def everything(store: Store) -> Iterator[Content]:
    """Yield all content that the index has on disk, in order of digests. Blocks; raise `StoreError`."""
    last: Digest | None = None
    while some := store.graph.contents(after=last, limit=_PAGE):
        yield from some
        last = some[-1].digest
