"""What is examined, passed down from the command line."""

from __future__ import annotations

import ipaddress
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from yarl import URL

from mirror.config import Listen, Proxies
from mirror.upstream.route import Proxy, Route

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable
    from pathlib import Path

    from mirror.config import Config
    from mirror.doctor.call import Reply, Trouble

_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  # a comparison


@dataclass(frozen=True)
class Target:
    """An address at which the mirror should answer: a URL, or a Unix socket (`socket`) and the URL to ask it for."""

    url: URL
    socket: str | None = None
    origin: str = ""  # where it was named: --url, server.public_url, server.listen

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket else shown(self.url)


@dataclass(frozen=True)
class Case:
    """One examination. `config` is None where the configuration does not load; its `problems` say why.

    `cautions` are sentences on what the configuration allows; `url` is the mirror's address, as a person gave it;
    `root` is where this host's files are; `proxies` are those of the environment; `files` is how many files a process
    may hold open here; `patience` is how long one request may take, seconds; `now` is this host's clock, seconds since
    the epoch.
    """

    root: Path
    config: Config | None = None
    problems: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    url: str | None = None
    proxies: Proxies = field(default_factory=Proxies)
    files: int | None = None
    patience: float = 5.0
    now: Callable[[], float] = time.time
    # What has been asked for the clients' files, by URL and authorities: those of ten registries all name one mirror
    # (`named.look`).
    asked: dict[tuple[URL, tuple[Path, ...]], Task[tuple[Reply | Trouble, str]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def here(self) -> bool:
        """Whether the mirror runs on this host, as far as it was told: else only a client's side is looked at."""
        if self.config is None:
            return False
        return self.url is None or self.config.source != "defaults" or _loopback(URL(self.url).host or "")

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """Where the mirror should answer: what a person gave, or else what the configuration says."""
        if self.url is not None:
            return (Target(URL(self.url), origin="--url"),)
        if self.config is None:
            return ()
        server = self.config.server
        public = [Target(URL(server.public_url), origin="server.public_url")] if server.public_url else []
        listens = [target for listen in server.listen if (target := self._target(listen)) is not None]
        return tuple(listens + [target for target in public if target.url not in [known.url for known in listens]])

    @property
    def address(self) -> URL | None:
        """The URL to give to clients: the public one if there is one; None where only a Unix socket is known."""
        urls = [target.url for target in self.targets if target.socket is None]
        public = [target.url for target in self.targets if target.origin == "server.public_url"]
        return next(iter(public + urls), None)

    @property
    def served(self) -> frozenset[str] | None:
        """The registries that the mirror serves; None where that is not known, or it serves all."""
        if self.config is None or not self.here or self.config.wildcard:
            return None
        return frozenset(self.config.upstreams)

    def proxy(self, url: URL) -> Proxy | None:
        """Return the proxy that the environment sends requests for `url` to, or None."""
        return Route(self.proxies).proxy(url)

    def at(self, path: str) -> Path:
        """Return where a file of this host is, below `root`; `path` is absolute."""
        return self.root / path.lstrip("/")

    def has(self, *paths: str) -> bool:
        """Say whether one of these files of this host is there, or is where only others may look."""
        return any(there(self.at(path)) for path in paths)

    def _target(self, listen: Listen) -> Target | None:
        if listen.path is not None:
            return Target(URL("http://localhost"), listen.path, "server.listen")
        if listen.systemd is not None or not listen.port or self.config is None:
            return None  # nobody but systemd, or the mirror's log, knows which address that became
        host = listen.host
        if host in _EVERYWHERE:
            host = "127.0.0.1" if ":" not in host else "::1"
        scheme = "https" if self.config.server.encrypts(listen) else "http"
        return Target(URL.build(scheme=scheme, host=host, port=listen.port), origin="server.listen")


def shown(url: URL) -> str:
    """Return a URL without the user and password that it may hold, nor its query."""
    return str(url.with_user(None).with_query(None)).removesuffix("/")


def there(path: Path) -> bool:
    """Say whether a file is there, or is where only others may look."""
    try:
        return path.exists()
    except PermissionError:  # whoever reads it will be told
        return True


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
