"""The mirror as an upstream of a mirror: a site's asks a region's, and two that ask each other find it out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from mirror.oci.digest import Digest
from tests.fakes import profiles
from tests.fakes.site import Site

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.internet import Internet
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, Mirror, StartMirror


class StartAt(Protocol):
    """Starts a mirror with a store of its own."""

    async def __call__(self, name: str, upstreams: dict[str, Any], **sections: Any) -> Mirror: ...


@pytest.fixture
def start_at(start: StartMirror, tmp_path: Path) -> StartAt:
    async def begin(name: str, upstreams: dict[str, Any], **sections: Any) -> Mirror:
        return await start(upstreams, storage={"path": str(tmp_path / name)}, **sections)

    return begin


async def test_a_site_pulls_through_its_regions_mirror(start_at: StartAt, net: Internet) -> None:
    hub, quay = await Site.open(profiles.HUB, net), await Site.open(profiles.QUAY, net)
    far = await start_at("far", {"docker.io": hub.configured, "quay.io": quay.configured})
    near = await start_at("near", {"docker.io": {"url": far.url}, "quay.io": {"url": f"{far.url}/quay.io"}})
    for site, asked in ((hub, "nginx"), (hub, "library/nginx"), (quay, "quay.io/org/app")):
        digest = site.add_image("v1")
        replies = {f"manifests/{digest}": await near.get(f"/v2/{asked}/manifests/v1")}
        for what in site.expected(digest):
            replies[what] = await near.get(f"/v2/{asked}/{what}")
        await near.settled()
        for what, (media_type, body) in site.expected(digest).items():
            assert (replies[what].status, replies[what].body) == (200, body)
            assert replies[what].headers["Content-Type"] == media_type or not media_type
    assert hub.breaches + quay.breaches == []
    # What the far one has been asked once, it has: a second site costs the uplink nothing.
    before = len(hub.requests) + len(quay.requests)
    other = await start_at("other", {"quay.io": {"url": f"{far.url}/quay.io"}}, default_upstream="quay.io")
    assert {reply.status for reply in await other.pull("org/app", "v1")} == {200}
    assert len(hub.requests) + len(quay.requests) == before


async def test_each_mirror_says_what_it_did_itself(start_at: StartAt, upstream: FakeRegistry) -> None:
    upstream.add_image("org/app", "v1")
    far = await start_at("far", {"docker.io": upstream})
    near = await start_at("near", {"docker.io": {"url": far.url}})
    await far.get("/v2/org/app/manifests/v1")
    first = await near.get("/v2/org/app/manifests/v1?ns=docker.io")
    assert first.cache == "registry-mirror; fwd=uri-miss; fwd-status=200; stored"
    assert first.headers["OCI-Namespace"] == "docker.io"
    assert (await near.get("/v2/org/app/manifests/v1")).cache == "registry-mirror; hit"


@pytest.mark.usefixtures("impatient")
async def test_what_the_far_mirror_still_has_is_had_when_its_upstream_is_away(
    start_at: StartAt, upstream: FakeRegistry, clock: Clock
) -> None:
    upstream.add_image("org/app", "v1", layers=[b"x" * 100_000])
    far = await start_at("far", {"docker.io": upstream})
    near = await start_at("near", {"docker.io": {"url": far.url}})
    await far.pull("org/app", "v1")
    await upstream.stop()
    clock.advance(86_400)
    assert (await far.get("/v2/org/app/manifests/v1")).headers["Warning"].startswith("299")
    assert {reply.status for reply in await near.pull("org/app", "v1")} == {200}


async def test_what_the_far_mirror_refuses_is_refused_in_its_words(start_at: StartAt, upstream: FakeRegistry) -> None:
    far = await start_at("far", {"docker.io": upstream})
    near = await start_at("near", {"docker.io": {"url": far.url}, "quay.io": {"url": f"{far.url}/quay.io"}})
    missing = await near.get("/v2/org/app/manifests/v1")
    assert (missing.status, missing.code) == (404, "MANIFEST_UNKNOWN")
    strange = await near.get("/v2/quay.io/org/app/manifests/v1")
    assert (strange.status, strange.code) == (404, "MANIFEST_UNKNOWN")
    assert "quay.io is not mirrored here" in strange.message


@pytest.mark.parametrize("what", ["manifests/v1", f"blobs/{Digest.of(b'x')}", "tags/list"])
@pytest.mark.parametrize("between", [0, 1])
async def test_mirrors_that_ask_each_other_find_it_out_at_once(
    *, start_at: StartAt, net: Internet, between: int, what: str
) -> None:
    first = await start_at("first", {"docker.io": {"url": "http://last.mirror.test"}})
    last = first
    for number in range(between + 1):
        last = await start_at(f"next {number}", {"docker.io": {"url": last.url}})
    net.route("last.mirror.test", int(last.url.rpartition(":")[2]), at=80)
    async with asyncio.timeout(5):
        reply = await first.get(f"/v2/org/app/{what}")
    assert reply.status == (404 if what.startswith("blobs") else 503)
    assert "this request came from this very mir" in reply.message  # quoted as far as it goes


async def test_what_a_client_says_of_its_way_is_not_passed_on_unless_mirrors_were_on_it(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    mirror = await start(upstream)
    await mirror.get("/v2/org/app/manifests/v1", Via="1.1 squid.internal, 1.1 registry-mirror-0123456789abcdef")
    named = upstream.requests[0].headers["Via"].split(", ")
    assert named[0] == "1.1 registry-mirror-0123456789abcdef"
    assert len(named) == 2
    # The next request on the same connection has a way of its own.
    await mirror.get("/v2/org/app/manifests/v2")
    assert upstream.requests[-1].headers["Via"] == named[1]


async def test_a_way_without_end_is_a_circle(start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream)
    way = ", ".join(f"1.1 registry-mirror-{number:016x}" for number in range(17))
    reply = await mirror.get("/v2/org/app/manifests/v1", Via=way)
    assert (reply.status, upstream.requests) == (508, [])
