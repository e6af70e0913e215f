"""One upstream at several addresses: a mirror near by, another cache, the registry itself.

Content is checked by its digest, so whoever sends it need not be trusted. What a tag means, and what a repository
holds, only those say that are authoritative.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from cachetools import TTLCache

from mirror.errors import (
    UpstreamBroken,
    UpstreamDenied,
    UpstreamError,
    UpstreamLimited,
    UpstreamNotFound,
    UpstreamUnavailable,
)
from mirror.metrics import UPSTREAM_AWAY
from mirror.oci.digest import Digest
from mirror.upstream import backoff
from mirror.upstream.circuit import BLOB
from mirror.upstream.endpoint import MANIFEST
from mirror.upstream.logins import NoCredentials

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from typing import Literal

    from mirror.oci.name import Reference, Repository
    from mirror.upstream.accounts import Accounts
    from mirror.upstream.budget import Budget
    from mirror.upstream.endpoint import Endpoint
    from mirror.upstream.protocol import (
        BlobBody,
        ManifestBody,
        ManifestHead,
        Probe,
        ReferrersBody,
        TagPage,
        Urgency,
    )
    from mirror.upstream.slots import Slots

_T = TypeVar("_T")

FIRST_ANSWER = 5.0  # seconds that one may take to answer while there is another to ask
PROBE_PATIENCE = 5.0  # seconds for `/v2/` of one that was left alone
LACKS = 300.0  # seconds for which nothing of a repository is begun that could not be had, while the registry is away
_MOST_LACKING = 64  # digests of one repository
_SHORTEST = 0.2  # seconds; in less nobody is asked, and blamed for not answering
_FOR_A_REST = 0.1  # of the patience, as in `Attempts`
_CONFIRMATION = (0, 1)  # the range that is asked for to see whether a repository holds a blob


class Endpoints:
    """`mirror.upstream.protocol.Upstream` over several `Endpoint`s, of which one at least is authoritative.

    `order` says who is asked first: whoever is written first, or whoever was quickest of late (`health`). `places` are
    those for blobs of all of them together.
    """

    def __init__(self, members: Sequence[Endpoint], *, order: Literal["written", "health"], places: Slots) -> None:
        self.members = tuple(members)
        self._order = order
        self._places = places
        self._itself = next((one for one in members if one.itself), None) or next(
            one for one in members if one.authoritative
        )
        self._itself.registry.accounts.bypassed = len(self.members) > 1
        self.namespace = self._itself.registry.namespace
        self.label = self._itself.registry.label
        self._down = False
        self._lacking: TTLCache[Repository, set[Digest]] = TTLCache(4096, LACKS)
        self._probes: set[asyncio.Task[None]] = set()

    @property
    def away(self) -> bool:
        """Whether none of them is of help: the last contact with each failed, or there has been none."""
        return all(member.away for member in self.members)

    def lacks(self, repository: Repository) -> bool:
        """See `Upstream.lacks`: the registry is away, and those that are there did not have what was wanted."""
        return bool(self._lacking.get(repository)) and self._headless

    @property
    def _headless(self) -> bool:
        """Whether nobody answers who could say what a tag is."""
        return all(member.away for member in self.members if member.authoritative)

    @property
    def accounts(self) -> Accounts:
        """The credentials of the registry itself."""
        return self._itself.registry.accounts

    @property
    def budget(self) -> Budget | None:
        """What the registry itself said last of its rate limit."""
        return self._itself.registry.budget

    async def head(self, repository: Repository, reference: Reference, *, patience: float) -> ManifestHead:
        """See `Upstream.head`. Only who is authoritative is asked, of a digest too: it is to say who holds it.

        What is not there is so where the registry itself says it: by this a tag that is cached is dropped.
        """
        return await self._head(repository, reference, patience, sure=True)

    async def _head(self, repository: Repository, reference: Reference, patience: float, *, sure: bool) -> ManifestHead:
        return await self._ask(
            patience, lambda one, left: one.ask(lambda at: at.head(repository, reference, patience=left)), sure=sure
        )

    async def manifest(self, repository: Repository, reference: Reference, *, patience: float) -> ManifestBody:
        """See `Upstream.manifest`.

        Where the first to be asked may not say what a tag is, a HEAD (which nobody counts) asks one that may, and the
        content comes from the first that has it.
        """
        if isinstance(reference, Digest):
            return await self._by_digest(repository, reference, patience)
        if not self._in_order(MANIFEST, authoritative=False)[0].authoritative:
            deadline = asyncio.get_running_loop().time() + patience
            head = await self._head_or_none(repository, reference, patience)
            patience = deadline - asyncio.get_running_loop().time()
            if head is not None and head.digest is not None:
                return await self._as_tagged(repository, reference, head, head.digest, patience)
        return await self._ask(patience, lambda one, left: one.manifest(repository, reference, left))

    @asynccontextmanager
    async def blob(
        self,
        repository: Repository,
        digest: Digest,
        *,
        start: int = 0,
        stop: int | None = None,
        urgency: Urgency,
        patience: float,
        avoid: frozenset[str] = frozenset(),
    ) -> AsyncIterator[BlobBody]:
        """See `Upstream.blob`. The first byte alone is asked of those that may say what a repository holds."""
        deadline = asyncio.get_running_loop().time() + patience
        async with AsyncExitStack() as stack:
            stack.callback(self.show_away)  # a body that broke may have been the last contact with any of them
            try:
                place = self._places.place(urgency, deadline=deadline, image=str(repository))
                await stack.enter_async_context(place)
            except TimeoutError:
                raise UpstreamUnavailable(
                    f"no place for another blob from {self.namespace} came free within {patience:.3g} s",
                    namespace=self.namespace,
                ) from None

            def opened(one: Endpoint, left: float) -> Awaitable[BlobBody]:
                asked = one.blob(repository, digest, start=start, stop=stop, urgency=urgency, patience=left)
                return stack.enter_async_context(asked)

            confirming = (start, stop) == _CONFIRMATION
            with nullcontext() if confirming else self._noted(repository, digest):
                body = await self._ask(
                    deadline - asyncio.get_running_loop().time(),
                    opened,
                    kind=BLOB,
                    authoritative=confirming,
                    avoid=avoid,
                )
            yield body

    async def tags(self, repository: Repository, *, n: int | None, last: str | None, patience: float) -> TagPage:
        """See `Upstream.tags`."""
        return await self._ask(
            patience, lambda one, left: one.ask(lambda at: at.tags(repository, n=n, last=last, patience=left))
        )

    async def referrers(self, repository: Repository, digest: Digest, *, patience: float) -> ReferrersBody:
        """See `Upstream.referrers`."""
        return await self._ask(
            patience, lambda one, left: one.ask(lambda at: at.referrers(repository, digest, patience=left))
        )

    async def probe(self, *, patience: float) -> Probe:
        """See `Upstream.probe`: how the registry itself receives this mirror."""
        return await self._itself.registry.probe(patience=patience)

    async def close(self) -> None:
        """End what runs on its own."""
        for task in self._probes:
            task.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)

    # --- manifests -----------------------------------------------------------------------------------------------

    async def _by_digest(self, repository: Repository, digest: Digest, patience: float) -> ManifestBody:
        with self._noted(repository, digest):
            return await self._ask(
                patience, lambda one, left: one.manifest(repository, digest, left), authoritative=False
            )

    @contextmanager
    def _noted(self, repository: Repository, digest: Digest) -> Iterator[None]:
        """Remember what is not to be had while the registry is away."""
        try:
            yield
        except UpstreamError:
            lacking = self._lacking.get(repository, set())
            if self._headless and len(lacking) < _MOST_LACKING:
                self._lacking[repository] = {*lacking, digest}
            raise
        self._lacking.get(repository, set()).discard(digest)

    async def _head_or_none(self, repository: Repository, tag: Reference, patience: float) -> ManifestHead | None:
        try:
            return await self._head(repository, tag, patience, sure=False)
        except UpstreamBroken:
            return None  # this registry does not do HEAD well: it is asked the other way

    async def _as_tagged(
        self, repository: Repository, tag: Reference, head: ManifestHead, digest: Digest, patience: float
    ) -> ManifestBody:
        try:
            found = await self._by_digest(repository, digest, patience)
        except UpstreamNotFound as error:  # a push seen half way: the tag was not denied
            raise UpstreamBroken(
                f"{repository}:{tag} is {digest}, and {self.namespace} does not have that",
                namespace=self.namespace,
                upstream_status=error.upstream_status,
            ) from error
        return replace(found, stale=head.stale, age=head.age)

    # --- who is asked --------------------------------------------------------------------------------------------

    async def credentials(self, repository: str) -> list[str]:
        """See `Registry.credentials`: those of the registry itself."""
        return await self._itself.registry.credentials(repository)

    def _in_order(self, kind: str, *, authoritative: bool, avoid: frozenset[str] = frozenset()) -> list[Endpoint]:
        self._look_after()
        return self.order(kind, authoritative=authoritative, avoid=avoid)

    def order(self, kind: str, *, authoritative: bool, avoid: frozenset[str] = frozenset()) -> list[Endpoint]:
        """Return those that may be asked, whoever comes first in front; one that is left alone comes last."""
        ready: list[Endpoint] = []
        alone: list[Endpoint] = []
        for member in self.members:
            if member.authoritative or not authoritative:
                (ready if member.circuit.admits(kind) else alone).append(member)
        if self._order == "health":
            ready.sort(key=lambda member: member.merit.expected)
        good = [member for member in ready if member.label not in avoid]
        avoided = sorted((one for one in ready if one.label in avoid), key=lambda member: member.circuit.failed_at)
        alone.sort(key=lambda member: (member.label in avoid, member.circuit.due))
        return [*good, *avoided, *alone]

    async def _ask(
        self,
        patience: float,
        question: Callable[[Endpoint, float], Awaitable[_T]],
        *,
        kind: str = MANIFEST,
        authoritative: bool = True,
        avoid: frozenset[str] = frozenset(),
        sure: bool = False,
    ) -> _T:
        """Return what the first of them says that can say it, trying all again as one registry is tried again.

        `sure`: see `_round`.
        """
        deadline = asyncio.get_running_loop().time() + patience
        tries = 1 if self._down else backoff.TRIES
        try:
            for number in range(tries):
                among = self._in_order(kind, authoritative=authoritative, avoid=avoid)
                try:
                    answer = await self._round(among, deadline, question, sure=sure)
                except NoCredentials:
                    raise  # a program that fails is not run again so soon
                except (UpstreamLimited, UpstreamUnavailable) as error:
                    limited = isinstance(error, UpstreamLimited)
                    wait = max(backoff.delay(number), error.retry_after or 0.0)
                    left = deadline - asyncio.get_running_loop().time()
                    most = min(backoff.LONGEST_WAIT, patience * _FOR_A_REST) if limited else backoff.LONGEST_WAIT
                    if number + 1 == tries or wait > most or wait >= left - _SHORTEST:
                        self._down = not limited
                        raise
                    await asyncio.sleep(wait)
                else:
                    self._down = False
                    return answer
        finally:
            self.show_away()
        raise AssertionError("the last attempt either returns or raises")

    async def _round(
        self,
        among: list[Endpoint],
        deadline: float,
        question: Callable[[Endpoint, float], Awaitable[_T]],
        *,
        sure: bool,
    ) -> _T:
        """Ask one after the other. Raise what counts most: what one said that is authoritative, and not for ever.

        That the registry does not have it only the registry knows: a cache that cannot reach it says 404, too. So it
        is asked as well, if it can be. Where it cannot, the word of who is authoritative stands, unless it is to be
        `sure`.
        """
        worst: UpstreamError | None = None
        missing: UpstreamNotFound | None = None
        weight = (False, False)
        for number, member in enumerate(among):
            left = deadline - asyncio.get_running_loop().time()
            if worst is not None and left < _SHORTEST:
                break
            if missing is not None and member.circuit.state == "open":
                continue
            last = number + 1 == len(among) and missing is None
            try:
                return await question(member, left if last else min(FIRST_ANSWER, left / 2))
            except UpstreamError as error:
                if isinstance(error, UpstreamNotFound) and member.authoritative:
                    if member.itself:
                        raise
                    missing = error
                heard = (member.authoritative, not isinstance(error, UpstreamNotFound | UpstreamDenied))
                if worst is None or heard >= weight:
                    worst, weight = error, heard
        assert worst is not None  # noqa: S101  # there is always one to ask
        if missing is None or (sure and not isinstance(worst, UpstreamNotFound)):
            raise worst
        raise self._unsure(missing) if sure else missing

    def _unsure(self, missing: UpstreamNotFound) -> UpstreamUnavailable:
        return UpstreamUnavailable(
            f"{missing}; whether that is so only the registry itself knows, which does not answer now",
            namespace=self.namespace,
        )

    def show(self) -> None:
        """See `Registry.show`."""
        for member in self.members:
            member.circuit.show()
            member.registry.show()
        if any(member.registry.contacted for member in self.members):
            self.show_away()

    def show_away(self) -> None:
        """Tell the metrics whether all of them are away; each alone does not."""
        UPSTREAM_AWAY.labels(self.label).set(self.away)

    def _look_after(self) -> None:
        """Ask `/v2/` of those whose pause is over; no client waits for it."""
        for member in self.members:
            member.circuit.show()
            if member.circuit.wants_probe():
                task = asyncio.create_task(self._look(member), name=f"probe {self.namespace} {member.label}")
                self._probes.add(task)
                task.add_done_callback(self._probes.discard)

    async def _look(self, member: Endpoint) -> None:
        try:
            await member.registry.probe(patience=PROBE_PATIENCE)
        except UpstreamUnavailable as error:
            member.circuit.probed(str(error))
        except UpstreamError:
            member.circuit.probed(None)  # it answered, whatever it was
        else:
            member.circuit.probed(None)
        self.show_away()
