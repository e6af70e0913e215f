"""Which network addresses a mirror may dial for an upstream that nobody configured by hand."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import re
import socket
from typing import Any

# Addresses that carry an IPv4 address inside: what counts is the address that the packet ends at.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

# What Python 3.11 takes for global: site-local addresses (RFC 3879), those for documentation (RFC 9637), and those of
# protocols (RFC 6890), where Oracle's cloud has its metadata; and the one at which Azure serves its virtual machines.
_NOT_PUBLIC = tuple(map(ipaddress.ip_network, ("fec0::/10", "3fff::/20", "192.0.0.0/24", "168.63.129.16/32")))

# A name as it is looked up, or an address. What else there is (%XX, say) may mean something else to a proxy.
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}(?:%25[A-Za-z0-9._-]{1,32})?", re.ASCII)

# Names that mean this machine or this site wherever they are looked up (RFC 6761, RFC 6762, RFC 9476 and custom).
_LOCAL_NAMES = ("localhost", "local", "internal", "home.arpa")
_BELOW_LOCAL_NAMES = tuple(f".{name}" for name in _LOCAL_NAMES)


class AddressRefused(OSError):
    """A connection to an address that is not public. The text is the same for each: asyncio joins texts that differ."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "it is a private address")


def is_host(host: str) -> bool:
    """Say whether this, as a URL has it (`raw_host`), is a name in ASCII or an IP address, and nothing else."""
    return _HOST.fullmatch(host) is not None


def is_public(address: str) -> bool:
    """Say whether the IP address is one of the public Internet; False also for what is not an IP address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is not None:
            ip = inner
    if any(ip.version == network.version and ip in network for network in _NOT_PUBLIC):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def is_private_host(host: str) -> bool:
    """Say whether `host`, as written, cannot be public: a private address, or a name that is local by definition.

    Other names are judged when they are dialled (`public_socket`): only then is it known where they lead.
    """
    name = host.lower().strip("[]").rstrip(".")
    if name in _LOCAL_NAMES or name.endswith(_BELOW_LOCAL_NAMES):
        return True
    with contextlib.suppress(OSError, UnicodeError):  # an IPv6 address, or a name
        # Every spelling that a resolver takes for an address: 127.1, 0177.0.0.1, 0x7f000001, 2130706433 (inet_aton(3)).
        name = socket.inet_ntoa(socket.inet_aton(name))
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return not is_public(name)


def public_socket(address: tuple[Any, ...]) -> socket.socket:
    """Make the socket for one entry of `getaddrinfo`; raise `AddressRefused` unless its address is public.

    It is aiohttp's `socket_factory`, so it sees the very address that is dialled: a name that resolves differently a
    moment later (DNS rebinding) does not pass, and neither does an address that is written out.
    """
    family, kind, protocol, _, where = address
    if not is_public(str(where[0])):
        raise AddressRefused
    return socket.socket(family=family, type=kind, proto=protocol)
