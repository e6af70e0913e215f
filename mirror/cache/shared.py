"""One piece of work for everyone who asks for the same thing at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from mirror.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable
    from typing import Any

T = TypeVar("T")


class Shared(Generic[T]):
    """Work by key. It runs in a task of its own: whoever leaves, it goes on for the others, and for the cache."""

    def __init__(self, most: int = 256) -> None:
        """`most` pieces of work are under way at once; past that a further one is refused, and joining is not."""
        self._most = most
        self._tasks: dict[Hashable, asyncio.Task[T]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, key: Hashable, make: Callable[[], Coroutine[Any, Any, T]]) -> tuple[asyncio.Task[T], bool]:
        """Return the work under `key`, begun now unless it runs already, and whether it did. Raise `Overloaded`."""
        task = self._tasks.get(key)
        joined = task is not None
        if task is None:
            if len(self._tasks) >= self._most:
                raise Overloaded(f"{self._most} requests to upstream are under way; ask again in a while")
            task = self._tasks[key] = asyncio.create_task(make())
            task.add_done_callback(lambda ended: self._end(key, ended))
        return task, joined

    async def get(
        self, key: Hashable, make: Callable[[], Coroutine[Any, Any, T]], *, patience: float | None = None
    ) -> tuple[T, bool]:
        """Return the result, and whether somebody else had begun. Raise `TimeoutError` after `patience` seconds."""
        task, joined = self.start(key, make)
        return await asyncio.wait_for(asyncio.shield(task), patience), joined

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
