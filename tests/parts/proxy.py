"""A forward proxy on 127.0.0.1: `CONNECT`, and requests with a whole address (RFC 9112 §3.2, RFC 9110 §11.7)."""

from __future__ import annotations

import asyncio
import base64
from contextlib import suppress
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter


class ForwardProxy:
    """Passes each request on over a connection of its own; `user` and `password` are asked for if given.

    `asked` is what it was asked for, `METHOD TARGET`, whoever asked; `refused` counts those who came without the
    password. `hosts` says where a name leads.
    """

    def __init__(self, user: str = "", password: str = "", *, hosts: dict[str, tuple[str, int]] | None = None) -> None:
        self.asked: list[str] = []
        self.refused = 0
        self.hosts = hosts or {}
        self._login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else ""
        self._expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode() if user else None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def address(self) -> str:
        """`127.0.0.1:PORT`."""
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def url(self) -> str:
        """Its address as a configuration has it, with user and password, those with %XX where it is needed."""
        return f"http://{self._login}{self.address}"

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: StreamReader, writer: StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request, *headers = head.rstrip("\r\n").split("\r\n")
        method, target, _ = request.split(" ")
        self.asked.append(f"{method} {target}")
        given = [line.partition(": ")[2] for line in headers if line.lower().startswith("proxy-authorization:")]
        if self._expected is not None and given != [self._expected]:
            self.refused += 1
            writer.write(b"HTTP/1.1 407 Proxy Auth Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            return
        url = urlsplit(f"//{target}" if method == "CONNECT" else target)
        there = self.hosts.get(url.hostname or "", (url.hostname or "", url.port or 80))
        far_reader, far_writer = await asyncio.open_connection(*there)
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = target.split(url.netloc, 1)[1] or "/"
                kept = [line for line in headers if not line.lower().startswith(("proxy-", "connection:"))]
                onward = "\r\n".join([f"{method} {path} HTTP/1.1", *kept, "Connection: close", "", ""])
                far_writer.write(onward.encode("latin-1"))
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            far_writer.close()


async def _pump(reader: StreamReader, writer: StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(64 * 1024):
            writer.write(data)
            await writer.drain()
    writer.close()
