"""Request paths (distribution specification, "Endpoints"), in every shape in which clients send them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

_ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_COMPONENT = re.compile(r"[!-\[\]-~]+")  # printable ASCII without space and backslash


class RouteKind(Enum):
    """What a path asks for."""

    PING = "ping"
    MANIFEST = "manifest"
    BLOB = "blob"
    TAGS = "tags"
    REFERRERS = "referrers"
    CATALOG = "catalog"
    UPLOAD = "upload"
    OTHER = "other"


_KEYWORDS = {"manifests": RouteKind.MANIFEST, "blobs": RouteKind.BLOB, "referrers": RouteKind.REFERRERS}


@dataclass(frozen=True, slots=True)
class Route:
    """A parsed path.

    `host` is the component before `/v2`, if there was one. `name` is as the client wrote it, unchecked: it may begin
    with a host, which `Namespaces.resolve` decides. `reference` is a tag or a digest, unchecked too; for an upload it
    is the session, maybe empty. None holds a control character, an empty component, `.` or `..`.
    """

    kind: RouteKind
    host: str | None = None
    name: str = ""
    reference: str = ""


_OTHER = Route(RouteKind.OTHER)


def parse_path(raw_path: str) -> Route:
    """Parse a request's target as it stood on the request line; what is not of the API is `OTHER`. Never raises.

    The shapes are `/v2/…`, `/HOST/v2/…` (containerd's hosts.toml, Docker since 25), and `/NAME/…` without `/v2` (old
    CRI configurations whose endpoint ends with a slash). Escapes are decoded once. The last keyword decides, since a
    repository may itself be called `manifests`, `blobs` or `tags`.
    """
    components = _components(raw_path)
    match components:
        case ["v2"] | ["v2", ""]:
            return Route(RouteKind.PING)
        case ["v2", *rest]:
            return _route(None, rest)
        case [host, "v2"] | [host, "v2", ""] if host:
            return Route(RouteKind.PING, host)
        case [host, "v2", *rest] if host and (route := _route(host, rest)) is not _OTHER:
            return route
        case [first, *_] if first:
            return _route_of_name(None, components)
    return _OTHER


def _components(raw_path: str) -> list[str]:
    """Split a target into decoded components; empty if it is no path that a registry has. The last one may be empty."""
    path = raw_path.partition("?")[0]
    if absolute := _ABSOLUTE.match(path):  # RFC 9112 §3.2.2: a server accepts the absolute form
        path = path[absolute.end() :]
    if not path.startswith("/"):
        return []
    components = []
    for raw in path[1:].split("/"):
        if "%" in _ESCAPE.sub("", raw):
            return []
        component = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), raw)
        if "/" in component or component in {".", ".."} or (component and not _COMPONENT.fullmatch(component)):
            return []
        components.append(component)
    return [] if "" in components[:-1] else components


def _route(host: str | None, components: list[str]) -> Route:
    if components == ["_catalog"]:
        return Route(RouteKind.CATALOG, host)
    return _route_of_name(host, components)


def _route_of_name(host: str | None, components: list[str]) -> Route:
    match components:
        case [_, *_, "tags", "list"]:
            return Route(RouteKind.TAGS, host, "/".join(components[:-2]))
        case [_, *_, "blobs", "uploads"]:
            return Route(RouteKind.UPLOAD, host, "/".join(components[:-2]))
        case [_, *_, "blobs", "uploads", session]:
            return Route(RouteKind.UPLOAD, host, "/".join(components[:-3]), session)
        case [_, *_, keyword, reference] if reference and keyword in _KEYWORDS:
            return Route(_KEYWORDS[keyword], host, "/".join(components[:-2]), reference)
    return _OTHER
