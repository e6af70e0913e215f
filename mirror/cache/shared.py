"""One piece of work for everyone who asks for the same thing at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Hashable
    from typing import Any

T = TypeVar("T")


class Shared(Generic[T]):
    """Work by key. It runs in a task of its own: whoever leaves, it goes on for the others, and for the cache."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[T]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, key: Hashable, make: Callable[[], Coroutine[Any, Any, T]]) -> tuple[Awaitable[T], bool]:
        """Return the work under `key`, begun now unless it runs already, and whether it did."""
        task = self._tasks.get(key)
        joined = task is not None
        if task is None:
            task = self._tasks[key] = asyncio.create_task(make())
            task.add_done_callback(lambda ended: self._end(key, ended))
        return asyncio.shield(task), joined

    async def get(
        self, key: Hashable, make: Callable[[], Coroutine[Any, Any, T]], *, patience: float | None = None
    ) -> tuple[T, bool]:
        """Return the result, and whether somebody else had begun. Raise `TimeoutError` after `patience` seconds."""
        work, joined = self.start(key, make)
        return await asyncio.wait_for(work, patience), joined

    def _end(self, key: Hashable, task: asyncio.Task[T]) -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()  # seen, even where everyone has left

    async def close(self) -> None:
        """Stop all work."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
