"""Looks at content on the disk, at a gentle pace, and what follows from what they find."""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING

import structlog

from mirror import metrics
from mirror.errors import StoreError
from mirror.store.changes import Checked
from mirror.store.inspection import PIECE, Inspection, Verdict
from mirror.store.rejection import images_needing, reject

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.oci.digest import Digest
    from mirror.store.inspection import Finding
    from mirror.store.store import Store

log = structlog.get_logger(__name__)


class Pace:
    """So many bytes a second for all that read in the background in this process; 0: they wait until it is more."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._next = 0.0  # when the next piece may be read, on the monotonic clock
        self._changed = asyncio.Event()

    @property
    def rate(self) -> int:
        """Bytes a second."""
        return self._rate

    def set(self, rate: int) -> None:
        """Go at another pace from now on."""
        self._rate = rate
        self._next = 0.0
        self._changed.set()

    def read(self, count: int) -> None:
        """Hear that so many bytes were read."""
        if self._rate:
            self._next = max(self._next, time.monotonic()) + count / self._rate

    async def turn(self) -> None:
        """Wait until the next piece may be read."""
        while (wait := self._next - time.monotonic() if self._rate else None) is None or wait > 0:
            await self.change(wait)

    async def change(self, within: float | None) -> None:
        """Wait until somebody sets another rate, or until so many seconds have gone."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._changed.wait()


class Checker:
    """Reads content again, puts aside what is wrong, and remembers when the rest was right."""

    def __init__(self, store: Store, pace: Pace, every: float, *, clock: Callable[[], float] = time.time) -> None:
        """`every` is the time between two looks at the same content, in seconds; `clock` gives those of the epoch."""
        self.store = store
        self.pace = pace
        self.every = every
        self.clock = clock
        self.rejected = asyncio.Event()  # something is to be healed since it was last cleared

    @property
    def before(self) -> float:
        """What was looked at before this time, in seconds since the epoch, is due."""
        return self.clock() - self.every

    async def check(self, digest: Digest) -> Checked | None:
        """Look at content; return the fact that it is right, for the caller to record. Raise `StoreError`.

        None where it is of no use, and then it is out of the store, or where nobody can say.
        """
        finding = await self._look(digest)
        if finding.verdict is Verdict.RIGHT:
            metrics.SCRUB_RESULTS.labels("right").inc()
            return Checked(digest, self.clock())
        if finding.verdict is not Verdict.BUSY:
            await self._reject(finding)
        return None

    async def _look(self, digest: Digest) -> Finding:
        inspection = Inspection(self.store.layout, digest)
        while inspection.finding is None:
            await self.pace.turn()
            count = await self.store.threads.run(inspection.step)
            self.pace.read(max(count, PIECE // 256))  # a file costs something, however small it is
            metrics.SCRUBBED_BYTES.inc(count)
        return inspection.finding

    async def _reject(self, finding: Finding) -> None:
        digest = finding.digest
        say = partial(log.error, digest=str(digest), reason=finding.reason)
        images: list[str] = []
        result = metrics.SCRUB_RESULTS.labels("wrong" if finding.verdict is Verdict.WRONG else "unreadable")
        try:
            images += await asyncio.to_thread(images_needing, self.store.layout, digest)
            if not await self.store.threads.run(reject, self.store, finding):
                return  # something else has come in its place, or it was evicted
        except StoreError as error:
            result.inc()
            say("damaged content cannot be put aside; see to the disk", images=images, error=str(error))
            raise
        result.inc()
        if finding.verdict is Verdict.MISSING:
            say("content is missing on the disk; it is fetched again when somebody asks", images=images)
            return
        self.rejected.set()
        say(
            "content on the disk is damaged; it is put aside and fetched again. Where this comes more than once, "
            "have the disk and the memory of this machine looked at (dmesg, smartctl)",
            images=images,
        )
