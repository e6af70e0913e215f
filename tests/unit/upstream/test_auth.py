from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING

import pytest
import structlog

from mirror.errors import UpstreamBroken, UpstreamDenied, UpstreamLimited, UpstreamUnavailable
from mirror.oci.name import Repository, Tag
from mirror.upstream.tokens import MAX_BODY
from tests.fakes.faults import Hang, NoLength, Redirect, Status
from tests.fakes.registry import FakeRegistry
from tests.unit.upstream.dial import NAMESPACE, PASSWORD, REPO, USER

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.upstream.protocol import Upstream

    Connect = Callable[..., Upstream]

V1 = Tag("v1")


@pytest.fixture
def bearer(up: FakeRegistry) -> FakeRegistry:
    up.auth.mode = "bearer"
    up.auth.users = {USER: PASSWORD}
    up.add_image("org/app", "v1")
    up.add_image("org/other", "v1")
    return up


def statuses(up: FakeRegistry) -> list[tuple[str, int | None]]:
    return [(record.kind, record.status) for record in up.requests]


async def test_nothing_is_shown_before_it_is_asked_for_and_one_token_serves_many(
    bearer: FakeRegistry, connect: Connect
) -> None:
    upstream = connect(credentials=True)
    found = await upstream.manifest(REPO, V1, patience=5)
    assert statuses(bearer) == [("manifest", 401), ("token", 200), ("manifest", 200)]
    assert "Authorization" not in bearer.requests[0].headers
    assert not found.public
    await upstream.manifest(REPO, V1, patience=5)
    await upstream.head(REPO, V1, patience=5)
    assert len(bearer.tokens) == 1
    assert bearer.tokens[0].user == USER


async def test_without_credentials_what_is_got_is_public(bearer: FakeRegistry, connect: Connect) -> None:
    assert (await connect().manifest(REPO, V1, patience=5)).public
    assert bearer.tokens[0].user is None


async def test_the_scope_is_the_repositorys_own_and_only_for_pulling(bearer: FakeRegistry, connect: Connect) -> None:
    bearer.auth.scope = "repository:user/image:pull"  # ghcr.io's placeholder
    bearer.auth.service = None  # nvcr.io
    await connect().manifest(REPO, V1, patience=5)
    assert bearer.tokens[0].query == "scope=repository:org/app:pull"


async def test_a_second_repository_costs_a_token_but_no_challenge(bearer: FakeRegistry, connect: Connect) -> None:
    upstream = connect()
    await upstream.manifest(REPO, V1, patience=5)
    bearer.forget()
    await upstream.manifest(Repository(NAMESPACE, "org/other"), V1, patience=5)
    assert statuses(bearer) == [("token", 200), ("manifest", 200)]


async def test_many_at_once_share_one_token(bearer: FakeRegistry, connect: Connect) -> None:
    upstream = connect()
    async with asyncio.TaskGroup() as group:
        for _ in range(30):
            group.create_task(upstream.head(REPO, V1, patience=10))
    assert len(bearer.tokens) == 1


async def test_a_token_that_ends_early_is_replaced_after_a_bare_request(bearer: FakeRegistry, connect: Connect) -> None:
    upstream = connect()
    await upstream.manifest(REPO, V1, patience=5)
    bearer.forget()
    bearer.auth.revoke()
    await upstream.manifest(REPO, V1, patience=5)
    assert statuses(bearer) == [("manifest", 401), ("manifest", 401), ("token", 200), ("manifest", 200)]
    assert "Authorization" not in bearer.requests[1].headers


async def test_a_400_denied_to_an_old_token_counts_as_a_401(bearer: FakeRegistry, connect: Connect) -> None:
    upstream = connect()
    await upstream.manifest(REPO, V1, patience=5)
    bearer.auth.revoke()
    bearer.fault(kind="manifest", times=1, then=Status(400, "DENIED", "Your Authorization Token is invalid."))
    await upstream.manifest(REPO, V1, patience=5)
    assert len(bearer.tokens) == 2


async def test_a_token_that_covers_too_little_is_widened_once(bearer: FakeRegistry, connect: Connect) -> None:
    wanted = f'Bearer realm="{bearer.url}/token",error="insufficient_scope",scope="repository:org/base:pull"'
    bearer.fault(kind="manifest", after=1, times=1, then=Status(401, headers={"WWW-Authenticate": wanted}))
    await connect().manifest(REPO, V1, patience=5)
    assert bearer.tokens[-1].scopes == ("repository:org/app:pull", "repository:org/base:pull")
    bearer.forget()
    bearer.fault(kind="manifest", then=Status(401, headers={"WWW-Authenticate": wanted}))
    with pytest.raises(UpstreamDenied):
        await connect().manifest(REPO, V1, patience=5)
    assert bearer.count(kind="manifest") == 3


async def test_a_repository_that_stays_closed_is_denied_and_asked_for_no_more_than_it_takes(
    bearer: FakeRegistry, connect: Connect
) -> None:
    bearer.fault(kind="manifest", then=Status(401, headers={"WWW-Authenticate": f'Bearer realm="{bearer.url}/token"'}))
    with pytest.raises(UpstreamDenied) as caught:
        await connect().manifest(REPO, V1, patience=5)
    assert caught.value.upstream_status == 401
    assert bearer.count(kind="manifest") == 2
    assert len(bearer.tokens) == 1


async def test_a_token_that_was_made_for_the_request_is_not_asked_for_twice(
    bearer: FakeRegistry, connect: Connect
) -> None:
    upstream = connect()
    await upstream.manifest(REPO, V1, patience=5)
    bearer.forget()
    bearer.auth.private = {"org/other": {"bob"}}
    with pytest.raises(UpstreamDenied):
        await upstream.manifest(Repository(NAMESPACE, "org/other"), V1, patience=5)
    assert statuses(bearer) == [("token", 200), ("manifest", 401)]


async def test_a_401_without_a_challenge_sends_to_the_ping_for_one(bearer: FakeRegistry, connect: Connect) -> None:
    bearer.fault(kind="manifest", times=1, then=Status(401))
    await connect().manifest(REPO, V1, patience=5)
    assert statuses(bearer) == [("manifest", 401), ("ping", 401), ("token", 200), ("manifest", 200)]


async def test_a_registry_that_knows_basic_only_is_given_the_password(up: FakeRegistry, connect: Connect) -> None:
    up.auth.mode = "basic"
    up.auth.users = {USER: PASSWORD}
    up.add_image("org/app", "v1")
    upstream = connect(credentials=True)
    assert not (await upstream.manifest(REPO, V1, patience=5)).public
    await upstream.manifest(REPO, V1, patience=5)
    assert statuses(up) == [("manifest", 401), ("manifest", 200), ("manifest", 200)]
    with pytest.raises(UpstreamDenied, match="user name and a password, and none are configured"):
        await connect().manifest(REPO, V1, patience=5)


async def test_where_the_token_service_fails_basic_is_tried(up: FakeRegistry, connect: Connect) -> None:
    up.auth.mode = "both"
    up.auth.users = {USER: PASSWORD}
    up.add_image("org/app", "v1")
    up.fault(kind="token", then=Status(404))
    await connect(credentials=True).manifest(REPO, V1, patience=5)
    assert up.requests[-1].headers["Authorization"].startswith("Basic ")


async def test_a_wrong_password_is_denied_in_words_and_never_shown(bearer: FakeRegistry, connect: Connect) -> None:
    bearer.auth.users = {USER: "another"}
    bearer.fault(kind="token", then=Status(401, message=f"{PASSWORD} is wrong"))
    with pytest.raises(UpstreamDenied, match="refused the configured user name and password") as caught:
        await connect(credentials=True).manifest(REPO, V1, patience=5)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("padding", ["", "="])
async def test_a_refusal_that_repeats_the_password_as_it_was_sent_is_not_quoted(
    up: FakeRegistry, connect: Connect, padding: str
) -> None:
    sent = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode().rstrip("=")
    up.auth.mode = "basic"
    up.auth.users = {USER: PASSWORD}
    up.fault(kind="manifest", after=1, then=Status(403, message=f"no right for Basic {sent}{padding}"))
    with pytest.raises(UpstreamDenied, match="it answered 403") as caught:
        await connect(credentials=True).manifest(REPO, V1, patience=5)
    assert sent not in str(caught.value)


@pytest.mark.parametrize(("kind", "status"), [("manifest", 403), ("manifest", 401), ("token", 403)])
async def test_a_refusal_that_repeats_a_token_is_not_quoted(
    bearer: FakeRegistry, connect: Connect, kind: str, status: int
) -> None:
    upstream = connect(credentials=True)
    await upstream.manifest(REPO, V1, patience=5)
    token = bearer.tokens[0].value
    challenge = {"WWW-Authenticate": f'Bearer realm="{bearer.url}/token"'}
    bearer.fault(kind=kind, then=Status(status, message=f"no right for Bearer {token}", headers=challenge))
    name = "org/other" if kind == "token" else "org/app"
    with pytest.raises(UpstreamDenied) as caught:
        await upstream.manifest(Repository(NAMESPACE, name), V1, patience=5)
    assert f"{status})" in str(caught.value)
    assert token not in str(caught.value)


async def test_a_refusal_that_repeats_the_token_of_a_registry_behind_is_not_quoted(
    up: FakeRegistry, connect: Connect
) -> None:
    async with FakeRegistry() as behind:
        behind.auth.mode = "bearer"
        behind.add_image("far/app", "v1")
        up.fault(kind="manifest", times=1, then=Redirect(f"{behind.url}/v2/far/app/manifests/v1"))
        upstream = connect()
        await upstream.manifest(REPO, V1, patience=5)
        token = behind.tokens[0].value
        up.fault(kind="manifest", then=Status(403, message=f"no right for {token}"))
        with pytest.raises(UpstreamDenied, match="it answered 403") as caught:
            await upstream.manifest(REPO, V1, patience=5)
        assert token not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "error"),
    [(403, UpstreamDenied), (404, UpstreamBroken), (429, UpstreamLimited), (500, UpstreamUnavailable)],
)
async def test_a_token_services_trouble_is_named(
    bearer: FakeRegistry, connect: Connect, status: int, error: type[Exception]
) -> None:
    bearer.fault(kind="token", then=Status(status, retry_after=60))
    with pytest.raises(error, match="token service"):
        await connect().manifest(REPO, V1, patience=5)


async def test_a_token_service_that_hangs_uses_up_the_patience_and_no_more(
    bearer: FakeRegistry, connect: Connect
) -> None:
    bearer.fault(kind="token", then=Hang())
    with pytest.raises(UpstreamUnavailable, match="did not answer within"):
        await connect().manifest(REPO, V1, patience=0.1)


async def test_a_password_is_not_sent_to_a_realm_outside_the_registrys_domain(
    bearer: FakeRegistry, connect: Connect
) -> None:
    async with FakeRegistry() as stranger:
        realm = stranger.url.replace("127.0.0.1", "localhost") + "/token"
        stranger.auth = bearer.auth
        bearer.auth.realm = realm
        with structlog.testing.capture_logs() as logs:
            assert (await connect(credentials=True).manifest(REPO, V1, patience=5)).public
        assert "Authorization" not in stranger.requests[0].headers
        assert [line["realm"] for line in logs] == ["localhost"]
        assert not (await connect(credentials=True, realms=("localhost",)).manifest(REPO, V1, patience=5)).public
        assert stranger.requests[1].headers["Authorization"].startswith("Basic ")


async def test_a_password_does_not_follow_a_redirect_of_the_token_service(
    bearer: FakeRegistry, connect: Connect
) -> None:
    async with FakeRegistry() as stranger:
        stranger.auth = bearer.auth
        target = stranger.url.replace("127.0.0.1", "localhost") + "/token?scope=repository:org/app:pull"
        bearer.fault(kind="token", then=Redirect(target))
        await connect(credentials=True).manifest(REPO, V1, patience=5)
        assert "Authorization" in bearer.log.matching(kind="token")[0].headers
        assert "Authorization" not in stranger.requests[0].headers


async def test_a_relative_realm_is_the_registrys_own(bearer: FakeRegistry, connect: Connect) -> None:
    bearer.auth.realm = "/token"
    await connect(credentials=True).manifest(REPO, V1, patience=5)
    assert bearer.tokens[0].user == USER


async def test_a_registry_behind_a_redirect_is_negotiated_with_alone_and_anonymously(
    up: FakeRegistry, connect: Connect
) -> None:
    async with FakeRegistry() as behind:
        digest = behind.add_image("far/app", "v1")
        behind.auth.mode = "bearer"
        up.auth.mode = "bearer"
        up.auth.users = {USER: PASSWORD}
        up.add_image("org/app", "v1")
        up.fault(kind="manifest", after=1, then=Redirect(f"{behind.url}/v2/far/app/manifests/v1"))
        upstream = connect(credentials=True)
        assert (await upstream.manifest(REPO, V1, patience=5)).digest == digest
        assert behind.tokens[0].user is None
        assert behind.tokens[0].scopes == ("repository:far/app:pull",)
        given = [record.headers.get("Authorization", "") for record in behind.requests]
        assert given == ["", "", f"Bearer {behind.tokens[0].value}"]


@pytest.mark.parametrize("length", ["told", "not told"])
async def test_a_token_service_that_sends_too_much_is_not_heard_out(
    bearer: FakeRegistry, connect: Connect, length: str
) -> None:
    token = b'{"token": "tok-0-secret"}'
    shape = () if length == "told" else (NoLength(),)
    bearer.fault(kind="token", then=(Status(200, body=token.ljust(MAX_BODY + 1)), *shape))
    with pytest.raises(UpstreamBroken, match="more than 1024 KiB") as caught:
        await connect().manifest(REPO, V1, patience=5)
    assert caught.value.status == 503
    assert statuses(bearer) == [("manifest", 401), ("token", 200)]


async def test_redirects_come_to_an_end(up: FakeRegistry, connect: Connect) -> None:
    up.fault(kind="manifest", then=Redirect(f"{up.url}/v2/org/app/manifests/v1"))
    with pytest.raises(UpstreamBroken, match="without end"):
        await connect().manifest(REPO, V1, patience=5)
    assert up.count(kind="manifest") == 11


@pytest.mark.parametrize("location", ["", "ftp://x.test/", "http://user:pw@x.test/"])
async def test_a_redirect_that_leads_astray_is_not_followed(up: FakeRegistry, connect: Connect, location: str) -> None:
    up.fault(kind="manifest", then=Redirect(location))
    with pytest.raises(UpstreamBroken, match="which is not followed"):
        await connect().manifest(REPO, V1, patience=5)
