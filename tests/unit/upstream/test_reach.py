from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from yarl import URL

from mirror.upstream.reach import Reach
from mirror.upstream.resolver import Resolver
from mirror.upstream.trust import Trust

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("registry", "realms", "url", "guarded"),
    [
        (None, (), "https://quay.io/v2/", True),
        ("https://quay.io", (), "https://quay.io/v2/", False),  # it is where the configuration says that it is
        ("https://quay.io", (), "https://quay.io:8443/v2/auth", False),
        ("https://quay.io", (), "https://cdn.quay.io/layer", True),
        ("https://quay.io", ("cdn.quay.io",), "https://cdn.quay.io/layer", False),
        ("https://quay.io", ("cdn.quay.io:8443",), "https://cdn.quay.io/layer", True),
        ("https://10.1.2.3", (), "https://10.1.2.4/layer", False),
        ("http://localhost:5000", (), "http://minio.internal/layer", False),
        ("http://127.1:5000", (), "http://minio/layer", False),
    ],
)
def test_what_may_be_at_a_private_address(
    *, registry: str | None, realms: tuple[str, ...], url: str, guarded: bool
) -> None:
    reach = Reach(Trust(URL(registry), realms) if registry is not None else None, Resolver())
    assert reach.guards(URL(url)) is guarded


@pytest.fixture
async def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Let names have these addresses, or none; return the names that were looked up."""

    def begin(*addresses: str) -> list[str]:
        asked: list[str] = []

        def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
            asked.append(host)
            if not addresses:
                raise socket.gaierror(socket.EAI_NONAME, "no such name")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return begin


@pytest.mark.parametrize(
    ("addresses", "widens"),
    [
        (("10.1.2.3",), True),
        (("1.2.3.4", "10.1.2.3"), True),
        (("198.18.0.7",), True),
        (("1.2.3.4",), False),
        ((), False),
    ],
)
async def test_a_name_that_stands_for_a_private_address_counts_as_one(
    resolve: Callable[..., list[str]], addresses: tuple[str, ...], *, widens: bool
) -> None:
    asked = resolve(*addresses)
    reach = Reach(Trust(URL("https://registry.example")), Resolver())
    assert await reach.widens() is widens
    assert reach.guards(URL("https://minio.example/layer")) is not widens
    assert asked == ["registry.example"]


async def test_nothing_widens_what_nobody_configured(resolve: Callable[..., list[str]]) -> None:
    asked = resolve("10.1.2.3")
    reach = Reach(None, Resolver())
    assert not await reach.widens()
    assert reach.guards(URL("https://10.1.2.3/"))
    assert asked == []
