"""One request, parsed once."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.oci.path import Route, RouteKind, parse_path
from mirror.server.answers import Kind

if TYPE_CHECKING:
    from aiohttp import web

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SIGNATURE_TAG = re.compile(r"sha(?:256|512)-[a-f0-9]{16,}(?:\..*)?")

_KINDS = {
    RouteKind.PING: Kind.PING,
    RouteKind.MANIFEST: Kind.MANIFEST,
    RouteKind.BLOB: Kind.BLOB,
    RouteKind.TAGS: Kind.TAGS,
    RouteKind.REFERRERS: Kind.REFERRERS,
    RouteKind.CATALOG: Kind.CATALOG,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks for: its route, the namespace it names, and the id that all lines about it carry."""

    route: Route
    kind: Kind
    ns: str | None  # as the client wrote it
    request_id: str

    @classmethod
    def of(cls, request: web.BaseRequest) -> Asked:
        """Parse a request. Never raises: what is wrong with it shows when it is used."""
        route = parse_path(request.raw_path)
        kind = _KINDS.get(route.kind, Kind.OTHER)
        if kind is Kind.MANIFEST and _SIGNATURE_TAG.fullmatch(route.reference):
            kind = Kind.SIGNATURE
        named = request.query.get("ns") if "?" in request.raw_path else None  # parsing nothing costs, too
        ns = named or request.headers.get("OCI-Namespace")
        given = request.headers.get("X-Request-Id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        return cls(route, kind, ns, request_id)
