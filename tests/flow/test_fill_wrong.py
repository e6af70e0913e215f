"""Promise 3: nothing unverified is ever whole."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mirror.cache.fills import REFUSED_SECONDS
from mirror.oci.digest import Digest
from tests.fakes.faults import (
    Await,
    Corrupt,
    Cut,
    Extend,
    Fault,
    Gate,
    Html,
    NoLength,
    NoRange,
    Status,
    Truncate,
    WrongLength,
    WrongRange,
)
from tests.flow.fills import MIB, REPO, Client, descriptors, path_of, ranged, ranges_asked, unfinished

if TYPE_CHECKING:
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import StartMirror

SIZE = 3 * MIB + 17


@pytest.mark.parametrize("at", [0, 1, MIB - 1, MIB, SIZE - 65537, SIZE - 65536, SIZE - 1])
async def test_a_wrong_byte_anywhere_is_never_whole_at_the_client(
    at: int, start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    upstream.fault(kind="blob", then=Corrupt(at_byte=at))
    mirror = await start(upstream)
    status, got, complete = await Client(mirror.url).get(digest)
    assert (status, complete) == (200, False)
    assert len(got) <= SIZE - 65536, "the end waits for the verdict"
    await mirror.settled()
    assert mirror.server.store.blobs.size(digest) is None
    assert len(ranges_asked(upstream, digest)) == 2, "once more, and no oftener"
    refused = await mirror.get(path_of(digest))
    assert (refused.status, refused.code) == (404, "BLOB_UNKNOWN")
    assert "refused" in refused.message
    assert refused.headers["Cache-Control"] == "no-store"
    assert len(ranges_asked(upstream, digest)) == 2, "not for a minute"
    assert unfinished(mirror.server.store.layout.root) == []
    assert descriptors() == set()


async def test_what_was_wrong_twice_is_refused_for_a_minute_and_no_longer(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = upstream.add_pattern_blob(REPO, 1000)
    upstream.fault(kind="blob", times=2, then=Corrupt(at_byte=5))
    mirror = await start(upstream)
    assert (await mirror.get(path_of(digest))).status == 404
    await mirror.settled()
    refused = mirror.server.cache.fills._refused
    assert (refused.ttl, REFUSED_SECONDS) == (60, 60)
    now = refused.timer()
    for later, status in ((59, 404), (61, 200)):
        monkeypatch.setattr(refused, "_TimedCache__timer", type(refused.timer)(lambda at=now + later: at))
        assert (await mirror.get(path_of(digest))).status == status
    assert len(ranges_asked(upstream, digest)) == 3


async def test_a_mirror_that_clients_cannot_do_without_says_503(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, 1000)
    upstream.fault(kind="blob", then=Corrupt(at_byte=5))
    mirror = await start(upstream, server={"fallback": False})
    assert (await mirror.get(path_of(digest))).status == 503


async def test_what_was_wrong_once_is_right_for_the_next(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    upstream.fault(kind="blob", times=1, then=Corrupt(at_byte=100))
    mirror = await start(upstream)
    assert (await Client(mirror.url).get(digest))[2] is False
    await mirror.settled()
    assert (await mirror.get(path_of(digest))).body == upstream.content(REPO, digest)
    assert len(ranges_asked(upstream, digest)) == 2


WRONG_ONCE: list[Fault] = [
    Corrupt(at_byte=100),
    Truncate(at_byte=500),
    Truncate(at_byte=500, chunked=True),
    Truncate(at_byte=0),
    Extend(extra=10),
    Extend(extra=10, chunked=True),
    WrongLength(delta=-10),
    WrongRange(),
    Html(),
]


@pytest.mark.parametrize("fault", WRONG_ONCE, ids=repr)
@pytest.mark.parametrize("named", [True, False])
async def test_a_client_that_got_nothing_yet_is_served_the_second_try(
    named: bool, fault: Fault, start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = upstream.add_pattern_blob(REPO, 60_000)
    body = upstream.content(REPO, digest)
    image = upstream.add_image(REPO, "v1", layers=[digest])
    mirror = await start(upstream)
    if named:
        await mirror.get(f"/v2/{REPO}/manifests/{image}")
    upstream.fault(kind="blob", times=1, then=fault)
    reply = await mirror.get(path_of(digest))
    assert (reply.status, reply.body) == (200, body)
    assert reply.headers["Content-Length"] == "60000"


async def test_a_range_is_judged_by_the_size_that_is_right(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, 60_000)
    upstream.fault(kind="blob", times=1, then=Truncate(at_byte=500))
    mirror = await start(upstream)
    reply = await mirror.get(path_of(digest), **ranged(1000, 1100))
    assert (reply.status, reply.headers["Content-Range"]) == (206, "bytes 1000-1099/60000")
    assert reply.body == upstream.content(REPO, digest)[1000:1100]


LIES: list[Fault] = [Truncate(500), Extend(10), Html(), WrongRange(), Status(416), WrongLength(-7)]


@pytest.mark.parametrize("fault", LIES, ids=repr)
async def test_an_upstream_that_keeps_lying_is_refused(
    fault: Fault, start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = upstream.add_pattern_blob(REPO, 60_000)
    upstream.fault(kind="blob", then=(fault, Corrupt(at_byte=3)))
    mirror = await start(upstream)
    for _ in range(2):
        reply = await mirror.get(path_of(digest))
        assert (reply.status, reply.code) == (404, "BLOB_UNKNOWN")
        await mirror.settled()
    assert upstream.count(kind="blob") <= 3
    assert unfinished(mirror.server.store.layout.root) == []


async def test_a_mad_answer_to_a_resumption_does_not_condemn_what_has_come(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    upstream.fault(kind="blob", times=1, then=Cut(at_byte=2 * MIB))
    upstream.fault(kind="blob", times=1, then=Html())
    mirror = await start(upstream)
    assert await Client(mirror.url).get(digest) == (200, upstream.content(REPO, digest), True)
    assert ranges_asked(upstream, digest)[1:] == [f"bytes={2 * MIB}-{SIZE - 1}"] * 2


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("size", [0, 100, 70_000, SIZE])
async def test_a_blob_without_a_length_comes_whole(
    size: int, named: bool, start: StartMirror, upstream: FakeRegistry
) -> None:
    digest = upstream.add_pattern_blob(REPO, size)
    body = upstream.content(REPO, digest)
    image = upstream.add_image(REPO, "v1", layers=[digest])
    mirror = await start(upstream)
    if named:
        await mirror.get(f"/v2/{REPO}/manifests/{image}")
    upstream.fault(kind="blob", then=(NoLength(), NoRange()))
    assert (await mirror.get(path_of(digest))).body == body
    await mirror.settled()
    assert (await mirror.get(path_of(digest))).body == body
    assert upstream.bytes_of(digest) == size
    assert mirror.server.store.blobs.size(digest) == size


async def test_a_wrong_blob_without_a_length_is_never_whole(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    upstream.fault(kind="blob", then=(NoLength(), NoRange(), Corrupt(at_byte=70_000)))
    mirror = await start(upstream)
    _, got, complete = await Client(mirror.url).get(digest)
    assert not complete
    assert len(got) <= SIZE - 65536


async def test_what_is_here_is_not_written_over_by_a_stream_that_begins_again(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    """The second stream is wrong where the first was right, hashed, and sent: the file must stay as it was hashed."""
    digest = upstream.add_pattern_blob(REPO, SIZE)
    body = upstream.content(REPO, digest)
    upstream.fault(kind="blob", times=1, then=Cut(at_byte=2 * MIB))
    upstream.fault(kind="blob", times=1, then=(NoRange(), Corrupt(at_byte=MIB)))
    mirror = await start(upstream)
    assert await Client(mirror.url).get(digest) == (200, body, True)
    await mirror.settled()
    assert (await mirror.get(path_of(digest))).body == body


async def test_followers_in_another_process_break_off_too(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = upstream.add_pattern_blob(REPO, SIZE)
    body = upstream.content(REPO, digest)
    gate, second_try = asyncio.Event(), asyncio.Event()
    upstream.fault(kind="blob", times=1, then=(Gate(gate, at_byte=2 * MIB), Corrupt(at_byte=2 * MIB)))
    upstream.fault(kind="blob", times=1, after=1, then=Await(second_try))  # the one before asks whether the second may
    first, second = await start(upstream), await start(upstream)
    one = asyncio.create_task(Client(first.url).get(digest))
    await (await upstream.seen(kind="blob")).sent(2 * MIB)
    async with second.session.get(second.url + path_of(digest)) as response:
        assert await response.content.readexactly(MIB) == body[:MIB]
        gate.set()
        await upstream.seen(3, kind="blob")
        second_try.set()
        with pytest.raises(Exception, match=r"payload|disconnect|reset"):
            await response.content.read()
    assert (await one)[2] is False
    await first.settled()
    await second.settled()
    assert (await second.get(path_of(digest))).body == body
    assert upstream.count(kind="blob") == 3


async def test_false_content_is_refused_whatever_its_length(start: StartMirror, upstream: FakeRegistry) -> None:
    digest = Digest.of(b"what was meant")
    upstream.add_false_blob(REPO, digest, b"what was put there instead, and longer")
    mirror = await start(upstream)
    assert (await mirror.get(path_of(digest))).status == 404
