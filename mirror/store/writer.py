"""The one thread that writes the index."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from mirror.errors import StoreError
from mirror.store import database
from mirror.store.ages import Ages
from mirror.store.damage import refusal
from mirror.store.journal import Journal

if TYPE_CHECKING:
    from mirror.oci.digest import Digest
    from mirror.store.changes import Change
    from mirror.store.layout import Layout

log = structlog.get_logger(__name__)

_BATCH = 512  # calls whose changes go into one transaction

_Item = tuple[tuple["Change", ...], "asyncio.Future[None]"]


class Writer:
    """Takes what has been queued by the time that it is free, commits it as one, and says so to those who wait."""

    def __init__(self, db: sqlite3.Connection, layout: Layout) -> None:
        """`db` is the writer's own from now on."""
        self._db = db
        self._layout = layout
        self._journal = Journal(layout.journal)
        self._unsynced = False
        self._younger: set[Digest] = set()
        self._ages = Ages(layout)
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="index", daemon=True)
        self._thread.start()

    async def write(self, new: tuple[Change, ...]) -> None:
        """Return when `new` is committed. What has been queued is written, whoever leaves."""
        if self._closed:
            raise StoreError("the index is closed: the mirror is stopping")
        future = asyncio.get_running_loop().create_future()
        self._queue.put((new, future))
        await future  # whoever is cancelled here cancels only his own waiting: the thread does not look

    def close(self) -> None:
        """Write what is queued, and end."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._thread.join()
            self._db.close()

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            batch = []
            while item is not None:
                batch.append(item)
                if len(batch) >= _BATCH or self._queue.empty():
                    break
                item = self._queue.get()
            if batch:
                self._commit(batch)
                self._settle_disk()
            if item is None:
                return

    def _commit(self, batch: list[_Item]) -> None:
        error = self._try(batch)
        if error is not None and len(batch) > 1 and not isinstance(error, StoreError):
            # One of them cannot be recorded: it alone fails.
            for item in batch:
                _tell([item], self._try([item]))
            return
        _tell(batch, error)

    def _try(self, batch: list[_Item]) -> Exception | None:
        try:
            if database.write(self._db, self._journal, [change for new, _ in batch for change in new], self._younger):
                self._unsynced = True
        except (sqlite3.Error, OSError) as error:
            return refusal(self._layout, error)
        except Exception as error:  # noqa: BLE001  # it goes to the one who waits; a thread that ends would answer nobody
            return error
        return None

    def _settle_disk(self) -> None:
        """Do what nobody needs to wait for.

        The commit survives the end of the process. A power cut before the sync takes back what was recorded in those
        few milliseconds, and it is asked of upstream again. Under a heavy fill a sync can take a second.
        """
        try:
            if self._unsynced:
                self._journal.sync()
                self._unsynced = False
        except OSError as error:
            log.warning("the journal could not be synced", error=str(error))
        self._ages.tell(self._younger)
        self._younger.clear()


def _tell(batch: list[_Item], error: Exception | None) -> None:
    for _, future in batch:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            future.get_loop().call_soon_threadsafe(_settle, future, error)


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
        return
    future.set_exception(error)
    future.exception()  # seen, even where the one who waited has left
