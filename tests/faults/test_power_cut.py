"""What was not synced is lost: what is left is whole or absent, and the mirror starts on it."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.fakes.registry import FakeRegistry
from tests.faults.disk import Disk
from tests.model.puller import Puller
from tests.model.site import Site
from tests.parts.mirror import MirrorProcess

if TYPE_CHECKING:
    from pathlib import Path


def _config(upstream: FakeRegistry, store: Path) -> dict[str, Any]:
    return {
        "upstreams": {"docker.io": {"url": upstream.url}},
        "storage": {"path": str(store), "max_size": "30MiB"},
        "freshness": [{"match": "**", "ttl": "0s"}],
        "server": {"shutdown_timeout": "1s"},
    }


class _Rebooted(MirrorProcess):
    """A mirror that finds another boot id, as after a power cut."""

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        super().__init__(directory, config)
        boot = directory / "boot_id"
        boot.write_text("00000000-1111-2222-3333-444444444444\n")
        script = f'mount --bind {boot} /proc/sys/kernel/random/boot_id && exec "$@"'
        self.command = ["unshare", "--mount", "sh", "-c", script, "sh", *self.command]


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.mark.needs("umount", "unshare", "fusermount3")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("names", "torn"), [("synced", None), ("all", None), ("synced", 1), ("all", 2)])
async def test_what_a_power_cut_leaves_is_whole_or_absent(names: str, torn: int | None, tmp_path: Path) -> None:
    chance = random.Random(f"{names} {torn}")  # noqa: S311 - no secret
    async with FakeRegistry() as upstream, aiohttp.ClientSession() as session:
        site = Site(upstream, chance)
        with Disk(_made(tmp_path / "disk"), names=names, torn=torn) as disk:
            mirror = MirrorProcess(_made(tmp_path / "before"), _config(upstream, disk.mount / "store"))
            await asyncio.to_thread(mirror.start)
            puller = Puller(session, mirror.url)
            for repo, tag in site.tags[:5]:
                pull = await puller.pull(repo, tag, site.were[repo, tag])
                assert not pull.missing
            # The power goes amid more pulls.
            more = [asyncio.create_task(puller.pull(*key, site.were[key])) for key in site.tags[5:9]]
            seen = len(upstream.requests)
            await upstream.log.wait(lambda: len(upstream.requests) >= seen + 6 or all(task.done() for task in more))
            await asyncio.to_thread(mirror.kill)
            await asyncio.gather(*more)
            left = await asyncio.to_thread(disk.cut)
        again = _Rebooted(_made(tmp_path / "again"), _config(upstream, left / "store"))
        await asyncio.to_thread(again.start)
        try:
            await _check(again, upstream, session, site)
        finally:
            await asyncio.to_thread(again.terminate)


async def _check(mirror: MirrorProcess, upstream: FakeRegistry, session: aiohttp.ClientSession, site: Site) -> None:
    await upstream.stop()
    puller = Puller(session, mirror.url)
    for key in site.tags:
        pull = await puller.pull(*key, site.were[key])  # raises where any byte is wrong
        assert pull.digest is None or pull.whole, f"{key} is served and not whole: {pull.missing}"
    await upstream.start()
    for key in site.tags:
        pull = await puller.pull(*key, site.were[key])
        for _ in range(2):  # what was found wrong is fetched again
            if pull.missing:
                pull = await puller.pull(*key, site.were[key])
        assert not pull.missing
