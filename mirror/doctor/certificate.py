"""What a certificate says of itself, read from its DER form without judging it (RFC 5280 §4.1).

Python's `ssl` tells nothing of a certificate that it does not trust, and that is the one that a person asks about.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SEQUENCE, _OID, _OCTETS, _UTC_TIME = 0x30, 0x06, 0x04, 0x17
_VERSION, _EXTENSIONS = 0xA0, 0xA3  # context-specific tags of TBSCertificate
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87  # of GeneralName
_COMMON_NAME, _ORGANIZATION = bytes.fromhex("550403"), bytes.fromhex("55040a")
_ALT_NAME = bytes.fromhex("551d11")
_SHOWN = 100  # characters of a name


@dataclass(frozen=True, slots=True)
class Certificate:
    """Who a certificate is for, who vouches for it, and until when. Nothing of it is verified."""

    subject: str
    issuer: str
    begins: dt.datetime
    ends: dt.datetime
    names: tuple[str, ...]  # DNS names and IP addresses

    @property
    def own(self) -> bool:
        """Whether it vouches for itself."""
        return self.subject == self.issuer


def read(der: bytes) -> Certificate:
    """Read one certificate; raise `ValueError` where it is none."""
    try:
        fields = [item for item in _items(_content(_content(der))) if item[0] != _VERSION]
        # serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo, and what may follow
        issuer, validity, subject = fields[2][1], fields[3][1], fields[4][1]
        begins, ends = (_time(tag, content) for tag, content in _items(validity))
        extensions = next((content for tag, content in fields[6:] if tag == _EXTENSIONS), b"")
        return Certificate(_name(subject), _name(issuer), begins, ends, tuple(_alternatives(extensions)))
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("is no certificate") from error


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each element (X.690 §8.1)."""
    at = 0
    while at < len(data):
        tag, size = data[at], data[at + 1]
        at += 2
        if size & 0x80:
            width = size & 0x7F
            size = int.from_bytes(data[at : at + width], "big")
            at += width
        if at + size > len(data):
            raise ValueError("is no certificate")
        yield tag, data[at : at + size]
        at += size


def _content(data: bytes) -> bytes:
    """Return what is in the sequence that `data` begins with."""
    tag, content = next(_items(data), (0, b""))
    if tag != _SEQUENCE:
        raise ValueError("is no certificate")
    return content


def _time(tag: int, content: bytes) -> dt.datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # RFC 5280 §4.1.2.5.1: two digits of a year, from 1950
        text = ("19" if text[:2] >= "50" else "20") + text
    return dt.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=dt.UTC)


def _name(content: bytes) -> str:
    """Return the common name, or else the organization, of a distinguished name."""
    found: dict[bytes, str] = {}
    for _, one in _items(content):
        for _, pair in _items(one):
            (tag, kind), (_, value) = tuple(_items(pair))[:2]
            if tag == _OID:
                text = value.decode("utf-8", errors="replace")
                found[kind] = "".join(c if c.isprintable() else " " for c in text)[:_SHOWN]
    return found.get(_COMMON_NAME) or found.get(_ORGANIZATION) or "somebody without a name"


def _alternatives(extensions: bytes) -> Iterator[str]:
    for _, extension in _items(_content(extensions) if extensions else b""):
        parts = list(_items(extension))
        if parts[0] != (_OID, _ALT_NAME) or parts[-1][0] != _OCTETS:
            continue
        for tag, value in _items(_content(parts[-1][1])):
            if tag == _DNS_NAME:
                yield value.decode("ascii", errors="replace")[:_SHOWN]
            elif tag == _IP_ADDRESS and len(value) in (4, 16):
                yield str(ipaddress.ip_address(value))
