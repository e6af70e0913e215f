"""Redirects, followed by hand: where one may lead, and where a blob was found last time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from cachetools import TTLCache
from yarl import URL

from mirror.upstream.address import is_host

if TYPE_CHECKING:
    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository

STATUSES = frozenset({301, 302, 303, 307, 308})
MAX_HOPS = 10
_MAX_KEPT = 16 * 1024  # characters of an address that is remembered

# Bytes that may not stand in a request line. Everything else goes out as it came: a signature covers every byte.
_UNSAFE = re.compile(r"[^\x21-\x7e]")


def next_hop(url: URL, location: str) -> URL:
    """Return where `location`, sent by `url`, leads, its path and query byte for byte.

    Raise `ValueError` with the reason where it must not be followed: no address, a step from TLS to plain HTTP, another
    scheme, or a user name inside (which would be sent as credentials).
    """
    if not location:
        raise ValueError("a redirect without a Location")
    try:
        target = URL(_UNSAFE.sub(lambda c: quote(c[0], errors="surrogateescape"), location), encoded=True)
        target = target if target.scheme else url.join(target)
        host, _ = target.raw_host, target.port
    except ValueError:
        raise ValueError("a redirect to what is not an address") from None
    if target.scheme not in ("http", "https") or not is_host(host or ""):
        raise ValueError("a redirect to what is not a web address")
    if target.scheme == "http" and url.scheme == "https":
        raise ValueError(f"a redirect from TLS to plain HTTP, to {host}")
    if target.user is not None or target.password is not None:
        raise ValueError(f"a redirect with a user name in it, to {host}")
    return target


@dataclass(frozen=True, slots=True)
class Signed:
    """Where a blob's bytes are. The address is itself a credential: it is never logged, and `repr` hides it."""

    url: URL
    public: bool

    def __repr__(self) -> str:
        return f"Signed({self.url.host})"


class SignedMemory:
    """The last redirect target of each blob, used until it is refused: the ranges of a blob ask the registry once.

    Bounded, and for five minutes at most (quay.io signs for ten): a right that the registry takes away ends soon.
    """

    def __init__(self, capacity: int = 1024, ttl: float = 300.0) -> None:
        self._targets: TTLCache[tuple[Repository, Digest], Signed] = TTLCache(capacity, ttl)

    def get(self, repository: Repository, digest: Digest) -> Signed | None:
        """Return where the blob was found last, if that is still worth trying."""
        return self._targets.get((repository, digest))

    def put(self, repository: Repository, digest: Digest, signed: Signed) -> None:
        """Remember where the blob was found; an address that nobody signs at such a length is not kept."""
        if len(str(signed.url)) <= _MAX_KEPT:
            self._targets[repository, digest] = signed

    def forget(self, repository: Repository, digest: Digest) -> None:
        """Drop a target that refused, could not be reached, or sent something else."""
        self._targets.pop((repository, digest), None)
