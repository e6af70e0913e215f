"""Random clients, faults and restarts against one blob; the promises hold after each."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from mirror.upstream import attempts
from tests.fakes.faults import Corrupt, Cut, Fault, Html, NoLength, NoRange, Status, Truncate
from tests.flow.fills import MIB, REPO, Client, descriptors, path_of

if TYPE_CHECKING:
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import StartMirror


def _fault(choose: random.Random, size: int) -> tuple[Fault, ...]:
    at = choose.randrange(size)
    return choose.choice(
        [
            (Cut(at),),
            (Cut(at), NoRange()),
            (Corrupt(at),),
            (Truncate(at, chunked=choose.random() < 0.5),),
            (NoLength(),),
            (Html(),),
            (Status(503),),
        ]
    )


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_what_is_whole_is_right(
    seed: int, start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "delay", lambda attempt: 0.001 * attempt)
    choose = random.Random(seed)  # noqa: S311  # a sequence that can be repeated
    size = choose.choice([1, 65536, 300_000, 2 * MIB + 1, 34 * MIB])
    digest = upstream.add_pattern_blob(REPO, size, seed)
    body = upstream.content(REPO, digest)
    mirror = await start(upstream, server={"shutdown_timeout": "0s"})

    async def one() -> None:
        offset = choose.randrange(size)
        if choose.random() < 0.3:
            got = await asyncio.gather(
                Client(mirror.url).leave(digest, offset, choose.randrange(1, MIB)), return_exceptions=True
            )
            assert not isinstance(got[0], AssertionError)
            return
        status, whole, complete = await Client(mirror.url).get(digest)
        assert status in (0, 200, 404)
        if status == 200 and complete:
            assert whole == body

    for _ in range(3):
        upstream.heal()
        for _ in range(choose.randrange(3)):
            upstream.fault(kind="blob", times=1, then=_fault(choose, size))
        clients = [asyncio.create_task(one()) for _ in range(choose.randrange(1, 6))]
        if choose.random() < 0.4:
            await upstream.log.wait(lambda: upstream.requests)
            await mirror.stop()
            await asyncio.gather(*clients, return_exceptions=True)
            mirror = await start(upstream, server={"shutdown_timeout": "0s"})
        else:
            await asyncio.gather(*clients)
        await mirror.settled()
        stored = mirror.server.store.layout.blob(digest)
        if stored.exists():
            assert stored.read_bytes() == body
        await mirror.server._health.idle(10)
        assert mirror.server._health.under_way == 0  # those whose client has left have heard of it
        assert descriptors() == set()
    upstream.heal()
    mirror.server.cache.fills._refused.clear()
    reply = await mirror.get(path_of(digest))
    assert (reply.status, reply.body) == (200, body)
    assert upstream.connections_peak <= 8
