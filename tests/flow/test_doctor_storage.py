"""`mirror doctor` on the store, beside a mirror that uses it, and on the limits of its process."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from mirror import config
from mirror.doctor import storage
from mirror.doctor.case import Case
from mirror.doctor.finding import Finding, Level
from mirror.store import layout
from tests.flow.doctoring import NOBODY, Host, as_nobody, only, wrong
from tests.parts.process import room, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Mirror, StartMirror

# Holds a lock on the file that it is given, says so, and ends with its input.
LOCKER = "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_SH); print(flush=True); input()"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
async def mirror(start: StartMirror, upstream: FakeRegistry) -> Mirror:
    return await start(upstream)


def tree(directory: Path) -> dict[str, tuple[int, int]]:
    """Return every path below a directory, with what changes when somebody writes."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in directory.rglob("*")}


@contextmanager
def mounted(options: str) -> Iterator[Path]:
    with room("doctor") as directory:
        run("mount", "-t", "tmpfs", "-o", options, "doctor", directory)
        yield directory


async def test_nothing_is_made_where_there_is_no_store(host: Host, upstream: FakeRegistry, mirror: Mirror) -> None:
    elsewhere = host.directory / "not" / "yet"
    findings = await host.examined(upstream, mirror.url, storage={"path": str(elsewhere)})
    assert wrong(findings) == []
    assert f"the mirror makes it in {host.directory}" in str(findings)
    assert not elsewhere.parent.exists()


async def test_a_running_mirror_is_not_disturbed(host: Host, upstream: FakeRegistry, mirror: Mirror) -> None:
    upstream.add_image("library/app", "v1", layers=[b"one"])
    await mirror.pull("library/app", "v1")
    before, requests = tree(host.store), len(upstream.requests)
    assert wrong(await host.examined(upstream, mirror.url)) == []
    assert tree(host.store) == before
    assert [record.kind for record in upstream.requests[requests:]] == ["ping"]
    upstream.add_image("library/app", "v2", layers=[b"two"])
    assert {reply.status for reply in await mirror.pull("library/app", "v2")} == {200}


async def test_a_file_where_the_store_should_be(host: Host, upstream: FakeRegistry, mirror: Mirror) -> None:
    file = host.put("a-file")
    found = only(await host.examined(upstream, mirror.url, storage={"path": f"{file}/store"}))
    assert f"{file} is a file" in found.found
    assert "storage.path" in found.cure


async def test_a_store_of_another_version(host: Host, upstream: FakeRegistry, mirror: Mirror) -> None:
    (host.store / "VERSION").write_text("7\n")
    found = only(await host.examined(upstream, mirror.url))
    assert "says layout '7', and this program knows layout 2" in found.found
    assert "the release that wrote it" in found.cure


async def test_a_store_of_an_older_layout_is_no_trouble(host: Host, upstream: FakeRegistry, mirror: Mirror) -> None:
    (host.store / "VERSION").write_text("1\n")
    found = [one for one in await host.examined(upstream, mirror.url) if "layout 1" in one.found]
    assert [one.level for one in found] == [Level.OK]
    assert "is brought up to layout 2 when the mirror starts" in found[0].found


async def test_a_store_on_a_network_file_system(
    host: Host, upstream: FakeRegistry, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = host.directory.stat().st_dev
    mounts = host.put("mountinfo", f"1 0 {os.major(device)}:{os.minor(device)} / / rw - nfs4 server:/x rw\n")
    monkeypatch.setattr(layout, "MOUNTS", mounts)
    found = only(await host.examined(upstream, mirror.url))
    assert "lies on nfs4" in found.found
    assert "a local disk or a block volume" in found.cure


async def test_a_disk_that_is_too_full(host: Host, upstream: FakeRegistry, mirror: Mirror) -> None:
    found = only(await host.examined(upstream, mirror.url, storage={"min_free": "99.999%"}))
    assert found.level is Level.FAILURE
    assert "nothing new can be stored, the disk is too full" in found.found
    assert "lower storage.min_free" in found.cure


async def test_a_full_store_is_no_trouble(host: Host, upstream: FakeRegistry, mirror: Mirror) -> None:
    with (host.store / "blobs.v1" / "large").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 2 * 1024**3)
    found = await host.examined(upstream, mirror.url, storage={"max_size": "2GiB"})
    full = [one for one in found if "full, so that what was not asked for the longest makes room" in one.found]
    assert [one.level for one in full] == [Level.OK]


async def test_a_store_with_little_room(host: Host, upstream: FakeRegistry, mirror: Mirror) -> None:
    found = only(await host.examined(upstream, mirror.url, storage={"max_size": "100MiB"}))
    assert found.level is Level.WARNING
    assert "room for 100.0 MiB of images only" in found.found
    assert "raise storage.max_size" in found.cure


@pytest.mark.needs("mount")
async def test_a_file_system_that_is_mounted_read_only(host: Host, upstream: FakeRegistry, mirror: Mirror) -> None:
    with mounted("ro") as directory:
        found = only(await host.examined(upstream, mirror.url, storage={"path": str(directory)}))
    assert "mounted read-only" in found.found
    assert "ReadWritePaths=" in found.cure


@pytest.mark.needs("mount")
@pytest.mark.parametrize(("inodes", "level"), [(2, Level.FAILURE), (900, Level.WARNING)])
async def test_a_file_system_that_runs_out_of_inodes(
    inodes: int, level: Level, host: Host, upstream: FakeRegistry, mirror: Mirror
) -> None:
    with mounted(f"size=8g,nr_inodes={inodes}") as directory:
        (directory / "one").touch()
        found = only(await host.examined(upstream, mirror.url, storage={"path": str(directory)}))
    assert found.level is level
    assert f"of {inodes}" in found.found
    assert "df -i" in found.cure


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_a_store_that_two_users_have_written(host: Host, upstream: FakeRegistry, mirror: Mirror) -> None:
    os.chown(host.store / "journal.v1", 12345, -1)
    found = only(await host.examined(upstream, mirror.url))
    assert "VERSION in it belongs to user 0, and journal.v1 to user 12345" in found.found
    assert f"chown -R 0 {host.store}" in found.cure


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_a_volume_that_is_roots_and_lets_the_mirror_write(
    host: Host, upstream: FakeRegistry, mirror: Mirror
) -> None:
    """So Kubernetes makes it with `fsGroup`, and Docker from the directory in the image."""
    for file in host.store.rglob("*"):
        os.chown(file, 65532, -1)
    assert wrong(await host.examined(upstream, mirror.url)) == []


@pytest.mark.parametrize(("name", "level"), [("mirror", Level.OK), ("backup", Level.WARNING)])
async def test_whoever_has_the_index_open_is_named(
    name: str, level: Level, host: Host, upstream: FakeRegistry, mirror: Mirror
) -> None:
    file = host.store / "index.sqlite-shm"
    process = await asyncio.create_subprocess_exec(
        name, "-c", LOCKER, file, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    findings = await host.examined(upstream, mirror.url)
    await process.communicate(b"\n")
    found = [one for one in findings if one.check == "storage" and f"process {process.pid}" in one.found]
    assert [finding.level for finding in found] == [level]
    if level is Level.OK:
        assert "a running mirror has it open" in found[0].found
    else:
        assert "backup" in found[0].found
        assert "while the mirror is stopped" in found[0].cure


def stored(host: Host, store: Path) -> Finding:
    text = json.dumps({"storage": {"path": str(store)}})
    case = Case(root=host.root, config=config.parse(text, "mirror.yaml", {}))
    [found] = as_nobody(lambda: storage.examine(case))
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_store_that_belongs_to_somebody_else(host: Host) -> None:
    with room("doctor") as directory:
        directory.chmod(0o755)
        found = stored(host, directory / "store")
        assert f"{directory} belongs to user 0, and user {NOBODY} may not write there" in found.found
        assert f"chown -R {NOBODY} {directory}" in found.cure
        directory.chmod(0o700)
        (directory / "store").mkdir()
        found = stored(host, directory / "store")
        assert (found.level, f"may not be looked at by user {NOBODY}" in found.found) == (Level.FAILURE, True)
        assert "ask as the user that the mirror runs as" in found.cure


async def test_too_few_open_files(host: Host, upstream: FakeRegistry, mirror: Mirror) -> None:
    found = only(await host.examined(upstream, mirror.url, files=1024))
    assert (found.check, found.level) == ("limits", Level.WARNING)
    assert "only 1024 files open" in found.found
    assert "LimitNOFILE=65536" in found.cure
