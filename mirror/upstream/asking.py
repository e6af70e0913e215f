"""What all questions to one registry have in common: their addresses, what an answer means, what it said last."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from mirror.errors import UpstreamBroken, UpstreamError
from mirror.upstream import via
from mirror.upstream.exchange import Ask
from mirror.upstream.refusal import refusal

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from yarl import URL

    from mirror.oci.name import Repository
    from mirror.store.dealings import Dealings
    from mirror.upstream.attempts import Attempts
    from mirror.upstream.exchange import Exchange
    from mirror.upstream.wire import Answer, Wire

_T = TypeVar("_T")

OK = 200
_SAID_EVERY = 1.0  # seconds between two records of what it answered


class LastAnswer:
    """What one endpoint answered last, kept for whoever asks why an image does not come (`mirror trace`)."""

    def __init__(self, book: Dealings, key: str, clock: Callable[[], float]) -> None:
        """`key` is NAMESPACE ENDPOINT."""
        self._book = book
        self._key = key
        self._clock = clock
        self._at = 0.0
        self._good = False

    def note(self, method: str, kind: str, error: UpstreamError | None) -> None:
        """Record an answer, or its absence. One that is like the last is recorded once a second."""
        now = self._clock()
        if self._good == (error is None) and 0 <= now - self._at < _SAID_EVERY:
            return
        self._at, self._good = now, error is None
        status = OK if error is None else error.upstream_status
        cause = None if error is None else str(error)
        self._book.put(
            "answer", self._key, {"at": now, "method": method, "kind": kind, "status": status, "cause": cause}
        )


class Asking:
    """How one registry is asked. `prefix` goes before each repository's name, `ns` names the registry that is meant."""

    def __init__(
        self,
        url: URL,
        wire: Wire,
        exchange: Exchange,
        attempts: Attempts,
        *,
        prefix: str = "",
        ns: bool = False,
        last: LastAnswer | None = None,
    ) -> None:
        self.url = url
        self.wire = wire
        self.exchange = exchange
        self.attempts = attempts
        self._prefix = f"{prefix}/" if prefix else ""
        self._ns = ns
        self._last = last
        self.mirror: str | None = None  # what answers is a mirror like this one, and is named so in `Via`

    def ask(self, kind: str, method: str, repository: Repository, rest: str, headers: dict[str, str]) -> Ask:
        """Return the question for `rest` of a repository: `manifests/v1`, `blobs/DIGEST`, `tags/list`."""
        name = self._prefix + repository.name
        url = self.url.with_path(f"{self.url.path.rstrip('/')}/v2/{name}/{rest}", encoded=True)
        return Ask(kind, method, self.named(url), f"repository:{name}:pull", repository.name, headers)

    def named(self, url: URL) -> URL:
        """Return the address with the registry's name in it, if it takes one and has none."""
        if not self._ns or "ns" in url.query:
            return url
        return url.update_query(ns=self.wire.namespace)

    async def run(
        self, kind: str, method: str, patience: float, attempt: Callable[[asyncio.Timeout], Awaitable[_T]]
    ) -> _T:
        """See `Attempts.run`. What comes of it is recorded."""
        try:
            result = await self.attempts.run(kind, patience, attempt)
        except UpstreamError as error:
            if self._last is not None:
                self._last.note(method, kind, error)
            raise
        if self._last is not None:
            self._last.note(method, kind, None)
        return result

    async def expect(self, answer: Answer, what: str, statuses: tuple[int, ...] = (OK,)) -> None:
        """Return if the status is one of `statuses`, else raise what it means."""
        if (names := via.named(answer.all("Via"))) and answer.url.origin() == self.url.origin():
            self.mirror = names[-1]
        if answer.status not in statuses:
            own = answer.url.origin() == self.url.origin()  # what another host says of a signed address is not shown
            body = await self.wire.read_error(answer) if own else b""
            raise refusal(self.wire.namespace, answer, what, body, self.exchange.secrets())

    def broken(self, answer: Answer, what: str) -> UpstreamBroken:
        """Return the error for an answer that cannot be right."""
        namespace = self.wire.namespace
        return UpstreamBroken(f"{namespace} {what}", namespace=namespace, upstream_status=answer.status)
