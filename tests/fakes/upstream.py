# ruff: noqa: ARG002  the protocol passes a patience that a fake has no use for
"""Upstreams from dictionaries: `mirror.upstream.protocol` without a network, for tests of what stands above it."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.errors import NameUnknown, UpstreamBroken, UpstreamError, UpstreamNotFound, UpstreamUnavailable
from mirror.oci.digest import Digest
from mirror.oci.mediatype import OCI_INDEX, OCI_MANIFEST
from mirror.oci.name import Reference, Repository, Tag
from mirror.store.dealings import Dealings
from mirror.upstream.accounts import Accounts
from mirror.upstream.protocol import ManifestBody, ManifestHead, Probe, ReferrersBody, TagPage, Urgency

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

    from mirror.upstream.budget import Budget

_PIECE = 64 * 1024


@dataclass(frozen=True)
class Call:
    """One call, as it came."""

    method: str  # head, manifest, blob, tags, referrers, probe
    repository: Repository
    reference: str = ""
    start: int = 0
    stop: int | None = None
    urgent: bool = True


@dataclass
class Trouble:
    """What befalls one transfer of a blob. Offsets are those of the whole blob."""

    cut: int | None = None  # break before this byte
    corrupt: int | None = None  # send another byte here
    gate: asyncio.Event | None = None  # wait for it ...
    gate_at: int = 0  # ... before this byte
    whole: bool = False  # ignore the range


@dataclass
class FakeBody:
    """A blob on its way."""

    digest: Digest
    content: bytes
    start: int
    stop: int | None
    size: int | None
    ranged: bool
    public: bool
    trouble: Trouble
    piece: int
    fake: FakeUpstream

    @property
    def sender(self) -> FakeUpstream:
        return self.fake

    async def pieces(self) -> AsyncIterator[bytes]:
        position, trouble = self.start, self.trouble
        end = len(self.content) if self.stop is None else self.stop
        while position < end:
            stop = min(position + self.piece, end)
            if trouble.gate is not None and not trouble.gate.is_set() and stop > trouble.gate_at:
                stop = max(position, trouble.gate_at)
                if stop == position:
                    await trouble.gate.wait()
                    continue
            if trouble.cut is not None and stop > trouble.cut:
                stop = max(position, trouble.cut)
            if stop > position:
                data = bytearray(self.content[position:stop])
                if trouble.corrupt is not None and position <= trouble.corrupt < stop:
                    data[trouble.corrupt - position] ^= 0xFF
                self.fake.sent[self.digest] = self.fake.sent.get(self.digest, 0) + len(data)
                yield bytes(data)
            if trouble.cut is not None and stop >= trouble.cut:
                self.fake.away = True
                raise UpstreamUnavailable("the transfer broke off", namespace=self.fake.namespace)
            position = stop


@dataclass
class FakeUpstream:
    """One registry. Put into the dictionaries what it holds; `troubles` and `fail` say what goes wrong."""

    namespace: str
    away: bool = True
    public: bool = True
    piece: int = _PIECE
    known_sizes: bool = True  # it says how long a blob is
    manifests: dict[tuple[str, Digest], tuple[str, bytes]] = field(default_factory=dict)  # -> media type, body
    tagged: dict[tuple[str, str], Digest] = field(default_factory=dict)
    blobs: dict[tuple[str, Digest], bytes] = field(default_factory=dict)
    referring: dict[tuple[str, Digest], list[dict[str, object]]] = field(default_factory=dict)
    referrers_api: bool = True
    troubles: list[Trouble] = field(default_factory=list)  # one for each transfer to come
    calls: list[Call] = field(default_factory=list)
    sent: dict[Digest, int] = field(default_factory=dict)  # bytes of each blob
    transfers: int = 0  # blobs that are on their way now
    label: str = ""  # its namespace, unless it is given
    budget: Budget | None = None
    lies: list[str] = field(default_factory=list)  # what was said of its content
    accounts: Accounts = field(init=False)
    _failures: list[tuple[str, UpstreamError]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.label = self.label or self.namespace
        self.accounts = Accounts(self.namespace, None, book=Dealings(None), clock=time.time)

    def lacks(self, repository: Repository) -> bool:
        return False

    def lied(self, why: str) -> None:
        self.lies.append(why)

    def add_manifest(self, name: str, body: bytes, media_type: str = OCI_MANIFEST, tag: str | None = None) -> Digest:
        digest = Digest.of(body)
        self.manifests[name, digest] = (media_type, body)
        if tag is not None:
            self.tagged[name, tag] = digest
        return digest

    def add_blob(self, name: str, body: bytes) -> Digest:
        digest = Digest.of(body)
        self.blobs[name, digest] = body
        return digest

    def fail(self, method: str, error: UpstreamError, times: int = 1) -> None:
        """Let the next calls of `method` raise `error`."""
        self._failures += [(method, error)] * times

    def count(self, method: str) -> int:
        return sum(call.method == method for call in self.calls)

    async def head(self, repository: Repository, reference: Reference, *, patience: float) -> ManifestHead:
        digest, media_type, body = self._manifest("head", repository, reference)
        return ManifestHead(digest, media_type, len(body))

    async def manifest(self, repository: Repository, reference: Reference, *, patience: float) -> ManifestBody:
        digest, media_type, body = self._manifest("manifest", repository, reference)
        return ManifestBody(digest, media_type, body, self.public)

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
    ) -> AsyncIterator[FakeBody]:
        self._begin(Call("blob", repository, str(digest), start, stop, urgency.urgent))
        content = self.blobs.get((repository.name, digest))
        if content is None:
            raise self._missing(f"{repository}@{digest}")
        trouble = self.troubles.pop(0) if self.troubles else Trouble()
        ranged = (start > 0 or stop is not None) and not trouble.whole
        if ranged and start >= len(content):
            raise UpstreamBroken("it answered 416", namespace=self.namespace, upstream_status=416)
        first, last = (start, min(stop or len(content), len(content))) if ranged else (0, len(content))
        known = last if ranged or self.known_sizes else None
        size = len(content) if self.known_sizes else None
        self.transfers += 1
        try:
            yield FakeBody(digest, content, first, known, size, ranged, self.public, trouble, self.piece, self)
        finally:
            self.transfers -= 1

    async def tags(self, repository: Repository, *, n: int | None, last: str | None, patience: float) -> TagPage:
        self._begin(Call("tags", repository))
        tags = sorted(tag for name, tag in self.tagged if name == repository.name)
        if not tags:
            raise self._missing(f"the tags of {repository}")
        tags = [tag for tag in tags if last is None or tag > last]
        page = tags if n is None else tags[:n]
        return TagPage(tuple(page), more=len(page) < len(tags))

    async def referrers(self, repository: Repository, digest: Digest, *, patience: float) -> ReferrersBody:
        self._begin(Call("referrers", repository, str(digest)))
        if not self.referrers_api:
            raise self._missing("the referrers API")
        found = self.referring.get((repository.name, digest), [])
        body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}).encode()
        return ReferrersBody(body, self.public)

    async def probe(self, *, patience: float) -> Probe:
        self._begin(Call("probe", Repository(self.namespace, "")))
        return Probe(identity=not self.public, offered=not self.public, date=None, seconds=0.0)

    def _manifest(self, method: str, repository: Repository, reference: Reference) -> tuple[Digest, str, bytes]:
        self._begin(Call(method, repository, str(reference)))
        digest = self.tagged.get((repository.name, reference.name)) if isinstance(reference, Tag) else reference
        if digest is None or (repository.name, digest) not in self.manifests:
            raise self._missing(f"{repository}:{reference}")
        media_type, body = self.manifests[repository.name, digest]
        return digest, media_type, body

    def _begin(self, call: Call) -> None:
        self.calls.append(call)
        for number, (method, error) in enumerate(self._failures):
            if method == call.method:
                del self._failures[number]
                self.away = error.upstream_status is None or error.upstream_status >= 429
                raise error
        self.away = False

    def _missing(self, what: str) -> UpstreamNotFound:
        return UpstreamNotFound(f"{self.namespace} does not have {what}", namespace=self.namespace, upstream_status=404)


class FakeUpstreams:
    """All upstreams of a test."""

    def __init__(self, *namespaces: str, wildcard: bool = False) -> None:
        self.by_namespace = {namespace: FakeUpstream(namespace) for namespace in namespaces}
        self.wildcard = wildcard
        self.closed = False

    def of(self, namespace: str) -> FakeUpstream:
        if namespace not in self.by_namespace:
            if not self.wildcard:
                raise NameUnknown(f"{namespace} is not mirrored here")
            self.by_namespace[namespace] = FakeUpstream(namespace, label="*")
        return self.by_namespace[namespace]

    def show(self) -> None:
        """It tells no metrics."""

    async def close(self) -> None:
        self.closed = True
