"""A network of its own, with a loopback and nothing else: no route leads out of it, and none in."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET, sched.h
_SET_FLAGS, _UP = 0x8914, 1  # SIOCSIFFLAGS, sockios.h; IFF_UP, net/if.h
_OWN = "/proc/thread-self/ns/net"


class Island:
    """Within `inside()` this thread's connections are the island's, and those of every program that it starts.

    A program that was started there stays there.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._network = -1

    def __enter__(self) -> Self:
        outside = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._check(self._libc.unshare(_NEW_NETWORK))
            self._network = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP))
        finally:
            self._go(outside)
            os.close(outside)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._network)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Be on the island."""
        outside = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._go(self._network)
            yield
        finally:
            self._go(outside)
            os.close(outside)

    def _go(self, network: int) -> None:
        self._check(self._libc.setns(network, _NEW_NETWORK))

    def _check(self, result: int) -> None:
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
