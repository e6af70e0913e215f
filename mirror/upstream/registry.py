"""A registry, asked over HTTP (distribution specification)."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

from mirror.errors import UpstreamBroken, UpstreamError, UpstreamUnavailable
from mirror.metrics import UPSTREAM_QUEUE_SECONDS
from mirror.oci.digest import Digest
from mirror.oci.manifest import MAX_SIZE
from mirror.oci.mediatype import ACCEPT, OCI_INDEX, bare
from mirror.upstream import listing
from mirror.upstream.attempts import Attempts
from mirror.upstream.blob import OK, PARTIAL, HttpBlobBody
from mirror.upstream.content import header_digest, media_type, verified
from mirror.upstream.exchange import Ask, Exchange
from mirror.upstream.logins import LoginRefused
from mirror.upstream.protocol import ManifestBody, ManifestHead, Probe, ReferrersBody, TagPage
from mirror.upstream.redirect import Signed, SignedMemory
from mirror.upstream.refusal import refusal
from mirror.upstream.slots import Slots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from yarl import URL

    from mirror.config.credentials import Credentials
    from mirror.oci.name import Reference, Repository
    from mirror.upstream.budget import Budget
    from mirror.upstream.logins import Logins
    from mirror.upstream.protocol import BlobBody, Urgency
    from mirror.upstream.trust import Trust
    from mirror.upstream.wire import Answer, Wire

_T = TypeVar("_T")

# One value, comma-joined: quay.io reads only the first of several header lines.
_ACCEPT = {"Accept": ", ".join(ACCEPT)}
_ANSWERED_BLOB = (OK, PARTIAL)
_INLINE = 64 * 1024  # bytes of a list that are read in place; a million tags would hold up everybody else
_NO_HEAD = (405, 501)  # servers that know no HEAD
# Docker Hub looks at the password only where a repository is named.
_PROBE_SCOPES = {"docker.io": "repository:ratelimitpreview/test:pull"}


class Registry:
    """`mirror.upstream.protocol.Upstream` over HTTP. `url` is the registry's address, without `/v2`.

    `shared` are places for blobs that it has in common with other registries, on top of its own.
    """

    def __init__(
        self,
        url: URL,
        wire: Wire,
        *,
        logins: Logins | None = None,
        trust: Trust | None = None,
        shared: Slots | None = None,
    ) -> None:
        self.namespace = wire.namespace
        self.label = wire.label
        self._url = url
        self._wire = wire
        self._exchange = Exchange(url, wire, logins=logins, trust=trust)
        self._attempts = Attempts(wire)
        own = Slots(waited=UPSTREAM_QUEUE_SECONDS.labels(wire.label).observe)
        self._slots = (own,) if shared is None else (own, shared)
        self._signed = SignedMemory()

    @property
    def budget(self) -> Budget | None:
        """What the registry said last of its rate limit."""
        return self._exchange.ledger.latest

    @property
    def away(self) -> bool:
        """Whether the last contact failed, or there has been none."""
        return self._attempts.away

    @away.setter
    def away(self, value: bool) -> None:
        self._attempts.away = value

    async def head(self, repository: Repository, reference: Reference, *, patience: float) -> ManifestHead:
        """See `Upstream.head`. A server that knows no HEAD has said nothing: the digest is None."""
        ask = self._ask("manifest", "HEAD", repository, f"manifests/{reference}", _ACCEPT)

        async def attempt(_: asyncio.Timeout) -> ManifestHead:
            answer = await self._exchange.send(ask)
            try:
                if answer.status in _NO_HEAD:
                    return ManifestHead(None, "", None)
                await self._expect(answer, _titled(repository, reference))
                kind = bare(answer.headers.get("Content-Type", ""))
                if kind == "text/html":
                    raise self._broken(answer, "sent a web page where a manifest was due")
                return ManifestHead(header_digest(answer.headers), kind, answer.response.content_length)
            finally:
                answer.close()

        return await self._attempts.run("manifest", "HEAD", patience, attempt)

    async def manifest(self, repository: Repository, reference: Reference, *, patience: float) -> ManifestBody:
        """See `Upstream.manifest`. Bytes with a wrong digest are fetched once more before they are given up."""
        ask = self._ask("manifest", "GET", repository, f"manifests/{reference}", _ACCEPT)

        async def attempt(timer: asyncio.Timeout) -> ManifestBody | None:
            answer = await self._exchange.send(ask)
            try:
                await self._expect(answer, _titled(repository, reference))
                _prolong(timer, patience)
                body = await self._wire.read(answer, MAX_SIZE)
                return self._verify(answer, reference, body)
            finally:
                answer.close()

        deadline = asyncio.get_running_loop().time() + patience
        for _ in range(2):
            left = deadline - asyncio.get_running_loop().time()
            found = await self._attempts.run("manifest", "GET", left, attempt)
            if found is not None:
                return found
        raise UpstreamBroken(
            f"{self.namespace} sent a manifest of {repository} twice that does not have the digest it should have",
            namespace=self.namespace,
        )

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
    ) -> AsyncIterator[BlobBody]:
        """See `Upstream.blob`."""
        asked = (start, stop) if start or stop is not None else None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        async with AsyncExitStack() as stack:
            try:
                for slots in self._slots:
                    await stack.enter_async_context(slots.place(urgency, deadline=deadline))
            except TimeoutError:
                raise UpstreamUnavailable(
                    f"no place for another blob from {self.namespace} came free within {patience:.3g} s",
                    namespace=self.namespace,
                ) from None
            answer, body = await self._open(repository, digest, asked, deadline - loop.time())
            stack.callback(answer.close)
            yield body

    async def tags(self, repository: Repository, *, n: int | None, last: str | None, patience: float) -> TagPage:
        """See `Upstream.tags`. A page without a single tag is passed over: nothing on it says where the next begins."""
        ask = self._ask("tags", "GET", repository, "tags/list", {"Accept": "application/json"})
        query = {name: str(value) for name, value in (("n", n), ("last", last)) if value is not None}
        first = replace(ask, url=ask.url.with_query(query))

        async def attempt(timer: asyncio.Timeout) -> TagPage:
            ask = first
            for _ in range(listing.MAX_PAGES):
                tags, answer, following = await self._tags_page(ask, repository, timer, patience)
                if tags or following is None:
                    return TagPage(tags, more=following is not None)
                ask = replace(first, url=following)
            raise self._broken(answer, "sends pages without tags without end")

        return await self._attempts.run("tags", "GET", patience, attempt)

    async def referrers(self, repository: Repository, digest: Digest, *, patience: float) -> ReferrersBody:
        """See `Upstream.referrers`. A list of one page is returned as it came."""
        first = self._ask("referrers", "GET", repository, f"referrers/{digest}", {"Accept": OCI_INDEX})

        async def attempt(timer: asyncio.Timeout) -> ReferrersBody:
            pages: list[bytes] = []
            descriptors: list[object] = []
            ask, public, room = first, True, listing.MAX_REFERRERS
            while True:
                page, answer, following = await self._referrers_page(ask, repository, room, timer, patience)
                pages.append(page)
                room -= len(page)
                public = public and answer.public
                if following is None and len(pages) == 1:
                    return ReferrersBody(page, public)
                descriptors += await _read(listing.parse_referrers, page)
                if following is None:
                    return ReferrersBody(listing.join_referrers(pages[0], descriptors), public)
                if len(pages) == listing.MAX_PAGES:
                    raise self._broken(answer, "sends pages of referrers without end")
                ask = replace(first, url=following)

        return await self._attempts.run("referrers", "GET", patience, attempt)

    async def probe(self, *, patience: float) -> Probe:
        """See `Upstream.probe`."""
        path = f"{self._url.path.rstrip('/')}/v2/"
        ask = Ask("ping", "GET", self._url.with_path(path, encoded=True), _PROBE_SCOPES.get(self.namespace, ""), "")
        begun = time.monotonic()

        async def attempt(_: asyncio.Timeout) -> tuple[bool, Credentials | None]:
            offered = await self._exchange.login()
            try:
                answer = await self._exchange.send(ask)
            except LoginRefused as refused:
                if refused.shown is not None:
                    raise
                return False, offered  # no repository was named: its refusing strangers (GitLab does) means nothing
            try:
                await self._expect(answer, "its API at /v2/")
                return not answer.public, offered
            finally:
                answer.close()

        identity, offered = await self._attempts.run("ping", "GET", patience, attempt)
        return Probe(
            identity=identity,
            offered=offered is not None,
            date=_seconds(self._exchange.date),
            seconds=time.monotonic() - begun,
            user=offered.username or None if offered is not None else None,
        )

    async def close(self) -> None:
        """End what runs on its own: token fetches."""
        await self._exchange.close()

    async def _tags_page(
        self, ask: Ask, repository: Repository, timer: asyncio.Timeout, patience: float
    ) -> tuple[tuple[str, ...], Answer, URL | None]:
        answer = await self._exchange.send(ask)
        try:
            await self._expect(answer, f"the tags of {repository}")
            _prolong(timer, patience)
            body = await self._wire.read(answer, listing.MAX_TAGS)
            try:
                tags = await _read(listing.parse_tags, body)
                return tags, answer, listing.next_page(answer.url, answer.all("Link"))
            except ValueError as error:
                raise self._broken(answer, f"sent what is no list of tags: {error}") from None
        finally:
            answer.close()

    async def _referrers_page(
        self, ask: Ask, repository: Repository, room: int, timer: asyncio.Timeout, patience: float
    ) -> tuple[bytes, Answer, URL | None]:
        answer = await self._exchange.send(ask)
        try:
            await self._expect(answer, f"the referrers of {repository}")
            kind = bare(answer.headers.get("Content-Type", ""))
            if kind != OCI_INDEX:
                raise self._broken(answer, f"sent {kind or 'no type'} where an index of referrers was due")
            _prolong(timer, patience)
            page = await self._wire.read(answer, room)
            try:
                await _read(listing.parse_referrers, page)
                return page, answer, listing.next_page(answer.url, answer.all("Link"))
            except ValueError as error:
                raise self._broken(answer, f"sent what is no index of referrers: {error}") from None
        finally:
            answer.close()

    async def _open(
        self, repository: Repository, digest: Digest, asked: tuple[int, int | None] | None, patience: float
    ) -> tuple[Answer, HttpBlobBody]:
        headers = {"Accept": "*/*"}
        if asked is not None:
            headers["Range"] = f"bytes={asked[0]}-" + ("" if asked[1] is None else str(asked[1] - 1))
        ask = self._ask("blob", "GET", repository, f"blobs/{digest}", headers)

        async def attempt(_: asyncio.Timeout) -> tuple[Answer, HttpBlobBody]:
            answer = await self._from_signed(ask, repository, digest) or await self._exchange.send(ask)
            try:
                await self._expect(answer, f"{repository}@{digest}", _ANSWERED_BLOB)
                body = HttpBlobBody(self._wire, answer, asked, self._transfer_failed)
            except BaseException:
                self._signed.forget(repository, digest)  # the registry may know of a better place
                answer.close()
                raise
            if answer.url.origin() != self._url.origin():
                self._signed.put(repository, digest, Signed(answer.url, answer.public))
            return answer, body

        return await self._attempts.run("blob", "GET", patience, attempt)

    async def _from_signed(self, ask: Ask, repository: Repository, digest: Digest) -> Answer | None:
        """Ask where the blob was found last time; None: nowhere, or it is not to be had there any more."""
        signed = self._signed.get(repository, digest)
        if signed is None:
            return None
        try:
            answer = await self._wire.send(ask.method, signed.url, ask.headers, kind=ask.kind)
        except UpstreamError:
            self._signed.forget(repository, digest)
            return None
        if answer.status in _ANSWERED_BLOB:
            answer.public = signed.public
            return answer
        answer.close()
        self._signed.forget(repository, digest)
        return None

    def _verify(self, answer: Answer, reference: Reference, body: bytes) -> ManifestBody | None:
        """Return the manifest, or None where its digest is wrong."""
        expected = reference if isinstance(reference, Digest) else header_digest(answer.headers)
        if expected is not None:
            right = verified(body, expected, answer.headers.get("Content-Encoding", ""))
            if right is None:
                return None
            body = right
        try:
            kind = media_type(answer.headers.get("Content-Type", ""), body)
        except ValueError as error:
            raise self._broken(answer, f"sent what is no manifest: {error}") from None
        return ManifestBody(expected or Digest.of(body), kind, body, answer.public)

    async def _expect(self, answer: Answer, what: str, statuses: tuple[int, ...] = (OK,)) -> None:
        """Return if the status is one of `statuses`, else raise what it means."""
        if answer.status not in statuses:
            own = answer.url.origin() == self._url.origin()  # what another host says of a signed address is not shown
            body = await self._wire.read_error(answer) if own else b""
            raise refusal(self.namespace, answer, what, body, self._exchange.secrets())

    def _ask(self, kind: str, method: str, repository: Repository, rest: str, headers: dict[str, str]) -> Ask:
        path = f"{self._url.path.rstrip('/')}/v2/{repository.name}/{rest}"
        url = self._url.with_path(path, encoded=True)
        return Ask(kind, method, url, f"repository:{repository.name}:pull", repository.name, headers)

    def _transfer_failed(self) -> None:
        self.away = True

    def _broken(self, answer: Answer, what: str) -> UpstreamBroken:
        return UpstreamBroken(f"{self.namespace} {what}", namespace=self.namespace, upstream_status=answer.status)


def _seconds(date: str | None) -> float | None:
    """Return the seconds since the epoch that a `Date` header names (RFC 9110 §5.6.7), or None."""
    try:
        return parsedate_to_datetime(date or "").replace(tzinfo=UTC).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


async def _read(parse: Callable[[bytes], _T], body: bytes) -> _T:
    return parse(body) if len(body) <= _INLINE else await asyncio.to_thread(parse, body)


def _prolong(timer: asyncio.Timeout, patience: float) -> None:
    """Let a small body, whose headers are here, take as long again."""
    timer.reschedule(asyncio.get_running_loop().time() + patience)


def _titled(repository: Repository, reference: Reference) -> str:
    return f"{repository}{'@' if isinstance(reference, Digest) else ':'}{reference}"
