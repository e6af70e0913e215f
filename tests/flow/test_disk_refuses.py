"""A disk that is full, read-only or damaged: nobody's pull fails for it, and what is wrong is served once at most."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
import subprocess
from typing import TYPE_CHECKING

import aiohttp
import pytest

from mirror import metrics
from mirror.oci.digest import Digest
from mirror.oci.mediatype import OCI_MANIFEST
from mirror.oci.name import Repository
from mirror.server import send
from mirror.store.changes import Linked, Named
from tests.fakes.faults import Gate, NoLength, NoRange
from tests.flow.fills import MIB, REPO, Client, path_of, ranged, unfinished
from tests.parts.certificate import certificate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import StartMirror

SIZE = 12 * MIB + 17


# --- the disk itself refuses -----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 16 MiB where the store of this test will be."""
    place = tmp_path / "store"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], check=False)
    if made.returncode != 0:
        pytest.skip("needs the right to mount")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.needs("mount", "umount")
async def test_a_disk_that_fills_up_in_the_middle_costs_a_client_one_resumption(
    small_disk: Path, start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    body = upstream.content(REPO, digest)
    mirror = await start(upstream, storage={"max_size": "1GiB"})
    gate = asyncio.Event()
    upstream.fault(kind="blob", times=1, then=(Gate(gate, at_byte=2 * MIB), NoLength(), NoRange()))
    client = asyncio.create_task(Client(mirror.url).get(digest))
    await (await upstream.seen(kind="blob", digest=str(digest))).sent(2 * MIB)
    room = os.statvfs(small_disk)
    with (small_disk / "of-another-program").open("wb") as other:
        other.write(bytes(room.f_bavail * room.f_frsize - 4 * MIB))
    gate.set()
    status, got, complete = await client
    assert (status, complete, got) == (200, False, body[: len(got)])
    await mirror.settled()
    resumed = await mirror.get(path_of(digest), **ranged(len(got)))
    assert (resumed.status, resumed.headers["Content-Range"]) == (206, f"bytes {len(got)}-{SIZE - 1}/{SIZE}")
    assert got + resumed.body == body
    assert "detail=not-kept" in resumed.cache
    assert unfinished(small_disk) == []
    await mirror.stop()


async def test_a_fill_that_dies_before_a_client_has_its_first_byte_costs_it_nothing(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = upstream.add_pattern_blob(REPO, 3 * MIB)
    image = upstream.add_image(REPO, "v1", layers=[digest])
    mirror = await start(upstream)
    assert (await mirror.get(f"/v2/{REPO}/manifests/{image}")).status == 200
    right = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if offset >= MIB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return right(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    reply = await mirror.get(path_of(digest), **ranged(2 * MIB))
    assert (reply.status, "detail=not-kept" in reply.cache) == (206, True)
    assert reply.body == upstream.content(REPO, digest)[2 * MIB :]
    await mirror.settled()


@pytest.mark.needs("mount", "umount")
async def test_a_store_that_has_become_read_only_serves_what_it_has_and_streams_the_rest(
    small_disk: Path, start: StartMirror, upstream: FakeRegistry
) -> None:
    kept, large, small = (upstream.add_pattern_blob(REPO, size, size) for size in (MIB, 3 * MIB, 1000))
    mirror = await start(upstream)
    assert (await mirror.get(path_of(kept))).status == 200
    await mirror.settled()
    passed = metrics.STREAMED.labels("disk")
    count = passed._value.get()
    rooms = [small_disk / room for room in ("blobs.v1", "fills.v1")]
    for room in rooms:
        for options in (["--bind", room, room], ["-o", "remount,bind,ro", room]):
            subprocess.run(["mount", *options], check=True)  # noqa: ASYNC221
    try:
        for digest in (large, small):
            reply = await mirror.get(path_of(digest))
            assert (reply.status, "detail=not-kept" in reply.cache) == (200, True)
            assert digest.matches(reply.body)
        hit = await mirror.get(path_of(kept))
        assert (hit.status, hit.cache) == (200, "registry-mirror; hit")
    finally:
        for room in rooms:
            subprocess.run(["umount", "-l", room], check=True)  # noqa: ASYNC221
    assert passed._value.get() == count + 2
    mirror.server.cache._passages.forgive()
    assert "stored" in (await mirror.get(path_of(large))).cache
    await mirror.stop()


# --- what the disk has changed --------------------------------------------------------------------------------------


async def test_a_small_body_that_the_disk_has_changed_is_fetched_in_the_same_request(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = upstream.add_pattern_blob(REPO, 1000)
    mirror = await start(upstream)
    assert (await mirror.get(path_of(digest))).status == 200
    await mirror.settled()
    await mirror.stop()
    path = mirror.server.store.layout.blob(digest)
    damage(path, bytes(1000))
    mirror = await start(upstream)
    reply = await mirror.get(path_of(digest))
    assert (reply.status, reply.body) == (200, upstream.content(REPO, digest))
    await mirror.settled()
    assert path.read_bytes() == upstream.content(REPO, digest)
    assert (await mirror.get(path_of(digest))).cache == "registry-mirror; hit"


async def test_a_file_that_a_crash_has_cut_off_is_not_taken_for_the_whole(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = upstream.add_pattern_blob(REPO, 3 * MIB)
    image = upstream.add_image(REPO, "v1", layers=[digest])
    mirror = await start(upstream)
    for path in (f"/v2/{REPO}/manifests/{image}", path_of(digest)):
        assert (await mirror.get(path)).status == 200
    await mirror.settled()
    path_on_disk = mirror.server.store.layout.blob(digest)
    damage(path_on_disk, upstream.content(REPO, digest)[: 2 * MIB])
    reply = await mirror.get(path_of(digest))
    assert (reply.status, reply.body) == (200, upstream.content(REPO, digest))
    assert "fwd=uri-miss" in reply.cache
    await mirror.settled()
    assert (await mirror.get(path_of(digest))).cache == "registry-mirror; hit"


async def test_a_manifest_that_lies_about_a_size_does_no_harm(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = upstream.add_pattern_blob(REPO, 3 * MIB)
    mirror = await start(upstream)
    assert (await mirror.get(path_of(digest))).status == 200
    await mirror.settled()
    named = Named(digest, 4 * MIB)
    manifest = Digest.of(b"{}")
    where = Repository("docker.io", REPO)
    await mirror.server.store.index.apply(Linked(where, manifest, OCI_MANIFEST, public=True, names=(named,)))
    read: list[int] = []
    right = os.pread
    monkeypatch.setattr(os, "pread", lambda *asked: (read.append(1), right(*asked))[1])
    for _ in range(2):
        reply = await mirror.get(path_of(digest))
        assert (reply.status, reply.cache) == (200, "registry-mirror; hit")
        assert digest.matches(reply.body)
    assert len(read) == 4, "it is hashed once"


@pytest.mark.parametrize("secure", [False, True])
async def test_a_large_file_that_ends_too_early_is_broken_off_and_never_served_again(
    secure: bool, start: StartMirror, upstream: FakeRegistry, tmp_path: Path
) -> None:
    cert_file, key_file = certificate(tmp_path)
    trusted = ssl.create_default_context(cafile=str(cert_file)) if secure else True
    server = {"tls": {"cert_file": str(cert_file), "key_file": str(key_file)}} if secure else {}
    size = 40 * MIB
    digest = upstream.add_pattern_blob(REPO, size)
    mirror = await start(upstream, server=server)
    async with aiohttp.ClientSession(read_bufsize=64 * 1024) as session:
        url = mirror.url + path_of(digest)
        async with session.get(url, ssl=trusted) as response:
            assert digest.matches(await response.read())
        await mirror.settled()
        path = mirror.server.store.layout.blob(digest)
        async with session.get(url, ssl=trusted) as response:
            await response.content.readexactly(MIB)  # and the rest waits for a slow client
            path.chmod(0o644)
            os.truncate(path, 39 * MIB)
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        async with session.get(url, ssl=trusted) as response:
            assert digest.matches(await response.read())
            assert "fwd=uri-miss" in response.headers["Cache-Status"]
    await mirror.settled()


async def test_a_large_file_that_cannot_be_read_is_broken_off_and_never_served_again(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = upstream.add_pattern_blob(REPO, 3 * MIB)
    mirror = await start(upstream)
    assert (await mirror.get(path_of(digest))).status == 200
    await mirror.settled()
    monkeypatch.setattr(send, "_resident", lambda fd, offset: False)  # noqa: ARG005

    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", refuse)
    with pytest.raises(aiohttp.ClientError):
        await mirror.get(path_of(digest))
    monkeypatch.undo()
    reply = await mirror.get(path_of(digest))
    assert (reply.status, reply.body) == (200, upstream.content(REPO, digest))
    assert "fwd=uri-miss" in reply.cache
    await mirror.settled()


async def test_what_is_sent_whole_from_the_disk_is_heard_of(start: StartMirror, upstream: FakeRegistry) -> None:
    large, small = upstream.add_pattern_blob(REPO, MIB), upstream.add_pattern_blob(REPO, 1000)
    mirror = await start(upstream)
    heard: list[Digest] = []
    mirror.server.cache.blobs.on_sent = heard.append
    for digest in (large, small):
        await mirror.get(path_of(digest))
        await mirror.settled()
    assert heard == []
    for digest in (large, small):
        await mirror.get(path_of(digest), Range="bytes=0-9")
        await mirror.get(path_of(digest))
    assert heard == [large]


def damage(path: Path, body: bytes) -> None:
    """Write other bytes into a file of the store, which is read-only."""
    path.chmod(0o644)
    path.write_bytes(body)
