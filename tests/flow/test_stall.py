"""An upstream that stops sending and says nothing: a client sees a pause, and then all of it."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from typing import TYPE_CHECKING

import aiohttp

from mirror.metrics import UPSTREAM_STALLS
from tests.fakes.faults import Hang, NoLength, NoRange, Stall
from tests.flow.fills import REPO, path_of

if TYPE_CHECKING:
    from tests.fakes.faults import Fault
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Mirror, StartMirror

STALL_TIMEOUT = 1.0  # seconds; the least that may be configured
SIZE = 300_000  # bytes
AT_ONCE = 8  # no more than there are places: who waits for one waits for those before, too


async def pauses(mirror: Mirror, path: str) -> tuple[bytes, float]:
    """Return what comes, and the longest time in which nothing did."""
    got, longest, last = bytearray(), 0.0, time.monotonic()
    async with aiohttp.ClientSession() as session, session.get(mirror.url + path) as response:
        assert response.status == 200
        async for piece in response.content.iter_any():
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
            got += piece
    return bytes(got), max(longest, time.monotonic() - last)


async def test_twenty_transfers_that_stall_for_ever_all_complete_and_no_pause_is_longer_than_promised(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    choose = random.Random(6)  # noqa: S311  # a sequence that can be repeated
    pulls: list[tuple[str, bytes]] = []
    ends = ("anywhere", "before the first byte", "before the header", "in the last 64 KiB")
    for seed, (length, ranges, where) in enumerate(itertools.product((True, False), (True, False), ends)):
        digest = upstream.add_pattern_blob(REPO, SIZE, seed)
        spot = {"before the first byte": 0, "in the last 64 KiB": choose.randrange(SIZE - 65536, SIZE)}
        stalls = Hang() if where == "before the header" else Stall(spot.get(where, choose.randrange(1, SIZE)))
        always: list[Fault] = [*([] if length else [NoLength()]), *([] if ranges else [NoRange()])]
        upstream.fault(kind="blob", digest=digest, times=1, then=[*always, stalls])
        if always:
            upstream.fault(kind="blob", digest=digest, then=always)
        pulls.append((path_of(digest), upstream.content(REPO, digest)))
    for tag in ("v1", "v2", "v3", "v4"):
        image = upstream.add_image(REPO, tag, layers=[tag.encode()])
        body = upstream.shelf(REPO).manifests[str(image)].content.body
        fault: Fault = Hang() if tag == "v1" else Stall(0 if tag == "v2" else choose.randrange(1, len(body)))
        upstream.fault(kind="manifest", method="GET", digest=image, times=1, then=fault)
        pulls.append((f"/v2/{REPO}/manifests/{image if tag == 'v4' else tag}", body))
    assert len(pulls) == 20
    mirror = await start({"docker.io": {"url": upstream.url, "stall_timeout": f"{STALL_TIMEOUT:.0f}s"}})
    counted = UPSTREAM_STALLS.labels("docker.io")._value.get()
    for batch in (pulls[:AT_ONCE], pulls[AT_ONCE : 2 * AT_ONCE], pulls[2 * AT_ONCE :]):
        for (_, body), (got, pause) in zip(
            batch, await asyncio.gather(*[pauses(mirror, path) for path, _ in batch]), strict=True
        ):
            assert got == body
            assert pause < STALL_TIMEOUT + 2
    assert UPSTREAM_STALLS.labels("docker.io")._value.get() - counted == 15  # without those that had no header
