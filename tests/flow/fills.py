"""What the tests of fills have in common: clients of one blob, and looks at the disk and at what leaks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.cache.fill import Fill
    from mirror.oci.digest import Digest
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Mirror

MIB = 1024 * 1024
REPO = "library/app"


def ranged(start: int, stop: int | None = None) -> dict[str, str]:
    """Return the header that asks for the bytes from `start` up to and without `stop`."""
    return {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}


def path_of(digest: Digest, repo: str = REPO) -> str:
    return f"/v2/{repo}/blobs/{digest}"


class Client:
    """One client of one mirror, with a connection of its own."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def get(self, digest: Digest, start: int | None = None, stop: int | None = None) -> tuple[int, bytes, bool]:
        """Return the status, the bytes that came, and whether they were all that was promised."""
        got = bytearray()
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            headers = {} if start is None else ranged(start, stop)
            try:
                async with session.get(self.url + path_of(digest), headers=headers) as response:
                    try:
                        async for piece in response.content.iter_any():
                            got += piece
                    except aiohttp.ClientError:
                        return response.status, bytes(got), False
                    return response.status, bytes(got), True
            except aiohttp.ServerDisconnectedError:
                return 0, b"", False

    async def leave(self, digest: Digest, start: int, after: int) -> bytes:
        """Read `after` bytes from `start` on, or what there is, and hang up."""
        got = bytearray()
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.get(self.url + path_of(digest), headers=ranged(start)) as response,
        ):
            async for piece in response.content.iter_any():
                got += piece
                if len(got) >= after:
                    break
            response.close()
        return bytes(got)


def fill_of(mirror: Mirror, digest: Digest) -> Fill:
    """Return the fill that is under way."""
    fill = mirror.server.cache.fills.running(digest)
    assert fill is not None
    return fill


async def until(fill: Fill, condition: Callable[[], bool]) -> None:
    """Wait until `condition()` holds; it can change only when the fill moves."""
    async with asyncio.timeout(30):
        while not condition():
            await fill.pulse.wait()


def on_disk(store: Path) -> int:
    """Return the bytes that content takes on disk, whole or not."""
    return sum(
        path.stat().st_blocks * 512 for room in ("blobs.v1", "fills.v1") for path in (store / room).rglob("*.*")
    ) + sum(path.stat().st_blocks * 512 for path in (store / "blobs.v1").rglob("*") if path.is_file())


def booked(mirror: Mirror) -> tuple[int, int, int]:
    """Return what the account book says: bytes of content, bytes that processes hold, and of those not yet written."""
    balance = mirror.server.store.room.balance()
    return balance.content, balance.held, balance.outstanding


def unfinished(store: Path) -> list[str]:
    """Return the names of what unfinished fills have left."""
    return sorted(path.name for path in (store / "fills.v1").iterdir())


def descriptors() -> set[str]:
    """Return the files of stores that this process has open."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue
        if "/blobs.v1/" in target or "/fills.v1/" in target:
            found.add(f"{link.name} {target}")
    return found


def ranges_asked(upstream: FakeRegistry, digest: Digest) -> list[str | None]:
    """Return the `Range` of each request for a blob, in order."""
    return [record.range for record in upstream.requests if record.digest == str(digest) and record.method == "GET"]
