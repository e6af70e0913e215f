"""A registry, asked over HTTP (distribution specification)."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING

from mirror.config.values import ITSELF
from mirror.errors import UpstreamBroken, UpstreamError, UpstreamUnavailable
from mirror.metrics import UPSTREAM_ENDPOINT_LIES
from mirror.oci.digest import Digest
from mirror.oci.manifest import MAX_SIZE
from mirror.oci.mediatype import ACCEPT, bare
from mirror.store.dealings import Dealings
from mirror.upstream.accounts import COUNTED, Accounts
from mirror.upstream.asking import Asking, LastAnswer
from mirror.upstream.attempts import Attempts
from mirror.upstream.blob import OK, PARTIAL, HttpBlobBody
from mirror.upstream.content import age_of, header_digest, media_type, staleness, verified
from mirror.upstream.exchange import Ask, Exchange
from mirror.upstream.logins import LoginRefused
from mirror.upstream.pages import Pages, prolong
from mirror.upstream.protocol import ManifestBody, ManifestHead, Probe
from mirror.upstream.redirect import Signed, SignedMemory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from yarl import URL

    from mirror.config.credentials import Credentials
    from mirror.oci.name import Reference, Repository
    from mirror.upstream.budget import Budget
    from mirror.upstream.logins import Logins
    from mirror.upstream.protocol import BlobBody, ReferrersBody, Sender, TagPage, Urgency
    from mirror.upstream.slots import Slots
    from mirror.upstream.trust import Trust
    from mirror.upstream.wire import Answer, Wire

# One value, comma-joined: quay.io reads only the first of several header lines.
_ACCEPT = {"Accept": ", ".join(ACCEPT)}
_ANSWERED_BLOB = (OK, PARTIAL)
_NO_HEAD = (405, 501)  # servers that know no HEAD


class Registry:
    """`mirror.upstream.protocol.Upstream` over HTTP. `url` is the registry's address, without `/v2`.

    `sender` hears what is said of its content, where there are other addresses too. `ns` and `prefix` are as in
    `UpstreamConfig`. `places` are those for blobs, its own first; none where whoever asks holds them. `once` says that
    nothing is tried again here, because whoever asks does so, or asks elsewhere.
    """

    def __init__(
        self,
        url: URL,
        wire: Wire,
        *,
        logins: Logins | None = None,
        trust: Trust | None = None,
        accounts: Accounts | None = None,
        places: tuple[Slots, ...] | None = None,
        sender: Sender | None = None,
        ns: bool = False,
        prefix: str = "",
        last: LastAnswer | None = None,
        once: bool = False,
    ) -> None:
        self.namespace = wire.namespace
        self.label = wire.label
        self.accounts = accounts or Accounts(wire.namespace, None, book=Dealings(None), clock=time.time)
        self._url = url
        self._wire = wire
        self._exchange = Exchange(url, wire, logins=logins, trust=trust, accounts=self.accounts)
        self._attempts = Attempts(wire, once=once)
        self._asking = Asking(url, wire, self._exchange, self._attempts, prefix=prefix, ns=ns, last=last)
        self._pages = Pages(self._asking)
        self._places = (wire.pacing.slots,) if places is None else places
        self._signed = SignedMemory()
        self._sender = sender or _Itself(self.label)
        self._once = once

    @property
    def budget(self) -> Budget | None:
        """What the registry said last of its rate limit."""
        return self.accounts.best()

    @property
    def mirror(self) -> str | None:
        """What this address is named in `Via`, where it has shown itself to be a mirror like this one."""
        return self._asking.mirror

    @property
    def away(self) -> bool:
        """Whether the last contact failed, or there has been none."""
        return self._attempts.away

    @away.setter
    def away(self, value: bool) -> None:
        self._attempts.away = value

    @property
    def contacted(self) -> bool:
        """Whether it has been asked at all."""
        return self._attempts.contacted

    def lacks(self, repository: Repository) -> bool:  # noqa: ARG002
        """See `Upstream.lacks`."""
        return False

    def show(self) -> None:
        """See `Upstreams.show`."""
        self.accounts.show()
        self._attempts.show()

    async def head(self, repository: Repository, reference: Reference, *, patience: float) -> ManifestHead:
        """See `Upstream.head`. A server that knows no HEAD has said nothing: the digest is None."""
        ask = self._asking.ask("manifest", "HEAD", repository, f"manifests/{reference}", _ACCEPT)

        async def attempt(_: asyncio.Timeout) -> ManifestHead:
            answer = await self._exchange.send(ask)
            try:
                if answer.status in _NO_HEAD:
                    return ManifestHead(None, "", None)
                await self._asking.expect(answer, _titled(repository, reference))
                kind = bare(answer.headers.get("Content-Type", ""))
                if kind == "text/html":
                    raise self._asking.broken(answer, "sent a web page where a manifest was due")
                return ManifestHead(
                    header_digest(answer.headers),
                    kind,
                    answer.response.content_length,
                    stale=staleness(answer.all("Warning")),
                    age=age_of(answer.headers),
                )
            finally:
                answer.close()

        return await self._asking.run("manifest", "HEAD", patience, attempt)

    async def manifest(self, repository: Repository, reference: Reference, *, patience: float) -> ManifestBody:
        """See `Upstream.manifest`. Bytes with a wrong digest are fetched once more before they are given up."""
        ask = self._asking.ask("manifest", "GET", repository, f"manifests/{reference}", _ACCEPT)

        async def attempt(timer: asyncio.Timeout) -> ManifestBody | None:
            answer = await self._exchange.send(ask)
            try:
                await self._asking.expect(answer, _titled(repository, reference))
                prolong(timer, patience)
                body = await self._wire.read(answer, MAX_SIZE)
                return self._verify(answer, reference, body)
            finally:
                answer.close()

        deadline = asyncio.get_running_loop().time() + patience
        for _ in range(1 if self._once else 2):
            left = deadline - asyncio.get_running_loop().time()
            found = await self._asking.run("manifest", "GET", left, attempt)
            if found is not None:
                return found
        raise UpstreamBroken(
            f"{self.namespace} sent a manifest of {repository} {'once' if self._once else 'twice'}"
            " that does not have the digest it should have",
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
        avoid: frozenset[str] = frozenset(),  # noqa: ARG002  there is no other
    ) -> AsyncIterator[BlobBody]:
        """See `Upstream.blob`."""
        asked = (start, stop) if start or stop is not None else None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        async with AsyncExitStack() as stack:
            try:
                for slots in self._places:
                    await stack.enter_async_context(slots.place(urgency, deadline=deadline, image=str(repository)))
            except TimeoutError:
                raise UpstreamUnavailable(
                    f"no place for another blob from {self.namespace} came free within {patience:.3g} s",
                    namespace=self.namespace,
                ) from None
            came = partial(self._wire.pacing.came, image=str(repository), urgency=urgency)
            answer, body = await self._open(repository, digest, asked, deadline - loop.time(), came)
            stack.callback(answer.close)
            yield body

    async def tags(self, repository: Repository, *, n: int | None, last: str | None, patience: float) -> TagPage:
        """See `Upstream.tags`."""
        return await self._pages.tags(repository, n=n, last=last, patience=patience)

    async def referrers(self, repository: Repository, digest: Digest, *, patience: float) -> ReferrersBody:
        """See `Upstream.referrers`."""
        return await self._pages.referrers(repository, digest, patience=patience)

    async def probe(self, *, patience: float) -> Probe:
        """See `Upstream.probe`."""
        ask = self._exchange.ping()
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
                await self._asking.expect(answer, "its API at /v2/")
                return not answer.public, offered
            finally:
                answer.close()

        identity, offered = await self._asking.run("ping", "GET", patience, attempt)
        return Probe(
            identity=identity,
            offered=offered is not None,
            date=_seconds(self._exchange.date),
            seconds=time.monotonic() - begun,
            user=offered.username or None if offered is not None else None,
        )

    async def credentials(self, repository: str) -> list[str]:
        """Return the names of the credentials in the order in which a manifest would be asked for with them."""
        return await self._exchange.order(COUNTED, repository)

    async def close(self) -> None:
        """End what runs on its own: token fetches."""
        await self._exchange.close()

    async def _open(
        self,
        repository: Repository,
        digest: Digest,
        asked: tuple[int, int | None] | None,
        patience: float,
        came: Callable[[int], Awaitable[None]],
    ) -> tuple[Answer, HttpBlobBody]:
        headers = {"Accept": "*/*"}
        if asked is not None:
            headers["Range"] = f"bytes={asked[0]}-" + ("" if asked[1] is None else str(asked[1] - 1))
        ask = self._asking.ask("blob", "GET", repository, f"blobs/{digest}", headers)

        async def attempt(_: asyncio.Timeout) -> tuple[Answer, HttpBlobBody]:
            answer = await self._from_signed(ask, repository, digest) or await self._exchange.send(ask)
            try:
                await self._asking.expect(answer, f"{repository}@{digest}", _ANSWERED_BLOB)
                body = HttpBlobBody(self._wire, answer, asked, self._transfer_failed, sender=self._sender, came=came)
            except BaseException:
                self._signed.forget(repository, digest)  # the registry may know of a better place
                answer.close()
                raise
            if answer.url.origin() != self._url.origin():
                self._signed.put(repository, digest, Signed(answer.url, answer.public))
            return answer, body

        return await self._asking.run("blob", "GET", patience, attempt)

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
                self._sender.lied(f"its manifest of {answer.url.path[:300]} is not what the digest says")
                return None
            body = right
        try:
            kind = media_type(answer.headers.get("Content-Type", ""), body)
        except ValueError as error:
            raise self._asking.broken(answer, f"sent what is no manifest: {error}") from None
        stale, age = staleness(answer.all("Warning")), age_of(answer.headers)
        return ManifestBody(expected or Digest.of(body), kind, body, answer.public, stale=stale, age=age)

    def _transfer_failed(self) -> None:
        self.away = True


class _Itself:
    """`mirror.upstream.protocol.Sender` where there is one address only: it is asked again whatever it sent."""

    label = ITSELF

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def lied(self, why: str) -> None:  # noqa: ARG002  whoever finds it out says it in the log
        """Count it."""
        UPSTREAM_ENDPOINT_LIES.labels(self._namespace, self.label).inc()


def _seconds(date: str | None) -> float | None:
    """Return the seconds since the epoch that a `Date` header names (RFC 9110 §5.6.7), or None."""
    try:
        return parsedate_to_datetime(date or "").replace(tzinfo=UTC).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _titled(repository: Repository, reference: Reference) -> str:
    return f"{repository}{'@' if isinstance(reference, Digest) else ':'}{reference}"
