"""Sockets that the server listens on: TCP and Unix, plain and TLS."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from mirror.errors import ConfigError

if TYPE_CHECKING:
    from mirror.config.values import Listen, Tls

_BACKLOG = 1024


async def listen_on(runner: web.ServerRunner, listen: Listen, tls: Tls | None) -> str:
    """Listen, and return the address as a URL, or `unix:PATH`. Raise `ConfigError` where that cannot be."""
    context = _context(tls) if tls else None
    site: web.BaseSite
    if listen.path is not None:
        _clear(listen)
        site = web.UnixSite(runner, listen.path, ssl_context=context, backlog=_BACKLOG)
    else:
        site = web.TCPSite(runner, listen.host, listen.port, ssl_context=context, backlog=_BACKLOG)
    try:
        await site.start()
    except OSError as error:
        raise ConfigError([f"server.listen: {listen} cannot be used: {_reason(error)}"]) from error
    return _address(listen, site, "https" if tls else "http")


def _clear(listen: Listen) -> None:
    """Take away the socket that a mirror left when it was killed; never a file, never one that somebody listens on."""
    path = Path(listen.path or "")
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError([f"server.listen: {path} is there and is no socket; name another path"])
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)  # nobody listens on it
        return
    except OSError as error:
        raise ConfigError([f"server.listen: {listen} cannot be used: {_reason(error)}"]) from error
    raise ConfigError([f"server.listen: {listen} is in use; is another mirror running there?"])


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the address is in use; is another mirror running there?"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address; 0.0.0.0 means all that it has"
    if isinstance(error, socket.gaierror):
        return "its name does not resolve; write an address, such as 127.0.0.1 or 0.0.0.0"
    if error.errno == errno.EACCES:
        return "not allowed; ports below 1024 need CAP_NET_BIND_SERVICE, a socket needs a directory to write in"
    if error.errno == errno.ENOENT:
        return "its directory does not exist; make it, or name another path"
    return f"{error.strerror or error}"


def _address(listen: Listen, site: web.BaseSite, scheme: str) -> str:
    if listen.path is not None:
        return f"unix:{listen.path}"
    server = site._server  # noqa: SLF001  # aiohttp has no public way to the port that was taken for port 0
    port = listen.port
    if isinstance(server, asyncio.Server) and server.sockets:
        port = server.sockets[0].getsockname()[1]
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    return f"{scheme}://{host}:{port}"


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls.cert_file, tls.key_file)
    return context
