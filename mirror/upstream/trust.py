"""Where a registry's credentials may go: the boundary between it and the token service that it names (promise 9)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from publicsuffixlist import PublicSuffixList

from mirror.upstream.address import is_host, is_private_host

if TYPE_CHECKING:
    from yarl import URL


@cache
def _suffixes() -> PublicSuffixList:
    # Private suffixes count: two tenants of one hosting domain (github.io, amazonaws.com) do not trust each other.
    # An unknown suffix is one all the same, so that `registry.corp` and `evil.corp` share nothing.
    return PublicSuffixList(only_icann=False, accept_unknown=True)


def registrable(host: str) -> str | None:
    """Return the registrable domain of `host` (one label below its public suffix), or None if it has none."""
    domain: str | None = _suffixes().privatesuffix(host.lower().rstrip("."))
    return domain


class Trust:
    """The trust boundary of one registry. `realms` are the hosts that the configuration adds to it."""

    def __init__(self, registry: URL, realms: tuple[str, ...] = ()) -> None:
        self.registry = registry
        self._realms = frozenset(_host(realm) for realm in realms)

    def refusal(self, realm: URL) -> str | None:
        """Say why the realm must not be dialled at all, or None if it may."""
        host = realm.raw_host or ""
        if realm.scheme not in ("http", "https") or not is_host(host):
            return "its token realm is not a web address"
        if realm.user is not None or realm.password is not None:
            return f"its token realm has a user name in it, for {host}"
        if realm.scheme == "http" and self.registry.scheme == "https":
            return f"it asks for tokens to be fetched from {host} without TLS"
        if is_private_host(host) and not (self.names(realm) or is_private_host(self.registry.host or "")):
            return f"its token realm {host} is a private address; if that is right, add it to `realms` of this upstream"
        return None

    def covers(self, realm: URL) -> bool:
        """Say whether the registry's user name and password may be sent to this realm.

        Its host is the registry's, or shares its registrable domain, or is named in `realms`; and never over plain HTTP
        unless the registry itself is configured so.
        """
        if self.refusal(realm) is not None:
            return False
        host, own = (realm.host or "").lower(), (self.registry.host or "").lower()
        if host == own or self.names(realm):
            return True
        if is_private_host(host) or is_private_host(own):  # IP addresses share nothing
            return False
        domain = registrable(own)
        return domain is not None and domain == registrable(host)

    def names(self, realm: URL) -> bool:
        """Say whether `realms` of the configuration names this host, or this host and port."""
        host = (realm.host or "").lower()
        return host in self._realms or f"{host}:{realm.port}" in self._realms


def _host(realm: str) -> str:
    """Reduce what a person writes under `realms` (a host, host:port, or a whole address) to the host and its port."""
    return realm.lower().partition("://")[2].partition("/")[0] if "://" in realm else realm.lower().partition("/")[0]
