"""`mirror verify` beside a mirror that runs: what it repairs is served at once, and comes from the same upstreams."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from tests.flow.evictions import here, image, pull
from tests.flow.fills import REPO
from tests.flow.test_scrub import aside, damage, forget, right

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import StartMirror

NO_SCRUB = {"scrub_rate": "0"}


class Verify(Protocol):
    """Runs `mirror verify ARGUMENTS --json`; returns its exit code and what it printed."""

    async def __call__(self, *arguments: str) -> tuple[int, Any]: ...


@pytest.fixture
def verify(tmp_path: Path, upstream: FakeRegistry) -> Verify:
    file = tmp_path / "mirror.yaml"
    storage = {"path": str(tmp_path / "store"), "min_free": "0B"}
    file.write_text(json.dumps({"storage": storage, "upstreams": {"docker.io": {"url": upstream.url}}}))

    async def call(*arguments: str) -> tuple[int, Any]:
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mirror", "verify", *arguments, "--json", "--config", str(file),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await program.communicate()
        assert out, err.decode()
        return program.returncode or 0, json.loads(out)

    return call


async def test_what_is_wrong_is_named_repaired_and_served_right_afterwards(
    start: StartMirror, upstream: FakeRegistry, verify: Verify
) -> None:
    manifest = image(upstream, "v1", 2)
    config, layer = upstream.blobs_of(REPO, manifest)
    mirror = await start(upstream, storage=NO_SCRUB)
    await pull(mirror, "v1")
    for victim in (manifest, layer):
        damage(mirror, victim)
    mirror.server.store.layout.blob(config).unlink()
    code, report = await verify("app")
    assert code == 1
    problems = {problem["digest"]: problem["problem"] for problem in report["problems"]}
    assert problems == {str(manifest): "wrong", str(layer): "wrong", str(config): "missing"}
    assert not right(mirror, layer), "without --repair nothing is changed"
    code, report = await verify("--repair")
    assert (code, {problem["done"] for problem in report["problems"]}) == (0, {"fetched again"})
    assert {problem["images"][0] for problem in report["problems"]} == {"docker.io/library/app:v1"}
    assert all(right(mirror, digest) for digest in (manifest, config, layer))
    assert aside(mirror) == []
    forget(mirror)
    await upstream.stop()
    await pull(mirror, "v1")


async def test_what_upstream_does_not_give_is_named_and_comes_when_it_does(
    start: StartMirror, upstream: FakeRegistry, verify: Verify
) -> None:
    layer = upstream.blobs_of(REPO, image(upstream, "v1", 1))[-1]
    mirror = await start(upstream, storage=NO_SCRUB)
    await pull(mirror, "v1")
    await mirror.stop()  # else it would heal it as well
    damage(mirror, layer)
    await upstream.stop()
    code, report = await verify("--repair", "app:v1")
    assert code == 1
    assert report["problems"][0]["done"].startswith("not fetched: docker.io")
    assert not here(mirror, layer)
    await upstream.start()
    code, report = await verify("--repair")
    assert (code, report["problems"][0]["done"]) == (0, "fetched again")
    assert right(mirror, layer)
    assert aside(mirror) == []
