"""The server's certificate: loaded, looked after while its files change, and exchanged without a connection lost.

Renewals come in many ways: files written over (copies of certbot's), links turned round (certbot's `live/`, Kubernetes'
`..data`), one file before the other. So both are looked at every few seconds, a pair counts only if it loads as a
whole, and the one before stays in use until then.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from mirror import metrics
from mirror.errors import ConfigError
from mirror.server.validity import expiry

if TYPE_CHECKING:
    from mirror.config import Tls

log = structlog.get_logger(__name__)

POLL = 5.0  # seconds between two looks at the files
_SOON = 14 * 86400.0  # seconds before its end from which a certificate is warned of
_SAID_EVERY = 86400.0  # seconds between two such warnings

_Signature = tuple[tuple[int, ...], ...]  # what stat says of both files


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its key, loaded. `expires` is in seconds since the epoch; infinite where it does not say."""

    tls: Tls
    context: ssl.SSLContext
    expires: float
    signature: _Signature


def load(tls: Tls) -> Pair:
    """Load a certificate and its key from their files; blocks. Raise `ConfigError` where they are of no use."""
    try:
        signature = _signature(tls)
        context = _context()
        # The empty password keeps OpenSSL from asking for one on the terminal.
        context.load_cert_chain(tls.cert_file, tls.key_file, password="")
        expires = expiry(tls.cert_file.read_bytes())
    except ssl.SSLError:
        problem = "do not load together; they are PEM files, the key is not encrypted and is the certificate's own"
        raise ConfigError([f"server.tls: {tls.cert_file} and {tls.key_file} {problem}"]) from None
    except OSError as error:
        problem = f"cannot be read ({error.strerror}); name files that the mirror may read"
        raise ConfigError([f"server.tls: {tls.cert_file} or {tls.key_file} {problem}"]) from None
    return Pair(tls, context, expires, signature)


class Certificates:
    """The certificate in use. Connections that are open keep theirs; each new one gets the newest."""

    def __init__(self) -> None:
        self._pair: Pair | None = None
        self._outer: ssl.SSLContext | None = None
        self._said = -_SAID_EVERY
        self._refused: _Signature | None = None  # files that did not load, and of which that has been said

    def context(self, pair: Pair) -> ssl.SSLContext:
        """Return what to listen with. It is the same one whatever `pair` is, and shows what `use` was last given."""
        if self._outer is None:
            self._outer = pair.context
            # Called in each handshake, whether or not the client names a server. Exchanging the context instead of
            # loading into the one that is there: that would go on showing an old RSA beside a new ECDSA certificate.
            self._outer.sni_callback = self._choose
        return self._outer

    def use(self, pair: Pair | None) -> None:
        """Show `pair` from the next handshake on; None is without TLS."""
        self._pair, self._refused, self._said = pair, None, -_SAID_EVERY
        if pair is None:
            metrics.CERTIFICATE_EXPIRES.set(0)
            return
        metrics.CERTIFICATE_EXPIRES.set(pair.expires)
        self.warn(time.time())

    async def watch(self) -> None:
        """Look at the files again and again, and use what they come to hold."""
        failing: _Signature | None = None
        while True:
            await asyncio.sleep(POLL)
            pair = self._pair
            if pair is None:
                continue
            self.warn(time.time())
            found = await asyncio.to_thread(_look, pair)
            if self._pair is not pair:  # a reload came between
                continue
            match found:
                case None:
                    failing = None
                case Pair():
                    failing = None
                    self.use(found)
                    log.info("the certificate is renewed", file=str(found.tls.cert_file), until=_day(found.expires))
                case (signature, problem):
                    # One file is often written before the other: it is a mistake only if it stays so.
                    if signature == failing and signature != self._refused:
                        self._refused = signature
                        log.error(
                            "the certificate's files have changed, and are of no use; the one before stays in use "
                            "until that is put right",
                            problem=problem,
                            until=_day(pair.expires),
                        )
                    failing = signature

    def warn(self, now: float) -> None:
        """Say once a day that the certificate ends soon, or has ended. `now` is in seconds since the epoch."""
        pair = self._pair
        if pair is None or pair.expires - now > _SOON or time.monotonic() - self._said < _SAID_EVERY:
            return
        self._said = time.monotonic()
        file = str(pair.tls.cert_file)
        if pair.expires <= now:
            log.error("THE CERTIFICATE HAS EXPIRED: clients refuse it; renew it", file=file, since=_day(pair.expires))
        else:
            log.warning("the certificate expires soon; renew it", file=file, until=_day(pair.expires))

    def _choose(self, connection: ssl.SSLObject, _name: str | None, context: ssl.SSLContext) -> None:
        if self._pair is not None and self._pair.context is not context:
            connection.context = self._pair.context


def _look(pair: Pair) -> Pair | tuple[_Signature, str] | None:
    """Return nothing if the files are as they were, a new pair, or what the files are and why they are of no use."""
    try:
        signature = _signature(pair.tls)
    except OSError as error:
        return (), f"{pair.tls.cert_file} or {pair.tls.key_file} cannot be read ({error.strerror})"
    if signature == pair.signature:
        return None
    try:
        return load(pair.tls)
    except ConfigError as error:
        return signature, error.problems[0]


def _signature(tls: Tls) -> _Signature:
    """Return what changes when a file is written, replaced, or linked to from elsewhere."""
    stats = (file.stat() for file in (tls.cert_file, tls.key_file))
    return tuple((stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)


def _context() -> ssl.SSLContext:
    """Return the settings of every handshake: RFC 9325, and HTTP/1.1 as the only protocol (RFC 7301)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client's way to make the server work (RFC 9325 §3.5)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _day(when: float) -> str:
    if math.isinf(when):
        return "nobody knows when"
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M UTC")
