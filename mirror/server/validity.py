"""When a certificate ends, read from its file: the standard library tells that only of certificates of peers."""

from __future__ import annotations

import base64
import binascii
import math
import re
from datetime import UTC, datetime

# The labels that OpenSSL takes for a certificate (PEM_read_bio_X509_AUX).
_PEM = re.compile(rb"-----BEGIN ((?:X509 |TRUSTED )?CERTIFICATE)-----([A-Za-z0-9+/=\s]+)-----END \1-----")
_VERSION = 0xA0  # the tag [0]; a certificate of version 1 has no such field
_UTC_TIME = 0x17
_LONG = 0x80  # of a length: as many octets follow as the other bits say


def expiry(pem: bytes) -> float:
    """Return when the first certificate of a PEM file ends, in seconds since the epoch.

    Infinite for one whose dates are not as RFC 5280 wants them: then nobody can be warned.
    """
    found = _PEM.search(pem)
    try:
        return _not_after(base64.b64decode(found[2])) if found else math.inf
    except (ValueError, binascii.Error):
        return math.inf


def _not_after(der: bytes) -> float:
    # RFC 5280 §4.1: Certificate { TBSCertificate { [0] version, serial, signature, issuer, Validity { from, to } …
    certificate, _ = _split(der)
    fields, _ = _split(certificate)
    skipped = ["version"] if fields[:1] == bytes([_VERSION]) else []
    for _field in (*skipped, "serial", "signature", "issuer"):
        _, fields = _split(fields)
    validity, _ = _split(fields)
    _, after = _split(validity)
    text = _split(after)[0].decode()
    if after[0] == _UTC_TIME:  # its years are 1950 to 2049, §4.1.2.5.1
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _split(der: bytes) -> tuple[bytes, bytes]:
    """Return the content of the first element, and what follows it (X.690 §8.1). Raise `ValueError`."""
    if len(der) < 2:  # noqa: PLR2004  # tag and length
        raise ValueError("it ends too early")
    length, start = der[1], 2
    if length & _LONG:
        start += length & ~_LONG
        length = int.from_bytes(der[2:start])
    if len(der) < start + length:
        raise ValueError("it ends too early")
    return der[start : start + length], der[start + length :]
