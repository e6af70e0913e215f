"""A client that believes nothing: each body that came whole is hashed."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp

from mirror.oci.digest import Digest
from tests.fakes.library import OCI_INDEX, OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Collection

ACCEPT = f"{OCI_INDEX}, {OCI_MANIFEST}"
# What a mirror may say that has not, and cannot get: no such thing, too many, upstream's trouble, no room, try later.
_HONEST = frozenset({404, 429, 502, 503, 504, 507})


class WrongBytes(AssertionError):
    """Content came whole and is not what its digest says."""


@dataclass
class Pull:
    """How a pull went. `digest` is what the tag was said to be; None where the mirror did not serve it."""

    digest: Digest | None = None
    missing: list[str] = field(default_factory=list)  # what was not served, and why
    whole: list[Digest] = field(default_factory=list)  # the images, one a platform, that came wholly


class Puller:
    """Pulls through one mirror."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url

    async def pull(self, repo: str, tag: str, known: Collection[Digest]) -> Pull:
        """Pull every platform of a tag. `known` is all that the tag has ever been."""
        pull = Pull()
        body = await self._get(f"/v2/{repo}/manifests/{tag}", pull, None)
        if body is None:
            return pull
        pull.digest = Digest.of(body)
        if pull.digest not in known:
            raise WrongBytes(f"{repo}:{tag} was never {pull.digest}")
        document = json.loads(body)
        if "manifests" not in document:
            await self._image(repo, pull.digest, document, pull)
            return pull
        for child in document["manifests"]:
            digest = Digest.parse(child["digest"])
            manifest = await self._get(f"/v2/{repo}/manifests/{digest}", pull, digest)
            if manifest is not None:
                await self._image(repo, digest, json.loads(manifest), pull)
        return pull

    async def _image(self, repo: str, digest: Digest, document: dict[str, object], pull: Pull) -> None:
        entries = [document["config"], *document["layers"]]  # type: ignore[misc]
        blobs = dict.fromkeys(Digest.parse(entry["digest"]) for entry in entries)
        got = await asyncio.gather(*(self._get(f"/v2/{repo}/blobs/{blob}", pull, blob) for blob in blobs))
        if all(body is not None for body in got):
            pull.whole.append(digest)

    async def _get(self, path: str, pull: Pull, digest: Digest | None) -> bytes | None:
        """Return a body that is right, or None where none came whole."""
        try:
            async with self._session.get(f"{self._url}{path}", headers={"Accept": ACCEPT}) as answer:
                body = await answer.read()
                if answer.status != 200:
                    assert answer.status in _HONEST, f"{path}: {answer.status} {body!r}"
                    pull.missing.append(f"{path}: {answer.status} {body[:300]!r}")
                    return None
                said = answer.headers.get("Docker-Content-Digest")
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            pull.missing.append(f"{path}: {error!r}")
            return None
        expected = digest or (Digest.parse(said) if said else None)
        if expected is None or Digest.of(body) != expected:
            raise WrongBytes(f"{path}: {len(body)} bytes are {Digest.of(body)}, not {expected}")
        return body
