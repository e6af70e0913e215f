"""How the places where an upstream's content may be had stand, in the order in which they would be asked now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.config.values import ITSELF
from mirror.upstream.endpoint import MANIFEST
from mirror.upstream.endpoints import Endpoints

if TYPE_CHECKING:
    from mirror.config import UpstreamConfig
    from mirror.store.dealings import Dealings
    from mirror.upstream.protocol import Upstream


@dataclass(frozen=True, slots=True)
class LastAnswer:
    """What one answered last, `at` seconds since the epoch. `status` is None where it did not answer at all."""

    at: float
    method: str
    kind: str
    status: int | None
    cause: str | None  # None: it was what was asked for


@dataclass(frozen=True, slots=True)
class EndpointState:
    """One of them. `due` is until when it is left alone, seconds since the epoch."""

    label: str
    url: str
    authoritative: bool
    circuit: str | None  # closed, open, half-open; None: it is the only one, and always asked
    due: float | None
    why: str | None
    last: LastAnswer | None


def endpoints_of(upstream: Upstream, config: UpstreamConfig | None, book: Dealings) -> list[EndpointState]:
    """Return them in the order in which they would be asked for content. `config` is None for one that `"*"` admits."""
    name = upstream.namespace
    if not isinstance(upstream, Endpoints):
        url = config.url if config is not None else f"https://{name}"
        return [
            EndpointState(ITSELF, url, authoritative=True, circuit=None, due=None, why=None, last=_last(book, name))
        ]
    urls = {ITSELF if one.itself else one.label: one.at.url for one in config.endpoints} if config is not None else {}
    return [
        EndpointState(
            member.label,
            urls.get(member.label, ""),
            authoritative=member.authoritative,
            circuit=member.circuit.state,
            due=member.circuit.due or None,
            why=(book.get("circuit", f"{name} {member.label}") or {}).get("why"),
            last=_last(book, name, member.label),
        )
        for member in upstream.order(MANIFEST, authoritative=False)
    ]


async def credentials_of(upstream: Upstream, repository: str) -> list[str]:
    """Return the names of the credentials in the order in which the registry itself would be asked with them."""
    order = getattr(upstream, "credentials", None)  # an upstream that is not dialled has none
    return [] if order is None else list(await order(repository))


def _last(book: Dealings, namespace: str, label: str = ITSELF) -> LastAnswer | None:
    row = book.get("answer", f"{namespace} {label}")
    if row is None:
        return None
    return LastAnswer(row["at"], row["method"], row["kind"], row.get("status"), row.get("cause"))
