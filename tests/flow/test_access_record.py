"""The access record: who pulled what, in a file of its own, at no request's cost."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import threading
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import REGISTRY

from mirror import log
from mirror.errors import ConfigError
from mirror.oci.digest import Digest
from mirror.server import access
from mirror.server.access import AccessEntry, AccessRecord, access_record
from tests.fakes.faults import Gate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import StartMirror

REPO = "library/app"
LARGE = bytes(range(251)) * 4000  # about 1 MB
SMALL = b"small"

Lines = list[dict[str, Any]]


@pytest.fixture
def logged() -> Callable[[], Lines]:
    """Log as a process does; return what reads the lines."""
    stream = StringIO()
    log.setup("info", "json", stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def records(path: Path) -> Lines:
    return [json.loads(line) for line in path.read_text().splitlines()]


def entry(reference: str = "v1") -> AccessEntry:
    return AccessEntry(
        time=1_790_000_000.0,
        client="192.0.2.1",
        method="GET",
        namespace="docker.io",
        repository=REPO,
        reference=reference,
        digest=None,
        kind="manifest",
        status=200,
        sent=5,
        cache="hit",
        seconds=0.25,
        request_id="r1",
        agent="a client",
    )


def lost() -> float:
    return REGISTRY.get_sample_value("mirror_access_records_lost_total") or 0.0


def wait(condition: Callable[[], bool]) -> None:
    """Wait for what the writing thread does."""
    for _ in range(500):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("what was waited for did not come in 5 s")


async def test_it_says_who_pulled_what(start: StartMirror, upstream: FakeRegistry, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    mirror = await start(upstream, log={"access_file": str(path)})
    image = upstream.add_image(REPO, "v1", layers=[LARGE])
    layer = Digest.of(LARGE)
    agent = {"User_Agent": "docker/28.0 " + "x" * 300}
    await mirror.get("/v2/", **agent)
    manifest = await mirror.get(f"/v2/{REPO}/manifests/v1", X_Request_Id="one", **agent)
    await mirror.get(f"/v2/{REPO}/blobs/{layer}", **agent)
    await mirror.settled()
    await mirror.get(f"/v2/{REPO}/blobs/{layer}", Range="bytes=0-9")
    await mirror.head(f"/v2/{REPO}/manifests/{image}")
    await mirror.get(f"/v2/{REPO}/manifests/v2")
    await mirror.get("/v2/quay.io/org/app/manifests/v2")
    await mirror.get(f"/v2/{REPO}/tags/list")
    await mirror.get("/v2/_catalog")
    await mirror.stop()
    first, *rest = records(path)
    assert first.pop("time").endswith("Z")
    assert 0 < first.pop("seconds") < 60
    assert first == {
        "client": "127.0.0.1", "method": "GET", "namespace": "docker.io", "repository": REPO, "reference": "v1",
        "digest": str(image), "kind": "manifest", "status": 200, "bytes": len(manifest.body), "cache": "miss",
        "request_id": "one", "agent": ("docker/28.0 " + "x" * 300)[:200],
    }  # fmt: skip
    told = [
        (line["method"], line["kind"], line["reference"], line["digest"], line["status"], line["bytes"], line["cache"])
        for line in rest[:6]
    ]
    size = len(rest[5]["reference"] or "")
    assert size == 0
    assert told == [
        ("GET", "blob", str(layer), str(layer), 200, len(LARGE), "miss"),
        ("GET", "blob", str(layer), str(layer), 206, 10, "hit"),
        ("HEAD", "manifest", str(image), str(image), 200, 0, "hit"),
        ("GET", "manifest", "v2", None, 404, rest[3]["bytes"], "miss"),
        ("GET", "manifest", "v2", None, 404, rest[4]["bytes"], "none"),
        ("GET", "tags", None, None, 200, rest[5]["bytes"], "miss"),
    ]
    assert rest[4]["repository"] is None  # what is not mirrored has no name that was checked
    assert [line["kind"] for line in rest[6:]] == ["catalog"]


async def test_the_log_is_not_told_what_the_record_says(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path, logged: Callable[[], Lines]
) -> None:
    for name, sections in {"with": {"log": {"access_file": str(tmp_path / "a")}}, "without": {}}.items():
        mirror = await start(upstream, **sections)
        upstream.add_image(REPO, "v1", layers=[SMALL])
        await mirror.get(f"/v2/{REPO}/manifests/v1", X_Request_Id=f"{name}-good", User_Agent="me/1")
        await mirror.get(f"/v2/{REPO}/manifests/v2", X_Request_Id=f"{name}-bad")
        await mirror.stop()
    told = {line["request_id"]: line for line in logged() if line["event"] == "request"}
    assert set(told) == {"with-bad", "without-good", "without-bad"}
    assert (told["without-good"]["agent"], told["without-good"]["client"]) == ("me/1", "127.0.0.1")
    assert told["without-good"]["digest"].startswith("sha256:")


async def test_a_client_that_leaves_is_recorded_with_what_it_got(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path
) -> None:
    path = tmp_path / "access.log"
    mirror = await start(upstream, log={"access_file": str(path)})
    blob = upstream.add_blob(REPO, LARGE)
    gate = asyncio.Event()
    upstream.fault(kind="blob", then=Gate(gate, at_byte=300_000))
    async with mirror.session.get(f"{mirror.url}/v2/{REPO}/blobs/{blob}") as response:
        await response.content.readexactly(1000)
        response.close()
    gate.set()
    await mirror.settled()
    await mirror.stop()
    (line,) = records(path)
    assert (line["status"], line["digest"], line["cache"]) == (200, str(blob), "miss")
    assert line["bytes"] < len(LARGE)


def test_what_a_stranger_writes_can_neither_forge_a_line_nor_hold_a_secret() -> None:
    line = AccessEntry(
        time=0.0,
        client="192.0.2.1",
        method="X" * 1000,
        namespace=None,
        repository=None,
        reference='v1\n{"client": "forged"}\u2028\x1b[31m?sig=canary-1' + "x" * 1000,
        digest=None,
        kind="other",
        status=400,
        sent=0,
        cache="none",
        seconds=0.0,
        request_id="r1",
        agent="Bearer canary-123456789 \r\n https://me:canary-2@host/",
    ).line()
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert not set(line) & set(b"\x1b\r")
    assert b"canary" not in line
    assert len(line) < 1000


def test_only_its_owner_and_group_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        record = AccessRecord(tmp_path / "a")
    finally:
        os.umask(before)
    record.close()
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_lines_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    for _ in range(2):
        record = AccessRecord(tmp_path / "a")
        record.write(entry())
        record.close()
    assert len(records(tmp_path / "a")) == 2


@pytest.mark.parametrize("path", ["gone/access.log", "directory", "file/access.log"])
async def test_a_file_that_cannot_be_written_is_told_at_the_start(
    start: StartMirror, upstream: FakeRegistry, tmp_path: Path, path: str
) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"log\.access_file: .*cannot be opened.*; name a file"):
        await start(upstream, log={"access_file": str(tmp_path / path)})


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logrotate moves it, and may say so or not."""
    monkeypatch.setattr(access, "_EVERY", 0.0)
    path = tmp_path / "a"
    record = AccessRecord(path)
    for number in range(3):
        if number:
            path.rename(tmp_path / f"a.{number}")
        if number == 1:
            record.reopen()
        record.write(entry(f"v{number}"))
        wait(lambda: path.exists() and path.stat().st_size > 0)
    record.close()
    found = [records(tmp_path / name)[0]["reference"] for name in ("a.1", "a.2", "a")]
    assert found == ["v0", "v1", "v2"]


def test_the_record_of_a_path_is_kept_while_the_path_is_the_same(tmp_path: Path) -> None:
    assert access_record(None) is None
    record = access_record(tmp_path / "a")
    assert record is not None
    try:
        assert access_record(tmp_path / "a", record) is record
        assert access_record(None, record) is None
        with pytest.raises(ConfigError):
            access_record(tmp_path / "gone" / "a", record)
        record.write(entry())
    finally:
        record.close()
    assert len(records(tmp_path / "a")) == 1


def test_a_directory_that_vanished_is_said_once_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], Lines]
) -> None:
    monkeypatch.setattr(access, "_EVERY", 0.0)
    monkeypatch.setattr(access, "_RETRY", 0.01)
    directory = tmp_path / "logs"
    directory.mkdir()
    record = AccessRecord(directory / "a")
    directory.rename(tmp_path / "moved")
    tries = 0

    def count(*arguments: Any, open_: Any = os.open) -> int:
        nonlocal tries
        tries += 1
        found: int = open_(*arguments)
        return found

    monkeypatch.setattr(os, "open", count)
    for number in range(3):
        record.write(entry(f"v{number}"))
    wait(lambda: tries >= 3)
    directory.mkdir()
    wait((directory / "a").exists)
    record.close()
    assert [line["reference"] for line in records(directory / "a")] == ["v0", "v1", "v2"]
    said = [line for line in logged() if "access record" in line["event"]]
    assert [(line["level"], line["path"]) for line in said] == [
        ("error", str(directory / "a")),
        ("info", str(directory / "a")),
    ]
    assert said[0]["error"] == "No such file or directory"


@pytest.mark.parametrize("reopened", [False, True])
def test_a_full_disk_tears_no_line_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], Lines], *, reopened: bool
) -> None:
    monkeypatch.setattr(access, "_RETRY", 0.01)
    path = tmp_path / "a"
    record = AccessRecord(path)
    lines = [entry(f"v{number}").line() for number in range(3)]
    room = len(lines[0]) + 20  # the second line is torn
    failed = threading.Event()

    def write(file: int, data: bytes, write_: Any = os.write) -> int:
        nonlocal room
        if not room:
            failed.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        done: int = write_(file, data[:room])
        room -= done
        return done

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        for number in range(3):
            record.write(entry(f"v{number}"))
        assert failed.wait(5)
        if reopened:
            path.rename(tmp_path / "full")
    record.close()
    assert path.read_bytes() == b"".join(lines[1:] if reopened else lines)
    assert [line["level"] for line in logged() if "access record" in line["event"]] == ["error", "info"]


def test_what_the_queue_cannot_hold_is_lost_counted_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], Lines]
) -> None:
    monkeypatch.setattr(access, "QUEUE", 10)
    monkeypatch.setattr(access, "_EVERY", 0.0)
    record = AccessRecord(tmp_path / "a")
    held, go_on = threading.Event(), threading.Event()

    def write(file: int, data: bytes, write_: Any = os.write) -> int:
        held.set()
        go_on.wait(5)
        done: int = write_(file, data)
        return done

    before = lost()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        record.write(entry("held"))
        assert held.wait(5)
        for number in range(15):
            record.write(entry(f"v{number}"))  # it comes back at once, whatever the disk does
        assert lost() == before + 5
        go_on.set()
        record.close()
    assert len(records(tmp_path / "a")) == 11
    (said,) = [line for line in logged() if "lost" in line["event"]]
    assert (said["level"], said["lost"]) == ("error", 5)


def test_an_end_while_the_file_cannot_be_written_does_not_wait_for_ever(
    tmp_path: Path, logged: Callable[[], Lines]
) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    record = AccessRecord(directory / "a")
    directory.rename(tmp_path / "moved")
    before = lost()
    for _ in range(3):
        record.write(entry())
    record.close()
    assert not record._thread.is_alive()
    assert lost() == before + 3
    assert [line["lost"] for line in logged() if "are lost" in line["event"]] == [3]


def test_a_pipe_that_nobody_reads_holds_up_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError):
        AccessRecord(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with contextlib.closing(os.fdopen(reader, "rb")) as pipe:
        record = AccessRecord(tmp_path / "pipe")
        record.write(entry())
        record.close()
        assert json.loads(pipe.read())["reference"] == "v1"
