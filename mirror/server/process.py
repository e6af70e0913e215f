"""The life of a serving process: start, announce, serve, hear signals, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import sys
from typing import TYPE_CHECKING, Protocol

import structlog

from mirror import metrics
from mirror.log import set_level
from mirror.server.listening import Own
from mirror.server.reload import Reloader
from mirror.server.run import Server
from mirror.server.systemd import Notifier
from mirror.store import heap

if TYPE_CHECKING:
    from mirror.config import Config
    from mirror.server.systemd import Systemd

log = structlog.get_logger(__name__)

# Signals that end a process by default. Blocked from the first moment, they wait until somebody is there to hear them.
HEARD_LATER = (signal.SIGHUP, signal.SIGUSR1)

_SWITCH = 0.0005  # seconds; disk threads must not wait 5 ms for the interpreter, nor the loop for them
_LAST = 15.0  # seconds, at most, that closing everything takes after the drain


class Owner(Protocol):
    """Whoever runs the mirror: where its configuration comes from, and how it is told what goes on."""

    def read(self) -> Config:
        """Read the configuration anew; blocks. Raises `ConfigError`."""
        ...

    def announce(self, config: Config, *, capacity_bytes: int, used_bytes: int, bound: list[str]) -> None:
        """Hear that the mirror serves: bytes that the store may take, and takes, and where it is reached."""
        ...

    def set_up_log(self, config: Config) -> None:
        """Log as the configuration says."""
        ...

    def applied(self, config: Config, bound: list[str]) -> None:
        """Hear that another configuration is in force, and where the mirror is reached now."""
        ...


def serve(config: Config, owner: Owner, systemd: Systemd) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code. Raises `ConfigError` and `StoreError` before it serves."""
    sys.setswitchinterval(_SWITCH)
    heap.keep()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each client and each fill holds some
    if config.server.workers > 1:
        from mirror.server.supervisor import Supervisor  # noqa: PLC0415  # one process needs nothing of it

        return Supervisor(config, owner, systemd).run()
    return asyncio.run(_serve(config, owner, systemd))


async def _serve(config: Config, owner: Owner, systemd: Systemd) -> int:
    metrics.WORKERS.set(1)
    signals = Signals(config.log.level)
    notifier = Notifier(systemd)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(notifier.close)
        stack.push_async_callback(_end, asyncio.create_task(notifier.watch(), name="watchdog"))
        server = await Server.listening(config, stack, source=Own(systemd.sockets))
        notifier.ready(_serving(server))
        if await server.open(signals.stop):
            room = server.store.room
            owner.announce(config, capacity_bytes=room.cap, used_bytes=room.used, bound=server.bound)

        def applied(config: Config) -> None:
            owner.applied(config, server.bound)
            signals.level = config.log.level

        reloader = Reloader(server, owner.read, applied)
        reloading = asyncio.create_task(_reload(reloader, signals.reload, server, notifier), name="reload")
        stack.push_async_callback(_end, reloading)
        await signals.stop.wait()
        patience = server.config.server.shutdown_timeout
        log.info("stopping; a second signal ends it at once", patience=patience)
        notifier.stopping("stopping: what is under way may end", patience + _LAST)
        await _end(reloading)
        await server.drain(signals.at_once)
    log.info("stopped")
    return 0


async def _reload(reloader: Reloader, asked: asyncio.Event, server: Server, notifier: Notifier) -> None:
    """Reload whenever that is asked for; however often it is asked for meanwhile, once more."""
    while True:
        await asked.wait()
        asked.clear()
        notifier.reloading()
        outcome = await reloader.reload()
        notifier.ready(f"{_serving(server)}; {outcome}")


def _serving(server: Server) -> str:
    return f"serving at {', '.join(server.bound)}"


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


class Signals:
    """What this process is told by signals: to stop, to stop at once, to reload, to say more in its log."""

    def __init__(self, level: str) -> None:
        """Hear them from now on. `level` is the log's, by the configuration."""
        self.stop = asyncio.Event()
        self.at_once = asyncio.Event()
        self.reload = asyncio.Event()
        self._level = level
        self._debugging = False
        self._terminal = sys.stderr.isatty()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGINT, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        loop.add_signal_handler(signal.SIGUSR1, self._debug)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD_LATER)

    @property
    def level(self) -> str:
        """The level of the log, by the configuration."""
        return self._level

    @level.setter
    def level(self, level: str) -> None:
        self._level, self._debugging = level, False

    def _stop(self) -> None:
        (self.at_once if self.stop.is_set() else self.stop).set()

    def _reload(self) -> None:
        if self._terminal and not sys.stderr.isatty():  # the terminal has gone, which is what the signal was made for
            self._stop()
        elif self.stop.is_set():
            log.info("the configuration is not reloaded: the mirror is stopping")
        else:
            self.reload.set()

    def _debug(self) -> None:
        self._debugging = not self._debugging
        set_level("debug" if self._debugging else self._level)
        log.info("debug lines are logged until the next SIGUSR1" if self._debugging else "debug lines have ended")
