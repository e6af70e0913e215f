"""Sockets that are bound and listened on: TCP, Unix, and those that systemd passes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirror.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mirror.config import Listen
    from mirror.server.systemd import PassedSocket

_Found = tuple[Any, ...]  # what `getaddrinfo` says of one address

BACKLOG = 1024
_UNIX_MODE = 0o666  # who may come in is for the socket's directory to say: mode bits on it, or a group of its own
# What an address of a name that has several may lack: the machine has IPv6 switched off, as many containers do.
_MISSING = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


async def bound(listen: Listen, passed: Sequence[PassedSocket], beside: Iterable[socket.socket]) -> list[socket.socket]:
    """Do as `bound_at_once` does, and keep the loop free while a name is looked up."""
    found: Sequence[_Found] = ()
    with _telling(listen):
        if listen.path is None and listen.systemd is None:
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return _bound(listen, found, passed, beside)


def bound_at_once(
    listen: Listen, passed: Sequence[PassedSocket], beside: Iterable[socket.socket]
) -> list[socket.socket]:
    """Return sockets that listen, and that nobody accepts from yet; at least one. Blocks. Raise `ConfigError`.

    `passed` are systemd's; of each a copy is returned. `beside` are sockets of this process that are to be given up:
    0.0.0.0:5000 may be bound while 127.0.0.1:5000 is still served.
    """
    found: Sequence[_Found] = ()
    with _telling(listen):
        if listen.path is None and listen.systemd is None:
            found = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return _bound(listen, found, passed, beside)


def twins(sock: socket.socket, number: int) -> list[socket.socket]:
    """Return `number` further sockets that listen at the TCP address of `sock`; the kernel spreads connections evenly.

    Raise `OSError`. `sock` was bound alone, which has shown that no other program listens there; from now on it shares.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found: list[socket.socket] = []
    try:
        for _ in range(number):
            twin = socket.socket(sock.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, sock.proto)
            found.append(twin)
            _set_up(twin)
            twin.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            twin.bind(sock.getsockname())
            twin.listen(BACKLOG)
    except OSError:
        _close(found)
        raise
    return found


class Common(socket.socket):
    """A socket that several processes accept from.

    asyncio takes as many connections at one wakeup as it was told for the queue, which would leave nothing to the
    others; so it is told 1, and the queue stays as long as it was.
    """

    def listen(self, _backlog: int = BACKLOG) -> None:
        """Listen, with the queue that all listeners have."""
        super().listen(BACKLOG)


def unnamed(listens: Iterable[Listen], passed: Sequence[PassedSocket]) -> list[str]:
    """Return the names of systemd's sockets that nothing listens on: nobody accepts there."""
    named = [listen.systemd for listen in listens]
    return sorted({one.name for one in passed if "" not in named and one.name not in named})


def inode(sock: socket.socket) -> tuple[int, int] | None:
    """Return device and inode of what the path of a Unix socket names now; None for TCP, and where there is nothing."""
    if sock.family != socket.AF_UNIX:
        return None
    try:
        there = Path(sock.getsockname()).lstat()
    except OSError:
        return None
    return there.st_dev, there.st_ino


@contextlib.contextmanager
def _telling(listen: Listen) -> Iterator[None]:
    """Tell what cannot be used, and why, as `ConfigError`."""
    try:
        yield
    except UnicodeError as error:  # what `getaddrinfo` says of a name that DNS cannot have
        raise ConfigError([f"server.listen: {listen} cannot be used: its name is none"]) from error
    except OSError as error:
        raise ConfigError([f"server.listen: {listen} cannot be used: {_reason(error)}"]) from error


def _bound(
    listen: Listen, found: Sequence[_Found], passed: Sequence[PassedSocket], beside: Iterable[socket.socket]
) -> list[socket.socket]:
    if listen.systemd is not None:
        return _from_systemd(listen, passed)
    if listen.path is not None:
        return [_unix(listen.path)]
    return _tcp(listen, found, list(beside))


def _tcp(listen: Listen, found: Sequence[_Found], beside: list[socket.socket]) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    port = listen.port
    missing: OSError | None = None
    for family, _, protocol, _, address in dict.fromkeys(found):
        try:
            sockets.append(_bind(family, protocol, (address[0], port, *address[2:]), beside))
        except OSError as error:
            if error.errno not in _MISSING:
                _close(sockets)
                raise
            missing = error
        else:
            port = sockets[-1].getsockname()[1]  # all addresses of a name share what the first was given for port 0
    if missing is not None and not sockets:
        raise missing
    return sockets


def _bind(family: int, protocol: int, address: tuple[str | int, ...], beside: list[socket.socket]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, protocol)
    try:
        _set_up(sock)
        rivals = [other for other in beside if other.family == family and other.getsockname()[1] == address[1]]
        with _sharing_ports(sock, *rivals):
            sock.bind(address)
            sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _set_up(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # [::] takes no IPv4 from 0.0.0.0


@contextlib.contextmanager
def _sharing_ports(*sockets: socket.socket) -> Iterator[None]:
    """Let these sockets overlap while one of them is bound, socket(7). Both sides have to say so, and others do not."""
    if len(sockets) == 1:
        yield
        return
    before = [sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for sock in sockets]
    for sock in sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        yield
    finally:
        for sock, shares in zip(sockets, before, strict=True):  # those of several workers share for ever
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)


def _unix(path: str) -> socket.socket:
    _clear(Path(path))
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind(path)
        Path(path).chmod(_UNIX_MODE)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _clear(path: Path) -> None:
    """Take away the socket that a mirror left when it was killed; never a file, never one that somebody listens on."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError([f"server.listen: {path} is there and is no socket; name another path"])
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)  # one whose queue is full would block, and is in use
            probe.connect(str(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)  # nobody listens on it
        return
    except BlockingIOError:
        pass
    raise ConfigError([f"server.listen: unix:{path} is in use; is another mirror running there?"])


def _from_systemd(listen: Listen, passed: Sequence[PassedSocket]) -> list[socket.socket]:
    wanted = [one for one in passed if listen.systemd in ("", one.name)]
    if not wanted:
        names = ", ".join(sorted({one.name for one in passed}))
        has = f"the sockets that systemd passes are called {names}" if names else "systemd passes no socket"
        raise ConfigError(
            [f"server.listen: {listen}: {has}; start the mirror by its .socket unit, or write an address to listen on"]
        )
    sockets: list[socket.socket] = []
    for one in wanted:
        try:
            with socket.socket(fileno=one.fd) as original:
                sockets.append(original.dup())
                original.detach()  # it stays open: a later reload may want it again
        except OSError as error:
            _close(sockets)
            raise ConfigError([f"server.listen: {listen}: file {one.fd} is no socket ({error.strerror})"]) from error
        sock = sockets[-1]
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            _close(sockets)
            raise ConfigError(
                [f"server.listen: {listen}: {one.name} is no socket to accept from; use ListenStream= and Accept=no"]
            )
        sock.setblocking(False)
    return sockets


def _close(sockets: Iterable[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the address is in use; is another mirror running there?"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address; 0.0.0.0 means all that it has"
    if isinstance(error, socket.gaierror):
        return "its name does not resolve; write an address, such as 127.0.0.1 or 0.0.0.0"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "not allowed; ports below 1024 need CAP_NET_BIND_SERVICE, a socket needs a directory to write in"
    if error.errno == errno.ENOENT:
        return "its directory does not exist; make it, or name another path"
    return f"{error.strerror or error}"
