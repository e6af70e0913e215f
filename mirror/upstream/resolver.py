"""Names looked up apart from everything else that runs in threads, and remembered for when nobody answers.

The system's resolver may take half a minute to say that it knows nothing, and cannot be told to stop. aiohttp and
asyncio ask it in the few threads that all the program shares: a dead DNS, or a client that asks for names whose servers
are silent, would hold up whoever reads a file there.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp.abc import AbstractResolver, ResolveResult
from cachetools import LRUCache

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)

LIMIT = 10.0  # seconds for one look-up, waiting for a thread included
THREADS = 16  # look-ups at once
SLOW = 1.0  # seconds after which what was found last time is better than waiting; RFC 8767 §5 has 1.8
KEPT = 24 * 3600.0  # seconds for which it is good for that; RFC 8767 §5 has one to three days
_NAMES = 1024  # that are remembered

_Found = list[tuple[Any, Any, int, str, tuple[Any, ...]]]
_Question = tuple[str, int, int, int]

# An answer, and not the want of one: the name is no more (RFC 8767 §4 has such an answer replace what was known).
_NO_SUCH_NAME = (socket.EAI_NONAME, socket.EAI_NODATA)


class Resolver(AbstractResolver):
    """`getaddrinfo` in threads of its own, `threads` at most, which do not keep the program from ending.

    A name is looked up once at a time, however many ask. `resolve` gives what a name led to last, up to a day ago,
    where a look-up fails or is slow; what a slow one finds counts from then on.
    """

    def __init__(self, threads: int = THREADS) -> None:
        self._free = threads
        self._waiting: dict[_Question, Callable[[], None]] = {}  # for a thread; the first to come is the first served
        self._asking: Counter[_Question] = Counter()
        self._under_way: dict[_Question, asyncio.Future[_Found]] = {}
        self._known: LRUCache[_Question, tuple[float, _Found]] = LRUCache(_NAMES)  # with the monotonic time
        self._said: set[str] = set()

    async def look_up(self, host: str, port: int, family: int = socket.AF_UNSPEC, flags: int = 0) -> _Found:
        """Return what `getaddrinfo` does; raise `OSError` for a name that does not resolve, or not in time."""
        return await self._ask((host, port, family, flags), LIMIT)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """See aiohttp's `AbstractResolver.resolve`."""
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]) + (f"%{address[3]}" if len(address) > 3 and address[3] else ""),  # noqa: PLR2004
                port=int(address[1]),
                family=kind,
                proto=protocol,
                flags=int(socket.AI_NUMERICHOST | socket.AI_NUMERICSERV),
            )
            for kind, _, protocol, _, address in await self._dialled((host, port, family, socket.AI_ADDRCONFIG))
        ]

    async def close(self) -> None:
        """See aiohttp's `AbstractResolver.close`. Look-ups that are under way end by themselves."""
        self._waiting.clear()

    async def _dialled(self, question: _Question) -> _Found:
        """Look a name up, or return what is known of it."""
        host = question[0]
        at, known = self._known.get(question, (0.0, None))
        if known is None or time.monotonic() - at > KEPT:
            return await self._ask(question, LIMIT)
        try:
            found = await self._ask(question, SLOW)
        except OSError as error:
            if _is_gone(error):
                raise
            if host not in self._said:
                self._said.add(host)
                log.warning("a name is not looked up: its last addresses are used", host=host, reason=error.strerror)
            return known
        self._said.discard(host)
        return found

    async def _ask(self, question: _Question, limit: float) -> _Found:
        found = self._under_way.get(question)
        if found is None:
            found = self._begin(question)
        self._asking[question] += 1
        try:
            async with asyncio.timeout(limit):
                return await asyncio.shield(found)
        except TimeoutError:
            raise OSError(None, "the name was not looked up in time") from None
        finally:
            self._asking[question] -= 1
            if not self._asking[question]:
                del self._asking[question]
                if self._waiting.pop(question, None) is not None:  # nobody wants to know any more
                    self._under_way.pop(question).cancel()

    def _begin(self, question: _Question) -> asyncio.Future[_Found]:
        """Look a name up as soon as there is a thread."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[_Found] = loop.create_future()
        found.add_done_callback(lambda _: found.cancelled() or found.exception())  # perhaps nobody waits any more
        host, port, family, flags = question

        def begin() -> None:
            try:
                threading.Thread(target=run, name="look-up", daemon=True).start()
            except RuntimeError:  # the machine has no thread left
                self._ended(question, OSError(None, "no thread to look it up in"))

        def run() -> None:
            try:
                result: _Found | OSError = socket.getaddrinfo(
                    host, port, family=family, type=socket.SOCK_STREAM, flags=flags
                )
            except (OSError, UnicodeError) as error:
                result = error if isinstance(error, OSError) else OSError(None, "no name that could be looked up")
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._ended, question, result)

        self._under_way[question] = found
        if self._free:
            self._free -= 1
            begin()
        else:
            self._waiting[question] = begin
        return found

    def _ended(self, question: _Question, result: _Found | OSError) -> None:
        if self._waiting:
            self._waiting.pop(next(iter(self._waiting)))()
        else:
            self._free += 1
        found = self._under_way.pop(question)
        if isinstance(result, OSError):
            if _is_gone(result):
                self._known.pop(question, None)
            found.set_exception(result)
        else:
            self._known[question] = (time.monotonic(), result)
            found.set_result(result)


def _is_gone(error: OSError) -> bool:
    return isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME
