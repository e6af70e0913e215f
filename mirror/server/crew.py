"""The processes that the supervisor has made: born by fork, heard through their channels, seen when they end.

They are forked, so that they share the memory of what was imported, and begin in milliseconds. Nothing here has a loop
or a thread, which would not live through that.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirror.server.channel import Channel

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.errors import MirrorError
    from mirror.server.channel import Message

_HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


@dataclass(slots=True, eq=False)
class Member:
    """One worker. Times are of the monotonic clock, in seconds."""

    number: int  # from 1
    pid: int
    channel: Channel
    born: float
    heard: float  # when it last said anything
    serving: bool = False
    failure: MirrorError | None = None  # why it could not begin


class Crew:
    """The workers that live."""

    def __init__(self, hear: Callable[[Member, Message], None], bury: Callable[[Member, int], None]) -> None:
        """`hear` gets each message; `bury` each member that has ended, with its exit code (negative: the signal)."""
        self.members: dict[int, Member] = {}
        self._hear = hear
        self._bury = bury
        self._selector = selectors.DefaultSelector()
        self._woken, self._wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._woken, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _awake)

    def fork(self, number: int, live: Callable[[Channel], int]) -> Member:
        """Make a worker, in which `live` runs and says the exit code. Raise `OSError`."""
        ours, theirs = Channel.pair()
        gc.freeze()  # its collector must not look at, and by that copy, what both share
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        try:
            pid = os.fork()
            if pid == 0:
                self._become(ours, theirs, live)
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
            theirs.close()
        now = time.monotonic()
        member = self.members[number] = Member(number, pid, ours, now, now)
        self._selector.register(ours, selectors.EVENT_READ, member)
        return member

    def tell(self, kind: str, **told: Any) -> None:
        """Send all of them a message."""
        for member in self.members.values():
            member.channel.send(kind, **told)

    def step(self, wait: float) -> None:
        """Hear what has come, waiting for `wait` seconds at most, and see who has ended."""
        for member in self.members.values():
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if member.channel.waits else 0)
            with contextlib.suppress(KeyError):  # it has closed its end, and is about to end
                self._selector.modify(member.channel, events, member)
        for key, events in self._selector.select(max(0.0, wait)):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    while os.read(self._woken, 512):
                        pass
                continue
            if events & selectors.EVENT_WRITE:
                key.data.channel.flush()
            if events & selectors.EVENT_READ:
                self._listen(key.data)
        self._reap()

    def end(self, member: Member) -> None:
        """End one of them at once; it is buried later."""
        member.serving = False
        os.kill(member.pid, signal.SIGKILL)

    def trace(self, member: Member) -> None:
        """Have one of them write the stacks of its threads to standard error, which it does whatever holds it up."""
        os.kill(member.pid, signal.SIGQUIT)

    def kill(self) -> None:
        """End all of them at once, and wait until they have."""
        for member in self.members.values():
            os.kill(member.pid, signal.SIGKILL)
        while self.members:
            self.step(1.0)

    def close(self) -> None:
        """Hear no more signals."""
        signal.set_wakeup_fd(-1)
        self._selector.close()
        os.close(self._woken)
        os.close(self._wakes)

    def _listen(self, member: Member) -> None:
        messages, ended = member.channel.receive()
        if ended:
            with contextlib.suppress(KeyError):
                self._selector.unregister(member.channel)
        if messages:
            member.heard = time.monotonic()
        for message in messages:
            self._hear(member, message)

    def _reap(self) -> None:
        for member in list(self.members.values()):
            pid, status = os.waitpid(member.pid, os.WNOHANG)
            if pid == 0:
                continue
            self._listen(member)  # its last words
            del self.members[member.number]
            member.channel.close()
            self._bury(member, os.waitstatus_to_exitcode(status))

    def _become(self, supervisors: Channel, own: Channel, live: Callable[[Channel], int]) -> None:
        """Turn this process, a copy of the supervisor, into a worker; never return."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _HEARD:  # a terminal, or systemd, tells all of its processes: the supervisor decides for all
                signal.signal(number, _awake)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
            supervisors.close()
            for member in self.members.values():
                member.channel.close()
            self.close()
            code = live(own)
        except BaseException:  # noqa: BLE001  # nothing of the supervisor's must go on here
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


def _awake(_number: int, _frame: object) -> None:
    """Hear a signal, and no more: a handler, unlike SIG_IGN, is not inherited by programs that are started."""
