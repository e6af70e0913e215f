"""The one thread that writes the index."""

from __future__ import annotations

import asyncio
import errno
import queue
import sqlite3
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from mirror.errors import NoSpace, StoreError
from mirror.store import database
from mirror.store.journal import Journal

if TYPE_CHECKING:
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
        self._root = layout.root
        self._journal = Journal(layout.journal)
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
                self._tidy()
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
            database.write(self._db, self._journal, [change for new, _ in batch for change in new])
        except (sqlite3.Error, OSError) as error:
            return self._refusal(error)
        except Exception as error:  # noqa: BLE001  # it goes to the one who waits; a thread that ends would answer nobody
            return error
        return None

    def _tidy(self) -> None:
        """Do what nobody needs to wait for.

        The commit survives the end of the process. A power cut before the sync takes back what was recorded in those
        few milliseconds, and it is asked of upstream again. Under a heavy fill a sync can take a second.
        """
        try:
            self._journal.sync()
            if database.compact(self._db, self._journal):
                log.info("the journal was written anew, without what had been overtaken")
        except (sqlite3.Error, OSError) as error:
            log.warning("the journal could not be synced or written anew", error=str(error))

    def _refusal(self, error: sqlite3.Error | OSError) -> StoreError:
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        else:
            full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        if full:
            return NoSpace(f"the disk that holds {self._root} is full: the index cannot be written; free some of it")
        return StoreError(f"the index in {self._root} cannot be written: {error}; see that the disk is not read-only")


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
