"""What `mirror prefetch` and `mirror plan` share: the work between what was said and what is told."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mirror import config as configuration
from mirror.cli.display import display
from mirror.cli.leaving import leave, writable
from mirror.cli.opening import caution, opened_by
from mirror.cli.ordering import read_lock
from mirror.cli.tables import busy, counted
from mirror.cli.tally import Tally
from mirror.errors import MirrorError, NameUnknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mirror.airgap.prefetch.lock import Lock
    from mirror.airgap.prefetch.order import Order
    from mirror.airgap.prefetch.outcome import Fetched, Planned
    from mirror.airgap.wanted import Wanted
    from mirror.cli.inputs import Inputs
    from mirror.config import Config
    from mirror.store.store import Store
    from mirror.upstream.budget import Budget
    from mirror.upstream.protocol import Upstream
    from mirror.upstream.registries import Registries

_MISSING = Path("missing.txt")


@dataclass(slots=True)
class Result:
    """What became of it. `outcomes` are in the order of the lists, or as they ended where it was `interrupted`."""

    inputs: Inputs
    outcomes: Sequence[Planned | Fetched] = ()
    budgets: Mapping[str, Budget] = field(default_factory=dict)  # as they were at the end
    seconds: float = 0.0
    capacity: int = 0  # bytes that the store may take
    interrupted: bool = False
    came: int = 0  # bytes that were fetched; those of images that an interrupt cut off, too
    images: int | None = None  # that were wanted; None where selections were still being resolved
    lock: Path | None = None  # that was written
    missing_file: Path | None = None  # that was written

    @property
    def missing(self) -> list[tuple[str, str]]:
        """What is missing: references as a list has them, and why."""
        missing = [(one.reference, one.failure) for one in self.outcomes if one.failure is not None]
        if self.interrupted:
            ended = {one.reference for one in self.outcomes}
            missing += [(str(one), "interrupted") for one in self.inputs.wanted if str(one) not in ended]
        return missing

    @property
    def code(self) -> int:
        """The exit code."""
        return 1 if self.missing or self.inputs.unread or self.interrupted else 0


@dataclass(frozen=True, slots=True)
class Files:
    """The files that a command was told of."""

    lock: Path | None = None
    locked: Path | None = None
    missing: Path | None = None


def carry_out(
    config: Path | None,
    read: Callable[[Config], Inputs],
    order: Callable[[Lock | None], Order],
    files: Files,
    *,
    plan: bool,
    as_json: bool,
) -> Result:
    """Plan or fetch what `read` returns, showing meanwhile how it goes, and leave the files behind that were asked for.

    Raise `ConfigError`, `ListMalformed`, `typer.BadParameter`, or `MirrorError` where nothing can be done at all.
    """
    settings = configuration.load(config, os.environ)
    writable("--lock", files.lock)
    writable("--missing", files.missing)
    orders = order(read_lock(files.locked, files.lock))
    inputs = read(settings)
    _dialling(settings)
    _import()
    with opened_by(settings, as_json=as_json, make=True) as store:
        result = Result(inputs.with_history(store.layout), capacity=store.room.cap)
        _show_notes(result.inputs, hidden=as_json)
        if result.inputs.unread and orders.fail_fast:
            raise MirrorError("nothing was begun, because of what could not be read; mend it, or leave out --fail-fast")
        _work(settings, store, orders, result, plan=plan, hidden=as_json)
    if files.lock is not None:
        _leave_lock(files.lock, orders, result)
    _leave_missing(files.missing, result, unasked=not plan and not as_json)
    return result


def _dialling(settings: Config) -> None:
    """Raise `MirrorError` where the configuration says that nobody is to be asked."""
    if settings.server.offline:
        raise MirrorError(
            "server.offline is true: this mirror asks no registry, so nothing can be fetched; mirror import takes in "
            "what another one has exported, or take server.offline out of the configuration"
        )


def _import() -> None:
    """Import what is needed: as the user of the store, root may not reach its own programs any more."""
    import mirror.airgap.prefetch.prefetch  # noqa: PLC0415  # what speaks HTTP takes long to import
    import mirror.cache.cache  # noqa: PLC0415  # the same
    import mirror.upstream.registries  # noqa: F401, PLC0415  # the same


def _show_notes(inputs: Inputs, *, hidden: bool) -> None:
    """Tell as what lists were read, since it is told by their content; and what in them could not be read."""
    if hidden:
        return
    for source in inputs.sources:
        typer.echo(str(source), err=True)
    for one in inputs.unread:
        caution(f"{one.place}: {one.text}: {one.reason}")


# --- the work --------------------------------------------------------------------------------------------------------


def _work(settings: Config, store: Store, orders: Order, result: Result, *, plan: bool, hidden: bool) -> None:
    if not store.counted:  # after a kill content may be here that the index does not know, and room be taken by nobody
        with busy("looking through the disk first", hidden=hidden):
            asyncio.run(store.count())
    tally = Tally()
    began = time.monotonic()
    try:
        asyncio.run(_run(settings, store, orders, tally, result, plan=plan, hidden=hidden))
    except KeyboardInterrupt:
        result.interrupted = True
        result.outcomes = tally.outcomes
    result.images = tally.images
    result.came = tally.came
    result.seconds = time.monotonic() - began


async def _run(
    settings: Config, store: Store, orders: Order, tally: Tally, result: Result, *, plan: bool, hidden: bool
) -> None:
    from mirror.airgap.prefetch.prefetch import Prefetch  # noqa: PLC0415  # not needed to print help
    from mirror.cache.cache import Cache  # noqa: PLC0415  # the same
    from mirror.upstream.registries import Registries  # noqa: PLC0415  # the same

    upstreams = Registries(settings, instance=secrets.token_hex(8), request_id=lambda: None, book=store.dealings)
    cache = Cache(settings, store, upstreams)
    cache.attend()
    wanted = result.inputs.wanted
    asked = _asked(upstreams, wanted)

    def budgets() -> dict[str, Budget]:
        found = {name: upstream.budget for name, upstream in asked.items()}
        return {name: budget for name, budget in found.items() if budget is not None and budget.limit is not None}

    try:
        with _ended_by_signals(), display(tally, budgets, plan=plan, hidden=hidden) as hear:
            prefetch = Prefetch(cache, store, orders, hear)
            result.outcomes = await (prefetch.plan(wanted) if plan else prefetch.run(wanted))
    finally:
        result.budgets = budgets()
        await cache.close()


def _asked(upstreams: Registries, wanted: Sequence[Wanted]) -> dict[str, Upstream]:
    """Return the upstreams of what is wanted, sorted."""
    found = {}
    for namespace in sorted({one.repository.namespace for one in wanted}):
        with suppress(NameUnknown):  # its images say so
            found[namespace] = upstreams.of(namespace)
    return found


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Take the end of a session, and of a service, as Ctrl-C: what is under way, within, is left in order.

    As a signal of its own: SIGINT is ignored in whatever a script runs behind itself.
    """
    loop, task, told = asyncio.get_running_loop(), asyncio.current_task(), list[int]()
    assert task is not None  # noqa: S101  # this is one
    mine = threading.current_thread() is threading.main_thread()  # nobody else may take signals
    heard = [
        number for number in (signal.SIGTERM, signal.SIGHUP) if mine and signal.getsignal(number) is signal.SIG_DFL
    ]

    def hear(number: int) -> None:
        told.append(number)
        loop.remove_signal_handler(number)  # the next one ends it at once
        task.cancel()

    for number in heard:  # nohup has SIGHUP ignored
        loop.add_signal_handler(number, hear, number)
    try:
        yield
    except asyncio.CancelledError:
        if not told:
            raise
        raise KeyboardInterrupt from None
    finally:
        for number in heard:
            loop.remove_signal_handler(number)


# --- the files -------------------------------------------------------------------------------------------------------


def _leave_lock(path: Path, orders: Order, result: Result) -> None:
    """Write the lock file; but not after an interrupt, since it would lack what was not come to."""
    from mirror.airgap.prefetch.lock import Lock  # noqa: PLC0415  # not needed to print help

    if result.interrupted:
        caution(f"{path} is as it was: not all is resolved")
        return
    outcomes = result.outcomes
    lock = Lock.of((one.wanted.repository, one.wanted.tag, one.digest) for one in outcomes if one.digest is not None)
    if orders.locked:
        lock = Lock(dict(orders.locked)).with_(lock)
    leave(path, str(lock))
    result.lock = path
    lacking = sum(one.digest is None for one in outcomes) + len(result.inputs.unread)
    if lacking:
        caution(f"{path} lacks {counted(lacking, 'image')} that could not be resolved")


def _leave_missing(path: Path | None, result: Result, *, unasked: bool) -> None:
    """Write the list of what is missing where that was said, or where it serves somebody who gave a list."""
    from mirror.airgap.prefetch.missing import HEADER, is_missing_text, missing_text  # noqa: PLC0415  # the same

    missing, unread = result.missing, result.inputs.unread
    text = missing_text(missing, unread)
    if path is not None:
        leave(path, text)
        result.missing_file = path
        return
    if not unasked or not result.inputs.sources or result.interrupted or not (missing or unread):
        return
    try:
        with suppress(FileNotFoundError), _MISSING.open("rb") as file:
            if not is_missing_text(file.read(len(HEADER.encode()))):
                caution(f"{_MISSING} here is a file of other origin, and stays; --missing FILE writes what is missing")
                return
        leave(_MISSING, text)
        result.missing_file = _MISSING
    except (OSError, MirrorError) as error:
        caution(f"{error}; --missing FILE writes what is missing elsewhere")
