"""Names that nobody answers for hold up whoever asks for them, and nobody else."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mirror.errors import UpstreamUnavailable
from mirror.oci.name import Repository, Tag
from mirror.upstream import resolver
from mirror.upstream.resolver import Resolver
from tests.unit.upstream.dial import NAMESPACE, REPO, dial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fakes.registry import FakeRegistry

V1 = Tag("v1")


@pytest.fixture(autouse=True)
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let no name below `silent.test` be answered for until this is set."""
    answering, real = threading.Event(), socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *more: Any, **options: Any) -> list[Any]:
        if not host.endswith(".silent.test"):
            return real(host, port, *more, **options)
        answering.wait(30)
        return real("127.0.0.1", port, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield answering
    answering.set()


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
