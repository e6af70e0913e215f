"""A mirror that listens, in the test's own loop, before fake upstreams, and with a clock that the test sets."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
import pytest
from yarl import URL

from mirror import config
from mirror.cache import blobs, fill, listings, manifests, tags, transfer, vouching
from mirror.config.upstreams import WELL_KNOWN
from mirror.server.run import Server
from mirror.upstream import attempts
from tests.fakes.registry import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from multidict import CIMultiDictProxy

    from mirror.oci.digest import Digest

INDEX_TYPES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")


class Clock:
    """The time by which tags grow old: it stands still until the test moves it. Seconds since the epoch."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass(frozen=True)
class Reply:
    """An answer of the mirror, wholly read."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an OCI error."""
        code: str = self.json["errors"][0]["code"]
        return code

    @property
    def message(self) -> str:
        """What an OCI error tells the person."""
        message: str = self.json["errors"][0]["message"]
        return message

    @property
    def cache(self) -> str:
        """`Cache-Status`."""
        return self.headers["Cache-Status"]


class Mirror:
    """A mirror that runs, and a client of it that follows and decodes nothing."""

    def __init__(self, server: Server, stack: AsyncExitStack, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session
        self._stack = stack
        self.url = server.bound[0]

    async def ask(self, method: str, path: str, **headers: str) -> Reply:
        """Send one request, its path byte for byte; `If_None_Match="…"` is the header of that name."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = URL(self.url + path, encoded=True)
        async with self.session.request(method, url, headers=named, allow_redirects=False) as response:
            return Reply(response.status, response.headers, await response.read())

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.ask("GET", path, **headers)

    async def head(self, path: str, **headers: str) -> Reply:
        return await self.ask("HEAD", path, **headers)

    async def raw(self, request: bytes) -> bytes:
        """Send bytes over a connection of their own; return all that comes until the mirror closes it."""
        target = URL(self.url)
        reader, writer = await asyncio.open_connection(target.host, target.port)
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    async def pull(self, repo: str, reference: str | Digest) -> list[Reply]:
        """Pull as a client does, all platforms: the manifests, then every blob. Return the answers, blobs last."""
        replies = [await self.get(f"/v2/{repo}/manifests/{reference}")]
        if replies[0].status != 200:
            return replies
        document = replies[0].json
        for child in document.get("manifests", ()):
            replies += await self.pull(repo, child["digest"])
        named = [document[key] for key in ("config",) if key in document] + document.get("layers", [])
        for digest in dict.fromkeys(entry["digest"] for entry in named if not entry.get("urls")):
            replies.append(await self.get(f"/v2/{repo}/blobs/{digest}"))
        await self.settled()
        return replies

    async def settled(self) -> None:
        """Wait until no fill is under way: a blob's last byte goes out before its file has its name."""
        await asyncio.gather(*self.server.cache.fills._tasks, return_exceptions=True)

    async def confirmed(self) -> None:
        """Wait until upstream has said of all that was asked whether a repository holds it."""
        await asyncio.gather(*self.server.cache.vouching._questions._tasks.values(), return_exceptions=True)

    async def stop(self) -> None:
        """End as a process does: drain, then close everything."""
        await self.server.drain()
        await self._stack.aclose()


class StartMirror(Protocol):
    """Starts a mirror. `upstreams` maps namespaces to fakes, or to what the configuration says of one.

    No upstream is there but these, and none reads ahead unless it says so. The rest are sections of mirror.yaml.
    """

    async def __call__(self, upstreams: FakeRegistry | Mapping[str, Any], **sections: Any) -> Mirror: ...


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def upstream() -> AsyncIterator[FakeRegistry]:
    """Docker Hub, as far as `start` is told no more."""
    async with FakeRegistry() as fake:
        yield fake


@pytest.fixture
async def other() -> AsyncIterator[FakeRegistry]:
    """Another registry."""
    async with FakeRegistry() as fake:
        yield fake


@pytest.fixture
async def start(tmp_path: Path, clock: Clock) -> AsyncIterator[StartMirror]:
    """Start a mirror on the store of this test; started again after `stop`, it finds what it left there."""
    async with AsyncExitStack() as stack:

        async def begin(upstreams: FakeRegistry | Mapping[str, Any], **sections: Any) -> Mirror:
            own = await stack.enter_async_context(AsyncExitStack())
            text = json.dumps(document(upstreams, tmp_path / "store", **sections))
            settings = config.parse(text, "mirror.yaml", {})
            if not isinstance(
                upstreams, FakeRegistry
            ):  # of what is not there, `"*"` admits all but what a test refuses
                refused = frozenset(name for name, upstream in upstreams.items() if upstream is False)
                settings = replace(settings, refused=refused)
            server = await Server.start(settings, own, clock=clock)
            # The first to be closed: a connection that is kept alive would hold up the end.
            session = await own.enter_async_context(
                aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
            )
            return Mirror(server, own, session)

        yield begin


def document(upstreams: FakeRegistry | Mapping[str, Any], store: Path, **sections: Any) -> dict[str, Any]:
    """Return a configuration as `mirror.yaml` would have it."""
    if isinstance(upstreams, FakeRegistry):
        upstreams = {"docker.io": upstreams}
    told: dict[str, Any] = dict.fromkeys(WELL_KNOWN, False)
    for name, upstream in upstreams.items():
        if isinstance(upstream, FakeRegistry):
            told[name] = {"url": upstream.url, "read_ahead": False}
        else:
            told[name] = upstream if isinstance(upstream, bool) else {"read_ahead": False, **upstream}
    return {
        **sections,
        "server": {"listen": "127.0.0.1:0", "shutdown_timeout": "5s", **sections.get("server", {})},
        "storage": {"path": str(store), "min_free": "0B", **sections.get("storage", {})},
        "upstreams": told,
    }


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait tenths of a second where the mirror waits seconds, and do not ask again: for upstreams that fail or hang."""
    for module in (manifests, tags, listings, blobs, fill, vouching):
        monkeypatch.setattr(module, "PATIENCE", 0.5)
    for module in (tags, listings):
        monkeypatch.setattr(module, "PATIENCE_WITH_STALE", 0.4)
    monkeypatch.setattr(attempts, "TRIES", 1)
    monkeypatch.setattr(transfer, "GIVE_UP", 0.3)
