"""What every `mirror.upstream.protocol.Upstream` keeps to: over HTTP at one address and at several, and the fake."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Protocol

import pytest

from mirror.config import UpstreamConfig
from mirror.config.values import EndpointConfig
from mirror.errors import NameUnknown, UpstreamBroken, UpstreamNotFound, UpstreamUnavailable
from mirror.oci.digest import Digest
from mirror.oci.mediatype import OCI_INDEX, OCI_MANIFEST
from mirror.oci.name import Repository, Tag
from mirror.upstream.protocol import Urgency
from tests.fakes import faults
from tests.fakes.registry import FakeRegistry
from tests.fakes.upstream import FakeUpstreams, Trouble
from tests.unit.upstream.dial import NAMESPACE, dial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mirror.upstream.protocol import Upstreams

REPO = Repository(NAMESPACE, "org/app")
V1 = Tag("v1")
BODY = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": []}).encode()
CONTENT = bytes(range(256)) * 2000


class House(Protocol):
    """One implementation, and how to fill the registry behind it."""

    upstreams: Upstreams
    wide: Upstreams  # the same with the wildcard

    def manifest(self, body: bytes, tag: str | None = None) -> Digest: ...
    def blob(self, body: bytes) -> Digest: ...
    def referrer(self, subject: Digest) -> Digest: ...
    def no_referrers(self) -> None: ...
    def cut(self, at: int) -> None: ...
    def gate(self, event: asyncio.Event, at: int) -> None: ...
    def no_ranges(self) -> None: ...
    def down(self) -> None: ...
    async def idle(self) -> None: ...


class Real:
    def __init__(self, up: FakeRegistry) -> None:
        self.up = up
        self.upstreams: Upstreams = dial(up.url)
        self.wide: Upstreams = dial(up.url, wildcard=True)

    def manifest(self, body: bytes, tag: str | None = None) -> Digest:
        return self.up.add_manifest(REPO.name, body, tag=tag)

    def blob(self, body: bytes) -> Digest:
        return self.up.add_blob(REPO.name, body)

    def referrer(self, subject: Digest) -> Digest:
        return self.up.add_artifact(REPO.name, subject, b"signed", artifact_type="application/x")

    def no_referrers(self) -> None:
        self.up.referrers_api = False

    def cut(self, at: int) -> None:
        self.up.fault(kind="blob", times=1, then=faults.Cut(at))

    def gate(self, event: asyncio.Event, at: int) -> None:
        self.up.fault(kind="blob", times=1, then=faults.Gate(event, at))

    def no_ranges(self) -> None:
        self.up.fault(kind="blob", times=1, then=faults.NoRange())

    def down(self) -> None:
        self.up.fault(times=1, then=faults.Status(503, retry_after=60))

    async def idle(self) -> None:
        await self.up.idle()


class Several(Real):
    """The registry behind a cache that has nothing, and one that is not there."""

    def __init__(self, up: FakeRegistry, empty: FakeRegistry) -> None:
        self.up = up
        with socket.create_server(("127.0.0.1", 0)) as closed:
            dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
        places = (
            EndpointConfig("empty", UpstreamConfig(NAMESPACE, empty.url), authoritative=False),
            EndpointConfig("dead", UpstreamConfig(NAMESPACE, dead), authoritative=False),
            EndpointConfig("itself", UpstreamConfig(NAMESPACE, up.url), authoritative=True, itself=True),
        )
        self.upstreams: Upstreams = dial(up.url, endpoints=places)
        self.wide: Upstreams = dial(up.url, endpoints=places, wildcard=True)


class Fake:
    def __init__(self) -> None:
        self.fakes = FakeUpstreams(NAMESPACE)
        self.up = self.fakes.of(NAMESPACE)
        self.upstreams: Upstreams = self.fakes
        self.wide: Upstreams = FakeUpstreams(NAMESPACE, wildcard=True)

    def manifest(self, body: bytes, tag: str | None = None) -> Digest:
        return self.up.add_manifest(REPO.name, body, tag=tag)

    def blob(self, body: bytes) -> Digest:
        return self.up.add_blob(REPO.name, body)

    def referrer(self, subject: Digest) -> Digest:
        digest = Digest.of(b"referrer")
        self.up.referring.setdefault((REPO.name, subject), []).append({"digest": str(digest)})
        return digest

    def no_referrers(self) -> None:
        self.up.referrers_api = False

    def cut(self, at: int) -> None:
        self.up.troubles.append(Trouble(cut=at))

    def gate(self, event: asyncio.Event, at: int) -> None:
        self.up.troubles.append(Trouble(gate=event, gate_at=at))

    def no_ranges(self) -> None:
        self.up.troubles.append(Trouble(whole=True))

    def down(self) -> None:
        error = UpstreamUnavailable("down", namespace=NAMESPACE, upstream_status=503)
        for method in ("head", "manifest", "blob", "tags", "referrers"):
            self.up.fail(method, error)

    async def idle(self) -> None:
        assert self.up.transfers == 0


@pytest.fixture(params=["real", "endpoints", "fake"])
async def house(request: pytest.FixtureRequest) -> AsyncIterator[House]:
    if request.param == "fake":
        yield Fake()
        return
    async with FakeRegistry() as up, FakeRegistry() as empty:
        real = Real(up) if request.param == "real" else Several(up, empty)
        yield real
        await real.upstreams.close()
        await real.wide.close()


async def read(house: House, digest: Digest, start: int = 0, stop: int | None = None) -> bytes:
    blob = house.upstreams.of(NAMESPACE).blob(
        REPO, digest, start=start, stop=stop, urgency=Urgency(urgent=True), patience=5
    )
    async with blob as body:
        return b"".join([piece async for piece in body.pieces()])


async def test_a_namespace_that_is_not_mirrored_is_unknown(house: House) -> None:
    assert house.upstreams.of(NAMESPACE).namespace == NAMESPACE
    with pytest.raises(NameUnknown):
        house.upstreams.of("other.test")


async def test_metrics_have_one_name_for_all_that_only_the_wildcard_admits(house: House) -> None:
    assert house.upstreams.of(NAMESPACE).label == NAMESPACE
    assert house.wide.of(NAMESPACE).label == NAMESPACE
    other = house.wide.of("other.test")
    assert (other.namespace, other.label) == ("other.test", "*")


@pytest.mark.parametrize("by_tag", [True, False])
async def test_a_manifest_comes_byte_for_byte_and_its_head_agrees(house: House, *, by_tag: bool) -> None:
    digest = house.manifest(BODY, "v1")
    upstream = house.upstreams.of(NAMESPACE)
    reference = V1 if by_tag else digest
    found = await upstream.manifest(REPO, reference, patience=5)
    assert (found.body, found.digest, found.media_type, found.public) == (BODY, digest, OCI_MANIFEST, True)
    head = await upstream.head(REPO, reference, patience=5)
    assert (head.digest, head.media_type, head.size) == (digest, OCI_MANIFEST, len(BODY))


async def test_what_is_absent_is_not_found(house: House) -> None:
    upstream = house.upstreams.of(NAMESPACE)
    absent = Digest.of(b"absent")
    for call in (
        upstream.head(REPO, V1, patience=5),
        upstream.manifest(REPO, absent, patience=5),
        upstream.tags(REPO, n=None, last=None, patience=5),
        read(house, absent),
    ):
        with pytest.raises(UpstreamNotFound) as caught:
            await call
        assert caught.value.namespace == NAMESPACE
    assert not upstream.away


@pytest.mark.parametrize(("start", "stop"), [(0, None), (1, None), (0, 1), (100, 200_000), (511_999, None), (5, 10**9)])
async def test_a_blob_or_a_part_of_it_comes_as_it_says(house: House, start: int, stop: int | None) -> None:
    digest = house.blob(CONTENT)
    blob = house.upstreams.of(NAMESPACE).blob(
        REPO, digest, start=start, stop=stop, urgency=Urgency(urgent=False), patience=5
    )
    async with blob as body:
        assert body.ranged is (start > 0 or stop is not None)
        assert (body.start, body.stop, body.size) == (start, min(stop or len(CONTENT), len(CONTENT)), len(CONTENT))
        assert body.public
        pieces = [piece async for piece in body.pieces()]
    assert b"".join(pieces) == CONTENT[start:stop]
    assert all(0 < len(piece) <= 1024 * 1024 for piece in pieces)


async def test_a_range_that_is_ignored_says_so(house: House) -> None:
    digest = house.blob(CONTENT)
    house.no_ranges()
    blob = house.upstreams.of(NAMESPACE).blob(REPO, digest, start=1000, urgency=Urgency(urgent=True), patience=5)
    async with blob as body:
        assert (body.ranged, body.start, body.stop) == (False, 0, len(CONTENT))


async def test_a_range_past_the_end_is_broken(house: House) -> None:
    digest = house.blob(CONTENT)
    with pytest.raises(UpstreamBroken):
        await read(house, digest, len(CONTENT))


async def test_a_cut_transfer_gives_what_came_and_raises_and_may_be_resumed(house: House) -> None:
    digest = house.blob(CONTENT)
    house.cut(300_000)
    came = bytearray()
    blob = house.upstreams.of(NAMESPACE).blob(REPO, digest, urgency=Urgency(urgent=True), patience=5)
    with pytest.raises(UpstreamUnavailable):  # noqa: PT012  what came before it is the point
        async with blob as body:
            async for piece in body.pieces():
                came += piece
    assert house.upstreams.of(NAMESPACE).away
    assert bytes(came) == CONTENT[: len(came)]
    came += await read(house, digest, len(came))
    assert bytes(came) == CONTENT
    assert not house.upstreams.of(NAMESPACE).away


async def test_what_has_come_is_given_at_once_and_leaving_early_ends_the_transfer(house: House) -> None:
    digest = house.blob(CONTENT)
    gate = asyncio.Event()
    house.gate(gate, 1000)
    blob = house.upstreams.of(NAMESPACE).blob(REPO, digest, urgency=Urgency(urgent=True), patience=5)
    async with blob as body:
        came = b""
        async for piece in body.pieces():
            came += piece
            if len(came) == 1000:
                break
    await house.idle()
    assert came == CONTENT[:1000]


async def test_tags_come_in_pages(house: House) -> None:
    for tag in ("a", "b", "c"):
        house.manifest(BODY, tag)
    upstream = house.upstreams.of(NAMESPACE)
    whole = await upstream.tags(REPO, n=None, last=None, patience=5)
    assert (whole.tags, whole.more) == (("a", "b", "c"), False)
    page = await upstream.tags(REPO, n=1, last="a", patience=5)
    assert (page.tags, page.more) == (("b",), True)


async def test_referrers_are_an_index_and_none_at_all_is_an_empty_one(house: House) -> None:
    subject = house.manifest(BODY, "v1")
    upstream = house.upstreams.of(NAMESPACE)
    none = json.loads((await upstream.referrers(REPO, subject, patience=5)).body)
    assert (none["mediaType"], none["manifests"]) == (OCI_INDEX, [])
    made = house.referrer(subject)
    found = json.loads((await upstream.referrers(REPO, subject, patience=5)).body)
    assert [entry["digest"] for entry in found["manifests"]] == [str(made)]
    house.no_referrers()
    with pytest.raises(UpstreamNotFound):
        await upstream.referrers(REPO, subject, patience=5)


async def test_an_upstream_is_away_after_a_failure_until_it_answers(house: House) -> None:
    house.manifest(BODY, "v1")
    upstream = house.upstreams.of(NAMESPACE)
    assert upstream.away, "before the first contact nothing is known"
    await upstream.head(REPO, V1, patience=5)
    assert not upstream.away
    house.down()
    with pytest.raises(UpstreamUnavailable):
        await upstream.head(REPO, V1, patience=5)
    assert upstream.away
    await upstream.head(REPO, V1, patience=5)
    assert not upstream.away


async def test_a_probe_says_that_it_answers(house: House) -> None:
    upstream = house.upstreams.of(NAMESPACE)
    found = await upstream.probe(patience=5)
    assert (found.identity, found.offered) == (False, False)
    assert not upstream.away
    assert upstream.budget is None
