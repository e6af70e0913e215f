"""`kill -9` at any moment of prefetch, export and import: run again, and it ends right.

Some die at a count of requests or bytes, as they come to it; some amid a call that changes the disk. `SOAK_KILLS` says
how many, `SOAK_SEED` where they begin.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from mirror import config
from mirror.oci.digest import Digest
from mirror.server.run import Server
from mirror.store.layout import Layout
from tests.fakes.registry import FakeRegistry
from tests.flow.conftest import Mirror, document
from tests.model.commands import Commands
from tests.model.dying import MOMENTS, Death
from tests.model.ledger import Ledger
from tests.parts.bundles import Cargo, tar
from tests.parts.mirror import MirrorProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import Path

    from tests.model.commands import Done, Running
    from tests.model.ledger import Fact

_KILLS = -(-int(os.environ.get("SOAK_KILLS", "21")) // 3)  # of each command
_FIRST = int(os.environ.get("SOAK_SEED", "1"))
_SEEDS = range(_FIRST, _FIRST + _KILLS)
_SETTLED = 30.0  # seconds after which a mirror that runs knows of all that is on disk
_PAUSE = 0.02  # seconds, at most, from the progress that was waited for to the kill: it is to come at any time
_FORMS = (("out.tar",), ("out/",), ("out.tar.zst",), ("out.tar", "--split", "1MiB"))
_TAG = "v1"
_REPOS = [f"library/app{number}" for number in range(4)]
_STRANGERS: Mapping[str, Any] = {"docker.io": True}  # an upstream that an offline mirror does not ask


@dataclass
class Stock:
    """What the tests of this file share: commands that start quickly, a bundle, and a store that has it."""

    commands: Commands
    directory: Path
    cargo: Cargo
    calls: dict[object, int] = field(default_factory=dict)  # that change the disk, of a run that nobody kills
    wholes: dict[object, dict[str, bytes]] = field(default_factory=dict)  # what such an export has written

    @property
    def bundle(self) -> Path:
        return self.directory / "whole.tar"

    @property
    def before(self) -> Path:
        """A bundle of an earlier image of the same name."""
        return self.directory / "before.tar"

    @property
    def store(self) -> Path:
        return self.directory / "store"

    @property
    def store_before(self) -> Path:
        """A store that has that earlier image, to be copied."""
        return self.directory / "store-before"


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    directory = tmp_path_factory.mktemp("stock")
    chance = random.Random("stock")  # noqa: S311 - no secret
    cargo, before = Cargo(), Cargo()
    base = chance.randbytes(500_000)
    for number, repo in enumerate(_REPOS):
        layers = {name: chance.randbytes(200_000 * number + 30_000) for name in ("amd64", "arm64")}
        index = cargo.index(**{name: cargo.image(base, layer, architecture=name) for name, layer in layers.items()})
        cargo.name(f"docker.io/{repo}:{_TAG}", index)
    signature = cargo.image(b"a signature", subject=index)
    cargo.name(f"docker.io/{repo}@{signature['digest']}", signature, subject=index["digest"])
    before.name(f"docker.io/{_REPOS[0]}:{_TAG}", before.image(base, b"that of last month"))
    commands = Commands(_configured(directory / "stock.yaml", _STRANGERS, directory / "store"), directory)
    made = Stock(commands, directory, cargo)
    made.bundle.write_bytes(tar(cargo.entries()))
    made.before.write_bytes(tar(before.entries()))
    try:
        _well(commands.run("import", str(made.bundle), "--json"))
        config_ = _configured(directory / "before.yaml", _STRANGERS, made.store_before)
        _well(commands.run("import", str(made.before), "--json", config=config_))
        yield made
    finally:
        commands.close()


# --- how a command dies, and what is compared -------------------------------------------------------------------------


def _configured(file: Path, upstreams: FakeRegistry | Mapping[str, Any], store: Path, **server: Any) -> Path:
    file.write_text(json.dumps(document(upstreams, store, server=server)))
    return file


def _well(done: Done) -> Done:
    assert done.code == 0, done
    assert "Traceback" not in done.err, done.err
    return done


def _moment(chance: random.Random, calls: int) -> Death:
    return Death(chance.randint(1, calls), chance.choice(MOMENTS))


def _died(done: Done, death: Death) -> None:
    """See that it died; a run may have a few calls less than another one has had."""
    assert done.code == -9 or (done.code == 0 and done.calls < death.call), (done, death)


def _taken(directory: Path) -> int:
    """Return the bytes of all files in a directory, while others make and rename them."""
    size = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                size += os.stat(f"{parent}/{name}").st_size  # noqa: PTH116 - quick
            except FileNotFoundError:
                continue
    return size


def _kill_when(running: Running, come: Callable[[], bool], pause: float) -> Done:
    """Kill a command once so much of its output has come to the disk; another process gives no sign of that."""
    while not running.ended and not come():
        time.sleep(0.001)
    time.sleep(pause)  # not to wait for anything
    running.kill()
    return running.wait()


def _ledger(store: Path) -> Ledger:
    return Ledger(Layout(store))


def _unfinished(store: Path) -> list[str]:
    """What there is of content that is not whole. What is left beside it, nobody goes on with, and it is swept."""
    return [path.name for path in Layout(store).fills.iterdir() if path.suffix in {".part", ".carried"}]


async def _agrees(store: Path) -> None:
    """Disk, index and account book of a store that a mirror runs on agree, once it has come to rest."""
    said = ""
    try:
        async with asyncio.timeout(_SETTLED):
            while said := _ledger(store).differences():  # noqa: ASYNC110 - another process gives no sign
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(said) from None


@asynccontextmanager
async def _mirror(upstreams: FakeRegistry | Mapping[str, Any], store: Path) -> AsyncIterator[Mirror]:
    """A mirror that dials nobody, in this process."""
    async with AsyncExitStack() as own:
        text = json.dumps(document(upstreams, store, server={"offline": True}))
        server = await Server.start(config.parse(text, "mirror.yaml", {}), own)
        session = await own.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        yield Mirror(server, own, session)


async def _whole(session: aiohttp.ClientSession, url: str, repo: str, reference: str) -> list[str]:
    """Pull what an image consists of, and return what was not served as its digest says."""
    wrong = []
    async with session.get(f"{url}/v2/{repo}/manifests/{reference}") as answer:
        body = await answer.read()
        if answer.status != 200 or str(Digest.of(body)) != answer.headers["Docker-Content-Digest"]:
            return [f"{repo} {reference}: {answer.status} {body[:300]!r}"]
    told = json.loads(body)
    for child in told.get("manifests", ()):
        wrong += await _whole(session, url, repo, child["digest"])
    for entry in [*([told["config"]] if "config" in told else []), *told.get("layers", ())]:
        async with session.get(f"{url}/v2/{repo}/blobs/{entry['digest']}") as answer:
            if answer.status != 200 or str(Digest.of(await answer.read())) != entry["digest"]:
                wrong.append(f"{repo} {entry['digest']}: {answer.status}")
    return wrong


# --- prefetch ---------------------------------------------------------------------------------------------------------


def _publish(upstream: FakeRegistry) -> None:
    """Put the images into an upstream: the same each time."""
    chance = random.Random("upstream")  # noqa: S311 - no secret
    base = chance.randbytes(600_000)
    for number, repo in enumerate(_REPOS):
        images = [
            upstream.add_image(repo, layers=[base, chance.randbytes(200_000 * number + 30_000)], platform=platform)
            for platform in ("linux/amd64", "linux/arm64")
        ]
        index = upstream.add_index(repo, _TAG, manifests=images)
        upstream.add_artifact(repo, index, b"signs it", artifact_type="application/x-signature")


def _counted(upstream: FakeRegistry) -> Counter[str]:
    """How often each manifest was asked for in a way that Docker Hub counts."""
    return Counter(
        record.digest
        for record in upstream.log.matching(kind="manifest", method="GET", status=200)
        if record.digest is not None
    )


def _here(ledger: Ledger, facts: set[Fact]) -> set[str]:
    """The digests that are on the disk, and that a repository is known to hold."""
    here = {path.name for path in ledger.contents()}
    return {str(fact.digest) for fact in facts if fact.digest is not None and fact.digest.hex in here}


def _stored(store: Path) -> set[str]:
    """The same of a store that is being made, or not even that."""
    return _here(_ledger(store), _ledger(store).settled_facts()) if (store / "index.sqlite").exists() else set()


async def _kill_prefetch(
    stock: Stock, upstream: FakeRegistry, file: Path, chance: random.Random, *, by_progress: bool
) -> Done:
    words = ("prefetch", *(f"{repo}:{_TAG}" for repo in _REPOS), "--json")
    if not by_progress:
        if "prefetch" not in stock.calls:
            spare = _configured(stock.directory / "spare.yaml", upstream, stock.directory / "spare")
            done = await asyncio.to_thread(stock.commands.run, *words, config=spare, death=Death(0))
            stock.calls["prefetch"] = _well(done).calls
            upstream.forget()
        death = _moment(chance, stock.calls["prefetch"])
        return await asyncio.to_thread(stock.commands.run, *words, config=file, death=death)
    running = await asyncio.to_thread(stock.commands.begin, *words, config=file)
    if chance.random() < 0.5:
        requests = chance.randint(1, 40)
        came = upstream.log.wait(lambda: len(upstream.requests) >= requests)
    else:
        size = chance.randint(1, 3_500_000)
        came = upstream.log.wait(lambda: sum(record.bytes_sent for record in upstream.requests) >= size)
    tasks = [asyncio.ensure_future(came), asyncio.create_task(asyncio.to_thread(running.wait))]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(chance.random() * _PAUSE)  # not to wait for anything
    running.kill()
    tasks[0].cancel()
    await asyncio.wait(tasks)
    return running.wait()


@pytest.mark.parametrize("seed", _SEEDS)
async def test_a_prefetch_that_was_killed_is_ended_by_the_next_one(seed: int, stock: Stock, tmp_path: Path) -> None:
    chance = random.Random(f"prefetch {seed}")  # noqa: S311 - no secret
    store = tmp_path / "store"
    async with FakeRegistry() as upstream:
        _publish(upstream)
        file = _configured(tmp_path / "mirror.yaml", upstream, store)
        await _kill_prefetch(stock, upstream, file, chance, by_progress=bool(seed % 2))
        await upstream.idle()
        stored = _stored(store)
        upstream.forget()
        await _prefetch_again(stock, upstream, file, stored)
        assert _ledger(store).differences() == ""
        assert _unfinished(store) == []
        await upstream.stop()
        async with _mirror(upstream, store) as mirror:
            for repo in _REPOS:
                assert await _whole(mirror.session, mirror.url, repo, _TAG) == []
        await upstream.start()


async def _prefetch_again(stock: Stock, upstream: FakeRegistry, file: Path, stored: set[str]) -> None:
    """Run it to its end: what was `stored` costs nothing."""
    names = [f"{repo}:{_TAG}" for repo in _REPOS]
    told = _well(await asyncio.to_thread(stock.commands.run, "prefetch", *names, "--json", config=file)).told
    assert {image["state"] for image in told["images"]} <= {"fetched", "here"}
    counted = _counted(upstream)
    assert not counted.keys() & stored, "what was stored was asked for again"
    assert set(counted.values()) <= {1}
    listed = _well(await asyncio.to_thread(stock.commands.run, "ls", "--json", config=file)).told["images"]
    assert {image["state"] for image in listed} == {"complete"}, listed


async def test_a_prefetch_that_was_killed_beside_a_mirror_is_ended_by_the_next_one(
    stock: Stock, tmp_path: Path
) -> None:
    chance = random.Random("prefetch beside")  # noqa: S311 - no secret
    async with FakeRegistry() as upstream:
        _publish(upstream)
        running = MirrorProcess(tmp_path, {"upstreams": {"docker.io": {"url": upstream.url}}, "server": {"workers": 2}})
        await asyncio.to_thread(running.start)
        try:
            await _kill_prefetch(stock, upstream, running.file, chance, by_progress=True)
            await upstream.idle()
            async with aiohttp.ClientSession() as session:
                # What it had begun is the mirror's as well, and a client's pull goes on with it.
                assert await _whole(session, running.url, _REPOS[-1], _TAG) == []
                await upstream.idle()
                stored = _here(_ledger(running.store), _ledger(running.store).facts())
                upstream.forget()
                await _prefetch_again(stock, upstream, running.file, stored)
                await upstream.stop()
                for repo in _REPOS:
                    assert await _whole(session, running.url, repo, _TAG) == []
                await upstream.start()
            await _agrees(running.store)
        finally:
            await asyncio.to_thread(running.terminate)
        assert _ledger(running.store).differences() == ""


# --- export -----------------------------------------------------------------------------------------------------------


def _files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def _export(directory: Path, form: tuple[str, ...]) -> list[str]:
    name, *options = form
    return ["export", "*", "-o", f"{directory}/{name}", *options, "--json"]


def _undisturbed(stock: Stock, form: tuple[str, ...], directory: Path) -> dict[str, bytes]:
    """Return what an export writes that nobody kills."""
    if form not in stock.wholes:
        directory.mkdir()
        stock.calls[form] = _well(stock.commands.run(*_export(directory, form), death=Death(0))).calls
        stock.wholes[form] = _files(directory)
    return stock.wholes[form]


def _killed_export(stock: Stock, directory: Path, config_: Path | None, seed: int) -> None:
    """Kill an export in `directory`, beside what an earlier one has left under the same name or not, and see it end."""
    chance = random.Random(f"export {seed}")  # noqa: S311 - no secret
    form = _FORMS[seed % len(_FORMS)]
    whole = _undisturbed(stock, form, directory.with_name(f"{directory.name}-undisturbed"))
    directory.mkdir()
    words = _export(directory, form)
    earlier = seed % 3 == 0
    if earlier:  # of fewer images
        _well(stock.commands.run(*[_REPOS[0] if word == "*" else word for word in words], config=config_))
    there = _files(directory)
    if seed % 2:
        running = stock.commands.begin(*words, config=config_)
        size = _taken(directory) + chance.randint(0, sum(map(len, whole.values())))
        _kill_when(running, lambda: _taken(directory) >= size, chance.random() * _PAUSE)
    else:
        death = _moment(chance, stock.calls[form])
        _died(stock.commands.run(*words, config=config_, death=death), death)
    left = _files(directory)
    for name in left:
        if ".part" not in name:
            assert left[name] in (there.get(name), whole.get(name)), f"{name} is neither the old one nor the new one"
    _well(stock.commands.run(*words, config=config_))
    assert _files(directory) == whole
    assert {path.name for path in directory.iterdir()} == {name.partition("/")[0] for name in whole}


@pytest.mark.parametrize("seed", _SEEDS)
def test_an_export_that_was_killed_is_written_by_the_next_one(seed: int, stock: Stock, tmp_path: Path) -> None:
    before = _ledger(stock.store).facts()
    _killed_export(stock, tmp_path / "out", None, seed)
    assert _ledger(stock.store).differences() == ""
    assert _ledger(stock.store).facts() == before


def test_an_export_that_was_killed_beside_a_mirror_is_written_by_the_next_one(stock: Stock, tmp_path: Path) -> None:
    settings = {"upstreams": dict(_STRANGERS), "server": {"offline": True}, "storage": {"path": str(stock.store)}}
    with MirrorProcess(tmp_path, settings) as running:
        _killed_export(stock, tmp_path / "out", running.file, seed=1)
        # Nothing is held that the killed one held: eviction would pass it over for ever.
        assert _well(stock.commands.run("verify", "--json", config=running.file)).told
    assert _ledger(stock.store).differences() == ""


# --- import -----------------------------------------------------------------------------------------------------------


def _paths(stock: Stock) -> dict[str, str]:
    """What can be asked for once the bundle is here, and the digest that it then has."""
    paths = {}
    for image in stock.cargo.images:
        repo = image.named().repository.name
        if image.named().tag is not None:
            paths[f"/v2/{repo}/manifests/{image.named().tag}"] = image.digest
        waiting = [image.digest]
        while waiting:
            body, media_type = stock.cargo.bodies[digest := waiting.pop()]
            paths[f"/v2/{repo}/{'manifests' if media_type else 'blobs'}/{digest}"] = digest
            if media_type:
                told = json.loads(body)
                waiting += [entry["digest"] for entry in (*told.get("manifests", ()), *told.get("layers", ()))]
                waiting += [told["config"]["digest"]] if "config" in told else []
    return paths


async def _seen(session: aiohttp.ClientSession, url: str, paths: Mapping[str, str]) -> dict[str, str]:
    """What a mirror serves of it, with the digest of what came."""
    seen = {}
    for path in paths:
        async with session.get(url + path) as answer:
            body = await answer.read()
            if answer.status == 200:
                seen[path] = str(Digest.of(body))
    return seen


async def _kill_import(stock: Stock, file: Path, store: Path, chance: random.Random, *, by_progress: bool) -> None:
    words = ("import", str(stock.bundle), "--json")
    if by_progress:
        running = await asyncio.to_thread(stock.commands.begin, *words, config=file)
        size = chance.randint(0, stock.bundle.stat().st_size - 500_000)  # the base is here before
        pause = chance.random() * _PAUSE
        await asyncio.to_thread(_kill_when, running, lambda: _taken(store / "fills.v1") >= size, pause)
        return
    if "import" not in stock.calls:
        shutil.copytree(stock.store_before, stock.directory / "spare-import")
        spare = _configured(stock.directory / "spare-import.yaml", _STRANGERS, stock.directory / "spare-import")
        done = await asyncio.to_thread(stock.commands.run, *words, config=spare, death=Death(0))
        stock.calls["import"] = _well(done).calls
    death = _moment(chance, stock.calls["import"])
    _died(await asyncio.to_thread(stock.commands.run, *words, config=file, death=death), death)


async def _see_import(stock: Stock, file: Path, store: Path, url: str, *, seed: int) -> None:
    """Kill an import and run it again, with a mirror beside: all of it is to be seen, or nothing."""
    chance = random.Random(f"import {seed}")  # noqa: S311 - no secret
    paths = _paths(stock)
    async with aiohttp.ClientSession() as session:
        before = await _seen(session, url, paths)
        assert len(before) < len(paths) / 4, "only the base is here"
        await _kill_import(stock, file, store, chance, by_progress=bool(seed % 2))
        seen = await _seen(session, url, paths)
        listed = _well(await asyncio.to_thread(stock.commands.run, "ls", "--json", config=file)).told["images"]
        assert {image["state"] for image in listed} == {"complete"}
        if seen != paths:
            assert seen == before
            assert len(listed) == 1
        _well(await asyncio.to_thread(stock.commands.run, "import", str(stock.bundle), "--json", config=file))
        assert await _seen(session, url, paths) == paths
        await _agrees(store)
    assert _unfinished(store) == []


@pytest.mark.parametrize("seed", _SEEDS)
async def test_of_an_import_that_was_killed_nothing_is_seen_and_the_next_one_ends_it(
    seed: int, stock: Stock, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    file = _configured(tmp_path / "mirror.yaml", _STRANGERS, store)
    shutil.copytree(stock.store_before, store)
    async with _mirror(_STRANGERS, store) as mirror:
        await _see_import(stock, file, store, mirror.url, seed=seed)
    assert _ledger(store).differences() == ""
    assert sum(fact.kind == "pin" for fact in _ledger(store).facts()) == len(_REPOS)


async def test_of_an_import_that_was_killed_no_worker_of_a_mirror_shows_anything(stock: Stock, tmp_path: Path) -> None:
    settings = {"upstreams": dict(_STRANGERS), "server": {"offline": True, "workers": 2}}
    running = MirrorProcess(tmp_path, settings)
    shutil.copytree(stock.store_before, running.store)
    await asyncio.to_thread(running.start)
    try:
        await _see_import(stock, running.file, running.store, running.url, seed=4)
    finally:
        await asyncio.to_thread(running.terminate)
    assert _ledger(running.store).differences() == ""


@pytest.mark.parametrize("seed", _SEEDS[:2])
async def test_an_import_that_was_killed_without_a_mirror_leaves_nothing_that_a_mirror_shows(
    seed: int, stock: Stock, tmp_path: Path
) -> None:
    """The mirror starts behind the kill, and looks through the disk; the store was to be made by that import."""
    store = tmp_path / "store"
    file = _configured(tmp_path / "mirror.yaml", _STRANGERS, store)
    chance = random.Random(f"import first {seed}")  # noqa: S311 - no secret
    await _kill_import(stock, file, store, chance, by_progress=bool(seed % 2))
    paths = _paths(stock)
    async with _mirror(_STRANGERS, store) as mirror:
        seen = await _seen(mirror.session, mirror.url, paths)
        assert seen in ({}, paths)
        await _agrees(store)
        _well(await asyncio.to_thread(stock.commands.run, "import", str(stock.bundle), "--json", config=file))
        assert await _seen(mirror.session, mirror.url, paths) == paths
    assert _ledger(store).differences() == ""
