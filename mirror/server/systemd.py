"""What systemd and the mirror tell each other: sockets that are passed, and notes on how the service fares.

Sources: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3). Both protocols are plain, and systemd promises to keep
them, so its library is not needed.
"""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import structlog

if TYPE_CHECKING:
    from collections.abc import MutableMapping

log = structlog.get_logger(__name__)

_FIRST = 3  # SD_LISTEN_FDS_START
_MAX_PASSED = 1024  # sockets; a number past it is a mistake
_VARIABLES = (
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)


@dataclass(frozen=True, slots=True)
class PassedSocket:
    """A socket that was open when the process began, and its `FileDescriptorName`."""

    fd: int
    name: str


@dataclass(frozen=True, slots=True)
class Systemd:
    """What systemd told this process at its start. Without systemd: nothing."""

    sockets: tuple[PassedSocket, ...] = ()
    notify: str | None = None  # the address of its socket: a path, or @ and an abstract name
    watchdog: float | None = None  # seconds without a sign of life after which the service is killed

    @classmethod
    def take(cls, environ: MutableMapping[str, str], pid: int) -> Self:
        """Read what is meant for process `pid`, and take it out of `environ`: children must not take it for theirs."""
        told = {name: environ.pop(name, "") for name in _VARIABLES}
        sockets: tuple[PassedSocket, ...] = ()
        count = _number(told["LISTEN_FDS"])
        if told["LISTEN_PID"] == str(pid) and count:
            names = told["LISTEN_FDNAMES"].split(":") if told["LISTEN_FDNAMES"] else []
            names += ["unknown"] * (count - len(names))  # what systemd calls those that have no name
            sockets = tuple(PassedSocket(_FIRST + number, names[number]) for number in range(min(count, _MAX_PASSED)))
        watchdog = _number(told["WATCHDOG_USEC"]) / 1e6 or None
        if told["WATCHDOG_PID"] not in ("", str(pid)):
            watchdog = None
        return cls(sockets, told["NOTIFY_SOCKET"] or None, watchdog)


class Notifier:
    """Tells systemd how the service fares; does nothing where nobody listens."""

    def __init__(self, systemd: Systemd) -> None:
        self._address = systemd.notify
        self._every = systemd.watchdog / 2 if systemd.watchdog else None  # what sd_watchdog_enabled(3) recommends
        self._failed = False
        self._socket: socket.socket | None = None

    @property
    def heard(self) -> bool:
        """Whether there is somebody to tell."""
        return self._address is not None

    def ready(self, status: str) -> None:
        """The start, or a reload, has come to its end. `status` is one line for a person."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it, whatever came of it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str, within: float) -> None:
        """The end begins, and may take `within` seconds."""
        self._send("STOPPING=1", f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={int(within * 1e6)}")

    @property
    def every(self) -> float | None:
        """Seconds between two signs of life that the watchdog wants; None: it wants none."""
        return self._every if self.heard else None

    def beat(self) -> None:
        """Give one sign of life."""
        self._send("WATCHDOG=1")

    async def watch(self) -> None:
        """Give a sign of life as often as the watchdog wants one: from the loop, so that a stuck one is seen."""
        while self.every is not None:
            self.beat()
            await asyncio.sleep(self.every)

    def close(self) -> None:
        """Tell no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            # A name that begins with @ is in the abstract name space, unix(7).
            address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
            self._socket.sendto("\n".join(line.replace("\n", " ") for line in lines).encode(), address)
        except OSError as error:
            if not self._failed:  # the service does its work all the same
                log.warning("systemd cannot be told how the mirror fares", error=str(error), socket=self._address)
            self._failed = True
        else:
            self._failed = False


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0
