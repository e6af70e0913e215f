"""A mirror that listens: everything opened and wired, exchanged when the configuration is, drained and closed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, cast

import structlog

from mirror import metrics
from mirror.cache.cache import Cache
from mirror.server.access import access_record
from mirror.server.certificate import Certificates, load
from mirror.server.connections import Connections, HttpServer
from mirror.server.front import Front
from mirror.server.health import Health
from mirror.server.listening import Listeners, Own
from mirror.server.loop_lag import LoopLag
from mirror.server.policy import Policy
from mirror.store.store import Store
from mirror.upstream.registries import Registries
from mirror.upstream.via import Crossings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any

    from mirror.config import Config
    from mirror.server.connections import Connection
    from mirror.server.listening import Source
    from mirror.upstream.protocol import Upstreams

log = structlog.get_logger(__name__)

_LINE = 64 * 1024  # bytes of a request line or header: tokens in `Authorization` grow long
_NOT_OF_UPSTREAMS = (
    "server",
    "storage",
    "default_upstream",
    "freshness",
    "pulls",
    "budget",
    "log",
)  # keys that they do not go by
_LAST = 1.0  # seconds that a connection gets to end once everything else has


class Server:
    """A mirror that listens."""

    def __init__(
        self,
        config: Config,
        *,
        store: Store,
        cache: Cache,
        health: Health,
        front: Front,
        http: HttpServer,
        listeners: Listeners,
        make_upstreams: Callable[[Config], Upstreams],
    ) -> None:
        """Wire what `start` has opened."""
        self.config = config
        self.store = store
        self.cache = cache
        self._health = health
        self._front = front
        self._http = http
        self._listeners = listeners
        self._certificates = Certificates()
        self._make_upstreams = make_upstreams
        self._changing = asyncio.Lock()

    @classmethod
    async def start(
        cls,
        config: Config,
        stack: contextlib.AsyncExitStack,
        *,
        upstreams: Upstreams | None = None,
        clock: Callable[[], float] = time.time,
    ) -> Server:
        """Do as `listening` does, and see what the store holds."""
        server = await cls.listening(config, stack, upstreams=upstreams, clock=clock)
        await server.open()
        return server

    @classmethod
    async def listening(
        cls,
        config: Config,
        stack: contextlib.AsyncExitStack,
        *,
        upstreams: Upstreams | None = None,
        clock: Callable[[], float] = time.time,
        source: Source | None = None,
        health: Health | None = None,
        instance: str | None = None,
    ) -> Server:
        """Open the store and take requests; what was opened is closed with `stack`. `open` comes next.

        `upstreams` stands in for the real ones, `clock` (seconds since the epoch) for the time by which tags grow old.
        `source` is where sockets come from, `health` what is told of the mirror, `instance` what names it in `Via`:
        several processes that are one mirror get them.
        """
        instance = instance or secrets.token_hex(8)
        store = Store.open(config.storage)
        stack.callback(store.close)
        crossings = Crossings(instance)
        make_upstreams = partial(
            Registries,
            instance=instance,
            request_id=_request_id,
            book=store.dealings,
            clock=clock,
            crossings=crossings,
        )
        cache = Cache(config, store, upstreams or make_upstreams(config), clock=clock)
        stack.push_async_callback(cache.close)
        health = health or Health()
        health.refresh = cache.show
        policy = Policy.of(config)
        connections = Connections(policy)
        access = access_record(config.log.access_file)
        front = Front(
            cache, policy, health, store.threads, connections, instance=instance, access=access, crossings=crossings
        )
        stack.push_async_callback(front.close)
        stack.callback(LoopLag().close)
        http = HttpServer(
            front,
            connections,
            max_line_size=_LINE,
            max_field_size=_LINE,
            keepalive_timeout=75,
        )
        listeners = Listeners(http, source or Own())
        server = cls(
            config,
            store=store,
            cache=cache,
            health=health,
            front=front,
            http=http,
            listeners=listeners,
            make_upstreams=make_upstreams,
        )
        stack.push_async_callback(server._close)
        await server._listen()
        watching = asyncio.create_task(server._certificates.watch(), name="certificate")
        stack.push_async_callback(_end, watching)
        health.dial(offline=config.server.offline)
        health.open()
        metrics.RELOADED_AT.set_to_current_time()
        return server

    async def open(self, stop: asyncio.Event | None = None) -> bool:
        """Begin to fill and to keep house; where it is not known what is on disk, it is looked through before.

        That takes minutes in a large store: `stop` ends it. Say whether it came to its end.
        """
        mirror = os.getppid() if self.config.server.workers > 1 else os.getpid()
        opening = asyncio.create_task(self.cache.open(mirror), name="opening")
        stopping = asyncio.create_task(_wait(stop or asyncio.Event()))
        try:
            await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():
                return False
            await opening
            return True
        finally:
            await _end(stopping)
            if not opening.done():
                await _end(opening)

    @property
    def bound(self) -> list[str]:
        """Where clients reach it: `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`."""
        return self._listeners.urls

    @property
    def under_way(self) -> int:
        """How many requests are being answered."""
        return self._health.under_way

    async def reconfigure(self, config: Config, agreed: Callable[[], Awaitable[None]] | None = None) -> None:
        """Go by `config` from now on: all of it, or, where this raises `ConfigError` or `OSError`, nothing of it.

        What can fail comes first and changes nothing. Requests and fills that are under way go on as they began.
        `agreed` is awaited when only what cannot fail is left to be done; where it raises, nothing has changed.
        """
        async with self._changing, contextlib.AsyncExitStack() as undo:
            pair = await asyncio.to_thread(load, config.server.tls) if config.server.tls else None
            limits = await asyncio.to_thread(self.store.limits, config.storage)
            upstreams = None
            if _upstreams_differ(self.config, config):
                upstreams = await asyncio.to_thread(self._make_upstreams, config)
                undo.push_async_callback(upstreams.close)
            access = await asyncio.to_thread(access_record, config.log.access_file, self._front.access)
            if access is not None and access is not self._front.access:
                undo.callback(access.end)
            policy = Policy.of(config)
            change = await self._listeners.prepare(config.server, self._certificates.context(pair) if pair else None)
            undo.callback(change.undo)
            if agreed is not None:
                await agreed()
            undo.pop_all()
            self.config = config
            self._certificates.use(pair)
            self._front.reconfigure(policy, access)
            self._health.dial(offline=config.server.offline)
            self.store.room.resize(*limits)
            self.cache.reconfigure(config, upstreams)
            await _to_its_end(self._listeners.commit(change))
            self._listeners.dismiss(cast("list[Connection]", self._http.connections))
            metrics.RELOADED_AT.set_to_current_time()

    async def drain(self, at_once: asyncio.Event | None = None) -> None:
        """Stop taking connections, and let transfers end within the limit, or until `at_once` is set."""
        self._health.drain()
        async with self._changing:
            self._listeners.stop()
        waiting = [asyncio.create_task(self._health.idle(self.config.server.shutdown_timeout))]
        if at_once is not None:
            waiting.append(asyncio.create_task(_wait(at_once)))
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        if self._health.under_way:
            log.warning("transfers broken off", count=self._health.under_way)

    async def _listen(self) -> None:
        server = self.config.server
        pair = await asyncio.to_thread(load, server.tls) if server.tls else None
        self._certificates.use(pair)
        context = self._certificates.context(pair) if pair else None
        await self._listeners.commit(await self._listeners.prepare(server, context))
        if unnamed := self._listeners.unnamed():
            log.warning("systemd passes sockets that nobody listens on; write listen: systemd", names=unnamed)

    async def _close(self) -> None:
        self._listeners.stop()
        await asyncio.sleep(0)  # what has come by now begins to be answered; then idle connections end
        self._http.pre_shutdown()
        await self._http.shutdown(_LAST)


def _upstreams_differ(old: Config, new: Config) -> bool:
    """Say whether upstreams are to be made anew: their connections, tokens and back-offs are lost then.

    What their files hold is no reason: they look at those themselves (`upstream.watched`).
    """
    if old.server.offline != new.server.offline:
        return True
    theirs = [field.name for field in fields(new) if field.compare and field.name not in _NOT_OF_UPSTREAMS]
    return any(getattr(old, name) != getattr(new, name) for name in theirs)


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end, also where this is cancelled meanwhile: what is half exchanged must not stay so."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _request_id() -> str | None:
    found = structlog.contextvars.get_contextvars().get("request_id")
    return found if isinstance(found, str) else None
