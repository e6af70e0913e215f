"""All upstreams that the configuration admits."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NoReturn
from weakref import WeakSet

from cachetools import LRUCache
from yarl import URL

from mirror.config.values import ITSELF
from mirror.errors import ConfigError, NameUnknown, UpstreamAway
from mirror.store.dealings import Dealings
from mirror.upstream.accounts import Accounts
from mirror.upstream.asking import LastAnswer
from mirror.upstream.circuit import Circuit
from mirror.upstream.endpoint import Endpoint
from mirror.upstream.endpoints import Endpoints
from mirror.upstream.login_files import logins_of, watch_auth_file
from mirror.upstream.pacing import Pacing
from mirror.upstream.reach import Reach
from mirror.upstream.registry import Registry
from mirror.upstream.route import Route
from mirror.upstream.sessions import Sessions
from mirror.upstream.slots import Slots
from mirror.upstream.tls import Tls
from mirror.upstream.trust import Trust
from mirror.upstream.via import Crossings
from mirror.upstream.wire import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from mirror.config import Config, UpstreamConfig
    from mirror.config.credentials import AuthFile
    from mirror.oci.digest import Digest
    from mirror.oci.name import Reference, Repository
    from mirror.upstream.logins import Logins
    from mirror.upstream.protocol import (
        BlobBody,
        ManifestBody,
        ManifestHead,
        Probe,
        ReferrersBody,
        TagPage,
        Upstream,
        Urgency,
    )
    from mirror.upstream.watched import Watched

_UNNAMED = "*"  # what metrics call each of them: clients choose the names, and every label value is kept for ever
_MAX_UNNAMED = 256  # upstreams that only `"*"` admits, which are remembered at once
_STRANGERS_BLOBS = 64  # blobs on their way from all of those together


class Registries:
    """`mirror.upstream.protocol.Upstreams` over HTTP.

    `instance` names this mirror in `Via`, so that it knows its own requests, and `crossings` where it is asked by whom
    it asks; `request_id` returns the id of the request that is being answered, if there is one. `book` keeps what is
    learnt of upstreams, in memory where there is none; `clock` gives seconds since the epoch. Nothing is dialled and no
    program run before somebody asks; files of credentials and certificates are read, and `ConfigError` raised for one
    that cannot be used.
    """

    def __init__(
        self,
        config: Config,
        *,
        instance: str,
        request_id: Callable[[], str | None],
        book: Dealings | None = None,
        clock: Callable[[], float] = time.time,
        crossings: Crossings | None = None,
    ) -> None:
        self._crossings = crossings or Crossings(instance)
        self._book = book if book is not None else Dealings(None)
        self._clock = clock
        self._sessions = Sessions(instance=instance, request_id=request_id)
        # Clients choose the names of those; what hangs there must not hold up the upstreams that are configured.
        self._strangers = Sessions(instance=instance, request_id=request_id)
        self._strangers_slots = Slots(_STRANGERS_BLOBS, _STRANGERS_BLOBS * 3 // 4)
        self._route = Route(config.proxies)
        self._offline = config.server.offline
        self._wildcard = config.wildcard
        self._refused = config.refused
        self._configured: dict[str, Registry | Endpoints | Away] = {}
        self._made: WeakSet[Registry | Endpoints] = WeakSet()
        self._unnamed: LRUCache[str, Registry | Away] = LRUCache(_MAX_UNNAMED)
        problems: list[str] = []
        files = () if self._offline else _watch(config.credentials_files, problems)
        for name, upstream in config.upstreams.items():
            if self._offline:
                self._configured[name] = Away(name, name)
                continue
            try:
                self._configured[name] = self._configure(name, upstream, files)
            except (OSError, ValueError) as error:
                problems.append(f"upstreams.{name}: {_cause(error)}; name a file that the mirror can read and use")
        if problems:
            raise ConfigError(problems)

    def of(self, namespace: str) -> Upstream:
        """Return the upstream of a canonical namespace; raise `NameUnknown` for one that is not mirrored."""
        if namespace in self._configured:
            return self._configured[namespace]
        if not self._wildcard or namespace in self._refused:
            raise NameUnknown(
                f"{namespace} is not mirrored here; to mirror it, add it under `upstreams` of the configuration"
            )
        if namespace not in self._unnamed:
            self._unnamed[namespace] = Away(namespace, _UNNAMED) if self._offline else self._admit(namespace)
        return self._unnamed[namespace]

    def show(self) -> None:
        """See `Upstreams.show`."""
        for upstream in (*self._configured.values(), *self._unnamed.values()):
            if not isinstance(upstream, Away):
                upstream.show()

    async def close(self) -> None:
        """Close every connection, and end token fetches that are under way."""
        for made in list(self._made):
            await made.close()
        await self._sessions.close()
        await self._strangers.close()

    def _configure(
        self, name: str, upstream: UpstreamConfig, files: tuple[Watched[AuthFile], ...]
    ) -> Registry | Endpoints:
        pacing = Pacing(name, max_connections=upstream.max_connections, max_rate=upstream.max_rate)
        if not upstream.endpoints:
            return self._dialled(upstream, logins_of(upstream, files), pacing)
        members = []
        for endpoint in upstream.endpoints:
            at = endpoint.at
            label = ITSELF if endpoint.itself else endpoint.label
            circuit = Circuit(name, label, book=self._book, clock=self._clock)
            registry = self._dialled(at, logins_of(at, files), pacing, label=label, circuit=circuit)
            members.append(
                Endpoint(
                    registry,
                    circuit,
                    self._crossings,
                    authoritative=endpoint.authoritative,
                    itself=endpoint.itself,
                )
            )
        made = Endpoints(members, order=upstream.endpoint_order, places=pacing.slots)
        self._made.add(made)
        return made

    def _dialled(
        self,
        at: UpstreamConfig,
        logins: Logins,
        pacing: Pacing,
        *,
        label: str = ITSELF,
        circuit: Circuit | None = None,
    ) -> Registry:
        """Return one address of an upstream. With a `circuit` it is one of several, which share their places."""
        trust = Trust(URL(at.url), at.realms)
        route = Route(at.proxies) if at.proxies is not None else self._route
        reach = Reach(trust, self._sessions.resolver)
        wire = Wire(
            at.name,
            self._sessions,
            reach=reach,
            route=route,
            tls=Tls(at, trust),
            stall_timeout=at.stall_timeout,
            stall_rate=at.stall_rate,
            pacing=pacing,
        )
        elsewhere = None if label == ITSELF else label
        registry = Registry(
            trust.registry,
            wire,
            logins=logins,
            trust=trust,
            accounts=Accounts(at.name, at.name, book=self._book, clock=self._clock, endpoint=elsewhere),
            places=(pacing.slots,) if circuit is None else (),
            sender=circuit,
            ns=at.ns,
            prefix=at.prefix,
            last=LastAnswer(self._book, f"{at.name} {label}", self._clock),
            once=circuit is not None,
        )
        self._made.add(registry)
        return registry

    def _admit(self, name: str) -> Registry:
        """Return an upstream that only `"*"` admits. It is asked anonymously: a client chose it, nobody else."""
        try:
            url = URL(f"https://{name}")
            usable = bool(url.host and url.port)
        except ValueError:
            usable = False
        if not usable or url.path != "/" or url.user is not None or url.query_string:
            raise NameUnknown(f"{name[:160]!r} is not the name of a registry")
        reach = Reach(None, self._strangers.resolver)
        wire = Wire(name, self._strangers, reach=reach, route=self._route, label=_UNNAMED)
        accounts = Accounts(name, None, book=self._book, clock=self._clock)
        registry = Registry(url, wire, places=(wire.pacing.slots, self._strangers_slots), accounts=accounts)
        self._made.add(registry)
        return registry


def _watch(paths: tuple[Path, ...], problems: list[str]) -> tuple[Watched[AuthFile], ...]:
    files = []
    for number, path in enumerate(paths):
        try:
            files.append(watch_auth_file(path))
        except (OSError, ValueError) as error:
            why = _cause(error) if isinstance(error, OSError) else f"{path} {error}"
            problems.append(f"credentials_files[{number}]: {why}")
    return tuple(files)


def _cause(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return f"{error.filename} cannot be read ({error.strerror or 'unreadable'})"
    return str(error)


class Away:
    """An upstream that is not dialled, because `server.offline` says so. Every method raises `UpstreamAway`."""

    away = True
    budget = None

    def __init__(self, namespace: str, label: str) -> None:
        self.namespace = namespace
        self.label = label
        self.accounts = Accounts(namespace, None, book=Dealings(None), clock=time.time)

    def lacks(self, repository: Repository) -> bool:  # noqa: ARG002
        """See `Upstream.lacks`."""
        return False

    async def head(self, repository: Repository, reference: Reference, *, patience: float) -> ManifestHead:  # noqa: ARG002
        """See `Upstream.head`."""
        self._refuse()

    async def manifest(self, repository: Repository, reference: Reference, *, patience: float) -> ManifestBody:  # noqa: ARG002
        """See `Upstream.manifest`."""
        self._refuse()

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

    def _refuse(self) -> NoReturn:
        raise UpstreamAway(
            f"this mirror is offline by its configuration, so {self.namespace} is not asked", namespace=self.namespace
        )
