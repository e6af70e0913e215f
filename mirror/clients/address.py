"""Where clients reach the mirror: as a person says, as the configuration says, or as it listens."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mirror.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.config import Config, Listen

_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  # a comparison
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class MirrorAddress:
    """The mirror's URL (no slash at its end, no `/v2`), and the certificates (PEM) that vouch for it, if not public.

    `notes` says what was assumed on the way to the URL.
    """

    url: str
    ca: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Say whether it speaks HTTP without TLS."""
        return urlsplit(self.url).scheme == "http"

    @property
    def host(self) -> str:
        """Host and port, as the URL has them."""
        return urlsplit(self.url).netloc

    @property
    def path(self) -> str:
        """What a proxy in front wants before `/v2`, without a slash at its end; mostly nothing."""
        return urlsplit(self.url).path

    @property
    def host_of_image(self) -> str:
        """Host and port as the first component of an image's name, which is a host only if it has a dot or a colon."""
        parts = urlsplit(self.url)
        if "." in self.host or ":" in self.host or self.host == "localhost":
            return self.host
        return f"{self.host}:{_DEFAULT_PORTS[parts.scheme]}"

    @property
    def local(self) -> bool:
        """Say whether only the mirror's own machine can reach it there."""
        name = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name == "localhost"


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine is called, as far as it knows: a name with a domain, and the address that others see."""

    name: str | None
    address: str | None


def find_address(config: Config, *, url: str | None, ca: str | None, machine: Callable[[], Machine]) -> MirrorAddress:
    """Return where clients reach the mirror: at `url`, else at `server.public_url`, else where it listens first.

    `machine` is asked only where the mirror listens on all addresses. Raise `ConfigError` where there is no URL, or
    one that is not right.
    """
    notes: tuple[str, ...] = ()
    if url is not None:
        url = _checked(url)
    elif config.server.public_url is not None:
        url = config.server.public_url
    else:
        url, notes = _listened(config, machine)
    address = MirrorAddress(url, ca, notes)
    if ca is not None and address.plain:
        raise ConfigError(
            [f"--ca: {url} is not encrypted, so nothing vouches for it; leave --ca away, or use https://"]
        )
    if ca is None and not address.plain:
        hint = "a certificate that no public authority has signed needs its authority's: give it with --ca FILE"
        return MirrorAddress(url, ca, (*notes, hint))
    return address


def _checked(url: str) -> str:
    from mirror.config.scalars import check_url  # noqa: PLC0415  # pydantic is slow to import

    if "@" in url:  # not repeated: it may be a password
        raise ConfigError(["--url: holds a user name or password; the mirror asks clients for none, leave it away"])
    try:
        return check_url(url)
    except ValueError as error:
        raise ConfigError([f"--url: {url!r} {error}"]) from None


def _listened(config: Config, machine: Callable[[], Machine]) -> tuple[str, tuple[str, ...]]:
    listen = next((listen for listen in config.server.listen if listen.host and listen.port), None)
    if listen is None:
        where = ", ".join(str(listen) for listen in config.server.listen)
        raise ConfigError(
            [f"the mirror listens on {where}, which is no URL that a client could use: give it one with --url"]
        )
    scheme = "https" if config.server.encrypts(listen) else "http"
    if listen.host not in _EVERYWHERE:
        url = _url(scheme, listen.host, listen)
        if not listen.local:
            return url, ()
        return url, (f"{url} is where the mirror listens, for this machine alone: give another URL with --url",)
    found = machine()
    # A certificate names a host; without one an address is surer, since nobody need resolve it.
    wanted = (found.name, found.address) if scheme == "https" else (found.address, found.name)
    host = next((candidate for candidate in wanted if candidate), None)
    if host is None:
        raise ConfigError([f"the mirror listens on {listen}, and this machine has no name or address: give --url"])
    url = _url(scheme, host, listen)
    return url, (f"assumed that clients reach the mirror at {url}; if not, say where with --url or server.public_url",)


def _url(scheme: str, host: str, listen: Listen) -> str:
    port = "" if listen.port == _DEFAULT_PORTS[scheme] else f":{listen.port}"
    return f"{scheme}://[{host}]{port}" if ":" in host else f"{scheme}://{host}{port}"
