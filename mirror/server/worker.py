"""One of several serving processes: it serves as a mirror in one process does, and does what the supervisor says."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import faulthandler
import pickle
import signal
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import structlog

from mirror import log as logging
from mirror import metrics
from mirror.errors import ConfigError, MirrorError
from mirror.server.bindings import FromSupervisor
from mirror.server.health import Health
from mirror.server.run import Server
from mirror.server.totals import Reports

if TYPE_CHECKING:
    from mirror.config import Config
    from mirror.server.bindings import Handed
    from mirror.server.channel import Channel, Message
    from mirror.server.process import Owner

log = structlog.get_logger(__name__)

SIGN_EVERY = 1.0  # seconds between two signs of life
REPORT_EVERY = 5.0  # seconds between two reports that nobody asked for: what a crash may lose of the counters; …
_SHARE = 200  # … or as many times as long as one takes, where thousands of series make that longer
_PATIENCE = 2.0  # seconds for the metrics of all workers
_LAST_WORDS = 1.0  # seconds for the last report


class _Abandoned(Exception):
    """Another worker has refused the configuration, so nobody goes by it."""


def share_of(config: Config) -> Config:
    """Return the configuration with the limits that are one worker's: its part of those of the mirror, rounded up."""
    server = config.server

    def part(whole: int) -> int:
        return -(-whole // server.workers)

    def part_of(whole: int | None) -> int | None:
        return None if whole is None else part(whole)

    limits = {
        "max_connections": part(server.max_connections),
        "max_connections_per_client": part_of(server.max_connections_per_client),
        "max_requests_per_client": part_of(server.max_requests_per_client),
    }
    upstreams = {
        name: replace(each, max_connections=part(each.max_connections), max_rate=part_of(each.max_rate))
        for name, each in config.upstreams.items()
    }
    return replace(config, server=replace(server, **cast("dict[str, Any]", limits)), upstreams=upstreams)


def work(number: int, config: Config, *, handed: Handed, channel: Channel, owner: Owner, instance: str) -> int:
    """Serve until the supervisor says otherwise, or is no more; return the exit code.

    `handed` are the sockets to accept from; `instance` is the whole mirror's name in `Via`.
    """
    logging.name(worker=number)
    faulthandler.register(signal.SIGQUIT)  # whoever wonders what it is at gets the stacks of its threads
    reports = Reports(forked=True)
    metrics.WORKERS.set(0)  # the supervisor counts them
    try:
        worker = Worker(config, handed=handed, channel=channel, owner=owner, instance=instance, reports=reports)
        return asyncio.run(worker.serve())
    except MirrorError as error:
        problems = error.problems if isinstance(error, ConfigError) else [str(error)]
        channel.send("failed", problems=problems, config=isinstance(error, ConfigError))
        return 1
    except OSError as error:
        channel.send("failed", problems=[str(error)], config=False)
        return 1
    except Exception:
        log.exception("a worker failed")
        return 1
    finally:
        channel.send("report", body=reports.make(), asked=False)
        channel.finish(_LAST_WORDS)


class Worker:
    """A server, and its link to the supervisor."""

    def __init__(
        self, config: Config, *, handed: Handed, channel: Channel, owner: Owner, instance: str, reports: Reports
    ) -> None:
        self._config = config
        self._source = FromSupervisor(handed)
        self._channel = channel
        self._owner = owner
        self._instance = instance
        self._reports = reports
        self._health = Health(self._metrics)
        self._server: Server | None = None
        self._stop = asyncio.Event()
        self._at_once = asyncio.Event()
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._asks = 0
        self._reporting = asyncio.Lock()
        self._verdicts: dict[int, asyncio.Future[bool]] = {}  # by the number of the exchange
        self._exchanging = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> int:
        """Serve to the end."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._channel, self._read)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._unlink)
            stack.push_async_callback(_end, asyncio.create_task(self._live(), name="signs of life"))
            server = self._server = await Server.listening(
                share_of(self._config), stack, source=self._source, health=self._health, instance=self._instance
            )
            self._send("serving")
            if await server.open(self._stop):
                room = server.store.room
                self._send("counted", capacity=room.cap, used=room.used)
            await self._stop.wait()
            await server.drain(self._at_once)
        return 0

    async def _live(self) -> None:
        """Give signs of life: from the loop, so that a stuck one is seen; and reports now and then."""
        reported = self._loop.time()
        while True:
            if not self._channel.waits:  # while the supervisor does not listen, nothing piles up
                self._send("alive")
            await asyncio.sleep(SIGN_EVERY)
            due = reported + max(REPORT_EVERY, _SHARE * self._reports.took)
            if self._loop.time() >= due and not self._channel.waits:
                reported = self._loop.time()
                self._begin(self._report(asked=False))

    # --- what the supervisor says ---------------------------------------------------------------------------------

    def _read(self) -> None:
        messages, ended = self._channel.receive()
        for message in messages:
            self._hear(message)
        if ended:
            self._loop.remove_reader(self._channel)
            if not self._stop.is_set():
                log.error("the supervisor is no more, and so this worker ends")
            for verdict in self._verdicts.values():
                _settle(verdict, agreed=False)
            self._stop.set()
            self._at_once.set()

    def _hear(self, message: Message) -> None:
        match message.kind:
            case "stop":
                self._stop.set()
            case "stop at once":
                self._stop.set()
                self._at_once.set()
            case "debug":
                logging.set_level(message.told["level"])
            case "trouble":
                self._health.trouble = message.told["text"]
            case "report":
                self._begin(self._report(asked=True))
            case "metrics":
                asked = self._asked.pop(message.told["number"], None)
                if asked is not None and not asked.done():
                    asked.set_result(message.body)
            case "prepare":
                # Before anything waits: where this worker is late, the verdict comes together with the question.
                self._verdicts[message.told["exchange"]] = self._loop.create_future()
                self._begin(self._reconfigure(message))
            case "decide":
                _settle(self._verdicts.get(message.told["exchange"]), agreed=message.told["agreed"])

    async def _reconfigure(self, message: Message) -> None:
        number = message.told["exchange"]
        verdict = self._verdicts[number]
        async with self._exchanging:
            try:
                self._source.hand(_sorted(message))
                if verdict.done():
                    return  # so late that the others have decided without this one
                config: Config = pickle.loads(message.body)  # noqa: S301  # the supervisor made it, of which this is a copy
                assert self._server is not None  # noqa: S101  # the supervisor asks those that serve
                await self._server.reconfigure(share_of(config), partial(self._agreed, number, verdict))
                self._owner.set_up_log(config)
            except _Abandoned:
                pass
            except (MirrorError, OSError) as error:
                problems = error.problems if isinstance(error, ConfigError) else [str(error)]
                self._send("refused", exchange=number, problems=problems)
            except Exception:
                log.exception("the mirror failed over the new configuration")
                problems = ["a worker failed over it; the log has the rest"]
                self._send("refused", exchange=number, problems=problems)
            else:
                self._send("committed", exchange=number)
            finally:
                self._source.drop()
                del self._verdicts[number]

    async def _agreed(self, number: int, verdict: asyncio.Future[bool]) -> None:
        self._send("prepared", exchange=number)
        if not await verdict:
            raise _Abandoned

    # --- what it is told ------------------------------------------------------------------------------------------

    async def _metrics(self) -> bytes:
        """Return the metrics of all workers; raise `TimeoutError`."""
        self._asks += 1
        number = self._asks
        asked = self._asked[number] = self._loop.create_future()
        try:
            self._send("metrics", number=number)
            async with asyncio.timeout(_PATIENCE):
                text: bytes = await asked
                return text
        finally:
            self._asked.pop(number, None)

    async def _report(self, *, asked: bool) -> None:
        self._health.refresh()
        async with self._reporting:  # in the order in which they were made: what is counted must not seem to fall
            self._send("report", body=await asyncio.to_thread(self._reports.make), asked=asked)

    def _send(self, kind: str, *, body: bytes = b"", **told: Any) -> None:
        self._channel.send(kind, body=body, **told)
        if self._channel.waits:
            self._loop.add_writer(self._channel, self._flush)

    def _flush(self) -> None:
        self._channel.flush()
        if not self._channel.waits:
            self._loop.remove_writer(self._channel)

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _unlink(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._loop.remove_reader(self._channel)
        self._loop.remove_writer(self._channel)


def _settle(verdict: asyncio.Future[bool] | None, *, agreed: bool) -> None:
    if verdict is not None and not verdict.done():
        verdict.set_result(agreed)


def _sorted(message: Message) -> Handed:
    """Return the sockets of a message by the place of their address; raise `OSError` where they did not all come."""
    if message.lost:
        raise OSError(errno.EMFILE, "a worker has too many files open to take new sockets")
    sockets = iter(message.sockets)
    return {int(place): [next(sockets) for _ in range(count)] for place, count in message.told["counts"]}


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
