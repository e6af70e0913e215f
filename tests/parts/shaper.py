"""A line that is far and slow: a TCP proxy with a delay, a rate for each connection and one for all, and stalls.

    async with Shaper("127.0.0.1:5001", delay=0.04, rate=400 * 1024) as line:
        ...  # line.url leads there

`python -m tests.parts.shaper --to HOST:PORT …` runs it as a process of its own; its first line is `{"url": …}`. With
`--until-eof` it ends with its standard input. A line on standard input that says `stats` is answered by one with
`{"open": …, "peak": …, "connections": …, "bytes": …}`, and the peak begins anew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from tests.fakes.shaping import Pace

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Callable

_PIECE = 16 << 10  # bytes that go on at once
_HELD = 64 << 10  # bytes on the way, besides what the delay itself holds


class Shaper:
    """Passes connections on to `to` (HOST:PORT). `delay` is one way, in seconds; rates are bytes a second, downwards.

    The first bytes of a connection take one time there and back more, as its opening would. `stalls` holds, for
    connections in the order in which they come, after how many bytes downwards each brings no more, though it stays
    open; those past its end never stall. `open` connections there are, `peak` at once, `connections` in all,
    and `bytes` in both directions.
    """

    def __init__(
        self, to: str, *, delay: float = 0.0, rate: float | None = None, rate_total: float | None = None
    ) -> None:
        host, _, port = to.rpartition(":")
        self._to = host, int(port)
        self._delay = delay
        self._rate = rate
        self._total = Pace(rate_total) if rate_total is not None else None
        self._held = _HELD + int(2 * delay * (rate or rate_total or 1 << 30))
        self.stalls: list[int | None] = []
        self._open: set[asyncio.Task[None]] = set()
        self.peak = 0
        self.connections = 0
        self.bytes = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._frozen: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_PIECE, backlog=512)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Where it leads there."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def open(self) -> int:
        """How many connections whoever asks keeps now."""
        return len(self._open)

    def stats(self) -> dict[str, int]:
        """Return what there was; the peak begins anew."""
        stats = {"open": self.open, "peak": self.peak, "connections": self.connections, "bytes": self.bytes}
        self.peak = self.open
        return stats

    def forget(self) -> None:
        """Let nothing more through on the connections that there are, as a firewall that has forgotten them."""
        self._frozen |= self._tasks

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        stall = self.stalls[self.connections] if self.connections < len(self.stalls) else None
        self.connections += 1
        self._open.add(task)
        self.peak = max(self.peak, self.open)
        far: StreamWriter | None = None
        try:
            far_reader, far = await asyncio.open_connection(*self._to, limit=_PIECE)
            with suppress(ConnectionError):
                up = asyncio.create_task(self._pass(task, reader, far, [], None, first=2 * self._delay, end=self._left))
                down = asyncio.create_task(self._pass(task, far_reader, writer, self._paces(), stall))
                try:
                    await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for one in (up, down):
                        one.cancel()
                    await asyncio.gather(up, down, return_exceptions=True)
        except (ConnectionError, asyncio.CancelledError):
            pass  # whoever is at the other end finds out
        finally:
            self._left(task)
            self._tasks.discard(task)
            self._frozen.discard(task)
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()

    def _left(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)

    def _paces(self) -> list[Pace]:
        return [*([Pace(self._rate)] if self._rate is not None else []), *([self._total] if self._total else [])]

    async def _pass(
        self,
        own: asyncio.Task[None],
        reader: StreamReader,
        writer: StreamWriter,
        paces: list[Pace],
        stall: int | None,
        *,
        first: float = 0.0,
        end: Callable[[asyncio.Task[None]], None] = lambda _: None,
    ) -> None:
        """Pass on what comes, each piece as late as the line is long, until it ends."""
        loop = asyncio.get_running_loop()
        way = _Way(self._held)
        arriving = asyncio.create_task(self._arrive(own, way, writer, paces, stall))
        try:
            late = first
            while piece := await reader.read(_PIECE):
                await way.put(loop.time() + self._delay + late, piece)
                late = 0.0
            end(own)
            await way.put(loop.time() + self._delay, b"")
            await arriving
        finally:
            arriving.cancel()
            await asyncio.gather(arriving, return_exceptions=True)

    async def _arrive(
        self, own: asyncio.Task[None], way: _Way, writer: StreamWriter, paces: list[Pace], stall: int | None
    ) -> None:
        passed = 0
        while piece := await way.take():
            if own in self._frozen:
                await asyncio.Event().wait()
            for pace in paces:
                await pace.pass_(len(piece))
            if stall is not None and passed + len(piece) > stall:
                writer.write(piece[: stall - passed])
                await asyncio.Event().wait()
            writer.write(piece)
            await writer.drain()
            passed += len(piece)
            self.bytes += len(piece)


class _Way:
    """What is on its way: at most `most` bytes, each piece with the time at which it arrives."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._changed = asyncio.Event()

    async def put(self, due: float, piece: bytes) -> None:
        self._pieces.append((due, piece))
        self._held += len(piece)
        self._changed.set()
        while self._held > self._most:
            self._changed.clear()
            await self._changed.wait()

    async def take(self) -> bytes:
        while not self._pieces:
            self._changed.clear()
            await self._changed.wait()
        due, piece = self._pieces[0]
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
        self._pieces.popleft()
        self._held -= len(piece)
        self._changed.set()
        return piece


async def _run(options: argparse.Namespace) -> None:
    shaper = Shaper(options.to, delay=options.delay, rate=options.rate, rate_total=options.rate_total)
    async with shaper:
        print(json.dumps({"url": shaper.url}), flush=True)  # noqa: T201
        while asked := await asyncio.to_thread(sys.stdin.readline):
            if asked.strip() == "stats":
                print(json.dumps(shaper.stats()), flush=True)  # noqa: T201


def main() -> None:
    """Run until standard input ends."""
    parser = argparse.ArgumentParser(description="a line that is far and slow")
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds, one way")
    parser.add_argument("--rate", type=float, help="bytes a second on each connection")
    parser.add_argument("--rate-total", type=float, help="bytes a second on all of them together")
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
