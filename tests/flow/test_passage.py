"""What cannot be kept is streamed to the client that asked (promise 7), and no less right for it (promise 3)."""

from __future__ import annotations

import asyncio
import hashlib
import resource
import ssl
from itertools import pairwise
from typing import TYPE_CHECKING

import aiohttp
import pytest
import structlog
from yarl import URL

from mirror import metrics
from mirror.cache import passage, stream
from mirror.errors import NoSpace
from mirror.oci.name import Repository
from tests.fakes.faults import Corrupt, Cut, Fault, Gate, Hang, NoLength, NoRange, Status, WrongRange
from tests.flow.fills import MIB, REPO, Client, descriptors, path_of, ranged, ranges_asked, unfinished
from tests.parts.certificate import certificate

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.oci.digest import Digest
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Mirror, StartMirror

NO_ROOM = NoSpace("all of it is pinned")
CAP = {"max_size": "10MiB"}
SIZE = 12 * MIB + 17  # more than the cap


def streamed(reason: str = "no room") -> tuple[float, float]:
    """Return how many blobs have been streamed, and how many bytes."""
    count, size = metrics.STREAMED.labels(reason), metrics.STREAMED_BYTES.labels(reason)
    return count._value.get(), size._value.get()


def nothing_kept(mirror: Mirror, digest: Digest) -> bool:
    """Say whether there is neither content, nor a link, nor a file, nor a descriptor that is left of it."""
    store = mirror.server.store
    standing = store.index.standing(Repository("docker.io", REPO), digest)
    left = (store.blobs.size(digest), standing.linked, unfinished(store.layout.root), descriptors())
    return left == (None, False, [], set())


def ended(mirror: Mirror) -> bool:
    passages = mirror.server.cache._passages
    return not passages.under_way() and passages._places._value == passage.MOST


async def name(mirror: Mirror, upstream: FakeRegistry, digest: Digest) -> None:
    """Let the mirror know the size of a blob, as it does where a client comes by its manifest."""
    image = upstream.add_image(REPO, "v1", layers=[digest])
    assert (await mirror.get(f"/v2/{REPO}/manifests/{image}")).status == 200


@pytest.mark.parametrize("named", [True, False])
async def test_a_blob_larger_than_the_cap_goes_to_its_client_and_is_not_kept(
    named: bool, start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    mirror = await start(upstream, storage=CAP)
    if named:
        await name(mirror, upstream, digest)
    count, size = streamed()
    with structlog.testing.capture_logs() as lines:
        for _ in range(2):
            reply = await mirror.get(path_of(digest))
            assert (reply.status, reply.body) == (200, upstream.content(REPO, digest))
            assert reply.headers["Content-Length"] == str(SIZE)
            assert reply.cache == "registry-mirror; fwd=uri-miss; fwd-status=200; detail=not-kept"
    await mirror.settled()
    assert nothing_kept(mirror, digest)
    assert streamed() == (count + 2, size + 2 * SIZE)
    said = [line for line in lines if line["event"].startswith("not kept")]
    assert [(line["digest"], line["repository"]) for line in said] == [(str(digest), f"docker.io/{REPO}")], "once"
    assert "storage.max_size" in said[0]["reason"], "it says what the operator can do"


async def test_no_second_fill_is_begun_in_vain(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    mirror = await start(upstream, storage=CAP)
    await name(mirror, upstream, digest)
    await mirror.get(path_of(digest))
    begun = metrics.FILLS.labels("docker.io", "failed")._value.get()
    asked = len(ranges_asked(upstream, digest))
    assert (await mirror.get(path_of(digest), Range="bytes=5-9")).status == 206
    assert metrics.FILLS.labels("docker.io", "failed")._value.get() == begun
    assert ranges_asked(upstream, digest)[asked:] == ["bytes=5-9"]


RANGES = {
    "bytes=5-9": [(5, 10)],
    f"bytes={SIZE - 100}-": [(SIZE - 100, SIZE)],
    "bytes=-70000": [(SIZE - 70_000, SIZE)],
    "bytes=0-": [(0, SIZE)],
    "bytes=8388608-": [(8 * MIB, SIZE)],
    "bytes=0-0": [(0, 1)],
}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("header", RANGES)
async def test_a_range_is_asked_of_upstream_as_a_range(
    header: str, named: bool, start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    mirror = await start(upstream, storage=CAP)
    if named:
        await name(mirror, upstream, digest)
    [(first, stop)] = RANGES[header]
    reply = await mirror.get(path_of(digest), Range=header)
    assert (reply.status, reply.headers["Content-Range"]) == (206, f"bytes {first}-{stop - 1}/{SIZE}")
    assert reply.body == upstream.content(REPO, digest)[first:stop]
    if named and first > 0:
        asked = ranges_asked(upstream, digest)[-1]
        assert asked == f"bytes={first}-{stop - 1}", "no more than was asked for"
    assert nothing_kept(mirror, digest)


async def test_several_ranges_are_asked_one_by_one_and_very_many_are_sent_as_the_whole(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    body = upstream.content(REPO, digest)
    mirror = await start(upstream, storage=CAP)
    await name(mirror, upstream, digest)
    reply = await mirror.get(path_of(digest), Range="bytes=10-19,5000000-5000099,30-39")
    assert reply.status == 206
    for start_, stop in ((10, 20), (5_000_000, 5_000_100), (30, 40)):
        assert f"Content-Range: bytes {start_}-{stop - 1}/{SIZE}\r\n\r\n".encode() + body[start_:stop] in reply.body
    assert ranges_asked(upstream, digest)[-3:] == ["bytes=10-19", "bytes=5000000-5000099", "bytes=30-39"]
    many = ",".join(f"{at}-{at + 9}" for at in range(0, 1700, 100))
    whole = await mirror.get(path_of(digest), Range=f"bytes={many}")
    assert (whole.status, whole.body) == (200, body)


@pytest.mark.parametrize("named", [True, False])
async def test_a_range_past_the_end_is_416_with_the_size(
    named: bool, start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    mirror = await start(upstream, storage=CAP)
    if named:
        await name(mirror, upstream, digest)
    reply = await mirror.get(path_of(digest), Range=f"bytes={SIZE}-")
    assert (reply.status, reply.headers["Content-Range"]) == (416, f"bytes */{SIZE}")


async def test_a_blob_of_which_nobody_says_the_size_is_streamed_to_its_end(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    upstream.fault(kind="blob", then=(NoLength(), NoRange()))
    mirror = await start(upstream, storage=CAP)
    mirror.server.cache._passages.remember(digest, NO_ROOM)  # a fill would have begun to send what it then cannot keep
    for header in ({}, {"Range": "bytes=100-199"}):
        reply = await mirror.get(path_of(digest), **header)
        assert (reply.status, reply.body) == (200, upstream.content(REPO, digest))
        assert "Content-Length" not in reply.headers


@pytest.mark.parametrize("at", [0, MIB, SIZE - 65537, SIZE - 1])
@pytest.mark.parametrize("length", [(), (NoLength(), NoRange())])
async def test_a_wrong_body_is_never_whole_at_the_client(
    at: int, length: tuple[Fault, ...], start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    mirror = await start(upstream, storage=CAP)
    mirror.server.cache._passages.remember(digest, NO_ROOM)
    upstream.fault(kind="blob", then=(Corrupt(at_byte=at), *length))
    for _ in range(2):
        status, got, complete = await Client(mirror.url).get(digest)
        assert (status, complete) == (200, False)
        assert len(got) <= SIZE - 65536, "the end waits for the verdict"
    asked = len(ranges_asked(upstream, digest))
    refused = await mirror.get(path_of(digest))
    assert (refused.status, refused.code) == (404, "BLOB_UNKNOWN")
    assert "refused" in refused.message
    assert len(ranges_asked(upstream, digest)) == asked, "not for a minute"


async def test_a_small_wrong_body_is_asked_for_once_more_before_its_client_hears_of_it(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = upstream.add_pattern_blob(REPO, 60_000)
    mirror = await start(upstream, storage=CAP)
    mirror.server.cache._passages.remember(digest, NO_ROOM)
    upstream.fault(kind="blob", times=1, then=Corrupt(at_byte=100))
    reply = await mirror.get(path_of(digest))
    assert (reply.status, reply.body) == (200, upstream.content(REPO, digest))
    upstream.fault(kind="blob", then=Corrupt(at_byte=100))
    assert (await mirror.get(path_of(digest))).status == 404


@pytest.mark.parametrize(
    "faults",
    [
        [Cut(at_byte=5 * MIB)],
        [Cut(at_byte=5 * MIB), Cut(at_byte=6 * MIB), Status(503), Status(429), Cut(at_byte=7 * MIB)],
        [Cut(at_byte=SIZE - 10)],
        [Cut(at_byte=5 * MIB), NoRange()],
        [Cut(at_byte=5 * MIB), WrongRange()],
    ],
    ids=repr,
)
async def test_a_break_is_gone_on_from_where_it_was(
    faults: list[Fault], start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    mirror = await start(upstream, storage=CAP)
    mirror.server.cache._passages.remember(digest, NO_ROOM)
    for fault in faults:
        upstream.fault(kind="blob", times=1, then=fault)
    reply = await mirror.get(path_of(digest))
    assert (reply.status, reply.body) == (200, upstream.content(REPO, digest))
    asked = ranges_asked(upstream, digest)
    assert (asked[0], asked[1]) == (None, f"bytes={faults[0].at_byte}-{SIZE - 1}")  # type: ignore[attr-defined]


async def test_an_upstream_that_goes_on_breaking_breaks_the_transfer(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "ATTEMPTS", 2)
    digest = upstream.add_pattern_blob(REPO, SIZE)
    mirror = await start(upstream, storage=CAP)
    mirror.server.cache._passages.remember(digest, NO_ROOM)
    upstream.fault(kind="blob", then=Cut(at_byte=5 * MIB))
    status, got, complete = await Client(mirror.url).get(digest)
    assert (status, complete) == (200, False)
    assert len(got) <= 5 * MIB


@pytest.mark.parametrize(
    "case",
    [
        (Status(404), True, 404, "BLOB_UNKNOWN"),
        (Status(403), True, 404, "BLOB_UNKNOWN"),
        (Status(503), True, 404, "BLOB_UNKNOWN"),
        (Status(503), False, 503, "UNAVAILABLE"),
        (Status(429), False, 503, "TOOMANYREQUESTS"),
        (Hang(), True, 404, "BLOB_UNKNOWN"),
    ],
    ids=repr,
)
@pytest.mark.usefixtures("impatient")
async def test_trouble_with_upstream_has_the_same_answers_as_for_a_fill(
    case: tuple[Fault, bool, int, str],
    start: StartMirror,
    upstream: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault, fallback, status, code = case
    monkeypatch.setattr(passage, "_LEAST", 0.2)
    digest = upstream.add_pattern_blob(REPO, SIZE)
    mirror = await start(upstream, storage=CAP, server={"fallback": fallback})
    mirror.server.cache._passages.remember(digest, NO_ROOM)
    upstream.fault(kind="blob", then=fault)
    reply = await mirror.get(path_of(digest))
    assert (reply.status, reply.code) == (status, code)
    assert reply.headers["Cache-Control"] == "no-store"


async def test_each_client_asks_through_its_own_repository(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    mirror = await start(upstream, storage=CAP)
    assert (await mirror.get(path_of(digest))).status == 200
    assert (await mirror.get(path_of(digest, "library/other"))).status == 404
    assert upstream.count(repo="library/other", digest=str(digest)) + upstream.count(repo="library/other") >= 1


async def test_a_client_that_leaves_ends_its_passage(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, 40 * MIB)
    mirror = await start(upstream, storage=CAP)
    mirror.server.cache._passages.remember(digest, NO_ROOM)
    gate = asyncio.Event()
    upstream.fault(kind="blob", then=Gate(gate, at_byte=8 * MIB))
    await Client(mirror.url).leave(digest, 0, MIB)
    record = await upstream.seen(kind="blob", digest=str(digest))
    await record.over()
    assert record.aborted
    assert ended(mirror)


async def test_a_slow_client_is_waited_for_in_little_memory_and_without_a_place_at_upstream(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SLOW", 0.05)
    size = 64 * MIB
    digest = upstream.add_pattern_blob(REPO, size)
    mirror = await start(upstream, storage=CAP)
    await name(mirror, upstream, digest)
    mirror.server.cache._passages.remember(digest, NO_ROOM)
    async with aiohttp.ClientSession(read_bufsize=64 * 1024) as session:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        async with session.get(mirror.url + path_of(digest)) as response:
            hasher = hashlib.new("sha256", await response.content.readexactly(MIB))
            record = await upstream.seen(kind="blob", digest=str(digest))
            await record.over()  # it is let go of, so that others have its place
            assert record.bytes_sent < size // 2
            [one] = mirror.server.cache._passages._tasks
            assert not one.done()
            async for piece in response.content.iter_any():
                hasher.update(piece)
        assert hasher.hexdigest() == digest.hex
        assert upstream.bytes_of(digest) < size + 32 * MIB, "only what was on its way comes twice, and twice at most"
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 24 * 1024, "KiB"


async def test_what_waits_for_a_slow_client_is_bounded(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = asyncio.Event()
    most = 0
    right = stream.Stream._drained

    async def look(self: stream.Stream, limit: int) -> None:
        nonlocal most
        most = max(most, self._at - self.position)
        held.set()
        await right(self, limit)

    monkeypatch.setattr(stream.Stream, "_drained", look)
    digest = upstream.add_pattern_blob(REPO, 32 * MIB)
    mirror = await start(upstream, storage=CAP)
    mirror.server.cache._passages.remember(digest, NO_ROOM)
    async with (
        aiohttp.ClientSession(read_bufsize=64 * 1024) as session,
        session.get(mirror.url + path_of(digest)) as response,
    ):
        async with asyncio.timeout(10):
            await held.wait()
        assert digest.matches(await response.read())
    assert MIB // 2 < most <= MIB * 3 // 2


async def test_one_more_than_there_are_places_waits_and_is_refused_if_it_waits_too_long(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passage, "MOST", 1)
    first, second = (upstream.add_pattern_blob(REPO, SIZE, number) for number in (1, 2))
    mirror = await start(upstream, storage=CAP)
    for digest in (first, second):
        mirror.server.cache._passages.remember(digest, NO_ROOM)
    gate = asyncio.Event()
    upstream.fault(kind="blob", digest=str(first), then=Gate(gate, at_byte=MIB))
    holding = asyncio.create_task(mirror.get(path_of(first)))
    await (await upstream.seen(kind="blob", digest=str(first))).sent(MIB)
    monkeypatch.setattr(passage, "WAIT", 0.1)
    refused = await mirror.get(path_of(second))
    assert (refused.status, refused.code) == (404, "BLOB_UNKNOWN")
    monkeypatch.setattr(passage, "WAIT", 20)
    waiting = asyncio.create_task(mirror.get(path_of(second)))
    gate.set()
    assert (await holding).status == 200
    assert second.matches((await waiting).body)


async def test_clients_of_one_blob_have_a_passage_each(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    mirror = await start(upstream, storage=CAP)
    replies = await asyncio.gather(*(mirror.get(path_of(digest)) for _ in range(6)))
    assert all(reply.status == 200 and digest.matches(reply.body) for reply in replies)
    await mirror.settled()
    assert nothing_kept(mirror, digest)
    assert ended(mirror)


async def test_containerds_open_ranges_are_served_side_by_side(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    body = upstream.content(REPO, digest)
    mirror = await start(upstream, storage=CAP)
    await name(mirror, upstream, digest)
    starts = [*range(0, SIZE, 4 * MIB), SIZE]
    parts = await asyncio.gather(
        *(Client(mirror.url).leave(digest, begin, end - begin) for begin, end in pairwise(starts))
    )
    for part, (begin, end) in zip(parts, pairwise(starts), strict=True):
        assert part[: end - begin] == body[begin:end]


async def test_tls_and_a_head(start: StartMirror, upstream: FakeRegistry, tmp_path: Path) -> None:
    cert_file, key_file = certificate(tmp_path)
    trusted = ssl.create_default_context(cafile=str(cert_file))
    digest = upstream.add_pattern_blob(REPO, SIZE)
    mirror = await start(
        upstream, storage=CAP, server={"tls": {"cert_file": str(cert_file), "key_file": str(key_file)}}
    )
    url = URL(mirror.url + path_of(digest))
    async with aiohttp.ClientSession() as session:
        async with session.get(url, ssl=trusted) as response:
            assert digest.matches(await response.read())
        async with session.get(url, ssl=trusted, headers=ranged(5, MIB)) as response:
            assert await response.read() == upstream.content(REPO, digest)[5:MIB]
        asked = len(ranges_asked(upstream, digest))
        async with session.head(url, ssl=trusted) as response:
            assert (response.status, response.headers["Content-Length"]) == (200, str(SIZE))
        assert ranges_asked(upstream, digest)[asked:] in ([], ["bytes=0-0"]), "it is not fetched for that"
