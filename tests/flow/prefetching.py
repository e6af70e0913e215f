"""A prefetch as the command makes it: a store and a cache of its own, beside a mirror on the same store or without."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mirror import config
from mirror.airgap.prefetch.order import Order
from mirror.airgap.prefetch.outcome import Came
from mirror.airgap.prefetch.prefetch import Prefetch
from mirror.airgap.prefetch.timing import Timing
from mirror.airgap.wanted import Wanted
from mirror.cache.cache import Cache
from mirror.oci.reference import ImageReference
from mirror.store.store import Store
from mirror.upstream.registries import Registries
from tests.flow.conftest import Clock, document

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

    from mirror.airgap.prefetch.outcome import Event, Fetched, Planned
    from tests.fakes.registry import FakeRegistry

    _E = TypeVar("_E")


@dataclass
class Glob:
    """A selection of tags."""

    pattern: str

    def choose(self, tags: Iterable[str]) -> list[str]:
        return sorted(tag for tag in tags if fnmatchcase(tag, self.pattern))

    def __str__(self) -> str:
        return self.pattern


def wanted(text: str) -> Wanted:
    """Read `NAME:TAG`, `NAME@DIGEST`, both, or `NAME:GLOB`."""
    name, _, tag = text.partition(":")
    if "*" in tag:
        return Wanted(ImageReference.parse(name).repository, selection=Glob(tag))
    parsed = ImageReference.parse(text)
    return Wanted(parsed.repository, parsed.tag, parsed.digest)


@dataclass
class Site:
    """What a command opens. Time stands still but for what is slept: sleeping moves the clock."""

    cache: Cache
    store: Store
    clock: Clock
    events: list[Event] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    on_sleep: Callable[[float], Awaitable[None]] | None = None

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(seconds)
        if self.on_sleep is not None:
            await self.on_sleep(seconds)
        await asyncio.sleep(0)

    def prefetch(self, **order: Any) -> Prefetch:
        timing = Timing(self.clock, self._sleep)
        return Prefetch(self.cache, self.store, Order(**order), self.events.append, timing=timing)

    async def fetch(self, *texts: str, **order: Any) -> list[Fetched]:
        return await self.prefetch(**order).run([wanted(text) for text in texts])

    async def plan(self, *texts: str, **order: Any) -> list[Planned]:
        return await self.prefetch(**order).plan([wanted(text) for text in texts])

    def said(self, kind: type[_E]) -> list[_E]:
        return [event for event in self.events if isinstance(event, kind)]


@asynccontextmanager
async def site(
    upstreams: FakeRegistry | Mapping[str, Any], store: Path, clock: Clock, **sections: Any
) -> AsyncIterator[Site]:
    """Open the store as a command does."""
    settings = config.parse(json.dumps(document(upstreams, store, **sections)), "mirror.yaml", {})
    opened = Store.open(settings.storage)
    try:
        if not opened.counted:
            await opened.count()
        book = opened.dealings
        registries = Registries(settings, instance="a prefetch", request_id=lambda: None, book=book, clock=clock)
        cache = Cache(settings, opened, registries, clock=clock)
        cache.attend()
        try:
            yield Site(cache, opened, clock)
        finally:
            await cache.close()
    finally:
        opened.close()


class _Told(list["Event"]):
    """Tells whoever started this process how much is here."""

    def append(self, event: Event) -> None:
        super().append(event)
        if isinstance(event, Came):
            print(sum(one.count for one in self if isinstance(one, Came)), flush=True)  # noqa: T201


async def _main(url: str, store: str, *texts: str) -> None:
    """Fetch in a process of its own."""
    async with site({"docker.io": {"url": url}}, Path(store), Clock()) as here:
        here.events = _Told()
        await here.fetch(*texts)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
