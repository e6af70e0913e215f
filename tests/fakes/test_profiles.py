"""The imitations refuse what the real ones refuse: else a mirror that errs would pass."""

from __future__ import annotations

import asyncio
import json
import ssl
from base64 import b64encode
from typing import TYPE_CHECKING

import aiohttp
import pytest
from yarl import URL

from tests.fakes import profiles
from tests.fakes.internet import Internet
from tests.fakes.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fakes.profiles import Profile


@pytest.fixture
async def net() -> AsyncIterator[Internet]:
    async with Internet(asyncio.get_running_loop()) as net:
        yield net


@pytest.fixture
async def http(net: Internet) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=net.ca_file))
    async with aiohttp.ClientSession(connector=connector, requote_redirect_url=False) as session:
        yield session


Answer = tuple[int, str, str]  # status, WWW-Authenticate, body


async def ask(http: aiohttp.ClientSession, url: str, method: str = "GET", **headers: str) -> Answer:
    where = URL(url, encoded=True)
    async with http.request(method, where, headers=headers, allow_redirects=False) as response:
        said = response.headers.get("WWW-Authenticate", response.headers.get("Location", ""))
        return response.status, said, await response.text()


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


async def token(http: aiohttp.ClientSession, url: str, field: str = "token") -> str:
    status, _, body = await ask(http, url)
    assert status == 200, body
    return f"Bearer {json.loads(body)[field]}"


async def test_what_is_at_a_host_of_its_own_is_at_no_other(net: Internet, http: aiohttp.ClientSession) -> None:
    site = await Site.open(profiles.HUB, net)
    site.add_image("v1")
    status, challenge, _ = await ask(http, "https://registry-1.docker.io/v2/library/nginx/manifests/v1")
    assert status == 401
    assert challenge.startswith('Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="')
    query = "token?service=registry.docker.io&scope=repository:library/nginx:pull"
    assert (await ask(http, f"https://registry-1.docker.io/{query}"))[0] == 401
    assert (await ask(http, f"https://auth.docker.io/{query}"))[0] == 200
    assert (await ask(http, "https://auth.docker.io/v2/library/nginx/manifests/v1"))[0] == 404
    with pytest.raises(aiohttp.ClientConnectorDNSError):
        await ask(http, "https://index.docker.io/v2/")


async def test_storage_takes_no_credentials_and_says_so(net: Internet, http: aiohttp.ClientSession) -> None:
    site = await Site.open(profiles.MICROSOFT, net)
    digest = site.registry.add_blob("dotnet/runtime", b"layer")
    status, location, _ = await ask(http, f"https://mcr.microsoft.com/v2/dotnet/runtime/blobs/{digest}")
    assert (status, URL(location).host) == (307, "westeurope.data.mcr.microsoft.com")
    assert (await ask(http, location))[0] == 200
    assert (await ask(http, location, Authorization="Bearer x"))[0] == 400
    assert (await ask(http, "https://mcr.microsoft.com/v2/", Authorization=basic("a", "b")))[0] == 400
    assert len(site.breaches) == 2


@pytest.mark.parametrize(
    ("profile", "query", "status"),
    [
        (profiles.GHCR, "service=ghcr.io&scope=repository:owner/app:pull", 200),
        (profiles.GHCR, "service=ghcr.io&scope=repository:owner/app:pull,push", 403),
        (profiles.GHCR, "service=ghcr.io&scope=repository:user/image:pull", 200),
        (profiles.GHCR, "service=ghcr.io&scope=repository:owner/secret:pull", 403),
        (profiles.GHCR, "scope=repository:owner/app:pull", 400),
        (profiles.NVIDIA, "scope=repository:nvidia/cuda:pull", 200),
        (profiles.NVIDIA, "service=&scope=repository:nvidia/cuda:pull", 400),
        (profiles.ECR_PUBLIC, "service=public.ecr.aws&scope=aws", 200),
        (profiles.GITLAB, "service=registry.gitlab.com&scope=repository:group/project/app:pull", 400),
        (profiles.GITLAB, "service=container_registry&scope=repository:group/project/app:pull", 200),
    ],
)
async def test_a_token_service_gives_out_what_is_asked_for_rightly(
    net: Internet, http: aiohttp.ClientSession, profile: Profile, query: str, status: int
) -> None:
    site = await Site.open(profile, net)
    site.registry.auth.private["owner/secret"] = {"owner"}
    assert (await ask(http, f"{profile.auth['realm']}?{query}"))[0] == status
    assert (site.breaches == []) is (status == 200 or "secret" in query)


@pytest.mark.parametrize(
    ("profile", "status"), [(profiles.ACR, 400), (profiles.ARTIFACTORY, 401), (profiles.GCR, 404), (profiles.HUB, 400)]
)
async def test_a_token_service_may_know_no_post(
    net: Internet, http: aiohttp.ClientSession, profile: Profile, status: int
) -> None:
    await Site.open(profile, net)
    async with http.post(profile.auth["realm"], data={"grant_type": "password"}) as response:
        assert response.status == status


async def test_an_identity_token_is_taken_by_post(net: Internet, http: aiohttp.ClientSession) -> None:
    site = await Site.open(profiles.HUB, net)
    site.registry.auth.identity_tokens["refresh-me"] = "someone"
    form = {
        "grant_type": "refresh_token", "refresh_token": "refresh-me", "service": "registry.docker.io",
        "scope": "repository:library/nginx:pull", "client_id": "test",
    }  # fmt: skip
    async with http.post("https://auth.docker.io/token", data=form) as response:
        assert response.status == 200
    async with http.post("https://auth.docker.io/token", data={**form, "refresh_token": "wrong"}) as response:
        assert response.status == 401
    assert [(token.user, token.scopes) for token in site.registry.tokens] == [
        ("someone", ("repository:library/nginx:pull",))
    ]


async def test_ecr_public_is_particular(net: Internet, http: aiohttp.ClientSession) -> None:
    site = await Site.open(profiles.ECR_PUBLIC, net, signed_in=True)
    digest = site.registry.add_blob("docker/library/app", b"layer")
    blob = f"https://public.ecr.aws/v2/docker/library/app/blobs/{digest}"
    assert (await ask(http, blob, Authorization=basic("AWS", "canary-ecr-public")))[0] == 400
    site.registry.auth.private.clear()
    good = await token(
        http, "https://public.ecr.aws/token/?service=public.ecr.aws&scope=repository:docker/library/app:pull"
    )
    assert (await ask(http, blob, Authorization=good))[0] == 307
    assert (await ask(http, blob, "HEAD", Authorization=good))[0] == 401
    site.age()
    status, challenge, body = await ask(http, blob, Authorization=good)
    assert (status, challenge) == (400, "")
    assert "DENIED" in body


async def test_an_old_token_leads_astray_at_nvidias(net: Internet, http: aiohttp.ClientSession) -> None:
    site = await Site.open(profiles.NVIDIA, net)
    site.add_image("v1")
    url = "https://nvcr.io/v2/nvidia/cuda/manifests/v1"
    assert "https://nvcr.io/proxy_auth" in (await ask(http, url))[1]
    good = await token(http, "https://nvcr.io/proxy_auth?scope=repository:nvidia/cuda:pull")
    assert (await ask(http, url, Authorization=good))[0] == 200
    site.age()
    status, challenge, body = await ask(http, url, Authorization=good)
    assert (status, body[:6]) == (401, "<html>")
    assert "https://authn.nvidia.com/token" in challenge
    assert (await ask(http, "https://authn.nvidia.com/token?service=registry"))[0] == 401


async def test_a_challenge_may_have_to_be_fetched(net: Internet, http: aiohttp.ClientSession) -> None:
    for profile, status in ((profiles.GCR, 401), (profiles.ARTIFACTORY, 403)):
        site = await Site.open(profile, net)
        site.add_image("v1")
        assert (await ask(http, f"{site.registry.url}/v2/{profile.repo}/manifests/v1"))[:2] == (status, "")
        assert (await ask(http, f"{site.registry.url}/v2/"))[1].startswith("Bearer")


async def test_quay_sends_what_is_old_to_whoever_does_not_say_what_they_want(
    net: Internet, http: aiohttp.ClientSession
) -> None:
    site = await Site.open(profiles.QUAY, net)
    digest = site.add_image("v1")
    good = await token(http, "https://quay.io/v2/auth?service=quay.io&scope=repository:org/app:pull")
    url = "https://quay.io/v2/org/app/manifests/v1"
    assert json.loads((await ask(http, url, Authorization=good, Accept="*/*"))[2])["schemaVersion"] == 1
    assert len(site.breaches) == 1
    named = site.registry.manifest("org/app", str(digest))
    assert named is not None
    assert json.loads((await ask(http, url, Authorization=good, Accept=named.media_type))[2])["schemaVersion"] == 2


async def test_registry_k8s_io_sends_on_and_has_no_list_of_all(net: Internet, http: aiohttp.ClientSession) -> None:
    site = await Site.open(profiles.KUBERNETES, net)
    site.add_image("v1")
    status, location, _ = await ask(http, "https://registry.k8s.io/v2/pause/manifests/v1")
    assert (status, location) == (
        307, "https://us-west2-docker.pkg.dev/v2/k8s-artifacts-prod/images/pause/manifests/v1",
    )  # fmt: skip
    assert (await ask(http, location))[0] == 401
    assert (await ask(http, "https://registry.k8s.io/v2/_catalog"))[0] == 404


async def test_a_registry_below_a_path_is_nowhere_else(net: Internet, http: aiohttp.ClientSession) -> None:
    await Site.open(profiles.NEXUS, net)
    assert (await ask(http, "https://nexus.example/v2/"))[0] == 404
    assert (await ask(http, "https://nexus.example/repository/docker-group/v2/"))[0] == 401


async def test_an_ecr_password_that_has_ended_is_told_from_none(net: Internet, http: aiohttp.ClientSession) -> None:
    site = await Site.open(profiles.ECR, net, signed_in=True)
    ping = f"{site.registry.url}/v2/"
    assert (await ask(http, ping))[:2] == (401, 'Basic realm="fake registry"')
    assert (await ask(http, ping, Authorization=basic("AWS", "canary-ecr")))[0] == 200
    assert (await ask(http, ping, Authorization=basic("AWS", "yesterday's")))[0] == 403
