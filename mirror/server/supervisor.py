"""The process above several workers: it binds, starts them, starts the dead again, reloads, and ends all of them.

It has no store, no upstream and no event loop, so that there is little that could fail, and nothing that a fork would
tear apart. Signals go to it; workers pass over those that a terminal or systemd sends to all processes at once.
"""

from __future__ import annotations

import contextlib
import pickle
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from mirror import metrics
from mirror.errors import ConfigError, MirrorError
from mirror.log import set_level
from mirror.server import reload
from mirror.server.bindings import Bindings
from mirror.server.crew import Crew
from mirror.server.scrape import Scrape
from mirror.server.systemd import Notifier
from mirror.server.told import Told
from mirror.server.worker import work

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.config import Config
    from mirror.server.channel import Channel, Message
    from mirror.server.crew import Member
    from mirror.server.process import Owner
    from mirror.server.systemd import Systemd

log = structlog.get_logger(__name__)

STUCK_AFTER = 10.0  # seconds without a sign of life
LOST_AFTER = 30.0  # the same, after which a worker is ended: what it holds up, and holds, is free then
_BEGUN_WITHIN = 120.0  # the same while a worker opens the store, which may be made again from its journal
_LOOK_EVERY = 0.5  # seconds between two looks at who is stuck
_AWAY = 2.0  # … unless this process was stopped, or busy with something else, for so long
_LIVED = 30.0  # seconds; who ends sooner than that is started again later and later
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 5.0  # seconds until then
_AGREE_WITHIN = 15.0  # seconds for all workers to prepare a reload
_COMMIT_WITHIN = 10.0
_LEAVE_WITHIN = 5.0
_LAST = 15.0  # seconds, at most, that closing everything takes after the drain


class Supervisor:
    """Sees to `server.workers` workers."""

    def __init__(self, config: Config, owner: Owner, systemd: Systemd) -> None:
        """Hear signals from now on."""
        self._config = config
        self._owner = owner
        self._instance = secrets.token_hex(8)
        self._notifier = Notifier(systemd)
        self._bindings = Bindings(config.server.workers, systemd.sockets)
        self._crew = Crew(self._hear, self._bury)
        self._scrape = Scrape(self._crew)
        self._told = Told()
        self._starting = True  # until all have served once
        self._counted: dict[str, int] | None = None  # bytes that the store may take, and takes, when it was looked at
        self._announced = False
        self._failed: MirrorError | None = None  # why the mirror cannot start
        self._answers: dict[int, Message | None] = {}  # of workers to what they were asked; None: not yet
        self._exchanging = False
        self._exchange_number = 0
        self._pauses: dict[int, float] = {}  # of those that ended early
        self._due: dict[int, float] = {}  # when workers are started again, on the monotonic clock
        self._trouble: str | None = None
        self._beat_at = 0.0
        self._looked_at = self._excused_at = time.monotonic()

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return the exit code. Raise what keeps the first workers from serving."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._notifier.close)
            stack.callback(self._crew.close)
            stack.callback(self._dismiss)
            stack.callback(self._bindings.stop)
            self._bindings.commit(self._bindings.prepare(self._config.server))
            if unnamed := self._bindings.unnamed():
                log.warning("systemd passes sockets that nobody listens on; write listen: systemd", names=unnamed)
            self._begin()
            self._starting = False
            self._announce()
            while not self._told.stop:
                self._step()
                if self._told.take_reload():
                    self._reload()
                if self._told.take_debug():
                    self._tell_level()
            self._end()
        log.info("stopped")
        return 0

    # --- life and death -------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Start all workers: the first one alone, so that what is wrong is said once."""
        number = self._config.server.workers
        self._fork(1)
        self._until(lambda: self._serving() == 1)
        for other in range(2, number + 1):
            if not self._told.stop:
                self._fork(other)
        self._until(lambda: self._serving() == number)
        metrics.RELOADED_AT.set_to_current_time()
        self._notifier.ready(self._status())

    def _announce(self) -> None:
        """Tell that the mirror serves, once all workers do, and one of them knows what is in the store."""
        if self._counted is not None and not self._starting and not self._announced:
            self._announced = True
            capacity, used = self._counted["capacity"], self._counted["used"]
            self._owner.announce(self._config, capacity_bytes=capacity, used_bytes=used, bound=self._bindings.urls)

    def _until(self, reached: Callable[[], bool]) -> None:
        while not reached() and not self._told.stop:
            self._step()
            if self._failed is not None:
                raise self._failed

    def _serving(self) -> int:
        return sum(member.serving for member in self._crew.members.values())

    def _fork(self, number: int) -> None:
        config, bindings, owner, instance = self._config, self._bindings, self._owner, self._instance

        def live(channel: Channel) -> int:
            self._notifier.close()
            handed = bindings.keep(number - 1)
            return work(number, config, handed=handed, channel=channel, owner=owner, instance=instance)

        self._crew.fork(number, live)
        metrics.WORKERS.set(len(self._crew.members))

    def _bury(self, member: Member, code: int) -> None:
        self._scrape.bury(member)
        if self._answers.get(member.number, member) is None:
            del self._answers[member.number]
        metrics.WORKERS.set(len(self._crew.members))
        if self._told.stop:
            return
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if self._starting:
            text = f"worker {member.number} ended with {how} while the mirror started; the log has the rest"
            self._failed = self._failed or member.failure or MirrorError(text)
            return
        lived = time.monotonic() - member.born
        pause = self._start_again(member.number, at_once=lived >= _LIVED)
        metrics.WORKERS_LOST.inc()
        log.error(
            "a worker has ended, and is started again",
            number=member.number,
            how=how,
            reason=str(member.failure) if member.failure else None,
            lived=round(lived, 1),
            pause=pause,
        )

    def _start_again(self, number: int, *, at_once: bool) -> float:
        """Have a worker started again, ever later where it does not live; return in how many seconds."""
        pause = 0.0
        if not at_once:
            pause = min(max(self._pauses.get(number, 0.0) * 2, _FIRST_PAUSE), _LAST_PAUSE)
        self._pauses[number] = pause
        self._due[number] = time.monotonic() + pause
        return pause

    def _end(self) -> None:
        patience = self._config.server.shutdown_timeout
        log.info("stopping; a second signal ends it at once", patience=patience)
        self._notifier.stopping("stopping: what is under way may end", patience + _LAST)
        self._bindings.stop()  # who comes now is to be refused, and not to wait for nobody
        self._crew.tell("stop")
        until = time.monotonic() + patience + _LAST
        hurried = False
        while self._crew.members and time.monotonic() < until:
            self._crew.step(min(until - time.monotonic(), _LOOK_EVERY))
            if self._told.at_once and not hurried:
                hurried = True
                self._crew.tell("stop at once")
        if self._crew.members:
            log.error("workers did not end in time, and are ended", numbers=sorted(self._crew.members))
            self._crew.kill()

    def _dismiss(self) -> None:
        """End whoever is left: where the mirror cannot start, or does not end in time."""
        self._crew.tell("stop at once")
        until = time.monotonic() + _LEAVE_WITHIN
        while self._crew.members and time.monotonic() < until:
            self._crew.step(until - time.monotonic())
        self._crew.kill()

    # --- looking after them ---------------------------------------------------------------------------------------

    def _step(self) -> None:
        """Hear what comes for a while, and do what is due."""
        now = time.monotonic()
        dues = [now + _LOOK_EVERY, *self._due.values(), *([self._scrape.due] if self._scrape.due else [])]
        self._crew.step(min(dues) - now)  # a signal ends the wait
        now = time.monotonic()
        if self._scrape.due is not None and now >= self._scrape.due:
            self._scrape.finish()
        if not self._exchanging and not self._told.stop:
            for number in [number for number, due in self._due.items() if now >= due]:
                del self._due[number]
                try:
                    self._fork(number)
                except OSError as error:  # no memory, or too many processes: the others serve on
                    pause = self._start_again(number, at_once=False)
                    log.error("a worker cannot be started", number=number, reason=error.strerror, pause=pause)  # noqa: TRY400  # the reason says it all
        self._see_who_is_stuck(now)
        every = self._notifier.every
        if every is not None and self._trouble is None and now >= self._beat_at:
            self._beat_at = now + every
            self._notifier.beat()

    def _see_who_is_stuck(self, now: float) -> None:
        if now - self._looked_at > _AWAY:
            for member in self._crew.members.values():  # nobody could be heard: this process was held up itself
                member.heard = now
        self._looked_at = now
        stuck = [
            number
            for number, one in self._crew.members.items()
            if now - one.heard > (STUCK_AFTER if one.serving else _BEGUN_WITHIN)
        ]
        names = ", ".join(map(str, sorted(stuck)))
        trouble = f"worker {names} of this mirror does not answer; its log may say why" if stuck else None
        if trouble != self._trouble:
            self._trouble = trouble
            if trouble is None:
                log.info("all workers answer again")
            else:
                log.error("workers do not answer: what they are at follows", numbers=sorted(stuck))
                for number in stuck:
                    self._crew.trace(self._crew.members[number])
            self._crew.tell("trouble", text=trouble)
        if self._starting or len(stuck) == len(self._crew.members):
            self._excused_at = now  # it is the disk, or the machine: new ones would fare no better
        for member in list(self._crew.members.values()):
            if member.serving and now - max(member.heard, self._excused_at) > LOST_AFTER:
                log.error("a worker does not answer any more, and is ended", number=member.number, within=LOST_AFTER)
                self._crew.end(member)

    def _hear(self, member: Member, message: Message) -> None:
        match message.kind:
            case "serving":
                member.serving = True
                if self._trouble is not None:
                    member.channel.send("trouble", text=self._trouble)
            case "counted":
                self._counted = message.told
                self._announce()
            case "failed":
                problems: list[str] = message.told["problems"]
                error = ConfigError(problems) if message.told["config"] else MirrorError("\n".join(problems))
                member.failure = error
            case "report":
                self._scrape.report(member, message.body, asked=message.told["asked"])
            case "metrics":
                self._scrape.ask(member, message.told["number"])
            case "prepared" | "refused" | "committed":
                if member.number in self._answers and message.told["exchange"] == self._exchange_number:
                    self._answers[member.number] = message

    # --- what it is told by signals -------------------------------------------------------------------------------

    def _reload(self) -> None:
        self._notifier.reloading()
        before = self._config
        self._exchanging = True
        try:
            config = self._owner.read()
            reload.refuse_what_needs_a_restart(before, config)
            self._exchange(config)
        except Exception as error:  # noqa: BLE001  # whatever it is, the mirror goes on as before
            outcome = reload.refused(before, error)
        else:
            metrics.RELOADED_AT.set_to_current_time()
            outcome = reload.done(before, config, self._applied)
        finally:
            self._exchanging = False
        self._notifier.ready(f"{self._status()}; {outcome}")

    def _exchange(self, config: Config) -> None:
        """Have all workers go by `config`, or none of them: then raise `ConfigError` or `OSError`."""
        plan = self._bindings.prepare(config.server)
        self._exchange_number += 1
        party = [member for member in self._crew.members.values() if member.serving]
        try:
            body = pickle.dumps(replace(config, upstreams=dict(config.upstreams)))  # a read-only view cannot travel
            for member in party:
                handed = plan.handed(member.number - 1)
                counts = [(place, len(theirs)) for place, theirs in handed.items()]
                sockets = [sock for theirs in handed.values() for sock in theirs]
                number = self._exchange_number
                member.channel.send("prepare", body=body, sockets=sockets, counts=counts, exchange=number)
            self._ask(party, _AGREE_WITHIN)
            self._see_that_all_agree()
        except BaseException:
            self._decide(party, agreed=False)
            plan.undo()
            raise
        self._config = config
        self._decide(party, agreed=True)
        self._ask(party, _COMMIT_WITHIN)
        self._bindings.commit(plan)
        if self._told.stop:
            return  # all end, and with whatever they are at
        done = {number for number, said in self._answers.items() if said is not None and said.kind == "committed"}
        for member in list(self._crew.members.values()):
            if member.number not in done:  # it was just beginning, or failed where nothing should: it begins anew
                self._crew.end(member)

    def _ask(self, party: list[Member], within: float) -> None:
        """Wait until all of `party` who live have answered, for `within` seconds at most, or until all is to end."""
        self._answers = {member.number: None for member in party if member.number in self._crew.members}
        until = time.monotonic() + within
        while None in self._answers.values() and time.monotonic() < until and not self._told.stop:
            self._step()

    def _see_that_all_agree(self) -> None:
        problems = ["the mirror is stopping"] if self._told.stop else []
        for number, said in self._answers.items():
            if said is None and not self._told.stop:
                problems.append(f"worker {number} does not answer")
            elif said is not None and said.kind == "refused":
                problems += (problem for problem in said.told["problems"] if problem not in problems)
        if problems:
            raise ConfigError(problems)

    def _decide(self, party: list[Member], *, agreed: bool) -> None:
        for member in party:
            if self._crew.members.get(member.number) is member:
                member.channel.send("decide", agreed=agreed, exchange=self._exchange_number)

    def _applied(self, config: Config) -> None:
        self._owner.applied(config, self._bindings.urls)
        self._told.debugging = False

    def _tell_level(self) -> None:
        level = "debug" if self._told.debugging else self._config.log.level
        set_level(level)
        self._crew.tell("debug", level=level)
        on = self._told.debugging
        log.info("debug lines are logged until the next SIGUSR1" if on else "debug lines have ended")

    def _status(self) -> str:
        return f"serving at {', '.join(self._bindings.urls)}, {self._config.server.workers} workers"
