"""The cap of four processes with forty clients, as it holds for one."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import deque
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.flow.evictions import image, sampled
from tests.flow.fills import MIB, REPO
from tests.flow.test_workers import Workers, running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry

CAP = 40 * MIB
CLIENTS = 40


async def pulled(url: str, tag: str) -> bool:
    """Pull an image as a new client does; False where its manifest is not served. What is served must be whole."""
    connector = aiohttp.TCPConnector(force_close=True)  # each request may come to another worker
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        async with session.get(f"{url}/v2/{REPO}/manifests/{tag}") as response:
            if response.status != 200:
                return False
            manifest = json.loads(await response.read())
        for blob in (manifest["config"], *manifest["layers"]):
            async with session.get(f"{url}/v2/{REPO}/blobs/{blob['digest']}") as response:
                assert response.status == 200, (tag, response.status, await response.text())
                body = await response.read()
            assert f"sha256:{hashlib.sha256(body).hexdigest()}" == blob["digest"]
    return True


@pytest.mark.slow
async def test_four_workers_keep_one_cap_for_forty_clients_and_leave_no_holes(
    upstream: FakeRegistry, tmp_path: Path
) -> None:
    tags = [f"v{number}" for number in range(60)]
    for tag in ("always", *tags):
        image(upstream, tag, 2)
    async with running(Workers(tmp_path, upstream, storage={"max_size": "40MiB"})) as mirror:
        waiting = deque(tags * 2)

        async def client() -> None:
            while waiting:
                assert await pulled(mirror.url, waiting.popleft())

        done = asyncio.Event()

        async def always() -> None:
            while not done.is_set():
                assert await pulled(mirror.url, "always")

        assert await pulled(mirror.url, "always")
        with sampled(mirror.store) as samples:
            use = asyncio.create_task(always())
            await asyncio.gather(*(client() for _ in range(CLIENTS)))
            done.set()
            await use
        assert len(samples) > 20
        assert max(samples) <= CAP
        assert max(samples) > CAP * 3 // 4, "the room is used"
        await upstream.stop()
        served = [tag for tag in ("always", *tags) if await pulled(mirror.url, tag)]
        assert "always" in served
        assert len(served) > 5
