"""What a configuration is once it has been read: frozen values, passed down to whoever needs them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mirror.config.units import Size


ITSELF = "registry"  # among an upstream's `endpoints`, the word for its own `url`


class Secret:
    """A text that no representation shows. Whoever needs it says so with `reveal()`."""

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        self.__text = text

    def reveal(self) -> str:
        """Return the text itself. It goes into a header, and nowhere else."""
        return self.__text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.reveal() == self.__text

    def __hash__(self) -> int:
        return hash(self.__text)

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the server listens: a host and a port, a Unix socket (`path`), or sockets that systemd passes (`systemd`).

    Port 0 takes any free one. `systemd` is the `FileDescriptorName` of the sockets, or empty for all that are passed.
    `scheme` is what was written before host and port; without one it is TLS where `server.tls` is set.
    """

    host: str = ""
    port: int = 0
    path: str | None = None
    scheme: Literal["http", "https"] | None = None
    systemd: str | None = None

    @property
    def local(self) -> bool:
        """Say whether only this machine can reach it; of what systemd passes, nobody knows before the start."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        if self.systemd is not None:
            return f"systemd:{self.systemd}" if self.systemd else "systemd"
        address = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return f"{self.scheme}://{address}" if self.scheme else address


@dataclass(frozen=True, slots=True)
class Tls:
    """The server's own certificate chain and its key, PEM files that are known to load and to belong together."""

    cert_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How the server meets its clients. `shutdown_timeout` is in seconds.

    Networks are in CIDR notation (`10.0.0.0/8`, `fd00::/8`, single addresses with /32 or /128), IPv4 never mapped into
    IPv6; `unix` stands for everybody who comes through a Unix socket.
    """

    listen: tuple[Listen, ...]
    tls: Tls | None
    public_url: str | None  # without a slash at its end
    trusted_proxies: tuple[str, ...]  # networks whose X-Forwarded-For is believed
    workers: int
    offline: bool
    fallback: bool
    shutdown_timeout: float
    allow_clients: tuple[str, ...] = ()  # networks that may ask; empty: everybody
    deny_clients: tuple[str, ...] = ()  # networks that may not, whatever `allow_clients` says
    max_connections: int = 4096
    max_connections_per_client: int | None = None
    max_requests_per_client: int | None = None  # at once

    def encrypts(self, listen: Listen) -> bool:
        """Say whether TLS is spoken on a TCP address of `listen`; Unix sockets are always plain."""
        return self.tls is not None and listen.path is None and listen.scheme != "http"


@dataclass(frozen=True, slots=True)
class StorageConfig:
    """Where the cache lies and how large it may become: min(max_size, what is free less min_free)."""

    path: Path
    max_size: Size
    min_free: Size
    high_water: float = 0.95  # of that; past it the least recently used images go …
    low_water: float = 0.90  # … until this is reached
    scrub_rate: int = 8 * 1024**2  # bytes a second that are read to see whether the disk still has them; 0: none
    scrub_every: float = 30 * 24 * 3600.0  # seconds between two readings of the same content


@dataclass(frozen=True, slots=True)
class CredentialConfig:
    """One of several credentials of one upstream. `name` is what logs, metrics and tables call it; it is no secret."""

    name: str
    anonymous: bool = False  # ask without any; nothing of what follows but `repositories` is set then
    username: str | None = None
    password: Secret | None = None
    password_file: Path | None = None
    exec: tuple[str, ...] = field(default=(), repr=False)
    repositories: tuple[str, ...] = ()  # globs of repositories, without the namespace; empty: all of the upstream


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """One of several places where an upstream's content may be had.

    `at` says how it is dialled: its own `url`, credentials, TLS, proxy, `ns` and `prefix`; its `name`, its
    limits and its `read_ahead` are the upstream's.
    """

    label: str  # what logs, metrics and tables call it: host, or host:port; `itself` is the registry's own
    at: UpstreamConfig
    authoritative: bool  # it may say what a tag means, and whether a repository holds a digest
    itself: bool = False  # the registry's own `url`, with the upstream's own settings


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """One registry to fetch from. `name` is its canonical namespace; `url` has no slash at its end and no `/v2`."""

    name: str
    url: str
    endpoints: tuple[EndpointConfig, ...] = ()  # all of them in their order, the registry itself among them; or none
    endpoint_order: Literal["written", "health"] = "written"
    ns: bool = False  # `?ns=NAME` goes with each request: what is at `url` mirrors several registries
    prefix: str = ""  # before every repository's name at `url`, without slashes at its ends
    credentials: tuple[CredentialConfig, ...] = ()  # in place of the four that follow
    max_connections: int = 16  # that carry blobs, at once
    max_rate: int | None = None  # bytes of blobs a second
    stall_timeout: float = 10.0  # seconds in which a body brings less than `stall_rate`, after which it is broken off
    stall_rate: int = 1024  # bytes a second
    username: str | None = None
    password: Secret | None = None
    password_file: Path | None = None  # where `password` was read, and is read again when the file changes
    exec: tuple[str, ...] = field(default=(), repr=False)  # a program that prints credentials; arguments may be secret
    read_ahead: bool = True
    realms: tuple[str, ...] = ()  # hosts of token services that may see the password, besides the registry's own domain
    ca_file: Path | None = None
    client_cert_file: Path | None = None  # PEM files that are known to load and to belong together
    client_key_file: Path | None = None
    proxies: Proxies | None = None  # its own, in place of the environment's


@dataclass(frozen=True, slots=True)
class FreshnessRule:
    """How long a tag of the repositories that `match` may be served unasked, in seconds; `math.inf` is forever."""

    match: str
    ttl: float
    stale_while_revalidate: float
    stale_if_error: float
    immutable: bool


@dataclass(frozen=True, slots=True)
class PullRule:
    """What may be pulled of the repositories, or repositories with their tag, that `match`; as in `FreshnessRule`."""

    match: str
    allow: bool
    reason: str | None = None  # of a denial, for the person who is refused
    require_digest: bool = False  # a tag is refused; signature tags (`sha256-…`) never are
    min_age: float = 0.0  # seconds that a tag's new digest must have been known before it is served

    def written(self) -> str:
        """Return it as the configuration has it, for a person."""
        return f"{'allow' if self.allow else 'deny'}: {self.match}"


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """What is saved once less than `below` (a share, 0 to 1) of an upstream's limit is left."""

    below: float
    ttl: float  # seconds for which a cached tag is at least served unasked, whatever `freshness` says
    read_ahead: bool = True  # blobs are still fetched ahead, where they are counted; docker.io does not count them
    prefetch: bool = True  # `mirror prefetch` and revalidations behind an answer still ask


BUDGET = (  # what an empty configuration means; the narrowest that applies counts
    BudgetRule(0.50, ttl=600.0),
    BudgetRule(0.20, ttl=3600.0, prefetch=False),
    BudgetRule(0.05, ttl=6 * 3600.0, read_ahead=False, prefetch=False),
)


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is logged, and how. `access_file` gets a JSON line for each request of content, in place of the log."""

    level: Literal["debug", "info", "warning", "error"]
    format: Literal["auto", "console", "json"]
    access_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Proxies:
    """HTTP proxies. The URLs may hold a password, so no representation shows them."""

    http: str | None = field(default=None, repr=False)
    https: str | None = field(default=None, repr=False)
    no_proxy: str = ""  # as it stands; `upstream.no_proxy` reads it
    everywhere: bool = False  # this machine and what `no_proxy` names are asked through the proxy too


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. `freshness` is never empty: its last rule matches everything."""

    server: ServerConfig
    storage: StorageConfig
    upstreams: Mapping[str, UpstreamConfig]
    wildcard: bool  # upstreams that are not named are admitted too
    default_upstream: str
    freshness: tuple[FreshnessRule, ...]
    log: LogConfig
    proxies: Proxies
    pulls: tuple[PullRule, ...] = ()  # the first that matches decides; what none matches is allowed
    budget: tuple[BudgetRule, ...] = BUDGET  # by falling `below`
    credentials_files: tuple[Path, ...] = ()  # of Docker, Podman or Kubernetes; the first that has something counts
    named_in_files: frozenset[str] = frozenset()  # upstreams that those have credentials for
    refused: frozenset[str] = frozenset()  # upstreams that not even the wildcard admits: `NAME: false`
    source: str = field(default="defaults", compare=False)  # the file it was read from, as it was named
