"""Who is asked of several, in which order, and what is made of what they say."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from mirror.config import UpstreamConfig
from mirror.config.values import EndpointConfig
from mirror.errors import UpstreamDenied, UpstreamNotFound, UpstreamUnavailable
from mirror.oci.name import Tag
from mirror.store.dealings import Dealings
from mirror.upstream import endpoint, endpoints
from mirror.upstream.content import age_of, staleness
from mirror.upstream.endpoint import Merit
from mirror.upstream.endpoints import Endpoints
from mirror.upstream.protocol import Urgency
from mirror.upstream.registries import Registries
from tests.fakes.auth import Auth
from tests.fakes.faults import Cut, Hang, Stall, Status
from tests.fakes.registry import FakeRegistry
from tests.unit.upstream.dial import NAMESPACE, REPO, config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mirror.oci.digest import Digest

V1 = Tag("v1")
CONTENT = bytes(range(256)) * 1000


@pytest.fixture
async def fakes() -> AsyncIterator[list[FakeRegistry]]:
    """Two caches, and the registry itself."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(FakeRegistry()) for _ in range(3)]


@pytest.fixture
async def several(fakes: list[FakeRegistry]) -> AsyncIterator[Callable[..., Endpoints]]:
    made: list[Registries] = []

    def make(book: Dealings | None = None, *, order: str = "written", **more: Any) -> Endpoints:
        places = tuple(
            EndpointConfig(
                fake.host,
                UpstreamConfig(NAMESPACE, fake.url),
                authoritative=fake is fakes[-1],
                itself=fake is fakes[-1],
            )
            for fake in fakes
        )
        upstream = UpstreamConfig(NAMESPACE, fakes[-1].url, endpoints=places, endpoint_order=order)  # type: ignore[arg-type]
        told = replace(config({NAMESPACE: upstream}), **more)
        made.append(Registries(told, instance="test", request_id=lambda: None, book=book))
        found = made[-1].of(NAMESPACE)
        assert isinstance(found, Endpoints)
        return found

    yield make
    for each in made:
        await each.close()


async def read(upstream: Endpoints, digest: Digest, **more: Any) -> tuple[str, bytes, bool]:
    """Return who sent it, what came, and whether it is public."""
    async with upstream.blob(REPO, digest, urgency=Urgency(urgent=True), patience=5, **more) as body:
        return body.sender.label, b"".join([piece async for piece in body.pieces()]), body.public


async def test_content_of_a_cache_is_never_public_and_that_of_the_registry_may_be(
    several: Callable[..., Endpoints], fakes: list[FakeRegistry]
) -> None:
    first, _, itself = fakes
    digest = first.add_blob(REPO.name, CONTENT)
    other = itself.add_blob(REPO.name, CONTENT[1:])
    manifest = first.add_image(REPO.name)
    theirs = itself.add_image(REPO.name, layers=[b"another"])
    upstream = several()
    assert await read(upstream, digest) == (first.host, CONTENT, False)
    assert await read(upstream, other) == ("registry", CONTENT[1:], True)
    assert not (await upstream.manifest(REPO, manifest, patience=5)).public
    assert (await upstream.manifest(REPO, theirs, patience=5)).public


async def test_those_that_are_to_be_avoided_are_asked_where_there_is_no_other(
    several: Callable[..., Endpoints], fakes: list[FakeRegistry]
) -> None:
    digests = [fake.add_blob(REPO.name, CONTENT) for fake in fakes[:2]]
    upstream = several()
    first, second = fakes[0].host, fakes[1].host
    assert (await read(upstream, digests[0], avoid=frozenset({first})))[0] == second
    assert (await read(upstream, digests[0], avoid=frozenset({first, second, "registry"})))[0] == first


async def test_by_health_the_quickest_comes_first_once_all_are_known(
    several: Callable[..., Endpoints], fakes: list[FakeRegistry]
) -> None:
    digests = [fakes[0].add_blob(REPO.name, CONTENT[number:]) for number in range(5)]
    for fake in fakes[1:]:
        fake.shelves = fakes[0].shelves
    fakes[0].latency, fakes[2].latency = 0.05, 0.02
    upstream = several(order="health")
    asked = [(await read(upstream, digest))[0] for digest in digests]
    assert asked[:3] == [fakes[0].host, fakes[1].host, "registry"], "each is tried"
    assert asked[3:] == [fakes[1].host] * 2


def test_one_that_was_slow_is_tried_anew_after_minutes() -> None:
    now = [0.0]
    merit = Merit(lambda: now[0])
    merit.answered(0.1)
    merit.sent(1_000_000, 1.0)
    assert merit.expected == pytest.approx(0.1 + 4 * 1024 * 1024 / 1_000_000)
    merit.sent(1000, 60.0)  # too little to go by
    assert merit.expected < 10
    now[0] = 301.0
    assert merit.expected == 0.0


async def test_of_several_failures_the_word_of_the_registry_counts(
    several: Callable[..., Endpoints], fakes: list[FakeRegistry]
) -> None:
    first, second, itself = fakes
    digest = itself.add_blob(REPO.name, CONTENT)
    second.fault(then=Status(403, "DENIED"))
    itself.fault(then=Status(503, retry_after=30))
    upstream = several()
    with pytest.raises(UpstreamUnavailable) as caught:
        await read(upstream, digest)
    assert caught.value.retry_after == 30
    itself.heal()
    itself.fault(then=Status(403, "DENIED"))
    with pytest.raises(UpstreamDenied):
        await read(upstream, digest)
    itself.heal()
    missing = first.add_blob("org/elsewhere", b"x")
    with pytest.raises(UpstreamNotFound):
        await read(upstream, missing)


async def test_a_body_that_breaks_or_says_nothing_counts_against_its_endpoint(
    several: Callable[..., Endpoints], fakes: list[FakeRegistry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "LONG", 0.05)
    monkeypatch.setattr(endpoints, "FIRST_ANSWER", 0.2)
    first, second, last = fakes
    digest = first.add_blob(REPO.name, CONTENT)
    second.shelves = last.shelves = first.shelves
    first.fault(kind="blob", then=Cut(at_byte=1000))
    second.fault(kind="blob", then=Hang())
    upstream = several()
    for _ in range(2):
        with pytest.raises(UpstreamUnavailable):
            await read(upstream, digest)
    assert [member.circuit.state for member in upstream.members] == ["open", "closed", "closed"]
    assert (await read(upstream, digest))[0] == "registry"
    assert [member.circuit.state for member in upstream.members] == ["open", "open", "closed"]


async def test_a_transfer_that_its_client_leaves_says_nothing_of_the_endpoint(
    several: Callable[..., Endpoints], fakes: list[FakeRegistry]
) -> None:
    digest = fakes[0].add_blob(REPO.name, CONTENT)
    fakes[0].fault(kind="blob", then=Stall(at_byte=0))
    upstream = several()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await read(upstream, digest)
    assert upstream.members[0].circuit.failed_at == 0.0


async def test_what_each_said_last_is_written_down(
    several: Callable[..., Endpoints], fakes: list[FakeRegistry]
) -> None:
    book = Dealings(None)
    upstream = several(book)
    digest = fakes[2].add_blob(REPO.name, CONTENT)
    await read(upstream, digest)
    said = book.all("answer")
    assert set(said) == {f"{NAMESPACE} {label}" for label in (fakes[0].host, fakes[1].host, "registry")}
    missed, gave = said[f"{NAMESPACE} {fakes[0].host}"], said[f"{NAMESPACE} registry"]
    assert (missed["method"], missed["kind"], missed["status"]) == ("GET", "blob", 404)
    assert "does not have" in missed["cause"]
    assert (gave["status"], gave["cause"]) == (200, None)


async def test_the_registrys_credentials_in_a_file_are_never_shown_to_another_endpoint(
    several: Callable[..., Endpoints], fakes: list[FakeRegistry], tmp_path: Any
) -> None:
    _, second, itself = fakes
    for fake in fakes:
        fake.auth = Auth("basic", users={"ann": "hub-canary", "bob": "cache-canary"})
    auths = {NAMESPACE: "eve:of-the-name", itself.host: "ann:hub-canary", second.host: "bob:cache-canary"}
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps(
            {"auths": {host: {"auth": base64.b64encode(each.encode()).decode()} for host, each in auths.items()}}
        )
    )
    upstream = several(credentials_files=(path,))
    digest = itself.add_blob(REPO.name, CONTENT)
    assert (await read(upstream, digest))[0] == "registry"
    shown = [
        {base64.b64decode(record.headers["Authorization"].split()[1]).decode().partition(":")[0]
         for record in fake.requests if "Authorization" in record.headers}
        for fake in fakes
    ]  # fmt: skip
    assert shown == [set(), {"bob"}, {"ann"}]


@pytest.mark.parametrize(
    ("warnings", "why"),
    [
        (['299 - "stale: docker.io did not answer"'], "docker.io did not answer"),
        (['110 cache "Response is stale"', '299 mirror "a \\"quoted\\" word" "date"'], 'a "quoted" word'),
        (['199 - "something"'], None),
        (["299"], None),
        ([], None),
    ],
)
def test_a_mirror_that_is_the_upstream_says_that_it_could_not_ask(warnings: list[str], why: str | None) -> None:
    assert staleness(warnings) == why


@pytest.mark.parametrize(
    ("header", "age"), [("17", 17.0), (" 3 ", 3.0), ("-1", 0.0), ("soon", 0.0), ("9" * 30, 315_360_000.0), ("", 0.0)]
)
def test_an_age_that_cannot_be_read_is_none(header: str, age: float) -> None:
    assert age_of({"Age": header} if header else {}) == age
