"""GET and HEAD of manifests (distribution specification, end-3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from mirror.oci.range import content_range, parse_range
from mirror.server import conditional
from mirror.upstream import via

if TYPE_CHECKING:
    from mirror.cache.cache import Cache
    from mirror.cache.outcome import Outcome
    from mirror.oci.name import Reference, Repository


async def respond(
    request: web.BaseRequest, cache: Cache, repository: Repository, reference: Reference
) -> tuple[web.StreamResponse, Outcome]:
    """Answer with the bytes as upstream sent them, whatever the client's `Accept` says: they all take every type."""
    found = await cache.manifest(repository, reference, ahead=request.method == "GET")
    headers = {
        "Content-Type": found.media_type,
        "Docker-Content-Digest": str(found.digest),
        "ETag": conditional.etag(found.digest),
        "Accept-Ranges": "bytes",
    }
    if found.outcome.warning is not None:
        # Podman prints it to its user. RFC 7234 §5.5: 299 is a persistent warning.
        headers["Warning"] = f'299 - "{_quoted(found.outcome.warning)}"'
    if via.through():
        # What it is told lets a mirror below save as this one does, and count how old a tag is from the registry on.
        headers |= cache.told(repository)
        if found.age is not None:
            headers["Age"] = f"{found.age:.0f}"  # RFC 9111 §5.1
    if (status := conditional.status(request.headers, found.digest)) is not None:
        del headers["Content-Type"]
        return web.Response(status=status, headers=headers), found.outcome
    size = len(found.body)
    ranged = request.headers.get("Range") if conditional.range_holds(request.headers, found.digest) else None
    ranges = parse_range(ranged, size) if request.method == "GET" else None  # RFC 9110 §14.2: only GET has ranges
    if ranges is not None and len(ranges) == 1:
        start, stop = ranges[0]
        headers["Content-Range"] = content_range(start, stop, size)
        return web.Response(status=206, body=found.body[start:stop], headers=headers), found.outcome
    if request.method == "HEAD":
        headers["Content-Length"] = str(size)
        return web.Response(headers=headers), found.outcome
    return web.Response(body=found.body, headers=headers), found.outcome


def _quoted(text: str) -> str:
    """Make text fit for a quoted string in a header of at most 4096 bytes."""
    plain = "".join(character if " " <= character <= "~" else " " for character in text[:1024])
    return plain.replace("\\", "\\\\").replace('"', '\\"')
