"""The account book of a store's bytes, which all processes on it share.

The file `room.v2` is one page, see `mirror.store.page`. Whoever looks or changes has the file locked for some
microseconds, and writes the page by one `pwrite`: a process that is killed leaves it as it was before, or as it is
after. It is never mapped: a full or broken disk raises an error then, and kills nobody.

What a process that died was holding counts as content from then on: it may be on disk. That errs on the safe side,
until somebody has looked (`Book.recount`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from mirror.errors import NoSpace, StoreError, StoreUnusable
from mirror.store import processes
from mirror.store.page import SIZE, SLOTS, Balance, Page, Slot
from mirror.store.processes import Process

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Balance", "Book"]

log = structlog.get_logger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class Book:
    """The book, opened by one process, which owns a slot until it closes or ends. Any thread may call.

    Methods raise `StoreError` where the file cannot be used; then nothing has changed.
    """

    def __init__(self, path: Path) -> None:
        """Open it, or make it anew where it cannot be read. Raise `StoreUnusable`."""
        self._path = os.fspath(path)
        self._me = processes.this()
        self._held = self._outstanding = 0  # what this process knows of itself; the page is set right by it
        self._slot = -1
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnusable(
                f"{self._path} cannot be opened: {error.strerror or error}; see who owns it, and whether the disk is "
                "full or read-only"
            ) from error
        opened = os.fstat(self._fd)
        self._inode = opened.st_ino, opened.st_dev
        self._locked = _Lock(self._fd, self._path)
        try:
            with self._locked:
                self._enter()
        except BaseException as error:
            self._locked.close()
            if isinstance(error, StoreError):
                raise StoreUnusable(str(error)) from error
            raise

    def read(self) -> Balance:
        """Return what the book says."""
        with self._locked:
            self._see_that_it_is_there()
            return self._load()[1]

    def change(
        self, *, held: int = 0, outstanding: int = 0, content: int = 0, check: Callable[[Balance], None] | None = None
    ) -> None:
        """Add to what this process holds, to what of that is outstanding, and to what is content; all of it or none.

        `check` is called with what the book says before, while nobody else can change it; what it raises is raised.
        """
        with self._locked:
            page, now = self._load()
            if check is not None:
                self._see_that_it_is_there()
                check(now)
            holds, waits = self._held + held, self._outstanding + outstanding
            if waits > max(0, holds):  # what is no longer held is not waited for either
                waits = max(0, holds)
                outstanding = waits - self._outstanding
            after = Balance(
                now.content + content,
                now.held + held,
                now.outstanding + outstanding,
                now.added + content if content > 0 else now.added,
                now.gone - content if content < 0 else now.gone,
                now.epoch,
                now.dirty,
            )
            self._save(page, after, holds, waits)
            self._held, self._outstanding = holds, waits

    def recount(self, content: int, since: Balance | None) -> None:
        """Write down how much content there really was when the book said `since`, and that no count is due.

        What came and went since then is applied to it. Where a process has ended badly meanwhile a count stays due.
        """
        with self._locked:
            page, now = self._load()
            begin = since or now
            if now.epoch == begin.epoch:
                content += now.added - begin.added - (now.gone - begin.gone)
                after = replace(now, content=content, dirty=False)
            else:
                after = replace(now, content=content + max(0, now.added - begin.added), dirty=True)
            self._save(page, after, self._held, self._outstanding)

    def reap(self) -> bool:
        """Count as content what dead processes held; say whether there were any."""
        with self._locked:
            page, now = self._load()
            after = self._bury(page, now)
            if after is now:
                return False
            self._save(page, after, self._held, self._outstanding)
            return True

    def serve(self, mirror: int) -> None:
        """Tell the others that this process serves clients, for the mirror whose first process is `mirror`."""
        with self._locked:
            page, now = self._load()
            self._me = replace(self._me, mirror=mirror)
            self._save(page, now, self._held, self._outstanding)

    def others(self) -> list[Process]:
        """Return the other processes that have the store open."""
        with self._locked:
            page, _ = self._load()
            found = [page.slot(number) for number in range(SLOTS) if self._is_anothers(number)]
            return [Process(slot.pid, slot.started, slot.mirror) for slot in found]

    def close(self) -> None:
        """Leave the slot. What is still held counts as content. Once is enough."""
        if self._slot < 0:
            return
        try:
            with self._locked:
                self._leave()
        except StoreError as error:
            log.warning("the account of the store was not closed well; it is gone through again", error=str(error))
        finally:
            self._slot = -1
            self._locked.close()

    # --- the lock is held ----------------------------------------------------------------------------------------

    def _enter(self) -> None:
        data = os.pread(self._fd, SIZE, 0)
        page = Page(data)
        if page.readable:
            now = self._bury(page, _added_up(page))
            if not page.current:  # what the disk had not written yet when the machine went down may be back
                now = replace(now, dirty=True)
        else:
            page, now = self._make_anew()
            if data:
                log.warning("the account of the store cannot be read and is begun anew", path=self._path)
        slots = (number for number, slot in page.slots() if slot.pid == 0 and processes.take(self._fd, number))
        self._slot = next(slots, -1)
        if self._slot < 0:
            raise StoreUnusable(
                f"{SLOTS} processes have the store open, and there is no place for more; end some of them: "
                "fewer server.workers, or command-line tools that hang"
            )
        self._save(page, now, 0, 0)

    def _leave(self) -> None:
        page, now = self._load()
        after = replace(
            now,
            content=now.content + self._held,
            held=now.held - self._held,
            outstanding=now.outstanding - self._outstanding,
            added=now.added + max(0, self._held),
            dirty=now.dirty or self._held != 0,
        )
        page.put_slot(self._slot, Slot())
        page.put(after)
        self._write(page)
        processes.let_go(self._fd, self._slot)

    def _load(self) -> tuple[Page, Balance]:
        """Read the page. This process's own slot is as it remembers, whoever has made the page anew meanwhile."""
        page = Page(os.pread(self._fd, SIZE, 0))
        if page.readable:
            now = page.balance
        else:
            page, now = self._make_anew()
            log.warning("the account of the store was overwritten and is begun anew", path=self._path)
        mine = page.slot(self._slot)
        if (mine.held, mine.outstanding) != (self._held, self._outstanding):
            now = replace(
                now,
                held=now.held + self._held - mine.held,
                outstanding=now.outstanding + self._outstanding - mine.outstanding,
            )
        return page, now

    def _make_anew(self) -> tuple[Page, Balance]:
        """Begin again in the same file: others have it open, and write down what they hold as they go on."""
        page, now = Page(), Balance(epoch=secrets.randbits(48))  # a count that began before is not for this one
        page.put(now)
        self._write(page)
        os.fsync(self._fd)  # so that it has its blocks, and never needs more
        return page, now

    def _bury(self, page: Page, now: Balance) -> Balance:
        for number, slot in page.slots():
            if slot.pid and number != self._slot and not processes.alive(self._fd, number):
                page.put_slot(number, Slot())
                now = replace(
                    now,
                    content=now.content + slot.held,
                    held=now.held - slot.held,
                    outstanding=now.outstanding - slot.outstanding,
                    added=now.added + max(0, slot.held),
                    epoch=now.epoch + 1,
                    dirty=True,
                )
        return now

    def _is_anothers(self, number: int) -> bool:
        return number != self._slot and processes.alive(self._fd, number)

    def _save(self, page: Page, now: Balance, held: int, outstanding: int) -> None:
        page.put(now)
        page.put_slot(self._slot, Slot(held, outstanding, self._me.pid, self._me.mirror, self._me.started))
        self._write(page)

    def _write(self, page: Page) -> None:
        if os.pwrite(self._fd, page.data, 0) < SIZE:  # no write of one page is cut, but by a broken disk
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _see_that_it_is_there(self) -> None:
        there = os.lstat(self._path)
        if (there.st_ino, there.st_dev) != self._inode:
            raise OSError(errno.ESTALE, "it is not the file that was opened")


class _Lock:
    """The locks of a book, for threads and for processes; an `OSError` leaves it as `StoreError`."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd, self._path = fd, path
        self._turn = threading.Lock()

    def __enter__(self) -> None:
        self._turn.acquire()
        try:
            fcntl.flock(self._open(), fcntl.LOCK_EX)
        except BaseException:
            self._turn.release()
            raise

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        finally:
            self._turn.release()
        if isinstance(error, OSError):
            raise self._refusal(error) from error

    def close(self) -> None:
        """Close the file, too."""
        with self._turn:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        if self._fd < 0:
            raise StoreError("the store is closed: the mirror is stopping")
        return self._fd

    def _refusal(self, error: OSError) -> StoreError:
        if error.errno in _FULL:
            return NoSpace(f"the disk that holds {self._path} is full; free some of it")
        if error.errno in _ABSENT:
            return StoreError(
                f"{self._path} was taken away or replaced while the mirror ran: bring the directory back (is its "
                "volume mounted?), and start the mirror again"
            )
        return StoreError(
            f"{self._path} cannot be used: {error.strerror or error}; "
            "see whether the disk is read-only or broken (dmesg)"
        )


def _added_up(page: Page) -> Balance:
    """Return the balance of a page; where the slots do not add up to it, they are believed."""
    said = page.balance
    held, outstanding = (sum(figures) for figures in zip(*(slot[:2] for _, slot in page.slots()), strict=True))
    if (held, outstanding) == (said.held, said.outstanding):
        return said
    return replace(said, held=held, outstanding=outstanding, dirty=True)
