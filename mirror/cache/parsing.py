"""Manifests are parsed on the loop while they are small: a hostile one of 4 MiB takes half a second."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mirror.errors import UpstreamBroken
from mirror.oci.manifest import Manifest, ManifestMalformed
from mirror.store.changes import Named

if TYPE_CHECKING:
    from mirror.oci.name import Repository

INLINE = 256 * 1024  # bytes


async def parsed(body: bytes, media_type: str) -> Manifest:
    """Read a manifest, see `Manifest.parse`; raise `ManifestMalformed`."""
    if len(body) > INLINE:
        return await asyncio.to_thread(Manifest.parse, body, media_type)
    return Manifest.parse(body, media_type)


async def sent(body: bytes, media_type: str, repository: Repository) -> Manifest:
    """Read a manifest that upstream sent for `repository`; raise `UpstreamBroken` for one that cannot be right."""
    try:
        return await parsed(body, media_type)
    except ManifestMalformed as error:
        raise UpstreamBroken(
            f"{repository.namespace} sent a manifest for {repository.name} that cannot be read: {error}",
            namespace=repository.namespace,
        ) from error


def named(manifest: Manifest) -> tuple[Named, ...]:
    """Return what a manifest names, foreign layers left out, with the sizes that it says."""
    return tuple(Named(descriptor.digest, descriptor.size) for descriptor in (*manifest.manifests, *manifest.blobs))
