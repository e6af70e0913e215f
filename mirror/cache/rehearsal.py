"""What the cache would do now for a pull, found out from the cache itself, with upstreams that nobody dials.

The decisions are those of the mirror, not a second copy of them: only where it would send a request to upstream it is
told that there is no answer, and the request is remembered. So what comes of it is what a client would get if upstream
were away, after the questions that it would be asked.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from mirror.errors import MirrorError, UpstreamLimited, UpstreamUnavailable
from mirror.oci.digest import Digest
from mirror.upstream.standing import credentials_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mirror.cache.cache import Cache
    from mirror.cache.manifests import ManifestAnswer
    from mirror.oci.name import Reference, Repository
    from mirror.store.dealings import Dealings
    from mirror.upstream.protocol import (
        BlobBody,
        ManifestBody,
        ManifestHead,
        Probe,
        ReferrersBody,
        TagPage,
        Upstream,
        Upstreams,
        Urgency,
    )

_TROUBLE = (429, 500)  # a status from which on, or which, says that upstream is away


class WouldAsk(UpstreamUnavailable):
    """Stands where upstream would have been asked."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request for a manifest that would be sent."""

    method: str
    reference: Reference


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What came of it: who was `asked`, then an answer or an error; `WouldAsk` where it is upstream who decides."""

    asked: tuple[Question, ...]
    answer: ManifestAnswer | None = None
    error: MirrorError | None = None

    @property
    def fails(self) -> bool:
        """Whether a pull fails whatever upstream would say."""
        return self.error is not None and not isinstance(self.error, WouldAsk)


class Rehearsal:
    """`mirror.upstream.protocol.Upstreams` that are known, and not dialled. `book` has what they answered last."""

    def __init__(self, real: Upstreams, book: Dealings) -> None:
        self.asked: list[Question] = []
        self._real = real
        self._book = book

    def of(self, namespace: str) -> Upstream:
        """See `Upstreams.of`."""
        return _Silent(self._real.of(namespace), self, away=is_away(self._book, namespace))

    def show(self) -> None:
        """See `Upstreams.show`."""
        self._real.show()

    async def close(self) -> None:
        """See `Upstreams.close`."""
        await self._real.close()

    async def pull(self, cache: Cache, repository: Repository, reference: Reference) -> Rehearsed:
        """Have `cache`, which these are the upstreams of, answer as if a client pulled this."""
        get = cache.manifests.get if isinstance(reference, Digest) else cache.tags.get
        try:
            cache.admission.check(repository, reference)
            answer = await get(repository, reference)  # type: ignore[arg-type]  # each is given what it takes
        except MirrorError as error:
            return Rehearsed(tuple(self.asked), error=error)
        return Rehearsed(tuple(self.asked), answer)


def is_away(book: Dealings, namespace: str) -> bool:
    """Say whether the last contact with all endpoints of an upstream failed, or there was none, as far as is noted."""
    start = f"{namespace} "
    last = [row.get("status") for key, row in book.all("answer").items() if key.startswith(start)]
    limited, failed = _TROUBLE
    return all(status is None or status == limited or status >= failed for status in last)


class _Silent:
    """`mirror.upstream.protocol.Upstream` that does not answer."""

    def __init__(self, real: Upstream, rehearsal: Rehearsal, *, away: bool) -> None:
        self.namespace = real.namespace
        self.label = real.label
        self.accounts = real.accounts
        self.budget = real.budget
        self.away = away
        self._real = real
        self._rehearsal = rehearsal

    def lacks(self, repository: Repository) -> bool:
        """See `Upstream.lacks`."""
        return self._real.lacks(repository)

    async def head(self, repository: Repository, reference: Reference, *, patience: float) -> ManifestHead:  # noqa: ARG002
        """See `Upstream.head`."""
        await self._ask("HEAD", repository, reference)

    async def manifest(self, repository: Repository, reference: Reference, *, patience: float) -> ManifestBody:  # noqa: ARG002
        """See `Upstream.manifest`."""
        await self._ask("GET", repository, reference)

    @asynccontextmanager
    async def blob(
        self,
        repository: Repository,  # noqa: ARG002
        digest: Digest,  # noqa: ARG002
        *,
        start: int = 0,  # noqa: ARG002
        stop: int | None = None,  # noqa: ARG002
        urgency: Urgency,  # noqa: ARG002
        patience: float,  # noqa: ARG002
        avoid: frozenset[str] = frozenset(),  # noqa: ARG002
    ) -> AsyncIterator[BlobBody]:
        """See `Upstream.blob`."""
        self._refuse()
        yield  # what makes this a generator

    async def tags(self, repository: Repository, *, n: int | None, last: str | None, patience: float) -> TagPage:  # noqa: ARG002
        """See `Upstream.tags`."""
        self._refuse()

    async def referrers(self, repository: Repository, digest: Digest, *, patience: float) -> ReferrersBody:  # noqa: ARG002
        """See `Upstream.referrers`."""
        self._refuse()

    async def probe(self, *, patience: float) -> Probe:  # noqa: ARG002
        """See `Upstream.probe`."""
        self._refuse()

    async def _ask(self, method: str, repository: Repository, reference: Reference) -> NoReturn:
        names = await credentials_of(self._real, repository.name)
        asking = [name for name in names if self.accounts.aside(name) is None] or names
        wait = min((self.accounts.rest(name, f"manifest {method}") for name in asking), default=0.0)
        if wait and not (method == "GET" and self.accounts.bypassed):  # else an endpoint may have it
            whose = f", whoever asks ({', '.join(asking)})" if len(asking) > 1 else ""
            raise UpstreamLimited(
                f"{self.namespace} limits requests and asked to be left alone for {wait:.0f} s more{whose}",
                namespace=self.namespace,
                upstream_status=429,
                retry_after=wait,
            )
        self._rehearsal.asked.append(Question(method, reference))
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise WouldAsk(f"{self.namespace} would be asked", namespace=self.namespace)
