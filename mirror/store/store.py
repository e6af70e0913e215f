"""One store, opened: its blobs, its index, its room, its threads."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

import structlog

from mirror.errors import MirrorError, StoreError, StoreUnusable
from mirror.store.aside import Aside
from mirror.store.blobs import DiskBlobs
from mirror.store.changes import Lost, Stored
from mirror.store.dealings import Dealings
from mirror.store.graph import Graph
from mirror.store.index import SqliteIndex
from mirror.store.io import DiskThreads
from mirror.store.layout import Layout
from mirror.store.leftovers import Leftovers
from mirror.store.page import Page
from mirror.store.recent import Recent
from mirror.store.remover import Remover
from mirror.store.room import Room
from mirror.store.survey import Survey
from mirror.store.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mirror.config import StorageConfig
    from mirror.oci.digest import Digest
    from mirror.store.blobs import BlobStore
    from mirror.store.changes import Change
    from mirror.store.survey import SurveyResult

log = structlog.get_logger(__name__)

_SURVEY = "survey of the disk"  # the turn of whoever looks through it


class Store:
    """Everything that `storage.path` holds. A process opens its own, after it was forked.

    Any number of processes, and command-line tools beside them, may have one open: all share its room.
    """

    def __init__(self, layout: Layout, room: Room, *, cut: bool = False) -> None:
        """Open the rest. `room` is closed with it. Raise `StoreUnusable`, and leave nothing open then.

        `cut` says that the machine went down under a mirror that had the store open.
        """
        self.layout = layout
        self.room = room
        self._cut = cut
        self._closing = contextlib.ExitStack()
        with contextlib.ExitStack() as opened:
            opened.callback(room.close)
            self.aside = Aside(layout, room)
            self.leftovers = Leftovers(layout, room)
            self.threads = DiskThreads()
            blobs = DiskBlobs(layout, self.threads, self.aside)
            self.blobs: BlobStore = blobs
            opened.callback(blobs.close)
            opened.callback(self.threads.close)
            self.recent = Recent(layout)
            opened.callback(self.recent.close)
            self.turns = _turns(layout)
            opened.callback(self.turns.close)
            self.index: SqliteIndex = _Index(layout, blobs)
            opened.callback(self.index.close)
            self.graph = Graph(layout)
            opened.callback(self.graph.close)
            self.remover = Remover(layout, self.graph, room)
            self.dealings = Dealings(layout.dealings)
            opened.callback(self.dealings.close)
            self._closing = opened.pop_all()

    @classmethod
    def open(cls, config: StorageConfig) -> Self:
        """Open the store, making it where there is none. Raise `StoreUnusable`."""
        layout = Layout(config.path)
        try:
            max_size, min_free, high, low = _limits(layout, config)
        except OSError as error:
            raise StoreUnusable(
                f"storage.path {layout.root} cannot be looked at: {error.strerror or error}; is its volume mounted?"
            ) from error
        cut = _was_cut(layout)
        return cls(layout, Room(layout, max_size=max_size, min_free=min_free, high=high, low=low), cut=cut)

    def limits(self, config: StorageConfig) -> tuple[int, int, float, float]:
        """Return the limits of a configuration, for `room.resize`. May raise `OSError`."""
        return _limits(self.layout, config)

    @property
    def counted(self) -> bool:
        """Whether index and account book are known to agree with the disk: all processes have ended well."""
        return self.graph.surveyed and not self.room.dirty

    @property
    def sure(self) -> bool:
        """Whether the index knows all content, and the book says no less than there is: enough to fill and to evict.

        After a process was killed the book may say too much. It says too little where it was lost, or where the machine
        went down: then `count` comes first. Reads the disk.
        """
        balance = self.room.balance()
        if not balance.dirty or not self.graph.surveyed:
            return self.graph.surveyed
        return not self._cut and balance.content + balance.held >= self.graph.totals().taken

    async def count(self) -> None:
        """See that it is known what is on disk.

        At once where all has ended well. Else it is looked through, by one process; the others wait for that one. Where
        the store is `sure` it does so at half the speed, for nobody has to wait.
        """
        if self.counted:
            await self.threads.run(self.leftovers.sweep)
            return
        async with self.turns.take(_SURVEY):
            if not self.counted:
                await self.survey(idle=1.0 if self.sure else 0.0)
                self._cut = False

    async def survey(self, *, progress: Callable[[float], None] | None = None, idle: float = 0.0) -> SurveyResult:
        """Look through the disk, see `Survey`. Whoever cancels this waits for some milliseconds."""
        survey = Survey(self, progress=progress, idle=idle)
        with ThreadPoolExecutor(1, thread_name_prefix="survey") as thread:
            running = asyncio.get_running_loop().run_in_executor(thread, survey.run)
            try:
                result = await asyncio.shield(running)
            except asyncio.CancelledError:
                survey.stop()
                await asyncio.wait([running])
                running.exception()
                raise
        level = logging.INFO if result.remarkable else logging.DEBUG
        log.log(level, "the store was looked through", **dataclasses.asdict(result))
        return result

    def close(self) -> None:
        """Write what is still to be written, and close. Once is enough."""
        self._closing.close()


class _Index(SqliteIndex):
    """Tells the blobs of what the index knows: what was put is held until then."""

    def __init__(self, layout: Layout, blobs: DiskBlobs) -> None:
        super().__init__(layout)
        self._blobs = blobs

    async def apply(self, *new: Change) -> None:
        """See `Index.apply`."""
        new = tuple(change for change in new if not (isinstance(change, Lost) and self._is_back(change.digest)))
        try:
            await super().apply(*new)
        except MirrorError:
            self._tell(new)
            raise
        self._tell(new)  # but not where the caller is cancelled: it is being written, and told of when its time is over

    def _is_back(self, digest: Digest) -> bool:
        """Say whether what is said to be lost has been fetched again meanwhile, for another client perhaps."""
        try:
            return self._blobs.size(digest) is not None
        except StoreError:  # the disk refuses: so it is lost
            return False

    def _tell(self, new: Iterable[Change]) -> None:
        for change in new:
            if isinstance(change, Stored):
                self._blobs.known(change.digest)


def _turns(layout: Layout) -> Turns:
    try:
        return Turns(layout.turns)
    except OSError as error:
        raise StoreUnusable(
            f"{layout.turns} cannot be opened: {error.strerror or error}; see who owns it, and the disk's health"
        ) from error


def _was_cut(layout: Layout) -> bool:
    """Say whether the account book was written last before this machine was booted, and not closed then."""
    try:
        page = Page(layout.room.read_bytes())
    except OSError:  # there is none, or whoever opens it next says what is wrong
        return False
    return page.readable and not page.current and any(slot.pid for _, slot in page.slots())


def _limits(layout: Layout, config: StorageConfig) -> tuple[int, int, float, float]:
    """Return `max_size` and `min_free` in bytes, and the high and the low mark as parts of what counts."""
    disk = os.statvfs(layout.root)
    total = disk.f_blocks * disk.f_frsize
    return config.max_size.of(total), config.min_free.of(total), config.high_water, config.low_water
