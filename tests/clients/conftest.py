"""The mirror under test, as a person runs it, before the real registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.parts.mirror import MirrorProcess
from tests.parts.process import room
from tests.parts.token_server import PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parts.registry import DockerRegistry


@pytest.fixture
def mirror(registry: DockerRegistry) -> Iterator[MirrorProcess]:
    """A mirror with an empty cache, to which the one real registry is two upstreams. Each pull asks again (ttl 0)."""
    config = {
        "upstreams": {
            "docker.io": {"url": registry.url, "username": USER, "password": PASSWORD},
            "quay.io": {"url": registry.url},
        },
        "freshness": [{"match": "**", "ttl": "0s"}],
    }
    with room("mirror") as directory, MirrorProcess(directory, config) as process:
        yield process
        print(process.said())  # noqa: T201 - pytest shows it where the test failed
