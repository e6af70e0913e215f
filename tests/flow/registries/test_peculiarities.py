"""What each registry is odd in, one promise at a time; `test_registries` pulls through all of them."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING

import pytest

from tests.fakes import profiles
from tests.fakes.faults import Cut, Gate, Status
from tests.fakes.site import Site

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.oci.digest import Digest
    from tests.fakes.internet import Internet
    from tests.fakes.profiles import Profile
    from tests.flow.conftest import Clock, Mirror, StartMirror

LIMIT = (
    b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit. '
    b'https://www.docker.com/increase-rate-limit"}]}'
)


async def begin(start: StartMirror, site: Site, **more: object) -> Mirror:
    """Start a mirror of `site` alone; `more` is added to what is configured of it."""
    namespace = site.profile.namespace
    return await start({namespace: {**site.configured, **more}}, default_upstream=namespace)


def manifest(profile: Profile, reference: str | Digest) -> str:
    return f"/v2/{profile.repo}/manifests/{reference}"


async def test_hub_is_asked_by_head_which_it_does_not_count(start: StartMirror, net: Internet, clock: Clock) -> None:
    site = await Site.open(profiles.HUB, net)
    digest = site.add_image("v1")
    mirror = await begin(start, site)
    await mirror.get(manifest(profiles.HUB, "v1"))
    clock.advance(3600)
    again = await mirror.get(manifest(profiles.HUB, "v1"))
    assert (again.status, again.headers["Docker-Content-Digest"]) == (200, str(digest))
    assert [(record.method, record.status) for record in site.registry.log.matching(kind="manifest")] == [
        ("GET", 401), ("GET", 200), ("HEAD", 200),
    ]  # fmt: skip


@pytest.mark.parametrize("body", [LIMIT, b""], ids=["of pulls", "of everything"])
async def test_hubs_limit_leaves_what_is_cached_and_is_said_of_the_rest(
    start: StartMirror, net: Internet, clock: Clock, body: bytes
) -> None:
    site = await Site.open(profiles.HUB, net)
    site.add_image("v1")
    site.add_image("v2")
    mirror = await begin(start, site)
    await mirror.pull(profiles.HUB.repo, "v1")
    clock.advance(3600)
    site.registry.fault(kind="manifest", then=Status(429, body=body, retry_after=60))
    old = await mirror.get(manifest(profiles.HUB, "v1"))
    assert (old.status, old.headers["Warning"][:3]) == (200, "299")
    new = await mirror.get(manifest(profiles.HUB, "v2"))
    assert (new.status, new.code) == (503, "TOOMANYREQUESTS")
    assert int(new.headers["Retry-After"]) > 0
    assert "limits requests" in new.message


@pytest.mark.parametrize(
    "profile", [profiles.HUB, profiles.GHCR, profiles.GITLAB, profiles.HARBOR], ids=lambda profile: profile.namespace
)
async def test_a_repository_that_is_not_there_is_unknown_and_nobody_is_asked_for_a_password(
    start: StartMirror, net: Internet, profile: Profile
) -> None:
    site = await Site.open(profile, net)
    site.registry.auth.private["org/missing"] = set()
    mirror = await begin(start, site)
    reply = await mirror.get("/v2/org/missing/manifests/v1")
    assert (reply.status, reply.code) == (404, "MANIFEST_UNKNOWN")
    assert "WWW-Authenticate" not in reply.headers
    assert site.registry.count(kind="manifest") <= 2
    assert site.breaches == []


async def test_quays_502_now_and_then_is_not_passed_on(
    start: StartMirror, net: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.upstream.attempts.delay", lambda attempt: 0.001 * attempt)  # its length is tried alone
    site = await Site.open(profiles.QUAY, net)
    digest = site.add_image("v1")
    mirror = await begin(start, site)
    for kind in ("manifest", "token", "blob", "storage"):
        site.registry.fault(kind=kind, times=1, then=Status(502, body=b"<html>bad gateway</html>"))
    assert {reply.status for reply in await mirror.pull("org/app", "v1")} == {200}
    assert (await mirror.get(manifest(profiles.QUAY, digest))).cache == "registry-mirror; hit"


async def test_quays_signed_address_that_ends_in_the_middle_of_a_blob_is_asked_for_anew(
    start: StartMirror, net: Internet
) -> None:
    site = await Site.open(profiles.QUAY, net)
    body = bytes(range(256)) * 1000
    layer = site.registry.add_blob("org/app", body)
    mirror = await begin(start, site)
    ended = asyncio.Event()
    site.registry.fault(kind="storage", times=1, then=(Gate(ended, at_byte=100_000), Cut(at_byte=100_000)))
    pulled = asyncio.create_task(mirror.get(f"/v2/org/app/blobs/{layer}"))
    first = await site.registry.seen(kind="storage")
    await first.sent(100_000)
    site.registry.expire_signatures()
    ended.set()
    assert (await pulled).body == body
    assert [record.status for record in site.registry.log.matching(kind="storage")][1:] == [403, 206]
    assert site.registry.count(kind="blob") == 3  # a challenge, an address, and a new address
    assert site.registry.bytes_of(layer) < len(body) + 1000  # and nothing of it came twice
    assert site.breaches == []


async def test_ghcrs_placeholder_is_not_what_a_token_is_asked_for(start: StartMirror, net: Internet) -> None:
    site = await Site.open(profiles.GHCR, net)
    site.add_image("v1")
    mirror = await begin(start, site)
    await mirror.pull("owner/app", "v1")
    assert [token.query for token in site.registry.tokens] == ["service=ghcr.io&scope=repository:owner/app:pull"]


@pytest.mark.parametrize(("realms", "shown"), [([], set()), (["ghcr.io"], {"ghcr.io"})])
async def test_lscrs_token_service_is_of_another_house_and_sees_a_password_only_if_it_is_named(
    start: StartMirror, net: Internet, realms: list[str], shown: set[str]
) -> None:
    site = await Site.open(profiles.LSCR, net, signed_in=True)
    site.add_image("v1")
    mirror = await begin(start, site, realms=realms)
    assert {reply.status for reply in await mirror.pull("linuxserver/app", "v1")} == {200}
    assert site.shown("Basic") == shown
    assert site.breaches == []


async def test_the_registry_behind_registry_k8s_io_is_another_one(start: StartMirror, net: Internet) -> None:
    site = await Site.open(profiles.KUBERNETES, net)
    digest = site.add_image("v1")
    mirror = await begin(start, site)
    listed = await mirror.get("/v2/pause/tags/list")
    assert listed.json["tags"] == ["v1"]
    await mirror.pull("pause", "v1")
    assert site.behind is not None
    assert {token.query.partition("&")[2] for token in site.behind.tokens} == {
        "scope=repository:k8s-artifacts-prod/images/pause:pull"
    }
    # What the first sends on is asked of the first each time: where it leads depends on who asks, and when.
    assert site.registry.count(kind="manifest", reference="v1") == 1
    assert site.registry.count(kind="manifest", reference=str(digest)) == 0
    assert site.shown("Bearer") == {"us-west2-docker.pkg.dev"}
    assert site.breaches == []


async def test_microsofts_registry_is_never_shown_anything(start: StartMirror, net: Internet) -> None:
    site = await Site.open(profiles.MICROSOFT, net)
    site.add_image("v1")
    mirror = await begin(start, site, username="someone", password="canary-mcr")
    assert {reply.status for reply in await mirror.pull("dotnet/runtime", "v1")} == {200}
    assert site.shown("Basic") | site.shown("Bearer") == set()
    assert site.breaches == []


async def test_ecrs_400_to_an_old_token_is_understood_without_a_body_too(
    start: StartMirror, net: Internet, clock: Clock
) -> None:
    site = await Site.open(profiles.ECR_PUBLIC, net)
    digest = site.add_image("v1")
    mirror = await begin(start, site)
    await mirror.pull(profiles.ECR_PUBLIC.repo, "v1")
    site.age()
    clock.advance(3600)
    again = await mirror.get(manifest(profiles.ECR_PUBLIC, "v1"))
    assert (again.status, again.headers["Docker-Content-Digest"]) == (200, str(digest))
    assert "Warning" not in again.headers
    heads = site.registry.log.matching(kind="manifest", method="HEAD")
    assert [record.status for record in heads] == [400, 401, 200]
    assert site.breaches == []


async def test_nvidias_dead_end_is_not_walked_into(start: StartMirror, net: Internet) -> None:
    site = await Site.open(profiles.NVIDIA, net, signed_in=True)
    site.add_image("v1")
    mirror = await begin(start, site)
    await mirror.pull("nvidia/cuda", "v1")
    site.age()
    site.add_image("v2")
    assert {reply.status for reply in await mirror.pull("nvidia/cuda", "v2")} == {200}
    assert site.behind is not None
    assert site.behind.requests == []
    assert "authn.nvidia.com" not in net.looked_up


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("way", ["file", "program"])
async def test_ecrs_password_that_ends_is_replaced_by_the_next_one(
    *, start: StartMirror, net: Internet, tmp_path: Path, way: str, status: int
) -> None:
    site = await Site.open(profiles.ECR, net, signed_in=True)
    if status == 401:
        site.registry.auth.manner = profiles.NEXUS.manner  # one without a word of its own for it
    site.add_image("v1")
    namespace, password, said = profiles.ECR.namespace, tmp_path / "password", tmp_path / "said"

    def hand_out(text: str) -> None:
        password.write_text(f"{text}\n")
        said.write_text(json.dumps({"ServerURL": namespace, "Username": "AWS", "Secret": text}))

    hand_out("canary-ecr")
    told: dict[str, object] = {"ca_file": str(net.ca_file)}
    if way == "file":
        told |= {"username": "AWS", "password_file": str(password)}
    else:
        told |= {"exec": ["cat", str(said)]}
    mirror = await start({namespace: told}, default_upstream=namespace)
    assert {reply.status for reply in await mirror.pull("team/app", "v1")} == {200}
    site.registry.auth.users["AWS"] = "canary-of-the-next-day"
    site.add_image("v2")
    hand_out("canary-of-the-next-day")
    assert {reply.status for reply in await mirror.pull("team/app", "v2")} == {200}
    assert site.shown("Basic") == {namespace}
    assert site.breaches == []


async def test_azures_identity_token_becomes_a_token_for_pulling(
    start: StartMirror, net: Internet, tmp_path: Path
) -> None:
    """`az acr login` leaves a user that says nothing, and a refresh token in place of a password."""
    namespace, user = profiles.ACR.namespace, "00000000-0000-0000-0000-000000000000"
    site = await Site.open(profiles.ACR, net)
    site.add_image("v1")
    site.registry.auth.identity_tokens["canary-refresh"] = user
    site.registry.auth.private["team/app"] = {user}
    auth = {"auth": base64.b64encode(f"{user}:".encode()).decode(), "identitytoken": "canary-refresh"}
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"auths": {namespace: auth}}))
    mirror = await start({namespace: site.configured}, default_upstream=namespace, credentials_files=[str(file)])
    assert {reply.status for reply in await mirror.pull("team/app", "v1")} == {200}
    assert [(record.host, record.method) for record in site.registry.log.matching(kind="token")] == [
        (namespace, "POST")
    ]
    assert site.shown("Basic") == set()
    assert site.breaches == []


async def test_ghcrs_token_service_that_is_busy_for_a_moment_is_asked_again(start: StartMirror, net: Internet) -> None:
    """All anonymous clients share one allowance there; it is there again at once (watchtower#2366)."""
    site = await Site.open(profiles.GHCR, net)
    site.add_image("v1")
    site.registry.fault(kind="token", times=1, then=Status(429, "TOOMANYREQUESTS", retry_after=0))
    mirror = await begin(start, site)
    assert {reply.status for reply in await mirror.pull("owner/app", "v1")} == {200}


async def test_artifactory_takes_the_password_itself_where_its_tokens_fail(start: StartMirror, net: Internet) -> None:
    site = await Site.open(profiles.ARTIFACTORY, net, signed_in=True)
    site.add_image("v1")
    site.registry.fault(kind="token", then=Status(404))
    mirror = await begin(start, site)
    assert {reply.status for reply in await mirror.pull("library/app", "v1")} == {200}
    assert site.shown("Bearer") == set()
    assert site.breaches == []
