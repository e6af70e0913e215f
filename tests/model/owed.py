"""What a mirror owes, compared with what it has and says, while its upstream is away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mirror.oci.digest import Digest
from tests.model.frozen import frozen

if TYPE_CHECKING:
    from tests.model.walk import Walk

_SETTLED = 60.0  # seconds after which all has to be known that is on disk, and counted


class Owed:
    """Remembers, from one check to the next, what has to be here still."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._whole: dict[tuple[str, str], Digest] = {}  # at the last check
        self._pinned: dict[str, tuple[tuple[str, str], Digest]] = {}  # pinned, and known to be whole here

    async def check(self) -> None:
        """Compare the mirror with the model."""
        walk = self._walk
        walk.note("check")
        walk.upstream.heal()
        await walk.upstream.stop()
        try:
            await self._see_disk()
            walk.note("the disk is as it should be")
            await self._see_images()
        finally:
            await walk.upstream.start()
            await walk.reach()
        walk.note("all is well")

    async def _see_disk(self) -> None:
        """Nothing is on disk that nobody knows, and what is known is there, once all has come to rest."""
        said = ""
        try:
            async with asyncio.timeout(_SETTLED):
                while True:
                    said = await asyncio.to_thread(self._differences)
                    if not said:
                        return
                    await asyncio.sleep(0.2)  # another process gives no sign that could be awaited
        except TimeoutError:
            raise AssertionError(said) from None

    def _differences(self) -> str:
        self._walk.measure()
        with frozen(self._walk.mirror.pid):
            return self._walk.ledger.differences()

    async def _see_images(self) -> None:
        """What is served is whole; what was whole still is, unless it went wholly; what is pinned is here."""
        walk = self._walk
        listed: dict[tuple[str, str], Any] = {
            (name["repository"].removeprefix("docker.io/"), name["tag"]): image
            for image in (await walk.command("ls", "--json")).told["images"]
            for name in image["names"]
            if name["tag"] is not None
        }
        pins = (await walk.command("pin", "--list", "--json")).told["pins"]
        assert {f"{pin['repository']}:{pin['reference']}" for pin in pins} == walk.pins
        excused, walk.excused = walk.excused, set()
        whole = {}
        for (repo, tag), image in listed.items():
            if (repo, tag) not in walk.site.were:
                continue  # a signature's
            pull = await walk.pull(repo, tag)
            if pull.digest is not None:
                assert pull.whole, f"{repo}:{tag} is served and not whole: {pull.missing}"
                whole[repo, tag] = pull.digest
            if (image["state"] == "complete") != (pull.digest is not None):
                # `mirror ls` tells what is on the disk. To be served it has to be linked, too.
                content = walk.site.content(repo, Digest.parse(image["digest"]))
                unlinked = walk.ledger.unlinked(f"docker.io/{repo}", content)
                assert pull.digest is None, (image, pull.missing)
                assert unlinked, (image, pull.missing)
        walk.excused = set()
        self._compare(listed.keys() - excused, whole)
        for name, (key, digest) in self._pinned.items():
            if name in walk.pins and key not in walk.unhealed:
                assert key in whole, f"{name} is pinned, was here as {digest}, and is not served"
        keys = {name: tuple(name.removeprefix("docker.io/").rsplit(":", 1)) for name in walk.pins}
        self._pinned = {name: (key, whole[key]) for name, key in keys.items() if key in whole}  # type: ignore[index, misc]
        self._whole, walk.unhealed = whole, set()

    def _compare(self, unasked: set[tuple[str, str]], whole: dict[tuple[str, str], Digest]) -> None:
        for key in self._whole.keys() & unasked:
            assert whole.get(key) == self._whole[key], f"{':'.join(key)} was whole, and has a hole now"
