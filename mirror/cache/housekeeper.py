"""What has to be done for the store as a whole, by one process of all that use it."""

from __future__ import annotations

import asyncio
import fcntl
import os
from typing import TYPE_CHECKING, Protocol

import structlog

from mirror.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

log = structlog.get_logger(__name__)

POLL = 2.0  # seconds between looks whether the process that keeps house has gone
AGAIN = 30.0  # seconds until a chore that failed is begun again


class Chore(Protocol):
    """Something that is done as long as the mirror runs."""

    @property
    def name(self) -> str:
        """What the log calls it."""
        ...

    async def run(self) -> None:
        """Work until cancelled. What is raised is logged, and it is begun again in a while."""
        ...


class Housekeeper:
    """Does the chores once this process has `keeper.lock`, which another may have; waits for it meanwhile."""

    def __init__(self, lock: Path, chores: Sequence[Chore], everywhere: Sequence[Chore] = ()) -> None:
        """`everywhere` are chores that every process does."""
        self._lock = lock
        self._chores = chores
        self._everywhere = everywhere
        self._tasks: list[asyncio.Task[None]] = []
        self.keeping = asyncio.Event()  # this process keeps house

    def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(_again_and_again(chore), name=chore.name) for chore in self._everywhere]
        self._tasks.append(asyncio.create_task(self._run(), name="housekeeper"))

    async def close(self) -> None:
        """Stop; another process goes on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _run(self) -> None:
        try:
            fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            log.error("nobody keeps house in this store", path=str(self._lock), error=str(error))  # noqa: TRY400
            return
        try:
            while not _locked(fd):  # noqa: ASYNC110  # what it waits for is the end of another process
                await asyncio.sleep(POLL)
            self.keeping.set()
            async with asyncio.TaskGroup() as group:
                for chore in self._chores:
                    group.create_task(_again_and_again(chore), name=chore.name)
        finally:
            os.close(fd)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _again_and_again(chore: Chore) -> None:
    while True:
        try:
            await chore.run()
        except StoreError as error:
            log.warning("housekeeping was broken off; it is begun again", chore=chore.name, error=str(error))
        except Exception:
            log.exception("housekeeping was broken off; it is begun again", chore=chore.name)
        await asyncio.sleep(AGAIN)
