"""Who asks: the address of a client, behind proxies too, and whether it may."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import BaseTransport

    from multidict import CIMultiDictProxy

UNIX = "unix"  # everybody who comes through a Unix socket
_UNKNOWN = "unknown"  # a peer that had gone before it was looked at
_MAX_HOPS = 32  # proxies in a row that are believed; more is a stranger's attempt to keep us busy
_REMEMBERED = 4096  # addresses of which is known whether a network holds them
_PORT = re.compile(r"(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?")
_FOR = re.compile(r"(?:^|;)\s*for=\s*([^;]*)", re.IGNORECASE)


def canonical_address(text: str) -> str | None:
    """Return the one spelling of an IP address, without zone, mapped IPv4 as IPv4; None where it is no address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def peer_of(transport: BaseTransport) -> str:
    """Return the address at the other end of a connection, or `unix`."""
    peer = transport.get_extra_info("peername")
    if isinstance(peer, tuple):
        return canonical_address(peer[0]) or _UNKNOWN
    return _UNKNOWN if peer is None else UNIX  # a Unix socket's peer has a path, which is most often empty


class Networks:
    """Networks in CIDR notation, and perhaps `unix`."""

    def __init__(self, written: tuple[str, ...]) -> None:
        self._unix = UNIX in written
        self._networks = tuple(ipaddress.ip_network(one) for one in written if one != UNIX)
        self._holds = lru_cache(_REMEMBERED)(self._look_up)

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)

    def __contains__(self, client: str) -> bool:
        """Say whether one of them holds a client, an address in its canonical spelling or `unix`."""
        return self._holds(client)

    def _look_up(self, client: str) -> bool:
        if client == UNIX:
            return self._unix
        try:
            address = ipaddress.ip_address(client)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


class Clients:
    """`trusted` proxies are believed about whom they ask for; `allow` and `deny` say who may ask: `deny` wins."""

    def __init__(self, *, trusted: tuple[str, ...], allow: tuple[str, ...], deny: tuple[str, ...]) -> None:
        self._trusted = Networks(trusted)
        self._allow = Networks(allow)
        self._deny = Networks(deny)

    def trusts(self, peer: str) -> bool:
        """Say whether a peer is a proxy that is believed."""
        return bool(self._trusted) and peer in self._trusted

    def of(self, peer: str, headers: CIMultiDictProxy[str]) -> str:
        """Return who asks: `peer`, or whom it asks for if it is a trusted proxy.

        That is the right-most address of `X-Forwarded-For`, or of `Forwarded` (RFC 7239) where that alone is there,
        that is no trusted proxy: what stands to the left of it was written by strangers. Where all are trusted it is
        the left-most. A header whose right end is no address is ignored.
        """
        if not self.trusts(peer):
            return peer
        hops = _forwarded_for(headers)
        client = peer
        for hop in reversed(hops):
            address = _address(hop)
            if address is None:
                return peer
            client = address
            if client not in self._trusted:
                break
        return client

    def refusal(self, client: str) -> str | None:
        """Return why a client may not ask, as a sentence for a person, or None where it may."""
        if self._deny and client in self._deny:
            return f"{client} may not use this mirror: it is in a network of server.deny_clients of the configuration"
        if self._allow and client not in self._allow:
            return f"{client} may not use this mirror: it is in no network of server.allow_clients of the configuration"
        return None


def _forwarded_for(headers: CIMultiDictProxy[str]) -> list[str]:
    """Return the hops, the nearest last. Several lines of a header are one list (RFC 9110 §5.3)."""
    lines = headers.getall("X-Forwarded-For", ())
    if lines:
        return [hop.strip() for hop in ",".join(lines).rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]]
    elements = ",".join(headers.getall("Forwarded", ())).rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]
    # No address holds a comma or a semicolon, so quotes need no care: a stranger's open quote, further to the left,
    # must not hide what a trusted proxy has written behind it.
    named = [_FOR.search(element.strip()) for element in elements]
    return [match[1].strip().strip('"') if match else "" for match in named] if elements != [""] else []


def _address(hop: str) -> str | None:
    """Read `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`, or nginx's `unix:`."""
    if hop in (UNIX, f"{UNIX}:"):
        return UNIX
    if hop.startswith("["):
        host, closing, port = hop[1:].partition("]")
        if not closing:
            return None
    elif hop.count(":") == 1:
        host, _, port = hop.partition(":")
        port = f":{port}"
    else:
        host, port = hop, ""
    return canonical_address(host) if _PORT.fullmatch(port) else None
