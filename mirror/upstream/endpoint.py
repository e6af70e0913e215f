"""One of several places where an upstream's content may be had: how it is asked, and what is thought of it then."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from mirror.errors import UpstreamBroken, UpstreamError, UpstreamUnavailable
from mirror.metrics import UPSTREAM_ENDPOINT_BYTES
from mirror.upstream.circuit import BLOB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from mirror.oci.digest import Digest
    from mirror.oci.name import Reference, Repository
    from mirror.upstream.circuit import Circuit
    from mirror.upstream.protocol import BlobBody, ManifestBody, Sender, Urgency
    from mirror.upstream.registry import Registry
    from mirror.upstream.via import Crossings

_T = TypeVar("_T")

MANIFEST = "manifest"
LONG = 2.0  # seconds without a word that cost too much to be borne twice
_LOOP = 508  # it would have to ask this mirror
_TYPICAL = 4 * 1024 * 1024  # bytes of a layer, by which speed and delay are made one figure
_WORTH_MEASURING = 256 * 1024  # bytes; of less only the delay says something
_WEIGHT = 0.3  # of the newest measure
_FORGET = 300.0  # seconds after which one that was slow is tried anew


class Merit:
    """How quick an endpoint was of late: moving averages of the time to its header, and of its speed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._delay: float | None = None  # seconds
        self._per_byte: float | None = None  # seconds
        self._at = 0.0

    def answered(self, seconds: float) -> None:
        """Hear how long its header took."""
        self._delay, self._at = _average(self._delay, seconds), self._clock()

    def sent(self, count: int, seconds: float) -> None:
        """Hear how long so many bytes took."""
        if count >= _WORTH_MEASURING:
            self._per_byte, self._at = _average(self._per_byte, seconds / count), self._clock()

    @property
    def expected(self) -> float:
        """Seconds that a layer of usual size would take; 0 where nothing, or nothing new, is known: it is tried."""
        if self._delay is None or self._clock() - self._at > _FORGET:
            return 0.0
        return self._delay + (self._per_byte or 0.0) * _TYPICAL


class Endpoint:
    """A registry or a mirror of one. Only one that is `authoritative` says what a tag is, or that there is nothing."""

    def __init__(
        self, registry: Registry, circuit: Circuit, crossings: Crossings, *, authoritative: bool, itself: bool
    ) -> None:
        self.registry = registry
        self.circuit = circuit
        self.label = circuit.label
        self.authoritative = authoritative
        self.itself = itself
        self.merit = Merit()
        self._gives = False  # what was asked of it last, it had
        self._crossings = crossings
        self._bytes = UPSTREAM_ENDPOINT_BYTES.labels(registry.label, self.label)

    @property
    def away(self) -> bool:
        """Whether it would be of no help: the last contact failed, or it has not what is asked of it."""
        return self.registry.away if self.authoritative else not self._gives

    async def ask(self, question: Callable[[Registry], Awaitable[_T]]) -> _T:
        """Return what it answers; raise `UpstreamError`."""
        began = time.monotonic()
        self.circuit.begin(MANIFEST)
        try:
            answer = await question(self.registry)
        except UpstreamError as error:
            self._failed(MANIFEST, error, began)
            raise
        except BaseException:
            self.circuit.spared()
            raise
        self.merit.answered(time.monotonic() - began)
        self.circuit.succeeded(MANIFEST)
        self._gives = True
        return answer

    async def manifest(self, repository: Repository, reference: Reference, patience: float) -> ManifestBody:
        """Fetch a manifest. What comes of one that is not authoritative is nobody's word that it is public."""
        with self._crossings.asking(self.registry.mirror, repository, str(reference)):
            found = await self.ask(lambda registry: registry.manifest(repository, reference, patience=patience))
        return found if self.authoritative else replace(found, public=False)

    @asynccontextmanager
    async def blob(
        self,
        repository: Repository,
        digest: Digest,
        *,
        start: int,
        stop: int | None,
        urgency: Urgency,
        patience: float,
    ) -> AsyncIterator[BlobBody]:
        """Fetch a blob, see `Upstream.blob`."""
        began = time.monotonic()
        self.circuit.begin(BLOB)
        body: EndpointBody | None = None
        failure: UpstreamError | None = None
        asked = self.registry.blob(repository, digest, start=start, stop=stop, urgency=urgency, patience=patience)
        try:
            async with AsyncExitStack() as stack:
                with self._crossings.asking(self.registry.mirror, repository, str(digest)):
                    found = await stack.enter_async_context(asked)
                self.merit.answered(time.monotonic() - began)
                body = EndpointBody(found, public=found.public and self.authoritative)
                yield body
        except UpstreamError as error:
            failure = error
            raise
        finally:
            if body is not None:
                self._judge(body)
            elif failure is not None:
                self._failed(BLOB, failure, began)
            else:
                self.circuit.spared()

    def _failed(self, kind: str, error: UpstreamError, began: float) -> None:
        """Judge by an error. One that is about the request (404, 401, 429, a loop) shows that the endpoint is well."""
        self._gives = False
        bad = isinstance(error, UpstreamUnavailable) or (
            isinstance(error, UpstreamBroken) and error.upstream_status != _LOOP
        )
        if bad:
            self.circuit.failed(kind, str(error), at_once=time.monotonic() - began > LONG)
        else:
            self.circuit.answered(kind)

    def _judge(self, body: EndpointBody) -> None:
        """Judge by a body that is done with, wherever it was left."""
        self._bytes.inc(body.came)
        self._gives = body.error is None
        if body.error is not None:
            self.circuit.failed(BLOB, str(body.error), at_once=body.silent > LONG)
        elif body.came or body.ended:
            self.merit.sent(body.came, body.seconds)
            self.circuit.succeeded(BLOB)
        else:
            self.circuit.spared()


class EndpointBody:
    """A body of a blob on its way from one endpoint, and how it went."""

    def __init__(self, body: BlobBody, *, public: bool) -> None:
        self.start, self.stop, self.size, self.ranged = body.start, body.stop, body.size, body.ranged
        self.public = public
        self.sender: Sender = body.sender
        self.came = 0  # bytes
        self.seconds = 0.0  # that they took
        self.silent = 0.0  # seconds since the last of them when it broke
        self.ended = False
        self.error: UpstreamError | None = None
        self._body = body

    async def pieces(self) -> AsyncIterator[bytes]:
        """See `BlobBody.pieces`. Only the time that the other side takes is measured."""
        asked = time.monotonic()
        try:
            async for piece in self._body.pieces():
                self.seconds += time.monotonic() - asked
                self.came += len(piece)
                yield piece
                asked = time.monotonic()
            self.ended = True
        except UpstreamError as error:
            self.error, self.silent = error, time.monotonic() - asked
            raise


def _average(before: float | None, now: float) -> float:
    return now if before is None else before + _WEIGHT * (now - before)
