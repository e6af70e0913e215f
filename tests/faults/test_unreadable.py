"""Content that the disk answers with an error for: the scrub finds it before a client does, and it is healed."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import aiohttp
import pytest

from mirror.cli.main import main
from mirror.store.changes import Checked
from tests.fakes.registry import FakeRegistry
from tests.faults.disk import Disk
from tests.parts.mirror import MirrorProcess
from tests.unit.cache.stores import MIB, blob, image, opened

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.oci.digest import Digest

pytestmark = [pytest.mark.needs("umount", "fusermount3"), pytest.mark.timeout(120)]

REPO = "library/app"


def _file(digest: Digest) -> str:
    return f"/store/blobs.v1/sha256/{digest.hex[:2]}/{digest.hex}"


async def test_the_scrub_finds_what_cannot_be_read_and_it_is_healed(tmp_path: Path) -> None:
    for name in ("disk", "mirror"):
        (tmp_path / name).mkdir()
    async with FakeRegistry() as upstream, aiohttp.ClientSession() as session:
        layer = upstream.add_pattern_blob(REPO, 3 * MIB)
        upstream.add_image(REPO, "v1", layers=[layer])
        with Disk(tmp_path / "disk") as disk:
            store = disk.mount / "store"
            config = {
                "upstreams": {"docker.io": {"url": upstream.url}},
                "storage": {"path": str(store), "scrub_rate": "1GiB/s"},
            }
            with MirrorProcess(tmp_path / "mirror", config) as mirror:
                for path in ("manifests/v1", f"blobs/{layer}"):
                    async with session.get(f"{mirror.url}/v2/{REPO}/{path}") as response:
                        assert response.status == 200
                        await response.read()
                with opened(store) as there:
                    # The last byte goes out before the file has its name, and the index hears of it.
                    await asyncio.to_thread(mirror.wait, lambda: there.graph.content(layer) is not None)
                    await there.index.apply(Checked(layer, 1.0))
            disk.fail("read", _file(layer), beyond=2 * MIB)
            with MirrorProcess(tmp_path / "mirror", config) as mirror:
                path = store.joinpath(*_file(layer).split("/")[2:])

                def healed() -> bool:
                    return any(line["event"] == "damaged content is healed" for line in mirror.lines())

                await asyncio.to_thread(mirror.wait, lambda: any(line["level"] == "error" for line in mirror.lines()))
                disk.heal()  # what is written anew lies elsewhere on a disk
                await asyncio.to_thread(mirror.wait, healed)
                assert layer.matches(path.read_bytes())
                (line,) = [line for line in mirror.lines() if line["level"] == "error"]
                assert line["reason"] == "the disk cannot read it: Input/output error"
                assert line["images"] == ["docker.io/library/app:v1"]
        await upstream.idle()


def test_verify_tells_what_cannot_be_read_from_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "disk").mkdir()
    with Disk(tmp_path / "disk") as disk:
        store = disk.mount / "store"

        async def stock() -> Digest:
            with opened(store) as there:
                await there.count()
                layer = await blob(there, 2 * MIB, 1)
                await image(there, "v1", layer, at=1.0)
                return layer

        layer = asyncio.run(stock())
        disk.fail("read", _file(layer), beyond=MIB)
        file = tmp_path / "mirror.yaml"
        file.write_text(json.dumps({"storage": {"path": str(store)}}))
        with pytest.raises(SystemExit) as raised:
            main(["verify", "--json", "--config", str(file)])
        [problem] = json.loads(capsys.readouterr().out.splitlines()[-1])["problems"]
        assert (raised.value.code, problem["problem"], problem["digest"]) == (1, "unreadable", str(layer))
