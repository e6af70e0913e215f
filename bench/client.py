"""The client: a process of its own, light enough that thirty of them take little of a machine that everything shares.

    python -m bench.client < plan.json > outcome.json

A plan is either fetches that begin together, each on a connection of its own,

    {"do": "fetch", "urls": […], "range": "bytes=0-", "upto": 1048576, "hash": false}    hang up after `upto` bytes

or pulls of one image, one after the other, with `at_once` connections that are used again:

    {"do": "pull", "url": "http://127.0.0.1:5000", "repo": "library/app", "tag": "v1",
     "at_once": 3, "times": 1, "head": true, "hash": false}

The outcome is {"answers": [{method, path, status, bytes, seconds, sha256, error}], "seconds": …}. An answer's `seconds`
are from the request to the last byte of the body; the other `seconds` is all of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Self
from urllib.parse import urlsplit

_BUFFER = memoryview(bytearray(1 << 20))  # one for all: what came is dealt with before anything else comes
_ACCEPT = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.docker.distribution.manifest.v2+json, */*"
)


@dataclass
class Answer:
    """How one request went. Sizes in bytes, times in seconds since the request."""

    method: str
    path: str
    status: int = 0
    bytes: int = 0
    seconds: float = 0.0
    sha256: str | None = None
    error: str | None = None


class Connection(asyncio.BufferedProtocol):
    """One connection to a registry; one request at a time."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._transport: asyncio.Transport | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._over.set_result(None)

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to the origin of `url`."""
        where = urlsplit(url)
        assert where.hostname is not None
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: cls(where.netloc), where.hostname, where.port or 80)
        return connection

    async def ask(
        self, method: str, path: str, *, range_: str | None = None, upto: int | None = None, keep: bool = False,
        hashed: bool = False,
    ) -> Answer:  # fmt: skip
        """Ask, and read the answer to its end. The body is counted, hashed, or kept (`self.body`), as is said."""
        self.answer = Answer(method, path)
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self._head: bytearray | None = bytearray()
        self._left: int | None = None
        self._keep, self._upto = keep, upto
        self._hasher = hashlib.sha256() if hashed else None
        self._over = asyncio.get_running_loop().create_future()
        self._began = time.perf_counter()
        assert self._transport is not None
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}", f"Accept: {_ACCEPT}"]
        if range_ is not None:
            lines.append(f"Range: {range_}")
        self._transport.write("\r\n".join([*lines, "", ""]).encode())
        await self._over
        self.answer.seconds = time.perf_counter() - self._began
        if self._hasher is not None:
            self.answer.sha256 = self._hasher.hexdigest()
        return self.answer

    @property
    def alive(self) -> bool:
        """Whether more can be asked over it."""
        return self._over.done() and self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        """Hang up."""
        assert self._transport is not None
        self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`: whatever was under way is over."""
        self._end(f"the connection ended: {exc or 'closed'}")

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """See `asyncio.BufferedProtocol`."""
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`: count what came."""
        data = _BUFFER[:nbytes]
        if self._over.done():
            return  # hung up
        if self._head is not None:
            self._head += data
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._begin(head.decode("latin-1"))
            data = memoryview(bytes(rest))
        if data:
            self._take(data)
        if self._left == 0 or (self._upto is not None and self.answer.bytes >= self._upto):
            self._end(None)

    def _begin(self, head: str) -> None:
        status, *lines = head.split("\r\n")
        self._head = None
        self.answer.status = int(status.split()[1])
        for line in lines:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        if self.answer.method == "HEAD":
            self._left = 0
        elif "content-length" in self.headers:
            self._left = int(self.headers["content-length"])
        else:
            self._end("an answer without Content-Length")

    def _take(self, data: memoryview) -> None:
        self.answer.bytes += len(data)
        if self._left is not None:
            self._left -= len(data)
        if self._keep:
            self.body += data
        if self._hasher is not None:
            self._hasher.update(data)

    def _end(self, error: str | None) -> None:
        if not self._over.done():
            self.answer.error = error
            self._over.set_result(None)


async def fetch(url: str, plan: dict[str, Any]) -> Answer:
    """Fetch one URL on a connection of its own."""
    connection = await Connection.open(url)
    path = url.removeprefix(f"http://{urlsplit(url).netloc}")
    answer = await connection.ask(
        "GET", path, range_=plan.get("range"), upto=plan.get("upto"), hashed=plan.get("hash", False)
    )
    connection.close()
    return answer


async def pull(plan: dict[str, Any]) -> list[Answer]:
    """Pull an image: its tag as containerd asks (HEAD, then GET by digest) or as podman does (GET), its blobs."""
    base = f"/v2/{plan['repo']}"
    first = await Connection.open(plan["url"])
    answers = []
    named = plan["tag"]
    if plan.get("head", True):
        answers.append(await first.ask("HEAD", f"{base}/manifests/{named}"))
        named = first.headers.get("docker-content-digest", named)
    answers.append(await first.ask("GET", f"{base}/manifests/{named}", keep=True))
    if answers[-1].error is not None or answers[-1].status != 200:
        first.close()
        return answers
    manifest = json.loads(first.body)
    blobs = [f"{base}/blobs/{entry['digest']}" for entry in (manifest["config"], *manifest["layers"])]

    async def work(connection: Connection) -> None:
        while blobs:
            if not connection.alive:  # what broke off is over; the rest is still asked for
                connection = await Connection.open(plan["url"])
            answers.append(await connection.ask("GET", blobs.pop(0), hashed=plan.get("hash", False)))
        connection.close()

    others = [Connection.open(plan["url"]) for _ in range(plan.get("at_once", 3) - 1)]
    await asyncio.gather(work(first), *[work(connection) for connection in await asyncio.gather(*others)])
    return answers


async def _run(plan: dict[str, Any]) -> dict[str, Any]:
    began = time.perf_counter()
    if plan["do"] == "fetch":
        answers = await asyncio.gather(*[fetch(url, plan) for url in plan["urls"]])
    else:
        answers = []
        for _ in range(plan.get("times", 1)):
            answers += await pull(plan)
    return {"answers": [asdict(answer) for answer in answers], "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_run(json.load(sys.stdin)))))
