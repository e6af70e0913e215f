"""Names that nobody answers for hold up whoever asks for them, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from mirror.errors import UpstreamUnavailable
from mirror.oci.name import Repository, Tag
from mirror.upstream import resolver
from mirror.upstream.resolver import Resolver
from tests.unit.upstream.dial import NAMESPACE, REPO, dial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.fakes.registry import FakeRegistry

V1 = Tag("v1")
CHANGING: dict[str, Callable[[int], list[Any]]] = {}  # what names mean that a test sets


@pytest.fixture(autouse=True)
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let no name below `silent.test` be answered for until this is set."""
    answering, real = threading.Event(), socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *more: Any, **options: Any) -> list[Any]:
        if host in CHANGING:
            return CHANGING[host](port)
        if not host.endswith(".silent.test"):
            return real(host, port, *more, **options)
        answering.wait(30)
        return real("127.0.0.1", port, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield answering
    answering.set()
    CHANGING.clear()


def leads_to(*addresses: str) -> Callable[[int], list[Any]]:
    return lambda port: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]


def fails(code: int) -> Callable[[int], list[Any]]:
    def fail(_: int) -> list[Any]:
        raise socket.gaierror(code, "it fails")

    return fail


async def test_names_that_are_not_answered_for_take_no_thread_from_the_program(answering: threading.Event) -> None:
    mine = Resolver()
    asked = [asyncio.create_task(mine.look_up(f"{number}.silent.test", 443)) for number in range(100)]
    async with asyncio.timeout(5):
        assert await asyncio.to_thread(lambda: "read") == "read"
    assert threading.active_count() < resolver.THREADS + 20
    answering.set()
    assert {found[0][4][0] for found in await asyncio.gather(*asked)} == {"127.0.0.1"}


async def test_a_look_up_ends_in_time_and_its_thread_serves_the_next(
    answering: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Resolver(threads=1)
    monkeypatch.setattr(resolver, "LIMIT", 0.05)
    for name in ("a", "b"):  # the one runs, the other waits for it
        with pytest.raises(OSError, match="not looked up in time"):
            await mine.look_up(f"{name}.silent.test", 443)
    monkeypatch.setattr(resolver, "LIMIT", 10.0)
    after = asyncio.create_task(mine.look_up("localhost", 443))
    answering.set()
    assert await after


async def test_a_name_that_is_none_does_not_resolve() -> None:
    for name in ("a..b", "x" * 300, "\udcff.test"):
        with pytest.raises(OSError):  # noqa: PT011  its text is the system's
            await Resolver().look_up(name, 443)


async def test_the_names_that_clients_choose_do_not_hold_up_what_is_configured(up: FakeRegistry) -> None:
    up.add_image("org/app", "v1")
    upstreams = dial(up.url.replace("127.0.0.1", "localhost"), wildcard=True)
    try:
        strangers = [f"{number}.silent.test" for number in range(resolver.THREADS * 2)]
        asked = [
            asyncio.create_task(upstreams.of(name).manifest(Repository(name, "org/app"), V1, patience=1.0))
            for name in strangers
        ]
        await asyncio.sleep(0)
        found = await upstreams.of(NAMESPACE).manifest(REPO, V1, patience=5)
        assert found.body
        failed = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(error) for error in failed} == {UpstreamUnavailable}
    finally:
        await upstreams.close()


async def found(mine: Resolver, host: str) -> list[str]:
    return [one["host"] for one in await mine.resolve(host, 443, socket.AF_UNSPEC)]


async def test_the_last_good_addresses_serve_while_dns_fails_and_for_a_day_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = Resolver()
    CHANGING["hub.test"] = leads_to("127.0.0.7")
    assert await found(mine, "hub.test") == ["127.0.0.7"]
    CHANGING["hub.test"] = fails(socket.EAI_AGAIN)
    assert await found(mine, "hub.test") == ["127.0.0.7"]
    with pytest.raises(OSError, match="it fails"):  # whoever asks what a name means now is not told what it meant
        await mine.look_up("hub.test", 443)
    now = time.monotonic() + resolver.KEPT + 1
    monkeypatch.setattr(resolver.time, "monotonic", lambda: now)
    with pytest.raises(OSError, match="it fails"):
        await found(mine, "hub.test")


async def test_a_name_that_is_no_more_is_not_answered_from_memory() -> None:
    mine = Resolver()
    CHANGING["hub.test"] = leads_to("127.0.0.7")
    await found(mine, "hub.test")
    for code in (socket.EAI_NONAME, socket.EAI_AGAIN):
        CHANGING["hub.test"] = fails(code)
        with pytest.raises(socket.gaierror):
            await found(mine, "hub.test")


async def test_a_slow_dns_is_waited_for_once_and_then_what_it_said_last_serves(
    answering: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "SLOW", 0.02)
    mine = Resolver(threads=1)
    CHANGING["hub.test"] = leads_to("127.0.0.7")
    await found(mine, "hub.test")

    def slow(port: int) -> list[Any]:
        answering.wait(30)
        return leads_to("127.0.0.8")(port)

    CHANGING["hub.test"] = slow
    assert await found(mine, "hub.test") == ["127.0.0.7"]
    assert await found(mine, "hub.test") == ["127.0.0.7"]  # the same look-up: it takes one thread, not two
    answering.set()
    assert (await mine.look_up("localhost", 443))[0]  # what was asked first has ended first
    CHANGING["hub.test"] = fails(socket.EAI_AGAIN)
    assert await found(mine, "hub.test") == ["127.0.0.8"]


async def test_many_who_ask_for_one_name_take_one_thread(answering: threading.Event) -> None:
    mine = Resolver(threads=2)
    asked = [asyncio.create_task(mine.look_up("a.silent.test", 443)) for _ in range(50)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await mine.look_up("localhost", 443)
    answering.set()
    assert len(await asyncio.gather(*asked)) == 50


@pytest.mark.parametrize("guarded", [False, True])
async def test_an_address_that_swallows_does_not_hold_up_the_next(
    up: FakeRegistry, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    up.add_image("org/app", "v1")
    port = up.ports[0]
    CHANGING["raced.test"] = leads_to("127.0.0.9", "127.0.0.1")
    upstreams = dial(f"http://raced.test:{port}")
    if guarded:  # the sockets are made by ours, which is told that these addresses are public
        monkeypatch.setattr(upstreams.of(NAMESPACE)._wire._reach, "guards", lambda _: True)  # type: ignore[attr-defined]
        monkeypatch.setattr("mirror.upstream.address.is_public", lambda _: True)
    with contextlib.ExitStack() as stack:
        swallows = stack.enter_context(socket.socket())
        swallows.bind(("127.0.0.9", port))
        swallows.listen(0)
        for _ in range(3):  # once its queue is full, the system drops what comes without a word
            waits = stack.enter_context(socket.socket())
            waits.setblocking(False)
            waits.connect_ex(("127.0.0.9", port))
        try:
            async with asyncio.timeout(3):
                assert (await upstreams.of(NAMESPACE).manifest(REPO, V1, patience=3)).body
        finally:
            await upstreams.close()
