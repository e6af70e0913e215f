"""Manifests are parsed on the loop while they are small: a hostile one of 4 MiB takes half a second."""

from __future__ import annotations

import asyncio

from mirror.oci.manifest import Manifest

INLINE = 256 * 1024  # bytes


async def parsed(body: bytes, media_type: str) -> Manifest:
    """Read a manifest, see `Manifest.parse`; raise `ManifestMalformed`."""
    if len(body) > INLINE:
        return await asyncio.to_thread(Manifest.parse, body, media_type)
    return Manifest.parse(body, media_type)
