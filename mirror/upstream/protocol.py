"""The seam between the cache and the registries it fills from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from mirror.oci.digest import Digest
    from mirror.oci.name import Reference, Repository
    from mirror.upstream.accounts import Accounts
    from mirror.upstream.budget import Budget


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """What upstream says of a manifest without sending it."""

    digest: Digest | None  # None: upstream sent no Docker-Content-Digest, or one that does not parse
    media_type: str
    size: int | None  # bytes
    stale: str | None = None  # a mirror that is the upstream says that it could not ask whether this still holds: why
    age: float = 0.0  # seconds since such a mirror asked (`Age`, RFC 9111 §5.1)


@dataclass(frozen=True, slots=True)
class ManifestBody:
    """A manifest as upstream sent it, byte for byte; its digest is verified (against the reference, or the header)."""

    digest: Digest
    media_type: str  # without parameters
    body: bytes
    public: bool  # it was obtained without credentials
    stale: str | None = None  # as in `ManifestHead`
    age: float = 0.0  # as in `ManifestHead`


@dataclass(frozen=True, slots=True)
class TagPage:
    """One page of a repository's tags, in upstream's order."""

    tags: tuple[str, ...]
    more: bool  # upstream says that there is a next page
    stale: str | None = None  # as in `ManifestHead`


@dataclass(frozen=True, slots=True)
class ReferrersBody:
    """Upstream's whole list of referrers of one digest: an OCI index, its pages joined, no filter applied."""

    body: bytes
    public: bool
    stale: str | None = None  # as in `ManifestHead`


@dataclass(frozen=True, slots=True)
class Probe:
    """How an upstream receives this mirror, asked just now."""

    identity: bool  # credentials were shown, and accepted
    offered: bool  # there are credentials for it; without `identity` nobody asked for them, or nobody may see them
    date: float | None  # upstream's clock, seconds since the epoch; None: it does not say
    seconds: float  # from the question to the answer, tokens included
    user: str | None = None  # whose credentials are offered; None: nobody's, or those of a bare token


class Urgency:
    """Whether somebody waits for a transfer. It may be raised once, while the transfer waits or runs."""

    __slots__ = ("_hear", "urgent")

    def __init__(self, *, urgent: bool) -> None:
        self.urgent = urgent
        self._hear: list[Callable[[], None]] = []

    def on_raise(self, hear: Callable[[], None]) -> None:
        """Call `hear` when the urgency is raised."""
        self._hear.append(hear)

    def raise_(self) -> None:
        """Make it urgent: a client has come to wait for what was only read ahead."""
        if not self.urgent:
            self.urgent = True
            for hear in self._hear:
                hear()


class Sender(Protocol):
    """Who sends a blob: one endpoint of an upstream."""

    @property
    def label(self) -> str:
        """What logs call it, and `avoid` names."""
        ...

    def lied(self, why: str) -> None:
        """Hear that what it sent is not what was asked for: it is left alone for a while, if there are others."""
        ...


class BlobBody(Protocol):
    """One answer to a GET of a blob, its headers read and checked, its body still to come."""

    start: int  # offset of the first byte that will come; 0 where upstream ignored the range
    stop: int | None  # offset after the last byte that will come; None: not known before the end
    size: int | None  # size of the whole blob, bytes; None: upstream did not say
    ranged: bool  # upstream answered 206
    public: bool  # it was obtained without credentials
    sender: Sender

    def pieces(self) -> AsyncIterator[bytes]:
        """Yield the bytes as they come, whatever has come by then, and never more than 1 MiB at once.

        Ends cleanly only at `stop`; raises `UpstreamUnavailable` where the transfer breaks or stalls.
        """
        ...


class Upstream(Protocol):
    """One registry. Every method raises one of `mirror.errors.UpstreamError` and nothing else.

    `patience` is what the whole call may take until the headers of the answer are there, in seconds: tokens, redirects,
    waiting for a free connection and retries included.
    """

    namespace: str
    label: str  # what metrics call it: its namespace, or `*` for one that only the wildcard admits

    @property
    def away(self) -> bool:
        """Whether the last contact failed, or there has been none, or the mirror is offline."""
        ...

    def lacks(self, repository: Repository) -> bool:
        """Say whether something of that repository could not be had lately, and who may know better is away.

        Only where there are several endpoints; the whole upstream is not `away` then, and gives what it has.
        """
        ...

    @property
    def accounts(self) -> Accounts:
        """Its credentials, and what it said of each."""
        ...

    @property
    def budget(self) -> Budget | None:
        """What it said last of its rate limit, for the credentials with the most left; None: nothing."""
        ...

    async def head(self, repository: Repository, reference: Reference, *, patience: float) -> ManifestHead:
        """Ask which manifest `reference` names now. Docker Hub does not count it against the limit."""
        ...

    async def manifest(self, repository: Repository, reference: Reference, *, patience: float) -> ManifestBody:
        """Fetch one manifest, at most 4 MiB (`oci.manifest.MAX_SIZE`), and verify it."""
        ...

    def blob(
        self,
        repository: Repository,
        digest: Digest,
        *,
        start: int = 0,
        stop: int | None = None,
        urgency: Urgency,
        patience: float,
        avoid: frozenset[str] = frozenset(),
    ) -> AbstractAsyncContextManager[BlobBody]:
        """Fetch a blob, or its bytes from `start` up to and without `stop`, by GET.

        A `Range` header is sent only where `start` or `stop` is given. What is not urgent is read-ahead: it waits
        behind whatever is urgent, and holds at most three quarters of the places for blobs of this upstream. Leaving
        the context early closes the connection, leaving it after the last byte keeps it for reuse. `avoid` names
        endpoints that are asked only where there is no other. An answer whose `Content-Range` is not what was asked for
        raises `UpstreamBroken`; a 200 to a range is an answer (`ranged` is False, `start` 0); a 416 raises
        `UpstreamBroken`.
        """
        ...

    async def tags(self, repository: Repository, *, n: int | None, last: str | None, patience: float) -> TagPage:
        """Fetch one page of the list of tags."""
        ...

    async def referrers(self, repository: Repository, digest: Digest, *, patience: float) -> ReferrersBody:
        """Fetch all referrers of `digest`. `UpstreamNotFound` says that upstream has no referrers API."""
        ...

    async def probe(self, *, patience: float) -> Probe:
        """Ask `/v2/` as this mirror asks for images; nothing of it counts against a limit.

        `UpstreamDenied` says that the credentials are refused, or that there have to be some and there are none.
        """
        ...


class Upstreams(Protocol):
    """All upstreams that the configuration admits."""

    def of(self, namespace: str) -> Upstream:
        """Return the upstream of a canonical namespace; raise `NameUnknown` for one that is not mirrored."""
        ...

    def show(self) -> None:
        """Tell the metrics what is known of each: they have forgotten it."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...
