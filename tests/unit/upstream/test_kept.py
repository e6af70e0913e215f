"""Connections that are kept, and that something on the way has forgotten without a word."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from mirror.errors import UpstreamUnavailable
from mirror.oci.name import Tag
from mirror.upstream import sessions
from mirror.upstream.protocol import Urgency
from tests.fakes.faults import Delay
from tests.parts.shaper import Shaper
from tests.unit.upstream.dial import REPO

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mirror.upstream.protocol import Upstream
    from tests.fakes.registry import FakeRegistry

    Connect = Callable[..., Upstream]

V1 = Tag("v1")


@pytest.fixture
async def line(up: FakeRegistry) -> AsyncIterator[Shaper]:
    async with Shaper(up.host) as line:
        yield line


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SILENCE", 0.1)


async def test_what_says_nothing_over_a_kept_connection_is_asked_over_a_new_one(
    up: FakeRegistry, connect: Connect, line: Shaper
) -> None:
    digest = up.add_blob("org/app", b"a layer")
    up.add_image("org/app", "v1")
    upstream = connect(url=line.url)

    async def ask() -> None:
        assert (await upstream.head(REPO, V1, patience=3)).digest
        async with upstream.blob(REPO, digest, urgency=Urgency(urgent=True), patience=3) as body:
            assert b"".join([piece async for piece in body.pieces()]) == b"a layer"

    await ask()
    assert line.connections == 2
    await ask()
    assert line.connections == 2  # they are kept
    line.forget()
    began = time.monotonic()
    await ask()
    assert time.monotonic() - began < 1
    assert line.connections == 4


async def test_a_counted_request_is_sent_once_for_as_long_as_an_answer_may_take(
    up: FakeRegistry, connect: Connect, line: Shaper
) -> None:
    up.add_image("org/app", "v1")
    upstream = connect(url=line.url)
    await upstream.manifest(REPO, V1, patience=3)
    up.fault(kind="manifest", then=Delay(0.3))
    await upstream.manifest(REPO, V1, patience=3)
    assert up.count(kind="manifest", method="GET") == 2
    line.forget()
    with pytest.raises(UpstreamUnavailable):
        await upstream.manifest(REPO, V1, patience=0.5)
    assert line.connections == 1


async def test_a_registry_that_always_takes_long_is_not_asked_twice(
    up: FakeRegistry, connect: Connect, line: Shaper
) -> None:
    up.add_image("org/app", "v1")
    up.fault(kind="manifest", then=Delay(0.2))
    upstream = connect(url=line.url)
    for _ in range(3):
        assert (await upstream.head(REPO, V1, patience=3)).digest
    await asyncio.sleep(0)
    assert (up.count(kind="manifest"), line.connections) == (3, 1)
