from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.registry import FakeRegistry
from tests.unit.upstream.dial import NAMESPACE, dial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mirror.upstream.protocol import Upstream


@pytest.fixture
async def up() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as registry:
        yield registry


@pytest.fixture
async def connect(up: FakeRegistry) -> AsyncIterator[Callable[..., Upstream]]:
    """Make the upstream that asks `up`, with options of `dial`."""
    made = []

    def make(**options: Any) -> Upstream:
        made.append(dial(options.pop("url", up.url), **options))
        return made[-1].of(NAMESPACE)

    yield make
    for registries in made:
        await registries.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the delays between attempts be short; their lengths have a test of their own."""
    monkeypatch.setattr("mirror.upstream.attempts.delay", lambda attempt: 0.001 * attempt)
