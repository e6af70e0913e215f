"""The nodes of the cluster: each pulls as containerd does, from the mirror alone, and keeps what it has."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from bench.client import Answer, Connection
from mirror.oci.digest import Digest

if TYPE_CHECKING:
    from bench.cluster import Image

_ARM, _PLAIN = "arm64", "amd64"


@dataclass
class Node:
    """What a node has: top-level manifests that are whole here, and blobs."""

    arm: bool = False
    images: set[str] = field(default_factory=set)
    blobs: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Pulled:
    """How a pull ended. `digest` is what the tag was said to be; `why` is None where all went well."""

    digest: str | None
    why: str | None
    marked: bool = False  # an answer had a `Warning`
    requests: int = 0


class Failed(Exception):
    """A step of a pull was not answered as it should be."""


class Client:
    """Connections to the mirror that are used again; as many pulls at once as there are connections."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._free: list[Connection] = []

    async def pull(self, node: Node, image: Image, pinned: str | None) -> Pulled:
        """Pull an image, or as much of it as the node lacks, as containerd does: HEAD of the name, GETs by digest.

        `pinned` is the digest of an image that has no tag. Any answer but 200 ends it: there is nowhere else to go.
        """
        step = _Steps(self._free.pop() if self._free else await Connection.open(self._url), image.repo)
        digest = None
        try:
            await step.ask("HEAD", f"manifests/{pinned or image.tag}")
            digest = step.connection.headers["docker-content-digest"]
            if digest not in node.images:
                await _fetch(step, node, digest)
                node.images.add(digest)
        except Failed as failure:
            return Pulled(digest, str(failure), step.marked, step.count)
        finally:
            if step.connection.alive:
                self._free.append(step.connection)
        return Pulled(digest, None, step.marked, step.count)

    def close(self) -> None:
        """Hang up."""
        for connection in self._free:
            connection.close()


async def _fetch(step: _Steps, node: Node, digest: str) -> None:
    index = json.loads(await step.get("manifests", digest))
    wanted = _ARM if node.arm else _PLAIN
    child = next(entry["digest"] for entry in index["manifests"] if entry["platform"]["architecture"] == wanted)
    manifest = json.loads(await step.get("manifests", child))
    for entry in (manifest["config"], *manifest["layers"]):
        if entry["digest"] not in node.blobs:
            await step.get("blobs", entry["digest"])
            node.blobs.add(entry["digest"])


class _Steps:
    """The requests of one pull."""

    def __init__(self, connection: Connection, repo: str) -> None:
        self.connection = connection
        self.marked = False
        self.count = 0
        self._base = f"/v2/{repo}"

    async def get(self, kind: str, digest: str) -> bytes:
        """Return content; it is what its digest says."""
        answer = await self.ask("GET", f"{kind}/{digest}")
        body = bytes(self.connection.body)
        if not Digest.parse(digest).matches(body):
            raise Failed(f"GET {kind} {answer.status}: {len(body)} bytes that are not {digest}")
        return body

    async def ask(self, method: str, what: str) -> Answer:
        """Ask the mirror; raise `Failed` where it does not answer 200."""
        self.count += 1
        answer = await self.connection.ask(method, f"{self._base}/{quote(what, safe='/:')}?ns=docker.io", keep=True)
        self.marked = self.marked or "warning" in self.connection.headers
        if answer.status != 200 or answer.error is not None:
            kind = what.partition("/")[0]
            raise Failed(f"{method} of {kind}: {answer.error or _said(answer.status, bytes(self.connection.body))}")
        return answer


def _said(status: int, body: bytes) -> str:
    try:
        return f"{status} {json.loads(body)['errors'][0]['message']}"
    except (ValueError, KeyError, IndexError):
        return f"{status}"
