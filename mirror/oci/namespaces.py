"""Which upstream a request means, and which repository there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mirror.errors import NameInvalid, NameUnknown
from mirror.oci.name import Repository, check_name

DOCKER_HUB = "docker.io"

_ALIASES = {"index.docker.io": DOCKER_HUB, "registry-1.docker.io": DOCKER_HUB, "registry.hub.docker.com": DOCKER_HUB}
_WITH_DEFAULT_PORT = re.compile(r"([^:]*|\[[^\]]*\]):(?:443|80)")
_PORT_IN_PATH = re.compile(r"(.+)_([0-9]{1,5})")
_LABEL = r"[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?")
_MAX_HOST = 253 + len(":65535")  # RFC 1035 §2.3.4, as text, and a port


def canonical(host: str) -> str:
    """Return the one spelling of a namespace: lower case, without a final dot or a default port, aliases resolved.

    It does not check anything: what is no host stays none.
    """
    name = host.lower()
    if with_port := _WITH_DEFAULT_PORT.fullmatch(name):
        name = with_port[1]
    name = name.removesuffix(".")
    return _ALIASES.get(name, name)


def looks_like_host(component: str) -> bool:
    """Say whether the first component of an image's name is a registry, by the rule that every client has.

    That is, it has a dot or a colon, or is `localhost` (distribution/reference, `splitDockerDomain`).
    """
    return "." in component or ":" in component or component.lower() == "localhost"


def repository_of(namespace: str, name: str) -> Repository:
    """Return a repository of a canonical namespace; on Docker Hub a single component means `library/NAME`.

    Raise `NameInvalid` unless both are well-formed. Nothing else makes a `Repository` from what a stranger sent.
    """
    check_host(namespace)
    if namespace == DOCKER_HUB and name and "/" not in name:
        name = f"library/{name}"
    return Repository(namespace, check_name(name))


def check_host(namespace: str) -> str:
    """Return a canonical namespace if it is a host, with or without a port, else raise `NameInvalid`."""
    # `docker.io:443.` becomes `docker.io:443`, which is well-formed but would be a second name of one host.
    if len(namespace) > _MAX_HOST or _HOST.fullmatch(namespace) is None or canonical(namespace) != namespace:
        raise NameInvalid(f"{namespace[:160]!r} is not a registry; one looks like quay.io or registry.example:5000")
    return namespace


@dataclass(frozen=True, slots=True)
class Namespaces:
    """The upstreams that the mirror answers for. Names are canonical.

    `wildcard` admits others than the `known` ones too, but not those `refused`.
    """

    known: frozenset[str]
    default: str
    wildcard: bool = False
    refused: frozenset[str] = frozenset()

    def resolve(self, route_host: str | None, name: str, ns: str | None) -> Repository:
        """Return the repository that a request means.

        `route_host` is the component before `/v2`, `name` what follows it, `ns` the query's `ns` or the header
        `OCI-Namespace`. The upstream is named by `ns`; else by `route_host`; else by the first component of `name` if
        that is an upstream or looks like a host; else it is the default. A host in the path that equals `ns` is dropped
        (k3s sends both), another one is part of the name (BuildKit's path mirrors).

        Raise `NameInvalid` for what is no name, `NameUnknown` for an upstream that is not mirrored.
        """
        if ns:
            path = name if route_host is None else f"{route_host}/{name}"
            namespace = canonical(ns)
            first, _, rest = path.partition("/")
            return self._admit(namespace, rest if rest and canonical(first) == namespace else path)
        if route_host is not None:
            return self._admit(canonical(route_host), name)
        first, _, rest = name.partition("/")
        if rest and (host := self._host(first)):
            return self._admit(host, rest)
        return self._admit(self.default, name)

    def _host(self, component: str) -> str | None:
        """Return the namespace that the first component of a name stands for, or None if it is part of the name.

        `HOST_PORT` stands for an upstream HOST:PORT: Podman and CRI-O cannot write a colon into a mirror's path.
        """
        host = canonical(component)
        if host in self.known:
            return host
        if (spelled := _PORT_IN_PATH.fullmatch(host)) and (with_port := f"{spelled[1]}:{spelled[2]}") in self.known:
            return with_port
        return host if looks_like_host(component) else None

    def _admit(self, namespace: str, name: str) -> Repository:
        repository = repository_of(namespace, name)
        if namespace in self.known or (self.wildcard and looks_like_host(namespace) and namespace not in self.refused):
            return repository
        if namespace in self.refused:
            raise NameUnknown(f'{namespace} is not mirrored here: the configuration says "{namespace}: false"')
        raise NameUnknown(
            f"{namespace} is not mirrored here, but {', '.join(sorted(self.known)) or 'no upstream'}. "
            f'To mirror it, add "{namespace}: {{}}" under "upstreams:"; a "*" there admits every public registry'
        )
