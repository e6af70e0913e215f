"""Registries, documents and disks that are not what they should be: nothing leaks, nothing wedges, nothing is lost."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import pytest
from aiohttp import web

from mirror.errors import NoSpace
from mirror.oci.digest import Digest
from mirror.server import send
from tests.fakes.faults import Status
from tests.fakes.library import OCI_INDEX, OCI_MANIFEST
from tests.flow.test_private import sign_in

if TYPE_CHECKING:
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, StartMirror

pytestmark = pytest.mark.usefixtures("impatient")

REPO = "library/app"


class Liar:
    """A registry that confirms whatever it is asked for, and has none of it."""

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        reference = request.path.rsplit("/", 1)[1]
        if request.method == "HEAD":
            said = {"Docker-Content-Digest": reference, "Content-Type": OCI_MANIFEST, "Content-Length": "10"}
            return web.Response(headers=said)
        if "/manifests/" in request.path:
            return web.Response(status=404)
        if request.headers.get("Range") == "bytes=0-0":
            return web.Response(status=206, body=b"x", headers={"Content-Range": "bytes 0-0/99"})
        return web.Response(body=b"garbage")


@pytest.mark.parametrize("body", [b"a private secret", b"a private secret" * 20_000], ids=["small", "large"])
async def test_a_registry_that_lies_is_shown_nothing_of_another_ones(
    body: bytes, start: StartMirror, upstream: FakeRegistry
) -> None:
    upstream.auth.private["org/private"] = {"alice"}
    image = upstream.add_image("org/private", "v1", layers=[body])
    later = body + b", and more of it"
    upstream.add_image("org/private", "v2", layers=[later])
    async with Liar() as liar:
        mirror = await start({"docker.io": sign_in(upstream), "liar.example": {"url": liar.url}})
        await mirror.pull("org/private", "v1")
        assert (await mirror.get(f"/v2/liar.example/x/manifests/{image}")).status == 404
        assert (await mirror.get(f"/v2/liar.example/x/blobs/{Digest.of(body)}")).status == 404
        # It may not get a foot in the door either, before the content is here.
        assert (await mirror.get(f"/v2/liar.example/y/blobs/{Digest.of(later)}")).status == 404
        await mirror.settled()
        mirror.server.cache.fills._refused.clear()
        await mirror.pull("org/private", "v2")
        await mirror.settled()
        assert (await mirror.get(f"/v2/liar.example/y/blobs/{Digest.of(later)}")).status == 404
    assert (await mirror.get(f"/v2/liar.example/y/blobs/{Digest.of(later)}")).status == 404
    assert (await mirror.get(f"/v2/org/private/blobs/{Digest.of(later)}")).body == later


async def test_an_honest_registry_proves_what_it_has_by_sending_it(
    start: StartMirror, upstream: FakeRegistry, other: FakeRegistry
) -> None:
    body = b"a layer that both have" * 10_000
    upstream.add_image(REPO, "v1", layers=[body])
    other.add_image(REPO, "v1", layers=[body])
    private = sign_in(upstream)
    mirror = await start({"docker.io": private, "other.example": {"url": other.url}})
    await mirror.pull(REPO, "v1")
    for _ in range(2):
        assert (await mirror.get(f"/v2/other.example/{REPO}/blobs/{Digest.of(body)}")).body == body
    assert other.bytes_of(Digest.of(body)) == len(body)


async def test_an_index_of_indexes_costs_no_more_than_what_it_holds(
    start: StartMirror, upstream: FakeRegistry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each level names the next one 100 times: looked through once, it has five manifests."""
    config = upstream.add_blob(REPO, b"{}")
    image: dict[str, Any] = {"mediaType": "application/json", "digest": str(config), "size": 2}
    digest = upstream.add_manifest(
        REPO, {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": image, "layers": []}, OCI_MANIFEST
    )
    chain, kind = [digest], OCI_MANIFEST
    for level in range(4):
        children = [{"mediaType": kind, "digest": str(digest), "size": 100 + number} for number in range(100)]
        body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}
        digest = upstream.add_manifest(REPO, body, OCI_INDEX, tag="deep" if level == 3 else None)
        chain.append(digest)
        kind = OCI_INDEX
    mirror = await start(upstream)
    for one in chain:
        await mirror.get(f"/v2/{REPO}/manifests/{one}")
    await mirror.get(f"/v2/{REPO}/manifests/deep")
    clock.advance(3600)
    completeness = mirror.server.cache.manifests._completeness
    looks = 0
    real = completeness._memory.read

    async def counted(digest: Digest) -> bytes | None:
        nonlocal looks
        looks += 1
        return await real(digest)

    monkeypatch.setattr(completeness._memory, "read", counted)
    assert (await mirror.get(f"/v2/{REPO}/manifests/deep")).status == 200
    assert looks < 20


async def test_a_disk_that_fails_in_mid_transfer_breaks_it_off(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = os.urandom(12 * 1024 * 1024)
    upstream.add_image(REPO, "v1", layers=[body])
    mirror = await start(upstream)
    await mirror.pull(REPO, "v1")
    await mirror.settled()
    real = send._read_in

    def fail(fd: int, start: int, stop: int) -> None:
        if start > 0:
            raise OSError(errno.EIO, "Input/output error")
        real(fd, start, stop)

    monkeypatch.setattr(send, "_read_in", fail)
    monkeypatch.setattr(send, "_resident", lambda *_: False)
    got = bytearray()
    with pytest.raises(aiohttp.ClientError):  # noqa: PT012  # the header is right, the body breaks
        async with mirror.session.get(f"{mirror.url}/v2/{REPO}/blobs/{Digest.of(body)}") as response:
            async for piece in response.content.iter_any():
                got += piece
    assert bytes(got) == body[: len(got)]


async def test_a_tag_is_not_dropped_because_its_new_digest_is_not_there_yet(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    old = upstream.add_image(REPO, "v1", layers=[b"old"])
    mirror = await start(upstream)
    await mirror.pull(REPO, "v1")
    new = upstream.add_image(REPO, "v1", layers=[b"new"])
    upstream.fault(kind="manifest", method="GET", digest=new, then=Status(404))
    clock.advance(3600)
    reply = await mirror.get(f"/v2/{REPO}/manifests/v1")
    assert (reply.status, reply.headers["Docker-Content-Digest"]) == (200, str(old))
    assert reply.headers["Warning"].startswith("299")
    upstream.heal()
    mirror.server.cache.manifests._negative.clear()
    assert (await mirror.get(f"/v2/{REPO}/manifests/v1")).headers["Docker-Content-Digest"] == str(new)


async def test_a_full_disk_keeps_nobody_from_what_upstream_says_of_a_tag(
    start: StartMirror, upstream: FakeRegistry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.add_image(REPO, "same", layers=[b"same"])
    upstream.add_image(REPO, "moves", layers=[b"old"])
    mirror = await start(upstream)
    for tag in ("same", "moves"):
        await mirror.get(f"/v2/{REPO}/manifests/{tag}")
    new = upstream.add_image(REPO, "moves", layers=[b"new"])
    clock.advance(3600)

    async def full(*_: object) -> None:
        raise NoSpace("the disk is full")

    monkeypatch.setattr(mirror.server.store.index, "apply", full)
    assert (await mirror.get(f"/v2/{REPO}/manifests/same")).status == 200
    reply = await mirror.get(f"/v2/{REPO}/manifests/moves")
    assert (reply.status, reply.headers["Docker-Content-Digest"]) == (200, str(new))
    assert "Warning" not in reply.headers


async def test_a_full_disk_keeps_nobody_from_a_layer_that_is_here(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = b"shared" * 30_000
    upstream.add_image(REPO, "v1", layers=[shared])
    upstream.add_image("org/other", "v1", layers=[shared])
    mirror = await start(upstream)
    await mirror.pull(REPO, "v1")
    await mirror.settled()
    await mirror.get("/v2/org/other/manifests/v1")

    async def full(*_: object) -> None:
        raise NoSpace("the disk is full")

    monkeypatch.setattr(mirror.server.store.index, "apply", full)
    assert (await mirror.get(f"/v2/org/other/blobs/{Digest.of(shared)}")).body == shared
