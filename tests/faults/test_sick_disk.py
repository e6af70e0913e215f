"""A disk that answers with errors: no client gets a wrong byte, and what can be had elsewhere is had."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.fakes.registry import FakeRegistry
from tests.faults.disk import Disk
from tests.model.puller import Puller
from tests.parts.mirror import MirrorProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mirror.oci.digest import Digest

pytestmark = [pytest.mark.needs("umount", "fusermount3"), pytest.mark.timeout(120)]

REPO, TAG = "library/app", "v1"
LAYER = 3 << 20


class _Stage:
    """An upstream with images, a disk, and a mirror on it."""

    def __init__(self, upstream: FakeRegistry, disk: Disk, mirror: MirrorProcess, puller: Puller) -> None:
        self.upstream, self.disk, self.mirror = upstream, disk, mirror
        self.puller = puller
        self._images: dict[str, Digest] = {}
        self.layer = self.add(TAG)

    def add(self, tag: str) -> Digest:
        """Let upstream have an image; return its large layer."""
        layer = self.upstream.add_pattern_blob(REPO, LAYER, len(self._images))
        self._images[tag] = self.upstream.add_image(REPO, tag, layers=[layer, f"small {tag}".encode()])
        return layer

    async def pull(self, tag: str = TAG) -> list[str]:
        """Pull an image; return what was missing. Wrong bytes raise."""
        return (await self.puller.pull(REPO, tag, [self._images[tag]])).missing

    async def kept(self, tag: str = TAG) -> None:
        """Wait until all of an image is here: it can be had without its upstream."""
        await self.upstream.idle()
        await self.upstream.stop()
        async with asyncio.timeout(20):  # the last bytes reach a client before the disk has them
            while missing := await self.pull(tag):
                assert all(" 503 " in line or " 404 " in line for line in missing), missing
        await self.upstream.start()
        await self.pull(tag)  # the mirror hears that its upstream is back

    def file(self, digest: Digest) -> str:
        """Return the path of content on the disk."""
        return f"/store/blobs.v1/sha256/{digest.hex[:2]}/{digest.hex}"


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[_Stage]:
    for name in ("disk", "mirror"):
        (tmp_path / name).mkdir()
    async with FakeRegistry() as upstream, aiohttp.ClientSession() as session:
        with Disk(tmp_path / "disk") as disk:
            config: dict[str, Any] = {
                "upstreams": {"docker.io": {"url": upstream.url}},
                "storage": {"path": str(disk.mount / "store"), "max_size": "30MiB"},
                "freshness": [{"match": "**", "ttl": "0s"}],
                "server": {"shutdown_timeout": "1s"},
            }
            mirror = MirrorProcess(tmp_path / "mirror", config)
            await asyncio.to_thread(mirror.start)
            try:
                yield _Stage(upstream, disk, mirror, Puller(session, mirror.url))
            finally:
                disk.heal()
                await asyncio.to_thread(mirror.__exit__)


@pytest.mark.parametrize("beyond", [0, 1 << 20])
async def test_content_that_cannot_be_read_is_fetched_again(stage: _Stage, beyond: int) -> None:
    assert not await stage.pull()
    await stage.kept()
    stage.disk.fail("read", stage.file(stage.layer), beyond=beyond)
    await stage.pull()  # it may be cut, but is never wrong
    assert f"read {stage.file(stage.layer)}" in stage.disk.refused()
    stage.disk.heal()
    async with asyncio.timeout(20):
        while await stage.pull():
            pass
    await stage.kept()
    assert stage.upstream.bytes_of(stage.layer) == 2 * LAYER


@pytest.mark.parametrize("do", ["write", "fsync", "create"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EROFS])
async def test_a_disk_that_cannot_be_written_costs_no_client_its_pull(stage: _Stage, do: str, error: int) -> None:
    stage.disk.fail(do, "/store/fills.v1/*", error=error)
    for _ in range(2):
        missing = await stage.pull()
        if (
            do == "fsync"
        ):  # all has come, and the disk refuses at last: who is behind by then is cut off, and asks again
            assert all("not completed" in line for line in missing), missing
        else:
            assert not missing
    assert {line.split("/")[0] for line in stage.disk.refused()} == {f"{do} "}
    stage.disk.heal()
    assert not await stage.pull()


async def test_a_disk_that_becomes_read_only_serves_what_it_has_and_keeps_again_when_it_is_not(stage: _Stage) -> None:
    assert not await stage.pull()
    await stage.kept()
    stage.disk.be_read_only()
    served = stage.upstream.bytes_of(stage.layer)
    other = stage.add("v2")
    for _ in range(2):
        assert not await stage.pull()
        assert not await stage.pull("v2")
    assert stage.upstream.bytes_of(stage.layer) == served == LAYER
    assert stage.upstream.bytes_of(other) >= 2 * LAYER  # to each client that asks
    assert any(line.startswith("write ") for line in stage.disk.refused())
    stage.disk.heal()
    stage.add("v3")
    assert not await stage.pull("v3")
    await stage.kept("v3")


async def test_a_disk_that_is_well_again_keeps_again(stage: _Stage) -> None:
    stage.disk.fail("write", "/store/fills.v1/*", error=errno.ENOSPC)
    await stage.pull()
    stage.disk.heal()
    # What could not be kept is not tried again for a minute; all else is.
    stage.add("v2")
    assert not await stage.pull("v2")
    await stage.kept("v2")
