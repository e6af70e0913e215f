"""What is carried in is served, at once and for good, by a mirror that asks nobody."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from mirror.airgap.bundle.parts import PartsWriter
from mirror.airgap.bundle.signature import sign
from mirror.cli.main import main
from mirror.oci.digest import Digest
from tests.parts.bundles import OCI_INDEX, Cargo, Entries, blob_path, digest_of, gzipped, small, spread, tar
from tests.parts.mirror import MirrorProcess
from tests.unit.airgap.importing import site

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, Mirror, StartMirror

OFFLINE = {"offline": True}
NOBODY: dict[str, Any] = {"docker.io": True, "quay.io": True}  # who are not asked
BASE = b"base layer " * 500
MIB = 1024 * 1024


class Run(Protocol):
    """Runs `mirror import ARGUMENTS`, in a thread; returns its exit code, and what it printed to both ends."""

    async def __call__(self, *arguments: str | Path) -> tuple[int, str, str]: ...


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command, with the store that `start` starts a mirror on."""
    file = tmp_path / "import.yaml"
    file.write_text(json.dumps({"storage": {"path": str(tmp_path / "store"), "min_free": "0B", "max_size": "24MiB"}}))

    async def call(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as raised:
            await asyncio.to_thread(main, ["import", *map(str, arguments), "--config", str(file)])
        assert isinstance(raised.value.code, int)
        return raised.value.code, *capsys.readouterr()

    return call


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """What `small` holds, as a file."""
    path = tmp_path / "bundle.tar"
    path.write_bytes(tar(small().entries()))
    return path


def digest_named(cargo: Cargo, reference: str) -> str:
    return next(image.digest for image in cargo.images if image.reference == reference)


async def served(mirror: Mirror, repo: str, reference: str) -> list[int]:
    """Pull it, and return the statuses that are not 200."""
    return [reply.status for reply in await mirror.pull(repo, reference) if reply.status != 200]


# --- it is served ----------------------------------------------------------------------------------------------------


async def test_a_mirror_that_runs_offline_serves_an_import_at_once(run: Run, bundle: Path, start: StartMirror) -> None:
    mirror = await start(NOBODY, server=OFFLINE)
    assert (await mirror.get("/v2/library/app/manifests/1.0")).status == 503
    code, out, _ = await run(bundle)
    assert code == 0
    assert "docker.io/library/app:1.0" in out
    assert await served(mirror, "library/app", "1.0") == []
    assert await served(mirror, "quay.io/org/other", "v2") == []
    reply = await mirror.get("/v2/library/app/manifests/1.0")
    assert reply.headers["Docker-Content-Digest"] == digest_named(small(), "docker.io/library/app:1.0")
    assert reply.headers["Content-Type"] == OCI_INDEX
    assert "Warning" not in reply.headers


async def test_every_worker_of_a_mirror_serves_an_import_at_once(run: Run, bundle: Path, tmp_path: Path) -> None:
    """Workers share nothing with the command but the store; what one has said to be absent it must not remember."""
    with MirrorProcess(tmp_path, {"server": {"offline": True, "workers": 2}}) as mirror:
        assert await statuses(mirror) == {503}
        code, _, err = await run(bundle)
        assert code == 0, err
        assert await statuses(mirror) == {200}


async def statuses(mirror: MirrorProcess) -> set[int]:
    """Ask over so many connections that every worker has some."""
    found = set()
    for _ in range(16):
        url = f"{mirror.url}/v2/library/app/manifests/1.0"
        async with aiohttp.ClientSession() as session, session.get(url) as reply:
            found.add(reply.status)
    return found


async def test_the_referrers_that_came_along_are_listed(run: Run, bundle: Path, start: StartMirror) -> None:
    mirror = await start(NOBODY, server=OFFLINE)
    await run(bundle)
    other = digest_named(small(), "quay.io/org/other:v2")
    reply = await mirror.get(f"/v2/quay.io/org/other/referrers/{other}")
    assert reply.status == 200
    [entry] = reply.json["manifests"]
    body, media_type = small().bodies[entry["digest"]]
    assert entry == {
        "mediaType": media_type,
        "digest": digest_of(body),
        "size": len(body),
        "artifactType": "application/vnd.dev.cosign.artifact.sig.v1+json",
    }
    assert await served(mirror, "quay.io/org/other", entry["digest"]) == []


async def test_the_table_has_images_and_the_sum_what_refers_to_them(run: Run, bundle: Path) -> None:
    code, out, _ = await run(bundle)
    assert code == 0
    title, *rows = out.partition("\n\n")[0].splitlines()
    assert title.split() == ["IMAGE", "DIGEST", "PLATFORMS", "SIZE"]
    assert [row.split()[0] for row in rows] == ["docker.io/library/app:1.0", "quay.io/org/other:v2"]
    assert "2 names, and 1 for what refers to them, as signatures do; 14 contents brought" in out
    assert max(map(len, rows)) <= 100
    assert len(json.loads((await run(bundle, "--json"))[1])["bundles"][0]["images"]) == 3


async def test_a_part_that_was_damaged_on_the_way_is_named(run: Run, tmp_path: Path) -> None:
    body = tar(small().entries())
    with PartsWriter(tmp_path / "june.tar", 20_000) as writer:
        writer.write(body)
        writer.finish()
    second = bytearray((tmp_path / "june.tar.002").read_bytes())
    second[5_000] ^= 1
    (tmp_path / "june.tar.002").write_bytes(second)
    code, _, err = await run(tmp_path / "june.tar")
    assert code == 1
    assert "june.tar.002 is damaged" in err
    (tmp_path / "june.tar.sha256").unlink()
    code, _, err = await run(tmp_path / "june.tar")
    assert code == 1
    assert err.startswith(f"{tmp_path / 'june.tar'}: "), "which of the bundles, where the reason does not say it"


async def test_a_later_signature_joins_those_that_are_listed(run: Run, tmp_path: Path, start: StartMirror) -> None:
    mirror = await start(NOBODY, server=OFFLINE)
    for layer in (b"first", b"second"):
        cargo = Cargo()
        image = cargo.image(BASE)
        cargo.name("quay.io/org/app:1", image)
        signature = cargo.image(layer, subject=image)
        cargo.name(f"quay.io/org/app@{signature['digest']}", signature, subject=image["digest"])
        (tmp_path / "bundle.tar").write_bytes(tar(cargo.entries()))
        assert (await run(tmp_path / "bundle.tar"))[0] == 0
    reply = await mirror.get(f"/v2/quay.io/org/app/referrers/{image['digest']}")
    assert len(reply.json["manifests"]) == 2


async def test_what_was_carried_in_is_seen_only_in_its_own_repository(
    run: Run, bundle: Path, start: StartMirror
) -> None:
    mirror = await start(NOBODY, server=OFFLINE)
    await run(bundle)
    layer = digest_of(b"other " * 300)
    assert (await mirror.get(f"/v2/quay.io/org/other/blobs/{layer}")).status == 200
    assert (await mirror.get(f"/v2/quay.io/org/elsewhere/blobs/{layer}")).status in {404, 503}
    assert (await mirror.get(f"/v2/library/app/blobs/{layer}")).status in {404, 503}


async def test_a_tag_that_was_carried_in_is_never_asked_for_upstream(
    run: Run, bundle: Path, start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    upstream.add_image("library/app", "1.0", layers=[b"another one"])
    mirror = await start(upstream)
    await run(bundle)
    clock.advance(400 * 24 * 3600)
    reply = await mirror.get("/v2/library/app/manifests/1.0")
    assert reply.headers["Docker-Content-Digest"] == digest_named(small(), "docker.io/library/app:1.0")
    assert upstream.count(kind="manifest") == 0


async def test_a_tag_that_may_expire_is_asked_for_again(
    run: Run, bundle: Path, start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    now = upstream.add_image("library/app", "1.0", layers=[b"another one"])
    mirror = await start(upstream)
    clock.now = time.time() + 3600
    await run(bundle, "--expire")
    reply = await mirror.get("/v2/library/app/manifests/1.0")
    assert reply.headers["Docker-Content-Digest"] == str(now)


async def test_a_namespace_that_nobody_is_served_is_told_of(run: Run, tmp_path: Path) -> None:
    cargo = Cargo()
    cargo.name("registry.example/app:1", cargo.image(BASE))
    (tmp_path / "bundle.tar").write_bytes(tar(cargo.entries()))
    code, _, err = await run(tmp_path / "bundle.tar")
    assert code == 0
    assert 'write "registry.example: true" under upstreams' in err


async def test_imported_images_are_pinned_unless_told_otherwise(run: Run, bundle: Path, tmp_path: Path) -> None:
    await run(bundle, "--no-pin")
    with site(tmp_path / "store") as here:
        assert not any("Pinned" in fact for fact in here.state()["facts"])
    await run(bundle)
    with site(tmp_path / "store") as here:
        pins = [fact for fact in here.state()["facts"] if fact.startswith("Pinned")]
    assert len(pins) == 2  # the signature goes with what it signs
    assert "reference='1.0'" in pins[0]
    assert "reference='v2'" in pins[1]


# --- how it comes ----------------------------------------------------------------------------------------------------


async def test_running_it_again_changes_nothing(run: Run, bundle: Path, tmp_path: Path) -> None:
    await run(bundle)
    with site(tmp_path / "store") as here:
        before = here.state()
    code, out, _ = await run(bundle, "--json")
    assert code == 0
    [told] = json.loads(out)["bundles"]
    assert (told["brought"], told["here"]) == (0, 14)
    assert {image["state"] for image in told["images"]} == {"unchanged"}
    with site(tmp_path / "store") as here:
        after = here.state()
    assert after["files"] == before["files"]
    assert after["room"] == before["room"]
    assert after["content"] == before["content"]


async def test_only_what_is_not_here_comes_to_the_disk(run: Run, bundle: Path, tmp_path: Path) -> None:
    cargo = Cargo()
    cargo.name("docker.io/library/before:1", cargo.image(BASE))
    (tmp_path / "before.tar").write_bytes(tar(cargo.entries()))
    await run(tmp_path / "before.tar")
    _, out, _ = await run(bundle, "--json")
    [told] = json.loads(out)["bundles"]
    assert (told["brought"], told["here"], told["here_bytes"]) == (13, 1, len(BASE))


async def test_a_tag_moves_to_what_was_carried_in_last(run: Run, tmp_path: Path, start: StartMirror) -> None:
    states = []
    for layer in (b"january", b"february"):
        cargo = Cargo()
        digest = cargo.name("docker.io/library/app:1", cargo.image(BASE, layer))
        (tmp_path / "bundle.tar").write_bytes(tar(cargo.entries()))
        _, out, _ = await run(tmp_path / "bundle.tar", "--json")
        states.append(json.loads(out)["bundles"][0]["images"][0]["state"])
    assert states == ["new", "moved"]
    mirror = await start(NOBODY, server=OFFLINE)
    assert (await mirror.head("/v2/library/app/manifests/1")).headers["Docker-Content-Digest"] == digest


async def test_parts_come_in_any_order_and_several_bundles_at_once(
    run: Run, tmp_path: Path, start: StartMirror
) -> None:
    body = tar(small().entries())
    for number in range(3):
        (tmp_path / f"april.tar.{number + 1:03}").write_bytes(body[number * 16_384 : (number + 1) * 16_384])
    cargo = Cargo()
    cargo.name("docker.io/library/may:1", cargo.image(BASE))
    spread(cargo.entries(), tmp_path / "may")
    code, out, err = await run(
        tmp_path / "april.tar.003", tmp_path / "may", tmp_path / "april.tar.001", tmp_path / "april.tar.002"
    )
    assert code == 0, err
    assert "docker.io/library/may:1" in out
    mirror = await start(NOBODY, server=OFFLINE)
    assert await served(mirror, "library/app", "1.0") == []
    assert await served(mirror, "library/may", "1") == []


async def test_a_refused_bundle_does_not_keep_another_one_out(run: Run, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(tar(small().entries())[:8192])
    code, out, err = await run(tmp_path / "bad.tar", bundle)
    assert code == 1
    assert "cut off" in err
    assert "docker.io/library/app:1.0" in out


async def test_two_imports_at_once_are_both_right(tmp_path: Path, bundle: Path) -> None:
    file = tmp_path / "mirror.yaml"
    file.write_text(json.dumps({"storage": {"path": str(tmp_path / "store"), "min_free": "0B"}}))
    command = [sys.executable, "-m", "mirror", "import", str(bundle), "--config", str(file), "--json"]
    both = [await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE) for _ in range(2)]
    told = [json.loads((await one.communicate())[0])["bundles"][0] for one in both]
    assert sorted(one["brought"] for one in told) == [0, 14]
    assert sorted(one["here"] for one in told) == [0, 14]
    with site(tmp_path / "store") as here:
        assert here.store.counted


async def test_a_dry_run_says_what_would_come_and_changes_nothing(run: Run, bundle: Path, tmp_path: Path) -> None:
    code, out, err = await run(bundle, "--dry-run", "--json")
    assert code == 0
    assert "holds no store yet" in err
    assert not (tmp_path / "store").exists()
    [told] = json.loads(out)["bundles"]
    assert (told["brought"], told["here"]) == (14, 0)
    assert [image["reference"] for image in told["images"]][:1] == ["docker.io/library/app:1.0"]

    cargo = Cargo()
    cargo.name("docker.io/library/before:1", cargo.image(BASE))
    (tmp_path / "before.tar").write_bytes(tar(cargo.entries()))
    await run(tmp_path / "before.tar")
    with site(tmp_path / "store") as here:
        before = here.state()
    (tmp_path / "layout.tar").write_bytes(tar([*small().blobs(), *small().layout()]))
    for path in (bundle, tmp_path / "layout.tar"):
        _, out, _ = await run(path, "--dry-run", "--json")
        [told] = json.loads(out)["bundles"]
        assert (told["brought"], told["here"]) == (13, 1), path
    with site(tmp_path / "store") as here:
        assert here.state() == before


# --- incremental -----------------------------------------------------------------------------------------------------


def months() -> tuple[Entries, Entries, Cargo]:
    """Return January's bundle, and February's: one image changed a layer, another one is new and stands alone."""
    january = Cargo()
    january.name("docker.io/library/app:1", january.image(BASE, b"january"))
    february = Cargo()
    february.name("docker.io/library/app:1", february.image(BASE, b"february"))
    february.name("docker.io/library/alone:1", february.image(b"alone"))
    parent = january.manifest_of().identity
    return january.entries(), february.entries(frozenset(january.bodies), parent), february


async def test_the_next_months_bundle_needs_the_one_before(run: Run, tmp_path: Path, start: StartMirror) -> None:
    january, february, _ = months()
    (tmp_path / "1.tar").write_bytes(tar(january))
    (tmp_path / "2.tar").write_bytes(tar(february))
    mirror = await start(NOBODY, server=OFFLINE)

    code, out, err = await run(tmp_path / "2.tar", "--json")
    assert code == 1
    assert f"since the bundle {digest_of(january[0][1])}" in err
    assert digest_of(BASE) not in err, "JSON has it"
    assert json.loads(out)["failures"][0]["missing"] == [{"digest": digest_of(BASE), "size_bytes": len(BASE)}]
    assert (await mirror.get("/v2/library/alone/manifests/1")).status == 503
    _, _, err = await run(tmp_path / "2.tar")
    assert [line.split()[0] for line in err.splitlines()[1:]] == [digest_of(BASE)]
    assert max(map(len, err.splitlines()[1:])) <= 100

    assert (await run(tmp_path / "1.tar"))[0] == 0
    assert (await run(tmp_path / "2.tar"))[0] == 0
    assert await served(mirror, "library/app", "1") == []
    assert await served(mirror, "library/alone", "1") == []


async def test_what_is_whole_can_be_taken_without_the_bundle_before(
    run: Run, tmp_path: Path, start: StartMirror
) -> None:
    _, february, cargo = months()
    (tmp_path / "2.tar").write_bytes(tar(february))
    code, out, err = await run(tmp_path / "2.tar", "--partial")
    assert code == 1
    assert digest_of(BASE) in err
    rows = {line.split()[0]: line for line in out.splitlines() if ":1 " in line}
    assert rows["docker.io/library/app:1"].endswith("-  left out")
    assert "2 names; 3 contents brought" in out, "a manifest, a config and a layer, and nothing of what is left out"
    mirror = await start(NOBODY, server=OFFLINE)
    assert await served(mirror, "library/alone", "1") == []
    assert (await mirror.get("/v2/library/app/manifests/1")).status == 503
    app = digest_named(cargo, "docker.io/library/app:1")
    assert mirror.server.store.blobs.size(Digest.parse(app)) is None


async def test_a_bundle_without_a_signature_gets_nothing_shown_that_another_registry_gave(
    run: Run, tmp_path: Path, start: StartMirror
) -> None:
    ours = Cargo()
    ours.name("ghcr.io/ours/secret:1", ours.image(BASE))
    theirs = Cargo()
    theirs.name("docker.io/library/theirs:1", theirs.image(BASE, b"theirs"))
    private, public = keys(tmp_path, "ours")
    first, *rest = theirs.entries(frozenset(ours.bodies), ours.manifest_of().identity)
    (tmp_path / "ours.tar").write_bytes(tar(ours.entries()))
    (tmp_path / "theirs.tar").write_bytes(tar([first, *rest]))
    (tmp_path / "signed.tar").write_bytes(tar([first, ("bundle.json.sig", sign(first[1], private, None)), *rest]))
    assert (await run(tmp_path / "ours.tar"))[0] == 0

    code, _, err = await run(tmp_path / "theirs.tar")
    assert code == 1
    assert f"needs {digest_of(BASE)}" in err
    assert "here only from another registry" in err
    mirror = await start(NOBODY, server=OFFLINE)
    assert (await mirror.get(f"/v2/library/theirs/blobs/{digest_of(BASE)}")).status == 404
    assert (await run(tmp_path / "signed.tar", "--key", public))[0] == 0
    assert await served(mirror, "library/theirs", "1") == []


# --- who made it -----------------------------------------------------------------------------------------------------


def keys(directory: Path, name: str) -> tuple[Path, Path]:
    """Make a key pair, as ssh-keygen does."""
    private = Ed25519PrivateKey.generate()
    paths = directory / name, directory / f"{name}.pub"
    paths[0].write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    paths[1].write_bytes(private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b" us\n")
    return paths


async def test_where_a_key_is_asked_for_only_what_it_signed_comes_in(run: Run, tmp_path: Path) -> None:
    private, public = keys(tmp_path, "ours")
    _, stranger = keys(tmp_path, "theirs")
    first, *rest = small().entries()
    signed = [first, ("bundle.json.sig", sign(first[1], private, None)), *rest]
    (tmp_path / "signed.tar").write_bytes(tar(signed))
    (tmp_path / "unsigned.tar").write_bytes(tar([first, *rest]))
    (tmp_path / "layout.tar").write_bytes(tar([*small().blobs(), *small().layout()]))
    tampered = [("bundle.json", months()[0][0][1]), *signed[1:]]
    (tmp_path / "tampered.tar").write_bytes(tar(tampered))

    for name, key, said in (
        ("unsigned", public, "is not signed"),
        ("layout", public, "nothing in it is signed"),
        ("tampered", public, "sign"),
        ("signed", stranger, "sign"),
    ):
        code, out, err = await run(tmp_path / f"{name}.tar", "--key", key)
        assert (code, out) == (1, ""), name
        assert said in err
    with site(tmp_path / "store") as here:
        assert here.state()["files"] == []

    code, out, err = await run(tmp_path / "signed.tar", "--key", tmp_path / "absent.pub")
    assert (code, out) == (2, ""), "the call is wrong, and no bundle"
    assert "absent.pub cannot be read" in err
    assert "not checked: --key" in (await run(tmp_path / "signed.tar", "--dry-run"))[1]
    code, out, _ = await run(tmp_path / "signed.tar", "--key", public)
    assert code == 0
    assert "signed by" in out


# --- room ------------------------------------------------------------------------------------------------------------


def large(name: str, *layers: int) -> bytes:
    """A bundle of one image with layers of so many MiB."""
    cargo = Cargo()
    cargo.name(f"docker.io/library/{name}:1", cargo.image(*(os.urandom(size * MIB) for size in layers)))
    return tar(cargo.entries())


async def test_what_does_not_fit_is_refused_before_anything_is_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "large.tar").write_bytes(large("large", 10, 15)[: 8 * MIB])  # it is not even read so far
    code, _, err = await run(tmp_path / "large.tar")
    assert code == 1
    assert "brings 25.0 MiB that is not here yet" in err
    assert "it may take 24.0 MiB" in err
    with site(tmp_path / "store") as here:
        assert here.state()["files"] == []


async def test_an_import_lets_go_of_what_is_not_pinned(run: Run, tmp_path: Path) -> None:
    (tmp_path / "old.tar").write_bytes(large("old", 10))
    (tmp_path / "new.tar").write_bytes(large("new", 16))
    await run(tmp_path / "old.tar", "--no-pin")
    code, _, err = await run(tmp_path / "new.tar")
    assert code == 0, err
    with site(tmp_path / "store") as here:
        facts = here.state()["facts"]
    assert [fact for fact in facts if "library/old" in fact] == []

    code, _, err = await run(tmp_path / "old.tar")
    assert code == 1
    assert "are pinned" in err


# --- interrupted -----------------------------------------------------------------------------------------------------


def wait_for(condition: Callable[[], bool]) -> None:
    """Return when it holds; another process brings it about."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
async def test_an_import_that_was_cut_off_goes_on_and_shows_nothing_before(
    how: signal.Signals, run: Run, tmp_path: Path, start: StartMirror
) -> None:
    mirror = await start(NOBODY, server=OFFLINE)
    body = large("app", 2, 2)
    command = [sys.executable, "-m", "mirror", "import", "-", "--config", str(tmp_path / "import.yaml")]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(body[: 3 * MIB])  # and no more: it waits
    fills = tmp_path / "store" / "fills.v1"
    await asyncio.to_thread(wait_for, lambda: sum(path.stat().st_size for path in fills.glob("*.carried")) > 2 * MIB)
    process.send_signal(how)
    _, err = await process.communicate()
    if how is not signal.SIGKILL:
        assert process.returncode == 1
        assert b"running it again goes on" in err
    left = {path.name: path.stat().st_ino for path in fills.glob("*.carried")}
    assert len(left) >= 3  # the manifest, the config, a layer
    assert (await mirror.get("/v2/library/app/manifests/1")).status == 503
    with site(tmp_path / "store") as here:
        assert here.state()["facts"] == []

    (tmp_path / "bundle.tar").write_bytes(body)
    code, _, err = await run(tmp_path / "bundle.tar")
    assert code == 0, err
    assert await served(mirror, "library/app", "1") == []
    inodes = {path.stat().st_ino for path in (tmp_path / "store" / "blobs.v1").rglob("*") if path.is_file()}
    assert set(left.values()) <= inodes  # what had come was used
    assert list(fills.iterdir()) == []


# --- what others write -----------------------------------------------------------------------------------------------


def saved(*, links: bool = False) -> tuple[Entries, dict[str, str]]:
    """Return what `docker save` wrote before 2023, and the links in it."""
    layers = [b"one " * 1000, b"two " * 1000]
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [digest_of(layer) for layer in layers]}}
    ).encode()
    name = digest_of(config)[7:]
    paths = ["a" * 64 + "/layer.tar", "b" * 64 + "/layer.tar"]
    entry = {"Config": f"{name}.json", "RepoTags": ["app:1", "quay.io/org/app:2"], "Layers": paths}
    files: Entries = [(f"{'a' * 64}/VERSION", b"1.0"), (f"{name}.json", config), ("repositories", b"{}")]
    if links:  # as Podman writes it
        files += [(f"{digest_of(layer)[7:]}.tar", layer) for layer in layers]
        targets = {path: f"../{digest_of(layer)[7:]}.tar" for path, layer in zip(paths, layers, strict=True)}
    else:
        files += list(zip(paths, layers, strict=True))
        targets = {}
    return [*files, ("manifest.json", json.dumps([entry]).encode())], targets


def archive(files: Entries, links: dict[str, str]) -> bytes:
    members = []
    for name, target in links.items():
        member = tarfile.TarInfo(name)
        member.type, member.linkname = tarfile.SYMTYPE, target
        members.append(member)
    return tar(files, *members)


@pytest.mark.parametrize("links", [False, True])
async def test_what_docker_save_wrote_is_served(links: bool, run: Run, tmp_path: Path, start: StartMirror) -> None:
    files, targets = saved(links=links)
    (tmp_path / "saved.tar").write_bytes(gzipped(archive(files, targets)))
    code, out, err = await run(tmp_path / "saved.tar")
    assert code == 0, err
    assert "docker archive" in out
    mirror = await start(NOBODY, server=OFFLINE)
    assert await served(mirror, "library/app", "1") == []
    assert await served(mirror, "quay.io/org/app", "2") == []
    document = (await mirror.get("/v2/library/app/manifests/1")).json
    assert [layer["digest"] for layer in document["layers"]] == [digest_of(b"one " * 1000), digest_of(b"two " * 1000)]
    assert mirror.server.store.graph.totals().contents == 4
    kept = [path for path in (tmp_path / "store" / "blobs.v1").rglob("*") if path.is_file()]
    assert len(kept) == 4  # what no image needs is not kept
    _, out, _ = await run(tmp_path / "saved.tar", "--json")
    [told] = json.loads(out)["bundles"]
    assert (told["brought"], told["here"]) == (0, 4)
    assert {image["state"] for image in told["images"]} == {"unchanged"}
    assert list((tmp_path / "store" / "fills.v1").iterdir()) == []


async def test_a_layout_takes_the_names_that_docker_gives_it(run: Run, tmp_path: Path, start: StartMirror) -> None:
    """Since version 25 `docker save` writes a layout with both lists."""
    cargo = Cargo()
    cargo.name("docker.io/library/any:1", cargo.image(BASE))
    document = json.loads(cargo.bodies[digest_named(cargo, "docker.io/library/any:1")][0])
    paths = {"Config": blob_path(document["config"]["digest"]), "Layers": [blob_path(document["layers"][0]["digest"])]}
    listed = json.dumps([{"RepoTags": ["app:9"], **paths}]).encode()
    entries = [*cargo.blobs(), *cargo.layout(names=False), ("manifest.json", listed)]
    (tmp_path / "saved.tar").write_bytes(tar(entries))
    code, _, err = await run(tmp_path / "saved.tar")
    assert code == 0, err
    mirror = await start(NOBODY, server=OFFLINE)
    assert await served(mirror, "library/app", "9") == []


async def test_a_saved_layer_that_is_not_the_configs_is_refused(run: Run, tmp_path: Path) -> None:
    files, _ = saved()
    bad = [(name, b"evil" if name.startswith("b") else body) for name, body in files]
    (tmp_path / "saved.tar").write_bytes(tar(bad))
    code, _, err = await run(tmp_path / "saved.tar")
    assert code == 1
    assert "is not the one that the image" in err


@pytest.mark.parametrize("form", ["tar", "gz", "directory"])
async def test_an_oci_layout_is_served(form: str, run: Run, tmp_path: Path, start: StartMirror) -> None:
    entries = [*small().blobs(), *small().layout()]  # index.json at the end, as skopeo writes it
    path = tmp_path / "layout"
    if form == "directory":
        spread(entries, path)
    else:
        path.write_bytes(tar(entries) if form == "tar" else gzipped(tar(entries)))
    code, out, err = await run(path)
    assert code == 0, err
    assert "OCI image layout" in out
    mirror = await start(NOBODY, server=OFFLINE)
    assert await served(mirror, "library/app", "1.0") == []
    other = digest_named(small(), "quay.io/org/other:v2")
    assert len((await mirror.get(f"/v2/quay.io/org/other/referrers/{other}")).json["manifests"]) == 1


async def test_a_layout_without_names_asks_for_one(run: Run, tmp_path: Path, start: StartMirror) -> None:
    cargo = Cargo()
    digest = cargo.name("docker.io/library/any:1", cargo.image(BASE))
    path = tmp_path / "layout.tar"
    path.write_bytes(tar([*cargo.blobs(), *cargo.layout(names=False)]))
    code, _, err = await run(path)
    assert code == 1
    assert "--repository quay.io/org/app" in err
    assert (await run(path, "--repository", "quay.io/org/app:7"))[0] == 0
    assert (await run(path, "--repository", "quay.io/org/app"))[0] == 0
    mirror = await start(NOBODY, server=OFFLINE)
    assert await served(mirror, "quay.io/org/app", "7") == []
    assert await served(mirror, "quay.io/org/app", digest) == []


async def test_a_layout_that_lacks_a_blob_is_refused_even_where_the_store_has_it(run: Run, tmp_path: Path) -> None:
    """An archive of a stranger must not lend itself what others have here."""
    await run_bundle(run, tmp_path)
    cargo = Cargo()
    cargo.name("docker.io/stranger/app:1", cargo.image(BASE))
    blobs = [entry for entry in cargo.blobs() if entry[0] != blob_path(digest_of(BASE))]
    (tmp_path / "layout.tar").write_bytes(tar([*blobs, *cargo.layout()]))
    code, _, err = await run(tmp_path / "layout.tar")
    assert code == 1
    assert f"needs {digest_of(BASE)}, which the bundle does not have" in err


async def run_bundle(run: Run, tmp_path: Path) -> None:
    (tmp_path / "small.tar").write_bytes(tar(small().entries()))
    assert (await run(tmp_path / "small.tar"))[0] == 0
