"""Where clients come in: listeners, plain and TLS, and how they are exchanged while transfers run on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog

from mirror.server import sockets
from mirror.server.handshake import Handshake

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Sequence

    from mirror.config import Listen, ServerConfig
    from mirror.server.connections import Connection, HttpServer
    from mirror.server.systemd import PassedSocket

log = structlog.get_logger(__name__)

Key = tuple["Listen", int]  # an address without its scheme, and how often it stood before: port 0 may stand often


@dataclass(slots=True)
class Listener:
    """One entry of `server.listen`, bound. Connections are taken through copies of its sockets."""

    listen: Listen
    sockets: list[socket.socket]
    inode: tuple[int, int] | None = None  # of a Unix socket that this process has made
    common: bool = False  # other processes accept from the same sockets
    encrypts: bool = False
    servers: list[asyncio.Server] = field(default_factory=list)

    @property
    def urls(self) -> list[str]:
        """Where clients reach it: `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`."""
        if self.listen.systemd is None:
            return [self._url(self.sockets[0], self.listen.host)]
        return [self._url(sock, None) for sock in self.sockets]

    def covers(self, local: object, *, encrypted: bool) -> bool:
        """Say whether a connection whose own address is `local` is one that would come in here now."""
        for sock in self.sockets:
            name = sock.getsockname()
            if sock.family == socket.AF_UNIX:
                if name == local:
                    return True
            elif isinstance(local, tuple) and name[1] == local[1] and name[0] in (local[0], _everything(local[0])):
                return encrypted is self.encrypts
        return False

    async def open(self, http: HttpServer, context: ssl.SSLContext | None) -> list[asyncio.Server]:
        """Return servers that take no connections yet; they will, in TLS if there is a context. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as undo:
            servers = []
            for sock in self.sockets:
                factory: Callable[[], asyncio.Protocol] = http
                if context is not None and sock.family != socket.AF_UNIX:
                    factory = partial(Handshake, http, context)
                copy = sock.dup()
                undo.callback(copy.close)
                backlog = sockets.BACKLOG
                if self.common:
                    copy, backlog = sockets.Common(fileno=copy.detach()), 1
                    undo.callback(copy.close)
                server = await loop.create_server(factory, sock=copy, backlog=backlog, start_serving=False)
                servers.append(server)
            undo.pop_all()
        return servers

    async def accept(self, servers: list[asyncio.Server], *, encrypts: bool) -> None:
        """Take connections through `servers`, and no more through those before."""
        before, self.servers, self.encrypts = self.servers, servers, encrypts
        for server in servers:
            await server.start_serving()
        for server in before:
            server.close()

    def stop(self) -> None:
        """Take no more connections; those that are open stay."""
        for server in self.servers:
            server.close()
        self.servers.clear()
        for sock in self.sockets:
            if self.inode is not None and sockets.inode(sock) == self.inode:
                try:
                    Path(sock.getsockname()).unlink()
                except OSError as error:  # its directory may not be written to any more: it is in nobody's way
                    log.warning("a socket stays behind", path=sock.getsockname(), error=error.strerror)
            sock.close()

    def _url(self, sock: socket.socket, named: str | None) -> str:
        name = sock.getsockname()
        if sock.family == socket.AF_UNIX:
            return f"unix:{name}"
        host = named or name[0]
        scheme = "https" if self.encrypts else "http"
        return f"{scheme}://[{host}]:{name[1]}" if ":" in host else f"{scheme}://{host}:{name[1]}"


@dataclass(slots=True)
class Change:
    """What `Listeners.prepare` found out: all that will be listened on, and what of it is new."""

    wanted: dict[Key, Listener] = field(default_factory=dict)
    new: list[Listener] = field(default_factory=list)
    servers: list[tuple[Listener, list[asyncio.Server], bool]] = field(default_factory=list)  # and whether they encrypt

    def undo(self) -> None:
        """Give up what was bound for it."""
        for _, servers, _ in self.servers:
            for server in servers:
                server.close()
        for listener in self.new:
            listener.stop()


class Source(Protocol):
    """Where the sockets come from that are listened on."""

    def renews(self, place: int, before: Listener) -> bool:
        """Say whether an address that is listened on, at `place` of `server.listen`, has to get other sockets."""
        ...

    async def listener(self, place: int, listen: Listen, leaving: list[socket.socket]) -> Listener:
        """Return a listener at `listen` that nobody accepts from yet. `leaving`: see `sockets.bound`."""
        ...

    def unnamed(self, listens: Iterable[Listen]) -> list[str]:
        """Return the names of systemd's sockets that none of `listens` takes."""
        ...


class Own:
    """See `Source`: this process binds them itself."""

    def __init__(self, passed: Sequence[PassedSocket] = ()) -> None:
        """`passed` are systemd's sockets."""
        self._passed = passed

    def renews(self, place: int, before: Listener) -> bool:  # noqa: ARG002  # its place says nothing here
        """See `Source.renews`: where the path of a Unix socket names another one, or none."""
        return before.inode is not None and sockets.inode(before.sockets[0]) != before.inode

    async def listener(self, place: int, listen: Listen, leaving: list[socket.socket]) -> Listener:  # noqa: ARG002
        """See `Source.listener`; raise `ConfigError`."""
        found = await sockets.bound(listen, self._passed, leaving)
        return Listener(listen, found, sockets.inode(found[0]) if listen.path is not None else None)

    def unnamed(self, listens: Iterable[Listen]) -> list[str]:
        """See `Source.unnamed`."""
        return sockets.unnamed(listens, self._passed)


class Listeners:
    """All that is listened on."""

    def __init__(self, http: HttpServer, source: Source) -> None:
        """`http` makes the protocol of each connection."""
        self._http = http
        self._source = source
        self._listeners: dict[Key, Listener] = {}

    @property
    def urls(self) -> list[str]:
        """Where clients reach the mirror, in the order of the configuration."""
        return [url for listener in self._listeners.values() for url in listener.urls]

    async def prepare(self, config: ServerConfig, context: ssl.SSLContext | None) -> Change:
        """Bind what is not bound yet, and change nothing. Raise `ConfigError` or `OSError` where that cannot be.

        `context` is for those that encrypt.
        """
        change = Change()
        keys = keyed(config.listen)
        leaving = [sock for key, one in self._listeners.items() if key not in keys for sock in one.sockets]
        try:
            for place, (key, listen) in enumerate(keys.items()):
                here = self._listeners.get(key)
                if here is None or self._source.renews(place, here):
                    here = await self._source.listener(place, listen, leaving)
                    change.new.append(here)
                change.wanted[key] = here
                encrypts = config.encrypts(listen)
                if not here.servers or encrypts is not here.encrypts:
                    servers = await here.open(self._http, context if encrypts else None)
                    change.servers.append((here, servers, encrypts))
        except BaseException:
            change.undo()
            raise
        return change

    async def commit(self, change: Change) -> None:
        """Take connections at what was prepared, and nowhere else."""
        before, self._listeners = self._listeners, change.wanted
        for listener, servers, encrypts in change.servers:
            await listener.accept(servers, encrypts=encrypts)
        for listener in before.values():
            if listener not in change.wanted.values():
                listener.stop()

    def dismiss(self, connections: Iterable[Connection]) -> None:
        """End the connections to what is no longer listened on: idle ones now, others after what they are at."""
        for connection in connections:
            transport = connection.transport
            if transport is None:
                continue
            local = transport.get_extra_info("sockname")
            encrypted = transport.get_extra_info("sslcontext") is not None
            if not any(listener.covers(local, encrypted=encrypted) for listener in self._listeners.values()):
                connection.dismiss()

    def unnamed(self) -> list[str]:
        """Return the names of systemd's sockets that no listener takes: nobody accepts there."""
        return self._source.unnamed(listener.listen for listener in self._listeners.values())

    def stop(self) -> None:
        """Take no more connections anywhere."""
        for listener in self._listeners.values():
            listener.stop()
        self._listeners.clear()


def _everything(host: str) -> str:
    return "::" if ":" in host else "0.0.0.0"  # noqa: S104  # a comparison


def keyed(listens: Iterable[Listen]) -> dict[Key, Listen]:
    """Return addresses under what tells one from another, in their order."""
    seen: Counter[Listen] = Counter()
    keys: dict[Key, Listen] = {}
    for listen in listens:
        plain = replace(listen, scheme=None)
        keys[plain, seen[plain]] = listen
        seen[plain] += 1
    return keys
