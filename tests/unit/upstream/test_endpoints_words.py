"""Whose word counts among several endpoints: that there is no such thing, that the upstream is away, that it limits."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mirror.config import Secret, UpstreamConfig
from mirror.config.values import EndpointConfig
from mirror.errors import UpstreamDenied, UpstreamLimited, UpstreamNotFound, UpstreamUnavailable
from mirror.metrics import UPSTREAM_AWAY
from mirror.oci.name import Tag
from mirror.upstream import endpoints
from mirror.upstream.endpoints import Endpoints
from mirror.upstream.protocol import Urgency
from mirror.upstream.registries import Registries
from tests.fakes.faults import Await, Cut, Hang, Redirect, Status
from tests.fakes.registry import FakeRegistry
from tests.unit.upstream.dial import NAMESPACE, REPO, config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

V1 = Tag("v1")
CONTENT = bytes(range(256)) * 1000


@pytest.fixture
async def cache() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as fake:
        yield fake


@pytest.fixture
async def itself() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as fake:
        yield fake


async def made(cache: FakeRegistry, itself: FakeRegistry, *, authoritative: bool) -> AsyncIterator[Endpoints]:
    places = (
        EndpointConfig(cache.host, UpstreamConfig(NAMESPACE, cache.url), authoritative=authoritative),
        EndpointConfig(itself.host, UpstreamConfig(NAMESPACE, itself.url), authoritative=True, itself=True),
    )
    upstream = UpstreamConfig(NAMESPACE, itself.url, endpoints=places)
    registries = Registries(config({NAMESPACE: upstream}), instance="test", request_id=lambda: None)
    found = registries.of(NAMESPACE)
    assert isinstance(found, Endpoints)
    yield found
    await registries.close()


@pytest.fixture
async def believed(cache: FakeRegistry, itself: FakeRegistry) -> AsyncIterator[Endpoints]:
    """A cache that may say what a tag is, then the registry itself."""
    async for each in made(cache, itself, authoritative=True):
        yield each


@pytest.fixture
async def several(cache: FakeRegistry, itself: FakeRegistry) -> AsyncIterator[Endpoints]:
    """A cache that may say nothing, then the registry itself."""
    async for each in made(cache, itself, authoritative=False):
        yield each


def away() -> float:
    return UPSTREAM_AWAY.labels(NAMESPACE)._value.get()


async def read(upstream: Endpoints, digest: object) -> bytes:
    async with upstream.blob(REPO, digest, urgency=Urgency(urgent=True), patience=5) as body:  # type: ignore[arg-type]
        return b"".join([piece async for piece in body.pieces()])


async def test_what_a_cache_that_is_believed_does_not_have_the_registry_is_asked_for(
    believed: Endpoints, itself: FakeRegistry
) -> None:
    image = itself.add_image(REPO.name, "v1", layers=[CONTENT])
    assert (await believed.head(REPO, V1, patience=5)).digest == image
    assert (await believed.manifest(REPO, V1, patience=5)).digest == image
    assert await read(believed, itself.add_blob(REPO.name, CONTENT)) == CONTENT


async def test_by_the_word_of_a_cache_alone_no_tag_is_gone(
    believed: Endpoints, cache: FakeRegistry, itself: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some caches say 404 where they cannot reach the registry, and that is when this mirror cannot either."""
    monkeypatch.setattr(endpoints, "FIRST_ANSWER", 0.2)
    with pytest.raises(UpstreamNotFound):  # it says so itself
        await believed.head(REPO, V1, patience=5)
    itself.fault(then=Status(403, "DENIED"))
    with pytest.raises(UpstreamDenied):
        await believed.head(REPO, V1, patience=2)
    itself.heal()
    itself.fault(then=Status(503))
    with pytest.raises(UpstreamUnavailable):
        await believed.head(REPO, V1, patience=2)
    with pytest.raises(UpstreamNotFound):  # of what nobody has had yet its word stands
        await believed.manifest(REPO, V1, patience=2)
    itself.heal()
    itself.fault(then=Hang())
    for _ in range(2):
        with pytest.raises(UpstreamNotFound):
            await believed.manifest(REPO, V1, patience=2)
    assert believed.members[1].circuit.state == "open"
    itself.forget()
    cache.forget()
    with pytest.raises(UpstreamUnavailable, match="only the registry itself knows"):
        await believed.head(REPO, V1, patience=0.6)
    with pytest.raises(UpstreamNotFound):
        await believed.manifest(REPO, V1, patience=2)
    assert itself.count(kind="manifest") == 0, "it is left alone"
    assert cache.count(kind="manifest") >= 2


async def test_away_is_the_upstream_and_not_the_endpoint_that_failed_last(
    several: Endpoints, cache: FakeRegistry, itself: FakeRegistry
) -> None:
    digest = itself.add_blob(REPO.name, CONTENT)
    cache.shelves = itself.shelves
    cache.fault(kind="blob", then=Cut(at_byte=1000))
    itself.add_image(REPO.name, "v1")
    await several.head(REPO, V1, patience=5)
    assert away() == 0
    with pytest.raises(UpstreamUnavailable):
        await read(several, digest)
    assert (several.away, away()) == (False, 0), "it broke off at one, and the registry itself is there"


async def test_one_that_is_dead_is_not_told_of_as_the_upstream_while_the_next_is_asked(
    several: Endpoints, cache: FakeRegistry, itself: FakeRegistry
) -> None:
    digest = itself.add_blob(REPO.name, CONTENT)
    itself.add_image(REPO.name, "v1")
    await several.head(REPO, V1, patience=5)
    await cache.stop()
    gate = asyncio.Event()
    itself.fault(kind="blob", then=Await(gate))
    reading = asyncio.create_task(read(several, digest))
    await itself.seen(kind="blob")
    assert away() == 0
    gate.set()
    assert await reading == CONTENT


async def test_a_body_that_breaks_off_at_the_last_of_them_shows_that_the_upstream_is_away(
    several: Endpoints, itself: FakeRegistry
) -> None:
    digest = itself.add_blob(REPO.name, CONTENT)
    itself.fault(kind="blob", then=Cut(at_byte=1000))
    with pytest.raises(UpstreamUnavailable):
        await read(several, digest)
    assert (several.away, away()) == (True, 1)


async def test_while_the_registry_is_away_what_a_cache_could_not_give_is_remembered_by_repository(
    several: Endpoints, cache: FakeRegistry, itself: FakeRegistry
) -> None:
    here = cache.add_blob(REPO.name, b"here")
    lacking = itself.add_blob(REPO.name, b"not here")
    await itself.stop()
    await read(several, here)
    assert (several.away, several.lacks(REPO)) == (False, False)
    with pytest.raises((UpstreamUnavailable, UpstreamNotFound)):
        await read(several, lacking)
    await read(several, here)
    assert (several.away, several.lacks(REPO)) == (False, True), "what it has does not make up for what it has not"
    cache.add_blob(REPO.name, b"not here")
    await read(several, lacking)
    assert not several.lacks(REPO)


async def test_a_limit_is_waited_for_as_long_as_one_registry_would_be(several: Endpoints, itself: FakeRegistry) -> None:
    itself.add_image(REPO.name, "v1")
    itself.fault(then=Status(429, retry_after=1))
    began = asyncio.get_running_loop().time()
    with pytest.raises(UpstreamLimited):
        await several.head(REPO, V1, patience=3)
    assert asyncio.get_running_loop().time() - began < 0.5


async def test_nobody_is_blamed_for_not_answering_in_no_time(
    several: Endpoints, cache: FakeRegistry, itself: FakeRegistry
) -> None:
    cache.fault(then=Hang())
    itself.fault(then=Hang())
    digest = cache.add_blob(REPO.name, CONTENT)
    with pytest.raises(UpstreamUnavailable):
        async with several.blob(REPO, digest, urgency=Urgency(urgent=True), patience=0.3):
            pass
    assert several.members[1].circuit.failed_at == 0.0


async def test_another_endpoint_of_docker_hub_is_not_asked_for_a_token_of_hubs_own_repository(
    cache: FakeRegistry, itself: FakeRegistry
) -> None:
    """It may refuse good credentials there, which would be taken for bad ones."""
    places = (
        EndpointConfig(cache.host, UpstreamConfig("docker.io", cache.url), authoritative=False),
        EndpointConfig(itself.host, UpstreamConfig("docker.io", itself.url), authoritative=True, itself=True),
    )
    upstream = UpstreamConfig("docker.io", itself.url, endpoints=places)
    registries = Registries(config({"docker.io": upstream}), instance="test", request_id=lambda: None)
    found = registries.of("docker.io")
    assert isinstance(found, Endpoints)
    for fake in (cache, itself):
        fake.auth.mode = "bearer"
    for member in found.members:
        await member.registry.probe(patience=5)
    assert [bool(fake.tokens[0].scopes) for fake in (cache, itself)] == [False, True]
    await registries.close()


@pytest.mark.parametrize("mode", ["basic", "bearer"])
async def test_an_endpoint_that_leads_to_the_registry_is_shown_nothing_of_the_registrys_and_shows_nothing_there(
    cache: FakeRegistry, itself: FakeRegistry, mode: str
) -> None:
    """By a redirect, or by the realm of its tokens (promise 9)."""
    digest = itself.add_blob(REPO.name, CONTENT)
    for fake, user, password in ((cache, "bob", "cache-canary"), (itself, "ann", "hub-canary")):
        fake.auth.mode, fake.auth.users, fake.auth.anonymous = mode, {user: password}, False  # type: ignore[assignment]
    if mode == "bearer":
        cache.auth.realm = f"{itself.url.replace('127.0.0.1', 'localhost')}/token"
    cache.fault(kind="blob", then=Redirect(f"{itself.url}/v2/{REPO.name}/blobs/{digest}"))
    told = [
        UpstreamConfig(NAMESPACE, fake.url, username=user, password=Secret(password))
        for fake, user, password in ((cache, "bob", "cache-canary"), (itself, "ann", "hub-canary"))
    ]
    places = (
        EndpointConfig(cache.host, told[0], authoritative=False),
        EndpointConfig(itself.host, told[1], authoritative=True, itself=True),
    )
    upstream = replace(told[1], endpoints=places)
    registries = Registries(config({NAMESPACE: upstream}), instance="test", request_id=lambda: None)
    found = registries.of(NAMESPACE)
    assert isinstance(found, Endpoints)
    assert await read(found, digest) == CONTENT
    await registries.close()
    for fake, foreign in ((cache, "ann:hub-canary"), (itself, "bob:cache-canary")):
        sent = " ".join(record.headers.get("Authorization", "") for record in fake.requests)
        assert base64.b64encode(foreign.encode()).decode() not in sent
    assert cache.count(kind="blob") >= 1
