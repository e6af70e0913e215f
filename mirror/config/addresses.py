"""Addresses to listen on, and networks of clients, as people write them.

Each parser raises `ValueError` with the rest of a sentence that begins with what was written.
"""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Literal

from mirror.config.values import Listen

_HOST_AND_PORT = re.compile(
    r"(?:(https?)://)?(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})/?", re.ASCII | re.IGNORECASE
)
_SYSTEMD = re.compile(r"systemd(?::([ -9;-~]{1,255}))?", re.ASCII)  # sd_listen_fds_with_names(3): no control, no colon
_PORTS = range(65536)
_SUN_PATH = 107  # bytes of a Unix socket's path, unix(7)
_MAPPED = 96  # bits before the IPv4 address in ::ffff:0:0/96, RFC 4291 §2.5.5.2


def parse_listen(text: str) -> Listen:
    """Read `127.0.0.1:5000`, `https://[::]:443`, `unix:/run/mirror.sock`, `systemd` or `systemd:NAME`."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path or len(os.fsencode(path)) > _SUN_PATH:
            raise ValueError("is not a socket; write unix: and an absolute path of at most 107 bytes")
        return Listen(path=path)
    if text == "systemd" or text.startswith("systemd:"):
        named = _SYSTEMD.fullmatch(text)
        if named is None:
            raise ValueError("is not a socket of systemd; write systemd, or systemd: and its FileDescriptorName")
        return Listen(systemd=named[1] or "")
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        raise ValueError(_no_address(text))
    host, port = (match[2] or match[3]).lower(), int(match[4])
    if match[2]:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError("has no IPv6 address in its brackets; write for example [::1]:5000") from None
    if port not in _PORTS:
        raise ValueError("has a port that does not exist; ports end at 65535")
    return Listen(host=host, port=port, scheme=_scheme(match[1]))


def parse_network(text: str) -> str:
    """Read a network, or one address as a network, in CIDR notation; `unix` stays what it is."""
    if text == "unix":
        return text
    try:
        # A zone (RFC 4007 §11, `%eth0`) says where a network is, which no client's address does.
        interface = ipaddress.ip_interface("" if "%" in text else text)
    except ValueError:
        raise ValueError("is not a network; write for example 10.0.0.0/8, 192.0.2.7, fd00::/8, or unix") from None
    network = interface.network
    if interface.ip != network.network_address:
        raise ValueError(f"has bits behind its mask; write {network} for the network, or {interface.ip} for the host")
    if isinstance(network, ipaddress.IPv6Network) and (mapped := network.network_address.ipv4_mapped) is not None:
        if network.prefixlen < _MAPPED:
            raise ValueError("mixes IPv4 with IPv6; write IPv4 networks as such, for example 10.0.0.0/8")
        return str(ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED)))
    return str(network)


def _no_address(text: str) -> str:
    if re.fullmatch(r":?[0-9]{1,5}", text, re.ASCII):
        port = text.lstrip(":")
        return f"does not say for whom; write 127.0.0.1:{port} for this machine alone or 0.0.0.0:{port} for everybody"
    return "is not an address; write for example 127.0.0.1:5000, [::]:5000 or unix:/run/mirror.sock"


def _scheme(text: str | None) -> Literal["http", "https"] | None:
    if text is None:
        return None
    return "https" if text.lower() == "https" else "http"
