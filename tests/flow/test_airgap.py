"""From one side of an air gap to the other, and again a month later, by the commands that a person runs."""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from mirror.airgap.bundle.manifest import BundleManifest
from mirror.store.layout import Layout
from tests.flow.conftest import document
from tests.model.commands import Commands
from tests.model.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirror.oci.digest import Digest
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import StartMirror
    from tests.model.commands import Done

MIB = 1024 * 1024
NAMES = [f"library/app{number}" for number in range(10)]
NAMES_V1 = [f"{name}:v1" for name in NAMES]
CHANGED = NAMES[3], NAMES[8]
NOBODY: dict[str, Any] = {"docker.io": True}  # who is not asked


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """One process that has imported the program: each command is a fork of it."""
    directory = tmp_path_factory.mktemp("commands")
    running = Commands(directory / "none.yaml", directory)
    yield running
    running.close()


class Side:
    """One side of the gap: a store, and the commands on it."""

    def __init__(self, commands: Commands, directory: Path, upstreams: FakeRegistry | dict[str, Any]) -> None:
        self._commands = commands
        self.directory = directory
        directory.mkdir()
        self.store = directory / "store"
        self._file = directory / "mirror.yaml"
        self._file.write_text(json.dumps(document(upstreams, self.store)))

    async def run(self, *words: str | Path) -> Done:
        return await asyncio.to_thread(self._commands.run, *map(str, words), "--json", config=self._file)

    async def well(self, *words: str | Path) -> Any:
        done = await self.run(*words)
        assert done.code == 0, done
        return done.told

    async def export(self, name: str, *words: str | Path) -> Path:
        """Export what is named, and return the file."""
        await self.well("export", *words, "-o", self.directory / name)
        return self.directory / name


@pytest.fixture
def near(commands: Commands, tmp_path: Path, upstream: FakeRegistry) -> Side:
    return Side(commands, tmp_path / "near", upstream)


@pytest.fixture
def far(commands: Commands, tmp_path: Path) -> Side:
    return Side(commands, tmp_path / "far", NOBODY)


class Months:
    """Ten images of two platforms, with signatures; of two of them a layer of 8 MiB is another one each month."""

    def __init__(self, upstream: FakeRegistry, size: int) -> None:
        self._upstream = upstream
        self._size = size
        self._chance = random.Random("months")  # noqa: S311 - no secret
        self._base = self._chance.randbytes(100_000)
        self._own = {name: self._chance.randbytes(20_000) for name in NAMES}
        self.new: list[bytes] = []  # the layers of this month

    def publish(self) -> dict[str, Digest]:
        """Put this month's images into the upstream; return what the tags now are."""
        self.new = [self._chance.randbytes(self._size) for _ in CHANGED]
        large = dict(zip(CHANGED, self.new, strict=True))
        return {name: self._image(name, large.get(name)) for name in NAMES}

    def _image(self, name: str, layer: bytes | None) -> Digest:
        up = self._upstream
        more = [] if layer is None else [layer]
        amd64 = up.add_image(name, layers=[self._base, self._own[name], *more])
        arm64 = up.add_image(name, layers=[self._base, self._own[name][::-1]], platform="linux/arm64")
        index = up.add_index(name, "v1", manifests=[amd64, arm64])
        up.add_artifact(name, index, b"signs it", artifact_type="application/x-signature")
        return index


async def test_the_second_months_bundle_is_little_more_than_the_layers_that_changed(
    near: Side, far: Side, upstream: FakeRegistry, start: StartMirror
) -> None:
    months = Months(upstream, 8 * MIB)
    months.publish()
    await near.well("prefetch", *NAMES_V1)
    january = await near.export("january.tar", "*")
    tags = months.publish()
    await near.well("prefetch", *NAMES_V1)
    february = await near.export("february.tar", "*:v1", "--since-bundle", f"{january}.bundle.json")
    layers = sum(map(len, months.new))
    assert layers == 16 * MIB
    assert layers < february.stat().st_size <= 1.05 * layers

    # Where the first month never came it is refused, and all that is missing is named.
    done = await far.run("import", february)
    assert done.code == 1
    parent = BundleManifest.load(january.with_name("january.tar.bundle.json").read_bytes())
    assert parent.identity in done.err
    [failure] = done.told["failures"]
    of_both = BundleManifest.load(february.with_name("february.tar.bundle.json").read_bytes())
    lacking = {content.digest for content in of_both.contents if not content.carried}
    assert {missing["digest"] for missing in failure["missing"]} == lacking
    assert (await far.run("ls")).told["images"] == []

    mirror = await start(NOBODY, server={"offline": True}, storage={"path": str(far.store)})
    await far.well("import", january)
    await far.well("import", february)
    await upstream.stop()
    for name, digest in tags.items():
        replies = await mirror.pull(name, "v1")
        assert {reply.status for reply in replies} == {200}
        assert replies[0].headers["Docker-Content-Digest"] == str(digest)
        listed = (await mirror.get(f"/v2/{name}/referrers/{digest}")).json["manifests"]
        assert [entry["artifactType"] for entry in listed] == ["application/x-signature"]
    assert Ledger(Layout(far.store)).differences() == ""
    await upstream.start()


async def test_the_same_content_makes_the_same_bytes_on_either_side(
    near: Side, far: Side, upstream: FakeRegistry
) -> None:
    months = Months(upstream, 50_000)
    months.publish()
    await near.well("prefetch", *NAMES_V1)
    january = await near.export("january.tar", "*")
    months.publish()
    await near.well("prefetch", *NAMES_V1, "--pin")
    since = ("*:v1", "--since-bundle", january)
    february = await near.export("february.tar", *since)
    everything = await near.export("everything.tar", "*")  # what January's tags were, too
    whole = await near.export("whole.tar", "*:v1")
    assert (await near.export("again.tar", "*:v1")).read_bytes() == whole.read_bytes()
    # In what order they are named, when they came, and where they lie, does not matter.
    assert (await near.export("other.tar", *reversed(NAMES_V1))).read_bytes() == whole.read_bytes()
    assert (await near.export("since.tar", *since)).read_bytes() == february.read_bytes()
    for bundle in (january, february):
        await far.well("import", bundle)
    assert (await far.export("whole.tar", "*:v1")).read_bytes() == whole.read_bytes()
    assert (await far.export("everything.tar", "*")).read_bytes() == everything.read_bytes()
    assert (await far.export("february.tar", *since)).read_bytes() == february.read_bytes()


async def test_a_prefetch_of_200_references_costs_a_counted_request_a_manifest_and_then_none(
    near: Side, upstream: FakeRegistry
) -> None:
    names = []
    for number in range(200):
        name = f"library/app{number % 50}"
        differs = {"number": str(number)}
        if number % 10:
            upstream.add_image(name, f"v{number}", annotations=differs)
        else:
            platforms = ("linux/amd64", "linux/arm64")
            children = [upstream.add_image(name, annotations=differs, platform=platform) for platform in platforms]
            upstream.add_index(name, f"v{number}", manifests=children)
        names.append(f"{name}:v{number}")
    manifests = sum(len(shelf.manifests) for shelf in upstream.shelves.values())
    assert manifests == 200 + 2 * 20
    (near.directory / "list.txt").write_text("\n".join(names))

    async def prefetch() -> tuple[set[str], int]:
        before = upstream.count(kind="manifest", method="GET")
        told = await near.well("prefetch", "--from", near.directory / "list.txt")
        counted = upstream.count(kind="manifest", method="GET") - before
        assert told["summary"]["counted_requests"] == counted
        assert len(told["images"]) == 200
        return {image["state"] for image in told["images"]}, counted

    states, counted = await prefetch()
    assert states == {"fetched"}
    assert counted <= manifests
    assert await prefetch() == ({"here"}, 0)
