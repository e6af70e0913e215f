"""The upstreams of the configuration in force, and those of an earlier one for as long as somebody uses them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from weakref import WeakSet

from mirror import metrics
from mirror.errors import NameUnknown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirror.upstream.protocol import Upstream, Upstreams


class Generations:
    """`mirror.upstream.protocol.Upstreams` that can be exchanged while requests and fills are under way."""

    def __init__(self, first: Upstreams) -> None:
        self._current = first
        self._users: WeakSet[asyncio.Task[object]] = WeakSet()
        self._leaving: dict[asyncio.Task[None], Upstreams] = {}

    def of(self, namespace: str) -> Upstream:
        """See `Upstreams.of`. The task that asks counts as a user of what it gets until it ends."""
        upstream = self._current.of(namespace)
        if (task := asyncio.current_task()) is not None:
            self._users.add(task)
        return upstream

    def away(self, namespace: str) -> bool:
        """Say whether an upstream is away, as one is that is not mirrored. Who asks is no user of it."""
        try:
            return self._current.of(namespace).away
        except NameUnknown:
            return True

    def switch(self, upstreams: Upstreams, under_way: Iterable[asyncio.Task[None]]) -> None:
        """Give `upstreams` from now on. Those before are closed once their users, and `under_way`, have ended."""
        before, self._current = self._current, upstreams
        # What was known of the ones before: of one that is no longer there it would stand for ever, and raise alarms.
        self.show()
        users = {*self._users, *under_way}
        self._users = WeakSet()
        task = asyncio.create_task(_close_after(users, before), name="upstreams of before")
        self._leaving[task] = before
        task.add_done_callback(self._left)

    def show(self) -> None:
        """See `Upstreams.show`: of the ones in force, and of no others."""
        for gauge in metrics.OF_UPSTREAMS:
            gauge.clear()
        self._current.show()

    @property
    def leaving(self) -> int:
        """How many earlier ones are still in use."""
        return len(self._leaving)

    async def close(self) -> None:
        """See `Upstreams.close`: all of them."""
        leaving = dict(self._leaving)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        for upstreams in (*leaving.values(), self._current):
            await upstreams.close()

    def _left(self, task: asyncio.Task[None]) -> None:
        del self._leaving[task]
        self.show()  # what those that have left met at last is nobody's any more
        if not task.cancelled():
            task.result()  # what goes wrong here shows in the log: the loop's own handler writes it


async def _close_after(users: set[asyncio.Task[object]], upstreams: Upstreams) -> None:
    if users:
        await asyncio.wait(users)
    await upstreams.close()
