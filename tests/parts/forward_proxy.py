"""A forward proxy for plain HTTP that wants a password (RFC 9112 §3.2.2, RFC 9110 §11.7)."""

from __future__ import annotations

import asyncio
import base64
from typing import Self
from urllib.parse import urlsplit


class ForwardProxy:
    """Passes requests on to where they are for; each has a connection of its own."""

    def __init__(self, *, user: str, password: str) -> None:
        self._login = f"{user}:{password}"
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.asked = 0  # requests with the right password

    @property
    def url(self) -> str:
        """Its address, with user and password."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return f"http://{self._login}@127.0.0.1:{port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._pass_on(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # one of the two has left
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        wanted = "proxy-authorization: basic " + base64.b64encode(self._login.encode()).decode()
        if wanted.lower() not in (line.lower() for line in lines):
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        self.asked += 1
        parts = urlsplit(target)
        onward = [f"{method} {target.removeprefix(f'{parts.scheme}://{parts.netloc}') or '/'} HTTP/1.1"]
        onward += [line for line in lines if not line.lower().startswith(("proxy-", "connection:"))]
        there, to_there = await asyncio.open_connection(parts.hostname, parts.port or 80)
        try:
            to_there.write("\r\n".join([*onward, "Connection: close", "", ""]).encode("latin-1"))
            rest = asyncio.create_task(_copy(reader, to_there))
            await _copy(there, writer)
            rest.cancel()
            await asyncio.gather(rest, return_exceptions=True)
        finally:
            to_there.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while piece := await source.read(65536):
        target.write(piece)
        await target.drain()
