"""An upstream's `endpoints:`: where its content may be had, in order, and which of those may say what a tag is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mirror.config.dialling import check_client_certificate, check_login, dialled
from mirror.config.loops import is_itself
from mirror.config.schema import EndpointSection
from mirror.config.sections import kind, read_section
from mirror.config.values import ITSELF, EndpointConfig, UpstreamConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.config.document import Document, Location, Tree
    from mirror.config.values import ServerConfig

_PLACE = "upstreams.NAME.endpoints[]"
_DEFAULT_PORT = {"http": 80, "https": 443}


def read_endpoints(
    document: Document, tree: Tree, location: Location, registry: UpstreamConfig, server: ServerConfig | None
) -> tuple[EndpointConfig, ...]:
    """Return all endpoints of an upstream, the registry itself last where it is not named; none if it is the only one.

    `registry` is the upstream with its own settings, `server` this mirror, which is no endpoint of its own.
    """
    found: list[EndpointConfig] = []
    for where, entry in _entries(document, tree, location):
        endpoint = _endpoint(document, entry, where, registry)
        if endpoint is None:
            continue
        if any(_same(endpoint.at, other.at) for other in found):
            document.blame(where, "stands there twice; keep one of them")
        elif not endpoint.itself and _same(endpoint.at, registry):
            document.blame(where, f"is the registry's own url; write {ITSELF} in its place")
        if not endpoint.itself and server is not None and is_itself(endpoint.at.url, server):
            document.blame(where, "is this mirror itself; write another one's address")
        found.append(endpoint)
    if not any(endpoint.itself for endpoint in found):
        found.append(_registry(registry))
    return _labelled(found) if len(found) > 1 else ()


def _entries(document: Document, tree: Tree, location: Location) -> list[tuple[Location, Tree]]:
    if tree is None:
        return []
    if isinstance(tree, list):
        return [((*location, number), entry) for number, entry in enumerate(tree)]
    if isinstance(tree, str):
        return [(location, tree)]
    document.blame(location, f"is {kind(tree)}, and should be a list; write - https://cache.example")
    return []


def _endpoint(document: Document, entry: Tree, location: Location, registry: UpstreamConfig) -> EndpointConfig | None:
    if entry is None:
        document.blame(location, f"is empty; write a URL or {ITSELF}, or leave it away")
        return None
    if isinstance(entry, str):
        if entry.lower() == ITSELF:
            return _registry(registry)
        entry = {"url": entry}
    if isinstance(entry, dict):
        check_login(document, entry, location)
    section = read_section(EndpointSection, document, entry, location, _PLACE)
    if section is None:
        return None
    check_client_certificate(document, section, location, section.url)
    shared = UpstreamConfig(  # and nothing else of the registry's: its credentials are for itself alone
        name=registry.name,
        url=section.url,
        read_ahead=registry.read_ahead,
        max_connections=registry.max_connections,
        max_rate=registry.max_rate,
        stall_timeout=registry.stall_timeout,
        stall_rate=registry.stall_rate,
    )
    return EndpointConfig("", dialled(shared, section, section.url), authoritative=section.authoritative)


def _registry(registry: UpstreamConfig) -> EndpointConfig:
    return EndpointConfig("", registry, authoritative=True, itself=True)


def _same(one: UpstreamConfig, other: UpstreamConfig) -> bool:
    return (one.url, one.prefix) == (other.url, other.prefix)


def _labelled(endpoints: list[EndpointConfig]) -> tuple[EndpointConfig, ...]:
    """Give each a label that no other has: the host alone, or as much more of the address as that takes."""
    labels = [_host(endpoint.at) for endpoint in endpoints]
    for fuller in (_path, _address):
        count = Counter(labels)
        labels = [_more(endpoint, label, count, fuller) for endpoint, label in zip(endpoints, labels, strict=True)]
    return tuple(replace(endpoint, label=label) for endpoint, label in zip(endpoints, labels, strict=True))


def _more(endpoint: EndpointConfig, label: str, count: Counter[str], fuller: Callable[[UpstreamConfig], str]) -> str:
    return label if count[label] == 1 and label != ITSELF else fuller(endpoint.at)


def _host(at: UpstreamConfig) -> str:
    parts = urlsplit(at.url)
    return parts.netloc.removesuffix(f":{_DEFAULT_PORT[parts.scheme]}")


def _path(at: UpstreamConfig) -> str:
    return "/".join(part for part in (_host(at) + urlsplit(at.url).path, at.prefix) if part)


def _address(at: UpstreamConfig) -> str:
    return "/".join(part for part in (at.url, at.prefix) if part)
