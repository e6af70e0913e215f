"""The fake upstream does what it says: what the other tests rest on."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sys
from typing import TYPE_CHECKING

import pytest
from aiohttp import ClientConnectionError, ClientPayloadError, ClientSession, DummyCookieJar
from yarl import URL

from mirror.oci.digest import Digest
from tests.fakes import faults
from tests.fakes.registry import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BROKEN = (ClientPayloadError, ClientConnectionError)


@pytest.fixture
async def up() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as fake:
        yield fake


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession(auto_decompress=False, cookie_jar=DummyCookieJar(), requote_redirect_url=False) as session:
        yield session


async def fetch(http: ClientSession, url: str, **headers: str) -> tuple[int, bytes]:
    async with http.get(URL(url, encoded=True), headers=headers) as response:
        return response.status, await response.read()


async def test_an_image_is_served_whole(up: FakeRegistry, http: ClientSession) -> None:
    digest = up.add_image("library/app", "v1", layers=[b"one", b"two"])
    async with http.get(f"{up.url}/v2/library/app/manifests/v1") as response:
        assert Digest.of(await response.read()) == digest
        assert response.headers["Docker-Content-Digest"] == str(digest)
    for blob in up.blobs_of("library/app", digest):
        assert Digest.of((await fetch(http, f"{up.url}/v2/library/app/blobs/{blob}"))[1]) == blob
    assert up.count(kind="manifest", method="GET") == 1
    assert up.bytes_of(Digest.of(b"one")) == 3
    assert not any(record.aborted for record in up.requests)


async def test_a_head_has_the_headers_and_no_body(up: FakeRegistry, http: ClientSession) -> None:
    digest = up.add_image("app", "v1")
    async with http.head(f"{up.url}/v2/app/manifests/v1") as response:
        assert response.headers["Docker-Content-Digest"] == str(digest)
        assert int(response.headers["Content-Length"]) == up.shelf("app").manifests[str(digest)].content.size
    assert up.requests[-1].bytes_sent == 0


@pytest.mark.parametrize("fast", [True, False])
async def test_a_pattern_is_what_its_digest_says_from_any_offset(
    up: FakeRegistry, http: ClientSession, *, fast: bool
) -> None:
    up.fast = fast
    size = (3 << 20) + 12345
    digest = up.add_pattern_blob("big", size, seed=7)
    url = f"{up.url}/v2/big/blobs/{digest}"
    _, whole = await fetch(http, url)
    assert Digest.of(whole) == digest
    for start, stop in ((0, 5), ((1 << 20) - 3, (1 << 20) + 9), (2 << 20, size), (3, 1 << 20)):
        assert await fetch(http, url, Range=f"bytes={start}-{stop - 1}") == (206, whole[start:stop])
    assert await fetch(http, url, Range="bytes=-10") == (206, whole[-10:])
    assert (await fetch(http, url, Range=f"bytes={size}-"))[0] == 416


async def test_a_token_is_asked_for_and_good_for_its_repository_only(up: FakeRegistry, http: ClientSession) -> None:
    up.auth.mode = "bearer"
    up.auth.users = {"u": "p"}
    up.auth.private = {"mine": {"u"}}
    up.add_image("theirs", "v1")
    up.add_image("mine", "v1")
    async with http.get(f"{up.url}/v2/theirs/manifests/v1") as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith(f'Bearer realm="{up.url}/token",service="fake-registry"')
    _, body = await fetch(http, f"{up.url}/token?service=fake-registry&scope=repository:theirs:pull")
    token = f"Bearer {json.loads(body)['token']}"
    assert (await fetch(http, f"{up.url}/v2/theirs/manifests/v1", Authorization=token))[0] == 200
    assert (await fetch(http, f"{up.url}/v2/mine/manifests/v1", Authorization=token))[0] == 401
    basic = "Basic " + base64.b64encode(b"u:p").decode()
    _, body = await fetch(http, f"{up.url}/token?scope=repository:mine:pull", Authorization=basic)
    token = f"Bearer {json.loads(body)['token']}"
    assert (await fetch(http, f"{up.url}/v2/mine/manifests/v1", Authorization=token))[0] == 200
    wrong = "Basic " + base64.b64encode(b"u:no").decode()
    assert (await fetch(http, f"{up.url}/token?scope=repository:mine:pull", Authorization=wrong))[0] == 401
    up.auth.revoke()
    assert (await fetch(http, f"{up.url}/v2/mine/manifests/v1", Authorization=token))[0] == 401
    assert [token.user for token in up.tokens] == [None, "u"]


async def test_a_redirect_is_good_once_as_it_is_and_refuses_credentials(up: FakeRegistry, http: ClientSession) -> None:
    up.redirect_blobs = True
    digest = up.add_blob("app", b"content")
    async with http.get(f"{up.url}/v2/app/blobs/{digest}", allow_redirects=False) as response:
        location = response.headers["Location"]
    assert not location.startswith(up.url)
    assert await fetch(http, location) == (200, b"content")
    assert (await fetch(http, str(URL(location))))[0] == 403  # quoted again: not what was signed
    assert (await fetch(http, location, Authorization="Bearer x"))[0] == 400
    assert up.authorized_storage_requests == 1
    up.expire_signatures()
    assert (await fetch(http, location))[0] == 403
    assert up.bytes_of(digest) >= 7


async def test_faults_befall_the_requests_that_they_name(up: FakeRegistry, http: ClientSession) -> None:
    digest = up.add_blob("app", b"0123456789")
    url = f"{up.url}/v2/app/blobs/{digest}"
    rule = up.fault(kind="blob", after=1, times=1, then=faults.Status(429, code="TOOMANYREQUESTS", retry_after=7))
    up.fault(kind="manifest", then=faults.Status(500))
    assert [(await fetch(http, url))[0] for _ in range(3)] == [200, 429, 200]
    assert rule.fired == 1
    up.fault(kind="blob", then=faults.Html())
    assert (await fetch(http, url))[1].startswith(b"<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("fault", "header", "expected"),
    [
        (faults.Cut(at_byte=4), None, BROKEN),
        (faults.Cut(at_byte=0), None, BROKEN),
        (faults.Cut(at_byte=4), "bytes=6-", (206, b"6789")),
        (faults.Corrupt(at_byte=4), None, (200, b"0123\xcb56789")),
        (faults.Truncate(at_byte=4), None, (200, b"0123")),
        (faults.Truncate(at_byte=4, chunked=True), None, (200, b"0123")),
        (faults.Extend(2), None, (200, b"0123456789\0\0")),
        (faults.WrongLength(-2), None, (200, b"01234567")),
        (faults.WrongLength(2), None, BROKEN),
        (faults.NoLength(), None, (200, b"0123456789")),
        (faults.NoRange(), "bytes=6-", (200, b"0123456789")),
        (faults.WrongRange(), "bytes=6-7", (206, b"67")),
        (faults.Drop(), None, BROKEN),
        (faults.Delay(0.001), None, (200, b"0123456789")),
    ],
    ids=str,
)
async def test_a_fault_is_exact(
    up: FakeRegistry,
    http: ClientSession,
    fault: faults.Fault,
    header: str | None,
    expected: tuple[int, bytes] | tuple[type[Exception], ...],
) -> None:
    url = f"{up.url}/v2/app/blobs/{up.add_blob('app', b'0123456789')}"
    up.fault(kind="blob", then=fault)
    headers = {"Range": header} if header else {}
    if expected is BROKEN:
        with pytest.raises(BROKEN):
            await fetch(http, url, **headers)
        await up.idle()
        assert up.requests[-1].aborted
    else:
        assert await fetch(http, url, **headers) == expected


async def test_a_gate_holds_until_it_is_opened(up: FakeRegistry, http: ClientSession) -> None:
    gate = asyncio.Event()
    digest = up.add_blob("app", b"0123456789")
    up.fault(kind="blob", then=faults.Gate(gate, at_byte=4))
    async with http.get(f"{up.url}/v2/app/blobs/{digest}") as response:
        assert await response.content.readexactly(4) == b"0123"
        assert up.requests[-1].bytes_sent == 4
        assert not up.requests[-1].done
        gate.set()
        assert await response.read() == b"456789"


@pytest.mark.parametrize("fault", [faults.Hang(), faults.Stall(at_byte=3)], ids=str)
async def test_a_client_that_leaves_is_noted(up: FakeRegistry, http: ClientSession, fault: faults.Fault) -> None:
    digest = up.add_blob("app", b"0123456789")
    up.fault(kind="blob", then=fault)
    asked = asyncio.create_task(fetch(http, f"{up.url}/v2/app/blobs/{digest}"))
    record = await up.seen(kind="blob")
    asked.cancel()
    await record.over()
    assert record.aborted


async def test_it_comes_back_on_the_same_ports(up: FakeRegistry, http: ClientSession) -> None:
    up.add_image("app", "v1")
    url = f"{up.url}/v2/app/manifests/v1"
    await up.stop()
    with pytest.raises(ClientConnectionError):
        await fetch(http, url)
    await up.start()
    assert (await fetch(http, url))[0] == 200


async def test_lists_come_in_pages(up: FakeRegistry, http: ClientSession) -> None:
    digest = up.add_image("app", "v1")
    for tag in ("v2", "v3"):
        up.retag("app", tag, digest)
    for number in range(3):
        up.add_artifact("app", digest, b"%d" % number, artifact_type="application/x-sig")
    up.page_limit = 2
    async with http.get(f"{up.url}/v2/app/tags/list") as response:
        assert (await response.json())["tags"] == ["v1", "v2"]
        assert response.headers["Link"] == '</v2/app/tags/list?n=2&last=v2>; rel="next"'
    async with http.get(f"{up.url}/v2/app/referrers/{digest}") as response:
        assert len(json.loads(await response.read())["manifests"]) == 2
        assert 'page=2>; rel="next"' in response.headers["Link"]
    up.referrers_api = False
    assert (await fetch(http, f"{up.url}/v2/app/referrers/{digest}"))[0] == 404


async def test_the_speed_is_what_was_set(up: FakeRegistry, http: ClientSession) -> None:
    up.rate_total = 8 << 20
    digest = up.add_pattern_blob("app", 1 << 20)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    url = f"{up.url}/v2/app/blobs/{digest}"
    bodies = await asyncio.gather(fetch(http, url), fetch(http, url))
    assert loop.time() - begun >= 0.2
    assert all(Digest.of(body) == digest for _, body in bodies)
    assert up.connections_peak == 2


async def test_it_runs_as_a_process(tmp_path: Path, http: ClientSession) -> None:
    spec = tmp_path / "spec.json"
    images = [{"repo": "library/two", "tag": "v1", "layers": [1 << 20, 300]}]
    spec.write_text(json.dumps({"images": images, "limit": {"limit": 7, "window": 60}}))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fakes.registry", "--config", str(spec), "--until-eof",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    said = json.loads(await process.stdout.readline())
    layer = said["digests"]["library/two:v1#0"]
    _, body = await fetch(http, f"{said['url']}/v2/library/two/blobs/{layer}")
    assert f"sha256:{hashlib.sha256(body).hexdigest()}" == layer
    async with http.get(f"{said['url']}/_stats") as response:
        assert (await response.json())["bytes"] == {layer: 1 << 20}
    async with http.head(f"{said['url']}/v2/library/two/manifests/v1") as response:
        assert response.headers["ratelimit-remaining"] == "7;w=60"
    process.stdin.close()
    assert await process.wait() == 0
