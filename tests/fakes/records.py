"""What the fake upstream was asked, and how one waits for it without sleeping."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy


@dataclass(eq=False)
class Record:
    """One request. Sizes in bytes, times in seconds of the loop's clock."""

    log: Log
    method: str
    path: str  # as it came, not decoded, without the query
    query: str  # as it came
    headers: CIMultiDictProxy[str]
    time: float
    kind: str = "other"  # ping manifest blob tags referrers catalog upload token storage nowhere other
    repo: str | None = None
    reference: str | None = None  # a tag or a digest, as it came
    digest: str | None = None  # of the content that is asked for, where there is such content
    range: str | None = None
    user: str | None = None
    status: int | None = None  # None: no answer was begun
    bytes_sent: int = 0  # of the body
    aborted: bool = False  # the connection ended before the answer did, whoever ended it
    done: bool = False
    ended: float | None = None
    form: str = ""  # the body of a POST to the token service, as it came
    counted: bool = False  # against the limit of its source (`limit.RateLimit`)
    limited: bool = False  # refused with a 429 by such a limit

    @property
    def host(self) -> str:
        """The host that was asked, without a port that is the usual one."""
        return self.headers.get("Host", "").removesuffix(":443")

    def count(self, size: int) -> None:
        """Note that `size` more bytes of the body went out."""
        self.bytes_sent += size
        self.log.changed()

    async def sent(self, size: int) -> None:
        """Wait until at least `size` bytes of the body went out."""
        await self.log.wait(lambda: self.bytes_sent >= size)

    async def over(self) -> None:
        """Wait until the answer has ended, well or badly."""
        await self.log.wait(lambda: self.done)


@dataclass(eq=False)
class Log:
    """Every request, in the order in which they came."""

    records: list[Record] = field(default_factory=list)
    _waiting: set[asyncio.Event] = field(default_factory=set)

    def changed(self) -> None:
        """Wake whoever waits."""
        for event in self._waiting:
            event.set()

    async def wait(self, condition: Any, within: float = 30) -> None:
        """Wait until `condition()` holds; raise TimeoutError after `within` seconds."""
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            async with asyncio.timeout(within):
                while not condition():
                    await event.wait()
                    event.clear()
        finally:
            self._waiting.discard(event)

    def matching(self, **fields: Any) -> list[Record]:
        """Return the records whose fields have these values."""
        return [r for r in self.records if all(getattr(r, name) == value for name, value in fields.items())]

    def stats(self) -> dict[str, Any]:
        """Return counts as JSON: per kind and method, bytes per digest, and of all."""
        counts: Counter[str] = Counter()
        sent: Counter[str] = Counter()
        for record in self.records:
            counts[f"{record.kind} {record.method}"] += 1
            if record.digest is not None:
                sent[record.digest] += record.bytes_sent
        return {
            "requests": dict(counts),
            "bytes": dict(sent),
            "bytes_total": sum(record.bytes_sent for record in self.records),
            "aborted": sum(record.aborted for record in self.records),
            "in_flight": sum(not record.done for record in self.records),
        }
