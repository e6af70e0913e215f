from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from mirror.errors import UpstreamBroken, UpstreamDenied, UpstreamNotFound, UpstreamUnavailable
from mirror.metrics import UPSTREAM_BYTES
from mirror.oci.digest import Digest
from mirror.upstream.protocol import Urgency
from tests.fakes.faults import (
    Cut,
    Fault,
    Gate,
    Hang,
    Html,
    NoLength,
    NoRange,
    Slow,
    Stall,
    Status,
    Truncate,
    WrongRange,
)
from tests.unit.upstream.dial import NAMESPACE, PASSWORD, REPO, USER

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.upstream.protocol import Upstream
    from tests.fakes.registry import FakeRegistry

    Connect = Callable[..., Upstream]

SIZE = 3_000_000


async def fetch(
    upstream: Upstream, digest: Digest, start: int = 0, stop: int | None = None, *, patience: float = 5
) -> bytes:
    """Read what comes, whole."""
    async with upstream.blob(
        REPO, digest, start=start, stop=stop, urgency=Urgency(urgent=True), patience=patience
    ) as body:
        return b"".join([piece async for piece in body.pieces()])


@pytest.fixture
def digest(up: FakeRegistry) -> Digest:
    return up.add_pattern_blob("org/app", SIZE)


async def test_a_blob_comes_whole_in_pieces_of_a_mebibyte_at_most_and_is_counted(
    up: FakeRegistry, connect: Connect, digest: Digest
) -> None:
    before = UPSTREAM_BYTES.labels(NAMESPACE)._value.get()
    async with connect().blob(REPO, digest, urgency=Urgency(urgent=True), patience=5) as body:
        assert (body.start, body.stop, body.size, body.ranged, body.public) == (0, SIZE, SIZE, False, True)
        pieces = [piece async for piece in body.pieces()]
    assert max(map(len, pieces)) <= 1024 * 1024
    assert digest.matches(b"".join(pieces))
    assert up.requests[0].range is None
    assert UPSTREAM_BYTES.labels(NAMESPACE)._value.get() - before == SIZE


@pytest.mark.parametrize(
    ("start", "stop", "header"),
    [(1000, None, "bytes=1000-"), (0, 500, "bytes=0-499"), (7, SIZE + 50, f"bytes=7-{SIZE + 49}")],
)
async def test_a_range_is_asked_for_as_it_is_meant(  # noqa: PLR0917  two fixtures and a case
    up: FakeRegistry, connect: Connect, digest: Digest, start: int, stop: int | None, header: str
) -> None:
    async with connect().blob(REPO, digest, start=start, stop=stop, urgency=Urgency(urgent=True), patience=5) as body:
        assert body.ranged
        assert (body.start, body.stop, body.size) == (start, min(stop or SIZE, SIZE), SIZE)
        data = b"".join([piece async for piece in body.pieces()])
    assert data == up.content("org/app", digest)[start:stop]
    assert up.requests[0].range == header


async def test_a_whole_blob_in_answer_to_a_range_is_an_answer(
    up: FakeRegistry, connect: Connect, digest: Digest
) -> None:
    up.fault(kind="blob", then=NoRange())
    async with connect().blob(REPO, digest, start=1000, urgency=Urgency(urgent=True), patience=5) as body:
        assert (body.start, body.stop, body.ranged) == (0, SIZE, False)


async def test_another_range_than_was_asked_for_is_broken(up: FakeRegistry, connect: Connect, digest: Digest) -> None:
    up.fault(kind="blob", then=WrongRange(-1))
    with pytest.raises(UpstreamBroken, match="another part"):
        await fetch(connect(), digest, 1000)


@pytest.mark.parametrize(
    ("said", "length"),
    [("bytes 1-9/10", 9), ("bytes 2-8/10", 7), ("bytes 2-9/10", 5), ("", 8), ("bytes 9-2/10", 8), ("bytes */10", 8)],
)
async def test_a_part_has_to_be_the_part_that_was_asked_for(
    up: FakeRegistry, connect: Connect, said: str, length: int
) -> None:
    up.fault(kind="blob", then=Status(206, body=b"x" * length, headers={"Content-Range": said}))
    with pytest.raises(UpstreamBroken, match="part of a blob"):
        await fetch(connect(), Digest.of(b"x"), 2)


async def test_a_part_that_nobody_asked_for_is_broken(up: FakeRegistry, connect: Connect) -> None:
    up.fault(kind="blob", then=Status(206, body=b"x" * 10, headers={"Content-Range": "bytes 0-9/10"}))
    with pytest.raises(UpstreamBroken, match="the whole was asked for"):
        await fetch(connect(), Digest.of(b"x"))


async def test_what_has_piled_up_still_comes_in_pieces_of_a_mebibyte_at_most(connect: Connect, digest: Digest) -> None:
    async with connect().blob(REPO, digest, urgency=Urgency(urgent=True), patience=5) as body:
        content = body._answer.response.content  # type: ignore[attr-defined]
        async with asyncio.timeout(5):
            while content._size <= 1024 * 1024:  # noqa: ASYNC110  a stream has no event for it
                await asyncio.sleep(0)
        pieces = [piece async for piece in body.pieces()]
    assert max(map(len, pieces)) == 1024 * 1024
    assert digest.matches(b"".join(pieces))


async def test_a_range_past_the_end_is_broken(connect: Connect, digest: Digest) -> None:
    with pytest.raises(UpstreamBroken, match="416"):
        await fetch(connect(), digest, SIZE + 1)


async def test_a_blob_of_unknown_length_comes_to_its_end(up: FakeRegistry, connect: Connect, digest: Digest) -> None:
    up.fault(kind="blob", then=NoLength())
    async with connect().blob(REPO, digest, urgency=Urgency(urgent=True), patience=5) as body:
        assert (body.stop, body.size) == (None, None)
        assert digest.matches(b"".join([piece async for piece in body.pieces()]))


async def test_an_empty_blob_is_whole(up: FakeRegistry, connect: Connect) -> None:
    assert await fetch(connect(), up.add_blob("org/app", b"")) == b""


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_range_that_ends_early_breaks(
    up: FakeRegistry, connect: Connect, digest: Digest, *, chunked: bool
) -> None:
    up.fault(kind="blob", then=Truncate(2000, chunked=True) if chunked else Cut(2000))
    upstream = connect()
    with pytest.raises(UpstreamUnavailable):
        await fetch(upstream, digest, 1000)
    assert upstream.away


async def test_a_transfer_that_stalls_breaks(up: FakeRegistry, connect: Connect, digest: Digest) -> None:
    up.fault(kind="blob", then=Stall(100_000))
    with pytest.raises(UpstreamUnavailable, match="stalled"):
        await fetch(connect(stall_timeout=0.05), digest)


async def test_a_transfer_that_trickles_breaks_and_one_that_is_only_slow_does_not(
    up: FakeRegistry, connect: Connect
) -> None:
    digest = up.add_pattern_blob("org/app", 3000)
    up.fault(kind="blob", then=Slow(rate=10_000), times=2)
    began = time.monotonic()
    assert digest.matches(await fetch(connect(stall_timeout=0.1, stall_rate=1000), digest))
    assert time.monotonic() - began > 0.2
    with pytest.raises(UpstreamUnavailable, match="stalled"):
        await fetch(connect(stall_timeout=0.1, stall_rate=30_000), digest)


async def test_a_web_page_is_no_blob(up: FakeRegistry, connect: Connect, digest: Digest) -> None:
    up.fault(kind="blob", then=Html())
    with pytest.raises(UpstreamBroken, match="web page"):
        await fetch(connect(), digest)


async def test_no_header_in_time_is_unavailable(up: FakeRegistry, connect: Connect, digest: Digest) -> None:
    up.fault(kind="blob", then=Hang())
    with pytest.raises(UpstreamUnavailable, match="did not answer within"):
        await fetch(connect(), digest, patience=0.05)


async def test_an_absent_blob_is_not_found(connect: Connect) -> None:
    with pytest.raises(UpstreamNotFound):
        await fetch(connect(), Digest.of(b"absent"))


async def test_a_connection_is_kept_after_the_last_byte_and_closed_before(
    up: FakeRegistry, connect: Connect, digest: Digest
) -> None:
    upstream = connect()
    await fetch(upstream, digest)
    connector = upstream._wire._sessions._pool(bulk=True, guarded=False).connector  # type: ignore[attr-defined]
    assert sum(len(idle) for idle in connector._conns.values()) == 1
    gate = asyncio.Event()
    up.fault(kind="blob", then=Gate(gate, 100_000))
    async with upstream.blob(REPO, digest, urgency=Urgency(urgent=True), patience=5) as body:
        assert await anext(body.pieces())
    await up.requests[-1].over()
    assert up.requests[-1].aborted
    assert sum(len(idle) for idle in connector._conns.values()) == 0


async def test_a_redirect_is_followed_byte_for_byte_without_credentials_and_remembered(
    up: FakeRegistry, connect: Connect, digest: Digest
) -> None:
    up.redirect_blobs = True
    up.auth.mode = "bearer"
    up.auth.users = {USER: PASSWORD}
    upstream = connect(credentials=True)
    async with upstream.blob(REPO, digest, start=5, stop=9, urgency=Urgency(urgent=True), patience=5) as body:
        assert (body.start, body.stop, body.public) == (5, 9, False)
        first = b"".join([piece async for piece in body.pieces()])
    assert first == up.content("org/app", digest)[5:9]
    assert up.authorized_storage_requests == 0
    up.forget()
    async with upstream.blob(REPO, digest, start=9, urgency=Urgency(urgent=True), patience=5) as body:
        assert not body.public
    assert [record.kind for record in up.requests] == ["storage"]


async def test_a_signed_address_that_has_expired_is_asked_for_anew(
    up: FakeRegistry, connect: Connect, digest: Digest
) -> None:
    up.redirect_blobs = True
    upstream = connect()
    await fetch(upstream, digest)
    up.expire_signatures()
    up.forget()
    assert digest.matches(await fetch(upstream, digest))
    assert [(record.kind, record.status) for record in up.requests] == [
        ("storage", 403),
        ("blob", 307),
        ("storage", 200),
    ]


@pytest.mark.parametrize("then", [Html(), WrongRange()])
async def test_a_place_that_sends_something_else_is_not_asked_again_before_the_registry(
    up: FakeRegistry, connect: Connect, digest: Digest, then: Fault
) -> None:
    up.redirect_blobs = True
    upstream = connect()
    await fetch(upstream, digest)
    up.fault(kind="storage", times=1, then=then)
    with pytest.raises(UpstreamBroken):
        await fetch(upstream, digest, 5, 2000)
    up.forget()
    assert digest.matches(await fetch(upstream, digest))
    assert [record.kind for record in up.requests] == ["blob", "storage"]


async def test_what_goes_wrong_behind_a_redirect_never_shows_the_signature(
    up: FakeRegistry, connect: Connect, digest: Digest
) -> None:
    up.redirect_blobs = True
    upstream = connect()
    await fetch(upstream, digest)
    for then in (Status(403, message="Signature"), Cut(10)):
        up.heal()
        up.fault(kind="storage", then=then)
        with pytest.raises((UpstreamDenied, UpstreamUnavailable)) as caught:
            await fetch(upstream, digest)
        assert "Signature" not in str(caught.value)
        assert "Signature" not in repr(caught.value.__cause__)


async def test_no_more_than_eight_blobs_come_at_once_and_six_where_nobody_waits(
    up: FakeRegistry, connect: Connect, digest: Digest
) -> None:
    gate = asyncio.Event()
    up.fault(kind="blob", then=Gate(gate, 1000))
    upstream = connect()

    async def read_ahead(urgent: bool) -> None:
        async with upstream.blob(REPO, digest, urgency=Urgency(urgent=urgent), patience=20) as body:
            async for _ in body.pieces():
                pass

    async with asyncio.TaskGroup() as group:
        for _ in range(9):
            group.create_task(read_ahead(urgent=False))
        await up.seen(6, kind="blob")
        for _ in range(9):
            group.create_task(read_ahead(urgent=True))
        await up.seen(8, kind="blob")
        assert up.count(kind="blob") == 8
        with pytest.raises(UpstreamUnavailable, match="no place"):
            await fetch(upstream, digest, patience=0.05)
        assert not upstream.away
        gate.set()
    assert up.connections_peak == 8
    assert up.count(kind="blob") == 18
