"""What an upstream's TLS connections trust, and to whom they show a certificate of this mirror's own."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import structlog

from mirror.upstream.watched import Watched

if TYPE_CHECKING:
    from pathlib import Path

    from yarl import URL

    from mirror.config import UpstreamConfig
    from mirror.upstream.route import Proxy
    from mirror.upstream.trust import Trust

_log = structlog.get_logger(__name__)

# `None` asks for the usual trust store.
Context = ssl.SSLContext | None


class Tls:
    """The TLS contexts of one upstream, made again when one of its files changes.

    Without `trust` nobody configured the upstream: the usual authorities count, and nothing is shown. Raises `OSError`
    or `ValueError`, whose text names the file, where one cannot be used.
    """

    def __init__(self, upstream: UpstreamConfig | None = None, trust: Trust | None = None) -> None:
        self._trust = trust
        self._told = False
        self._watched: Watched[tuple[Context, Context]] | None = None
        if upstream is None:
            return
        ca_file, cert_file, key_file = upstream.ca_file, upstream.client_cert_file, upstream.client_key_file
        paths = tuple(path for path in (ca_file, cert_file, key_file) if path is not None)
        if paths:
            self._watched = Watched(paths, lambda: _contexts(ca_file, cert_file, key_file))

    async def context(self, url: URL, *, kind: str, proxy: Proxy | None = None) -> Context:
        """Return the context for a request, as `choose` does, and nothing else."""
        return (await self.choose(url, kind=kind, proxy=proxy))[0]

    async def choose(self, url: URL, *, kind: str, proxy: Proxy | None = None) -> tuple[Context, bool]:
        """Return the context for a request to `url` through `proxy`, and whether it shows the client certificate.

        `kind` is as `Wire.send` has it. The certificate is a credential: it goes to the registry's own origin and to
        the token services inside its trust boundary, never to a redirect's target (promise 9).
        """
        if self._watched is None or url.scheme != "https":
            return None, False
        plain, showing = await self._watched.current()
        if showing is plain or not self._shows(url, kind):
            return plain, False
        if proxy is not None and proxy.url.scheme == "https":  # one context serves both: the proxy would see it too
            self._withhold(proxy)
            return plain, False
        return showing, True

    def _withhold(self, proxy: Proxy) -> None:
        if not self._told:
            self._told = True
            _log.warning(
                "client certificate withheld: the proxy, which is spoken to over https, would be shown it; "
                "name the proxy by its http:// address",
                proxy=proxy.url.host,
            )

    def _shows(self, url: URL, kind: str) -> bool:
        if self._trust is None:
            return False
        return url.origin() == self._trust.registry.origin() or (kind == "token" and self._trust.covers(url))


def _contexts(ca_file: Path | None, cert_file: Path | None, key_file: Path | None) -> tuple[Context, Context]:
    plain = trust_store(ca_file) if ca_file is not None else None
    if cert_file is None:
        return plain, plain
    showing = trust_store(ca_file)
    try:
        # The empty password keeps OpenSSL from asking for one on the terminal.
        showing.load_cert_chain(cert_file, key_file, password="")
    except ssl.SSLError:
        raise ValueError(f"{cert_file} and {key_file} are no certificate and its own unencrypted key, as PEM") from None
    return plain, showing


def trust_store(ca_file: Path | None) -> ssl.SSLContext:
    """Return the usual trust store and the certificates of `ca_file`; raise `OSError` or `ValueError`, naming it."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except ssl.SSLError:
            raise ValueError(f"{ca_file} holds no certificate of an authority, as PEM") from None
    return context
