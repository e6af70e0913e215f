"""The life of a serving process: open, listen, announce, serve, drain, close."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import secrets
import signal
import sys
import time
from typing import TYPE_CHECKING, Protocol

import structlog
from aiohttp import web

from mirror.cache.cache import Cache
from mirror.oci.namespaces import Namespaces
from mirror.server.front import Front
from mirror.server.health import Health
from mirror.server.listening import listen_on
from mirror.store import heap
from mirror.store.store import Store
from mirror.upstream.registries import Registries

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.config import Config
    from mirror.upstream.protocol import Upstreams

log = structlog.get_logger(__name__)

_LINE = 64 * 1024  # bytes of a request line or header: tokens in `Authorization` grow long
_SWITCH = 0.0005  # seconds; disk threads must not wait 5 ms for the interpreter, nor the loop for them
_LAST = 1.0  # seconds that a connection gets to end once everything else has


class Announce(Protocol):
    """Tells a person, or the log, that the mirror serves."""

    def __call__(self, *, room_bytes: int, used_bytes: int, bound: list[str]) -> None:
        """Hear how many bytes are left and taken in the store, and which addresses are listened on."""
        ...


def serve(config: Config, *, announce: Announce) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code. Raises `ConfigError` and `StoreError` before it serves."""
    sys.setswitchinterval(_SWITCH)
    heap.keep()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each client and each fill holds some
    return asyncio.run(_serve(config, announce))


async def _serve(config: Config, announce: Announce) -> int:
    stop, at_once = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def told() -> None:
        (at_once if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    async with contextlib.AsyncExitStack() as stack:
        server = await Server.start(config, stack)
        announce(room_bytes=server.store.room.left(), used_bytes=server.store.room.used, bound=server.bound)
        await stop.wait()
        log.info("stopping; a second signal ends it at once", patience=config.server.shutdown_timeout)
        await server.drain(at_once)
    log.info("stopped")
    return 0


class Server:
    """A mirror that listens."""

    def __init__(self, config: Config, store: Store, cache: Cache, health: Health, runner: web.ServerRunner) -> None:
        self._config = config
        self._health = health
        self._runner = runner
        self.store = store
        self.cache = cache
        self.bound: list[str] = []

    @classmethod
    async def start(
        cls,
        config: Config,
        stack: contextlib.AsyncExitStack,
        *,
        upstreams: Upstreams | None = None,
        clock: Callable[[], float] = time.time,
    ) -> Server:
        """Open the store and listen; what was opened is closed with `stack`.

        `upstreams` stands in for the real ones, `clock` (seconds since the epoch) for the time by which tags grow old.
        """
        instance = secrets.token_hex(8)
        store = Store.open(config.storage)
        stack.callback(store.close)
        registries = upstreams or Registries(config, instance=instance, request_id=_request_id)
        stack.push_async_callback(registries.close)
        cache = Cache(config, store, registries, clock=clock)
        stack.push_async_callback(cache.close)
        health = Health()
        namespaces = Namespaces(frozenset(config.upstreams), config.default_upstream, config.wildcard)
        front = Front(cache, namespaces, health, store.threads, fallback=config.server.fallback, instance=instance)
        web_server = web.Server(
            front,
            handler_cancellation=True,
            access_log=None,
            max_line_size=_LINE,
            max_field_size=_LINE,
            keepalive_timeout=75,
        )
        runner = web.ServerRunner(web_server, handle_signals=False, shutdown_timeout=_LAST)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        server = cls(config, store, cache, health, runner)
        for listen in config.server.listen:
            server.bound.append(await listen_on(runner, listen, config.server.tls))
        health.open()
        await store.count()
        cache.fills.counted.set()
        return server

    async def drain(self, at_once: asyncio.Event | None = None) -> None:
        """Stop taking connections, and let transfers end within the limit, or until `at_once` is set."""
        self._health.drain()
        for site in list(self._runner.sites):
            await site.stop()
        waiting = [asyncio.create_task(self._health.idle(self._config.server.shutdown_timeout))]
        if at_once is not None:
            waiting.append(asyncio.create_task(_wait(at_once)))
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        if self._health.under_way:
            log.warning("transfers broken off", count=self._health.under_way)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def _request_id() -> str | None:
    found = structlog.contextvars.get_contextvars().get("request_id")
    return found if isinstance(found, str) else None
