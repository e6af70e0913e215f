"""`Upstream.probe`: whether an upstream can be reached, whether its credentials are good, what its clock says."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest

from mirror.config import Secret, UpstreamConfig
from mirror.errors import UpstreamAway, UpstreamDenied, UpstreamUnavailable
from mirror.upstream.registries import Registries
from tests.fakes.faults import Hang, Headers, Status
from tests.unit.upstream.dial import NAMESPACE, PASSWORD, USER, config, dial

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.upstream.protocol import Upstream
    from tests.fakes.registry import FakeRegistry

    Connect = Callable[..., Upstream]


async def test_good_credentials_are_accepted(up: FakeRegistry, connect: Connect) -> None:
    up.auth.mode = "bearer"
    up.auth.users = {USER: PASSWORD}
    found = await connect(credentials=True).probe(patience=5)
    assert (found.identity, found.offered, found.user) == (True, True, USER)
    assert found.date == pytest.approx(time.time(), abs=5)
    assert 0 < found.seconds < 5
    assert [record.kind for record in up.requests] == ["ping", "token", "ping"]
    assert "scope" not in up.tokens[0].query


async def test_the_challenges_own_scope_is_not_asked_for(up: FakeRegistry, connect: Connect) -> None:
    up.auth.mode = "bearer"
    up.auth.users = {USER: PASSWORD}
    up.auth.scope = "repository:user/image:pull"  # ghcr.io's placeholder, which nobody may pull
    up.auth.private = {"user/image": set()}
    assert (await connect(credentials=True).probe(patience=5)).identity
    assert "scope" not in up.tokens[0].query


@pytest.mark.parametrize("mode", ["bearer", "basic"])
async def test_wrong_credentials_are_denied(up: FakeRegistry, connect: Connect, mode: str) -> None:
    up.auth.mode = mode
    up.auth.users = {USER: "another"}
    with pytest.raises(UpstreamDenied, match=r"refused the configured user name and password \(401\)"):
        await connect(credentials=True).probe(patience=5)


async def test_a_registry_that_asks_nobody_accepts_nothing(connect: Connect) -> None:
    found = await connect(credentials=True).probe(patience=5)
    assert (found.identity, found.offered) == (False, True)
    found = await connect().probe(patience=5)
    assert (found.identity, found.offered, found.user) == (False, False, None)


async def test_credentials_that_go_nowhere_show(up: FakeRegistry, connect: Connect) -> None:
    up.auth.mode = "bearer"
    up.auth.users = {USER: PASSWORD}
    up.auth.realm = up.url.replace("127.0.0.1", "localhost") + "/token"
    found = await connect(credentials=True).probe(patience=5)
    assert (found.identity, found.offered) == (False, True)


async def test_strangers_whom_a_token_service_refuses_without_a_repository_have_reached_it(
    up: FakeRegistry, connect: Connect
) -> None:
    up.auth.mode = "bearer"
    up.auth.anonymous = False
    found = await connect().probe(patience=5)
    assert (found.identity, found.offered) == (False, False)
    assert found.date is not None


async def test_a_registry_that_wants_a_password_and_gets_none_denies(up: FakeRegistry, connect: Connect) -> None:
    up.auth.mode = "basic"
    with pytest.raises(UpstreamDenied, match="none are configured"):
        await connect().probe(patience=5)


async def test_docker_hub_looks_at_the_password_only_where_a_repository_is_named(up: FakeRegistry) -> None:
    up.auth.mode = "bearer"
    up.auth.users = {USER: PASSWORD}
    hub = UpstreamConfig("docker.io", up.url, username=USER, password=Secret(PASSWORD))
    registries = Registries(config({"docker.io": hub}), instance="test", request_id=lambda: None)
    try:
        assert (await registries.of("docker.io").probe(patience=5)).identity
    finally:
        await registries.close()
    assert up.tokens[0].scopes == ("repository:ratelimitpreview/test:pull",)


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        (formatdate(1_000_000_000, usegmt=True), 1_000_000_000.0),
        ("yesterday", None),
        ("", None),
        ("Sun, 06 Nov 99999 08:49:37 GMT", None),
    ],
)
async def test_its_clock_is_told(up: FakeRegistry, connect: Connect, date: str, expected: float | None) -> None:
    up.fault(kind="ping", then=Headers({"Date": date or "-"}))
    assert (await connect().probe(patience=5)).date == expected


async def test_trouble_is_what_it_is_elsewhere(up: FakeRegistry, connect: Connect) -> None:
    up.fault(kind="ping", times=1, then=Hang())
    with pytest.raises(UpstreamUnavailable, match="did not answer within"):
        await connect().probe(patience=0.1)
    up.fault(kind="ping", then=Status(500))
    with pytest.raises(UpstreamUnavailable, match="its API at /v2/"):
        await connect().probe(patience=5)
    offline = Registries(
        config({NAMESPACE: UpstreamConfig(NAMESPACE, up.url)}, offline=True), instance="test", request_id=lambda: None
    )
    with pytest.raises(UpstreamAway):
        await offline.of(NAMESPACE).probe(patience=5)
    await offline.close()


async def test_what_it_says_of_its_limits_is_kept(up: FakeRegistry) -> None:
    registries = dial(up.url)
    upstream = registries.of(NAMESPACE)
    assert upstream.budget is None
    up.headers = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"}
    await upstream.probe(patience=5)
    assert upstream.budget is not None
    assert (upstream.budget.limit, upstream.budget.remaining, upstream.budget.window) == (100, 76, 21600)
    await registries.close()
