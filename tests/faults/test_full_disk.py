"""A small file system of its own that fills up, by what the mirror stores and by what others put there."""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.fakes.registry import FakeRegistry
from tests.model.puller import Puller
from tests.parts.mirror import MirrorProcess
from tests.parts.process import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from mirror.oci.digest import Digest

pytestmark = [pytest.mark.needs("mkfs.ext4", "umount"), pytest.mark.timeout(120)]

MIB = 1 << 20
REPO = "library/app"
DISK = 24 * MIB
LAYER = 2 * MIB
_PIECE = 64 * 1024


@contextmanager
def _disk(place: Path) -> Iterator[Path]:
    """An ext4 file system in a file, mounted; nothing of it is set apart for root."""
    image, mount = place / "disk.img", place / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK)
    run("mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", image)
    run("mount", "-o", "loop", image, mount)
    try:
        yield mount
    finally:
        run("umount", mount)


def _fill(path: Path) -> None:
    """Write until the disk is full."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(_PIECE))


class _Stage:
    """An upstream with images, and a mirror that may take more than there is."""

    def __init__(self, upstream: FakeRegistry, mirror: MirrorProcess, puller: Puller, mount: Path) -> None:
        self.upstream, self.mirror, self.mount = upstream, mirror, mount
        self._puller = puller
        self._images: dict[str, Digest] = {}

    def add(self, tag: str) -> None:
        """Let upstream have an image."""
        layer = self.upstream.add_pattern_blob(REPO, LAYER, len(self._images))
        self._images[tag] = self.upstream.add_image(REPO, tag, layers=[layer, f"small {tag}".encode()])

    async def pull(self, tag: str) -> list[str]:
        """Pull an image; return what was missing. Wrong bytes raise."""
        return (await self._puller.pull(REPO, tag, [self._images[tag]])).missing

    async def here(self) -> list[str]:
        """Return what is served without an upstream; each is whole."""
        await self.upstream.idle()
        await self.upstream.stop()
        found = []
        for tag, image in self._images.items():
            pull = await self._puller.pull(REPO, tag, [image])
            if pull.digest is not None:
                assert not pull.missing
                found.append(tag)
        await self.upstream.start()
        await self.pull(tag)  # the mirror hears that its upstream is back
        return found

    async def kept(self, tag: str) -> None:
        """Wait until an image is here: the last bytes reach a client before the disk has them."""
        async with asyncio.timeout(20):
            while tag not in await self.here():
                pass

    def free(self) -> int:
        """Return the bytes that are free on the disk."""
        disk = os.statvfs(self.mount)
        return disk.f_bavail * disk.f_frsize

    def events(self) -> list[dict[str, Any]]:
        """Return what the mirror has logged above the level of information."""
        return [line for line in self.mirror.lines() if line["level"] in {"warning", "error"}]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[_Stage]:
    with _disk(tmp_path) as mount:
        async with FakeRegistry() as upstream, aiohttp.ClientSession() as session:
            config: dict[str, Any] = {
                "upstreams": {"docker.io": {"url": upstream.url}},
                "storage": {"path": str(mount / "store"), "max_size": "1GiB", "min_free": "1MiB"},
                "freshness": [{"match": "**", "ttl": "0s"}],
                "server": {"shutdown_timeout": "1s"},
            }
            mirror = MirrorProcess(tmp_path, config)
            await asyncio.to_thread(mirror.start)
            try:
                yield _Stage(upstream, mirror, Puller(session, mirror.url), mount)
            finally:
                await asyncio.to_thread(mirror.__exit__)


async def test_a_disk_smaller_than_the_cap_is_the_cap(stage: _Stage) -> None:
    tags = [f"v{number}" for number in range(14)]  # more than fits
    for tag in tags:
        stage.add(tag)
        assert not await stage.pull(tag)
        assert stage.free() >= MIB  # storage.min_free
    await stage.kept(tags[-1])
    assert 3 <= len(await stage.here()) < len(tags)
    assert stage.events() == []  # nothing of this is out of the ordinary


async def test_a_disk_that_others_have_filled_costs_no_client_its_pull(stage: _Stage) -> None:
    stage.add("before")
    assert not await stage.pull("before")
    await stage.kept("before")
    other = stage.mount / "of somebody else"
    _fill(other)
    assert stage.free() < _PIECE
    for number in range(3):
        stage.add(f"full{number}")
        assert not await stage.pull(f"full{number}")
        assert not await stage.pull(f"full{number}")
    assert "not kept: streamed from upstream to each client that asks" in {line["event"] for line in stage.events()}
    other.unlink()
    stage.add("after")
    assert not await stage.pull("after")
    await stage.kept("after")
