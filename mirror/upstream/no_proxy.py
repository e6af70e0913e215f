"""Which servers are asked without a proxy: `NO_PROXY`, read as Go's HTTP client and Docker read it.

The people who set it have set it for those; a mirror that reads the same value another way sends an inner registry's
requests out to the proxy, or fails to.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from yarl import URL

_IP = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_CIDR = re.compile(r"[0-9a-f.:]+/[0-9]{1,3}", re.ASCII)
_HOST_PORT = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::([^:\[\]]*))?")


@dataclass(frozen=True, slots=True)
class _Addresses:
    network: _Network
    port: str  # nothing: any


@dataclass(frozen=True, slots=True)
class _Names:
    suffix: str  # with the dot in front
    own: bool  # the name itself is meant too, not only what is below it
    port: str  # nothing: any


@dataclass(frozen=True, slots=True)
class NoProxy:
    """The entries of one `NO_PROXY`. Names and addresses are apart: `.1` does not cover 10.0.0.1."""

    everything: bool = False
    addresses: tuple[_Addresses, ...] = ()
    names: tuple[_Names, ...] = ()

    @classmethod
    def parse(cls, text: str) -> NoProxy:
        """Read a comma-separated list; an entry that makes no sense covers nothing, and is no error.

        An entry is `*`; a network (`10.0.0.0/8`); an address, IPv6 also in brackets; a name, which covers what is below
        it too; `.name` or `*.name`, which cover only what is below. A port may follow all but `*` and a network.
        """
        addresses: list[_Addresses] = []
        names: list[_Names] = []
        for entry in (part.strip().lower() for part in text.split(",")):
            if entry == "*":
                return cls(everything=True)
            found = _network(entry) or _entry(entry)
            if isinstance(found, _Addresses):
                addresses.append(found)
            elif found is not None:
                names.append(found)
        return cls(addresses=tuple(addresses), names=tuple(names))

    def covers(self, url: URL) -> bool:
        """Say whether `url` is asked without a proxy. This machine always is: a proxy cannot reach what is meant."""
        host, port = (url.raw_host or "").lower(), str(url.port)
        if host == "localhost":
            return True
        ip = _ip(host.partition("%")[0])
        if ip is not None:
            return (
                self.everything
                or ip.is_loopback
                or any(ip in entry.network and entry.port in ("", port) for entry in self.addresses)
            )
        return self.everything or any(
            (host.endswith(entry.suffix) or (entry.own and host == entry.suffix[1:])) and entry.port in ("", port)
            for entry in self.names
        )


def _network(entry: str) -> _Addresses | None:
    if _CIDR.fullmatch(entry) is None:
        return None
    try:
        return _Addresses(ipaddress.ip_network(entry, strict=False), "")
    except ValueError:
        return None


def _entry(entry: str) -> _Addresses | _Names | None:
    ip = _ip(entry)  # IPv6 without brackets has colons of its own
    if ip is not None:
        return _Addresses(ipaddress.ip_network(ip), "")
    match = _HOST_PORT.fullmatch(entry)
    if match is None:
        return None
    host, port = match[1] or match[2] or "", match[3] or ""
    ip = _ip(host)
    if ip is not None:
        return _Addresses(ipaddress.ip_network(ip), port)
    name = host.removeprefix("*.").removeprefix(".")
    return _Names("." + _ascii(name), own=host == name, port=port) if name else None


def _ip(text: str) -> _IP | None:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def _ascii(name: str) -> str:
    """Return the name as it is looked up (IDNA), or unchanged where there is no such form."""
    try:
        return URL.build(scheme="http", host=name).raw_host or name
    except ValueError:
        return name
