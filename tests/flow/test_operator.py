"""The operator's commands beside a mirror that runs: one store, and each sees at once what the other did."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, StartMirror

LARGE = 48 * 1024 * 1024  # bytes; more than the sockets between two programs take


class Operate(Protocol):
    """Runs `mirror ARGUMENTS --json`; returns its exit code and what it printed."""

    async def __call__(self, *arguments: str) -> tuple[int, Any]: ...


@pytest.fixture
def operate(tmp_path: Path, upstream: FakeRegistry) -> Operate:
    file = tmp_path / "mirror.yaml"
    file.write_text(
        json.dumps(
            {
                "storage": {"path": str(tmp_path / "store"), "min_free": "0B"},
                "upstreams": {"docker.io": {"url": upstream.url}},
            }
        )
    )

    async def call(*arguments: str) -> tuple[int, Any]:
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mirror", *arguments, "--json", "--config", str(file),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await program.communicate()
        assert out, err.decode()
        return program.returncode or 0, json.loads(out)

    return call


async def test_what_is_pulled_is_listed_and_what_is_purged_is_fetched_again(
    start: StartMirror, upstream: FakeRegistry, operate: Operate
) -> None:
    upstream.add_image("library/app", "v1", layers=[b"one" * 9000, b"two"])
    mirror = await start(upstream)
    await mirror.pull("library/app", "v1")
    code, listed = await operate("ls", "app")
    assert code == 0
    [image] = listed["images"]
    assert image["names"] == [{"repository": "docker.io/library/app", "tag": "v1"}]
    assert (image["state"], image["files"]) == ("complete", 4)
    code, purged = await operate("purge", "app:v1")
    assert (code, purged["freed_bytes"]) == (0, image["size_bytes"])
    before = upstream.count(kind="blob")
    assert {reply.status for reply in await mirror.pull("library/app", "v1")} == {200}
    assert upstream.count(kind="blob") == before + 3


async def test_a_tag_that_is_refreshed_is_new_at_once_however_fresh_it_was(
    start: StartMirror, upstream: FakeRegistry, operate: Operate, clock: Clock
) -> None:
    clock.now = time.time()
    old = upstream.add_image("library/app", "v1", layers=[b"old"])
    mirror = await start(upstream, freshness=[{"match": "**", "ttl": "1h"}])
    await mirror.pull("library/app", "v1")
    new = upstream.add_image("library/app", "v1", layers=[b"new"])
    assert (await mirror.get("/v2/library/app/manifests/v1")).headers["Docker-Content-Digest"] == str(old)
    code, told = await operate("refresh", "app:v1")
    assert code == 0
    [tag] = told["tags"]
    assert (tag["before"], tag["after"], tag["failure"]) == (str(old), str(new), None)
    asked = upstream.count()
    assert (await mirror.get("/v2/library/app/manifests/v1")).headers["Docker-Content-Digest"] == str(new)
    assert upstream.count() == asked


async def test_a_refresh_that_fails_says_why_and_leaves_the_tag(
    start: StartMirror, upstream: FakeRegistry, operate: Operate
) -> None:
    upstream.add_image("library/app", "v1", layers=[b"one"])
    mirror = await start(upstream)
    await mirror.pull("library/app", "v1")
    code, told = await operate("refresh", "library/nothing:v1", "app:*")
    assert code == 1
    here, nothing = told["tags"]
    assert here["failure"] is None
    assert "404" in nothing["failure"]
    assert (await operate("ls", "app"))[0] == 0


async def test_an_image_that_a_client_reads_is_not_purged_under_it(
    start: StartMirror, upstream: FakeRegistry, operate: Operate
) -> None:
    layer = upstream.add_pattern_blob("library/app", LARGE)
    upstream.add_image("library/app", "v1", layers=[layer])
    mirror = await start(upstream)
    await mirror.pull("library/app", "v1")
    async with mirror.session.get(f"{mirror.url}/v2/library/app/blobs/{layer}") as response:
        first = await response.content.readexactly(1)
        [image] = (await operate("ls", "app"))[1]["images"]
        assert image["in_use_by"]
        code, told = await operate("purge", "app:v1")
        assert code == 1
        assert told["images"][0]["reason"] == "it is in use; try again"
        assert len(first + await response.read()) == LARGE
    assert (await operate("purge", "app:v1"))[0] == 0
