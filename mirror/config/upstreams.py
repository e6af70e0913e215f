"""The `upstreams:` section: what is configured, merged over the well-known public registries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mirror.config.credentials import auth_hosts
from mirror.config.dialling import LOGIN_KEYS, check_client_certificate, check_login, dialled
from mirror.config.endpoints import read_endpoints
from mirror.config.identities import read_credentials
from mirror.config.schema import CredentialsSection, UpstreamSection
from mirror.config.sections import kind, read_section
from mirror.config.values import UpstreamConfig
from mirror.errors import NameInvalid
from mirror.oci.namespaces import canonical, check_host

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mirror.config.document import Document, Location, Tree
    from mirror.config.values import ServerConfig

WELL_KNOWN = {
    "docker.io": "https://registry-1.docker.io",
    "quay.io": "https://quay.io",
    "ghcr.io": "https://ghcr.io",
    "gcr.io": "https://gcr.io",
    "registry.k8s.io": "https://registry.k8s.io",
    "mcr.microsoft.com": "https://mcr.microsoft.com",
    "public.ecr.aws": "https://public.ecr.aws",
    "nvcr.io": "https://nvcr.io",
    "lscr.io": "https://lscr.io",
    "registry.gitlab.com": "https://registry.gitlab.com",
}


@dataclass(frozen=True, slots=True)
class _Around:
    """What stands beside one upstream."""

    others: frozenset[str]  # the names of other upstreams
    server: ServerConfig | None  # this mirror


_YES = frozenset({"true", "yes", "on"})
_NO = frozenset({"false", "no", "off"})


def read_upstreams(
    document: Document, tree: Tree, server: ServerConfig | None
) -> tuple[dict[str, UpstreamConfig], bool, frozenset[str]]:
    """Return every upstream by its canonical name, whether other public ones are admitted, and which never are.

    Those are written `"*": true` and `NAME: false`. `server` is this mirror, which is no endpoint of its own.
    """
    upstreams = {name: UpstreamConfig(name=name, url=url) for name, url in WELL_KNOWN.items()}
    wildcard, refused = False, set[str]()
    if tree is None:
        return upstreams, wildcard, frozenset()
    if not isinstance(tree, dict):
        document.blame(("upstreams",), f"is {kind(tree)}, and should hold names of registries; write quay.io: {{}}")
        return upstreams, wildcard, frozenset()

    spelled: dict[str, str] = {}
    for key, entry in tree.items():
        location = ("upstreams", key)
        if key == "*":
            wildcard = _wildcard(document, entry)
            continue
        name = canonical(key)
        try:
            check_host(name)
        except NameInvalid:
            document.blame(location, _no_host(key))
            continue
        if name in spelled:
            document.blame(location, f"is the same registry as {spelled[name]}; write both in one entry")
            continue
        spelled[name] = key
        if isinstance(entry, str) and entry.lower() in _NO:
            upstreams.pop(name, None)
            refused.add(name)
        else:
            others = {*WELL_KNOWN, *map(canonical, tree)} - {name}
            around = _Around(frozenset(others), server)
            upstreams[name] = _upstream(document, key, name, None if _is_yes(entry) else entry, around)
    return upstreams, wildcard, frozenset(refused)


def _is_yes(entry: Tree) -> bool:
    return isinstance(entry, str) and entry.lower() in _YES


def _wildcard(document: Document, entry: Tree) -> bool:
    if isinstance(entry, str) and entry.lower() in _YES | _NO:
        return entry.lower() in _YES
    document.blame(("upstreams", "*"), 'has no settings of its own; write "*": true to admit every public registry')
    return False


def _no_host(key: str) -> str:
    if "://" in key:
        return "is a URL; write the registry's name here, and the URL below it as url:"
    if "*" in key:
        return 'is not a registry; "*" alone admits every public one'
    return "is not a registry; write its host, as images name it: quay.io or registry.example:5000"


def _upstream(document: Document, key: str, name: str, entry: Tree, around: _Around) -> UpstreamConfig:
    """Return one upstream; where it has problems, what is left of it serves to find more of them elsewhere."""
    location = ("upstreams", key)
    upstream = UpstreamConfig(name=name, url=WELL_KNOWN.get(name, f"https://{name}"))
    if isinstance(entry, str):
        document.blame(location, 'is a single value; write {url: "https://…"}, or false')
        return upstream
    endpoints: Tree = None
    if isinstance(entry, dict):
        _check_logins(document, entry, location)
        upstream = replace(
            upstream,
            credentials=read_credentials(
                document, entry.get("credentials"), (*location, "credentials"), name, around.others
            ),
        )
        endpoints = entry.get("endpoints")
        entry = {other: value for other, value in entry.items() if other not in ("endpoints", "credentials")}
    section = read_section(UpstreamSection, document, entry, location, "upstreams.NAME")
    if section is not None:
        check_client_certificate(document, section, location, section.url or upstream.url)
        upstream = replace(
            dialled(upstream, section, section.url or upstream.url),
            endpoint_order=section.endpoint_order,
            read_ahead=section.read_ahead,
            max_connections=section.max_connections,
            max_rate=section.max_rate,
            stall_timeout=section.stall_timeout,
            stall_rate=section.stall_rate,
        )
    where = (*location, "endpoints")
    return replace(upstream, endpoints=read_endpoints(document, endpoints, where, upstream, around.server))


def _check_logins(document: Document, entry: dict[str, Tree], location: Location) -> None:
    check_login(document, entry, location)
    beside = next((key for key in LOGIN_KEYS if key in entry), None)
    if beside is not None and "credentials" in entry:
        document.blame((*location, "credentials"), f"stands beside {beside}; move that into the list")


def read_credentials_files(
    document: Document, tree: dict[str, Tree], upstreams: Mapping[str, UpstreamConfig]
) -> tuple[tuple[Path, ...], frozenset[str]]:
    """Return the files of `credentials_files:`, and the upstreams that they have credentials for."""
    own = {key: value for key, value in tree.items() if key == "credentials_files"}
    section = read_section(CredentialsSection, document, own, (), "")
    if section is None:
        return (), frozenset()
    named = frozenset(
        name
        for name, upstream in upstreams.items()
        for hosts in [{host for url in _urls(upstream) for host in auth_hosts(name, url)}]
        if any(file.covers(sorted(hosts)) for _, file in section.credentials_files)
    )
    return tuple(path for path, _ in section.credentials_files), named


def _urls(upstream: UpstreamConfig) -> tuple[str, ...]:
    return upstream.url, *(endpoint.at.url for endpoint in upstream.endpoints)
