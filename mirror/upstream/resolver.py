"""Names looked up apart from everything else that runs in threads.

The system's resolver may take half a minute to say that it knows nothing, and cannot be told to stop. aiohttp and
asyncio ask it in the few threads that all the program shares: a dead DNS, or a client that asks for names whose servers
are silent, would hold up whoever reads a file there.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from aiohttp.abc import AbstractResolver, ResolveResult

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 10.0  # seconds for one look-up, waiting for a thread included
THREADS = 16  # look-ups at once

_Found = list[tuple[Any, Any, int, str, tuple[Any, ...]]]


class Resolver(AbstractResolver):
    """`getaddrinfo` in threads of its own, `threads` at most, which do not keep the program from ending."""

    def __init__(self, threads: int = THREADS) -> None:
        self._free = threads
        self._waiting: deque[Callable[[], None]] = deque()

    async def look_up(self, host: str, port: int, family: int = socket.AF_UNSPEC, flags: int = 0) -> _Found:
        """Return what `getaddrinfo` does; raise `OSError` for a name that does not resolve, or not in time."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[_Found] = loop.create_future()

        def begin() -> None:
            try:
                threading.Thread(target=run, name="look-up", daemon=True).start()
            except RuntimeError:  # the machine has no thread left
                self._ended(found, OSError(None, "no thread to look it up in"))

        def run() -> None:
            try:
                result: _Found | OSError = socket.getaddrinfo(
                    host, port, family=family, type=socket.SOCK_STREAM, flags=flags
                )
            except (OSError, UnicodeError) as error:
                result = error if isinstance(error, OSError) else OSError(None, "no name that could be looked up")
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._ended, found, result)

        if self._free:
            self._free -= 1
            begin()
        else:
            self._waiting.append(begin)
        try:
            async with asyncio.timeout(LIMIT):
                return await found
        except TimeoutError:
            raise OSError(None, "the name was not looked up in time") from None
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(begin)

    def _ended(self, found: asyncio.Future[_Found], result: _Found | OSError) -> None:
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._free += 1
        if found.done():
            return
        if isinstance(result, OSError):
            found.set_exception(result)
        else:
            found.set_result(result)

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
            for kind, _, protocol, _, address in await self.look_up(host, port, family, socket.AI_ADDRCONFIG)
        ]

    async def close(self) -> None:
        """See aiohttp's `AbstractResolver.close`. Look-ups that are under way end by themselves."""
        self._waiting.clear()
