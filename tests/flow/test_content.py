"""Manifests and blobs over HTTP, as the distribution specification and RFC 9110 have it (the acceptance list)."""

from __future__ import annotations

import asyncio
import re
from email import message_from_bytes, policy
from typing import TYPE_CHECKING

import pytest
from yarl import URL

from mirror.oci.digest import Digest
from tests.fakes.faults import Corrupt, Gate, Headers, NoLength, NoRange, Status
from tests.fakes.library import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST

if TYPE_CHECKING:
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Mirror, Reply, StartMirror

REPO = "library/app"
SMALL = bytes(range(256)) * 8  # 2,048 bytes: held in memory once it is cached
LARGE = bytes(range(251)) * 1200  # 301,200 bytes: sent from disk
DYNAMIC = {"date", "x-request-id", "cache-status"}


@pytest.fixture
async def mirror(start: StartMirror, upstream: FakeRegistry) -> Mirror:
    return await start(upstream)


def stable(reply: Reply) -> dict[str, str]:
    return {name.lower(): value for name, value in reply.headers.items() if name.lower() not in DYNAMIC}


async def warmed(mirror: Mirror, path: str) -> Reply:
    reply = await mirror.get(path)
    await mirror.settled()
    return reply


@pytest.mark.parametrize("first", ["GET", "HEAD"])
@pytest.mark.parametrize("kind", ["tag", "digest", "index", "small blob", "large blob", "empty blob"])
async def test_head_is_get_without_the_body_cold_and_warm(
    mirror: Mirror, upstream: FakeRegistry, kind: str, first: str
) -> None:
    image = upstream.add_image(REPO, "v1", layers=[SMALL, LARGE, b""])
    index = upstream.add_index(REPO, "all", manifests=[image])
    path = {
        "tag": "manifests/v1",
        "digest": f"manifests/{image}",
        "index": f"manifests/{index}",
        "small blob": f"blobs/{Digest.of(SMALL)}",
        "large blob": f"blobs/{Digest.of(LARGE)}",
        "empty blob": f"blobs/{Digest.of(b'')}",
    }[kind]
    replies = {"GET": [], "HEAD": []}  # type: dict[str, list[Reply]]
    for method in (first, "GET", "HEAD", "GET", "HEAD"):
        replies[method].append(await mirror.ask(method, f"/v2/{REPO}/{path}"))
        await mirror.settled()
    whole = replies["GET"][0]
    assert whole.status == 200
    assert len(whole.body) == int(whole.headers["Content-Length"])
    assert whole.headers["Docker-Content-Digest"] == str(Digest.of(whole.body))
    assert whole.headers["ETag"] == f'"{Digest.of(whole.body)}"'
    assert whole.headers["Accept-Ranges"] == "bytes"
    for reply in replies["GET"]:
        assert (reply.status, reply.body, stable(reply)) == (200, whole.body, stable(whole))
    for reply in replies["HEAD"]:
        assert (reply.status, reply.body, stable(reply)) == (200, b"", stable(whole))


async def test_a_head_fetches_no_blob(mirror: Mirror, upstream: FakeRegistry) -> None:
    """Some registries answer each HEAD of a blob with 401: the size is in the manifest."""
    upstream.add_image(REPO, "v1", layers=[LARGE])
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    reply = await mirror.head(f"/v2/{REPO}/blobs/{Digest.of(LARGE)}")
    assert (reply.status, reply.headers["Content-Length"]) == (200, str(len(LARGE)))
    assert upstream.count(kind="blob") == 0
    unnamed = upstream.add_blob(REPO, SMALL)
    reply = await mirror.head(f"/v2/{REPO}/blobs/{unnamed}")
    assert (reply.status, reply.headers["Content-Length"]) == (200, str(len(SMALL)))
    assert [(record.method, record.range) for record in upstream.log.matching(kind="blob")] == [("GET", "bytes=0-0")]


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST])
@pytest.mark.parametrize("spelt", ["{}", "{}; charset=utf-8", "{};foo=bar"])
async def test_a_media_type_goes_out_as_it_came_but_without_parameters(
    mirror: Mirror, upstream: FakeRegistry, media_type: str, spelt: str
) -> None:
    upstream.add_image(REPO, "v1", docker=media_type == DOCKER_MANIFEST)
    upstream.fault(then=Headers({"Content-Type": spelt.format(media_type)}))
    for _ in range(2):
        assert (await mirror.get(f"/v2/{REPO}/manifests/v1")).headers["Content-Type"] == media_type


@pytest.mark.parametrize(("docker", "media_type"), [(True, DOCKER_LIST), (False, OCI_INDEX)])
async def test_an_index_is_served_whatever_the_client_accepts(
    mirror: Mirror, upstream: FakeRegistry, media_type: str, *, docker: bool
) -> None:
    index = upstream.add_index(REPO, "v1", manifests=[upstream.add_image(REPO)], docker=docker)
    for accept in ("*/*", OCI_MANIFEST, "text/html", "application/vnd.docker.distribution.manifest.v1+json"):
        reply = await mirror.get(f"/v2/{REPO}/manifests/v1", Accept=accept)
        assert (reply.status, reply.headers["Content-Type"]) == (200, media_type)
        assert Digest.of(reply.body) == index
    assert upstream.count(kind="manifest", method="GET") == 1


async def test_a_manifest_goes_out_byte_for_byte(mirror: Mirror, upstream: FakeRegistry) -> None:
    odd = (
        b'{ "schemaVersion" :2,\r\n\t"mediaType": "application\\/vnd.oci.image.manifest.v1+json",'
        b'"layers":[],"unknown":{"x":1.0e2},"annotations":{"a":"\xc3\xa9\\u00e9"}}\n\n'
    )
    digest = upstream.add_manifest(REPO, odd, tag="odd")
    for reference in ("odd", digest, "odd"):
        assert (await mirror.get(f"/v2/{REPO}/manifests/{reference}")).body == odd


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_every_registered_digest_algorithm_is_served(
    mirror: Mirror, upstream: FakeRegistry, algorithm: str
) -> None:
    blob = upstream.add_blob(REPO, LARGE, algorithm=algorithm)
    config = upstream.add_blob(REPO, b"{}", algorithm=algorithm)
    body = {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/json", "digest": str(config), "size": 2},
        "layers": [{"mediaType": "application/x", "digest": str(blob), "size": len(LARGE)}],
    }  # fmt: skip
    image = upstream.add_manifest(REPO, body, tag="v1", algorithm=algorithm)
    for _ in range(2):
        for reference in ("v1", image):
            reply = await mirror.get(f"/v2/{REPO}/manifests/{reference}")
            assert (reply.status, reply.headers["Docker-Content-Digest"]) == (200, str(image))
        reply = await warmed(mirror, f"/v2/{REPO}/blobs/{blob}")
        assert (reply.body, reply.headers["Docker-Content-Digest"]) == (LARGE, str(blob))
    assert upstream.count(kind="blob") == 1


async def test_upstreams_encoding_is_not_passed_on(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.add_image(REPO, "v1", layers=[LARGE])
    upstream.fault(then=Headers({"Content-Encoding": "identity", "Vary": "Accept", "Docker-X": "1"}))
    for path in ("manifests/v1", f"blobs/{Digest.of(LARGE)}"):
        for method in ("GET", "HEAD"):
            reply = await mirror.ask(method, f"/v2/{REPO}/{path}", Accept_Encoding="zstd, gzip, deflate")
            for name in ("Content-Encoding", "Transfer-Encoding", "Vary", "Docker-X"):
                assert name not in reply.headers
    assert all(record.headers["Accept-Encoding"] == "identity" for record in upstream.requests)


@pytest.mark.parametrize("kind", ["manifest", "small blob", "large blob"])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
async def test_conditional_requests(mirror: Mirror, upstream: FakeRegistry, kind: str, *, warm: bool) -> None:
    image = upstream.add_image(REPO, "v1", layers=[SMALL, LARGE])
    path, digest = {
        "manifest": (f"/v2/{REPO}/manifests/v1", image),
        "small blob": (f"/v2/{REPO}/blobs/{Digest.of(SMALL)}", Digest.of(SMALL)),
        "large blob": (f"/v2/{REPO}/blobs/{Digest.of(LARGE)}", Digest.of(LARGE)),
    }[kind]
    if warm:
        await warmed(mirror, path)
    elsewhere = Digest.of(b"other")
    for method in ("GET", "HEAD"):
        for header, expected in (
            ({"If_None_Match": f'"{digest}"'}, 304),
            ({"If_None_Match": f'"x", W/"{digest}"'}, 304),
            ({"If_None_Match": "*"}, 304),
            ({"If_None_Match": f'"{elsewhere}"'}, 200),
            ({"If_Match": f'"{digest}"'}, 200),
            ({"If_Match": f'"{elsewhere}"'}, 412),
            ({}, 200),
        ):
            reply = await mirror.ask(method, path, **header)
            assert reply.status == expected, (method, header)
            assert reply.headers["ETag"] == f'"{digest}"'
            assert reply.cache.startswith("registry-mirror")
            assert (reply.body != b"") == (method == "GET" and expected == 200)


# RFC 9110 §14, and what the conformance suite asks for.
SPANS = [
    ("bytes=0-", 0, None),
    ("bytes=500-1499", 500, 1500),
    ("bytes=500-", 500, None),
    ("bytes=-500", -500, None),
    ("bytes=0-0", 0, 1),
    ("bytes=-1", -1, None),
    ("bytes=1000-999999999", 1000, None),
    ("bytes=-999999999", 0, None),
    ("Bytes=5-6", 5, 7),
]


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(("header", "begin", "end"), SPANS)
async def test_a_range_of_a_blob(
    *, mirror: Mirror, upstream: FakeRegistry, body: bytes, header: str, begin: int, end: int | None, warm: bool
) -> None:
    upstream.add_image(REPO, "v1", layers=[body])
    path = f"/v2/{REPO}/blobs/{Digest.of(body)}"
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    if warm:
        await warmed(mirror, path)
    reply = await mirror.get(path, Range=header)
    expected = body[begin:end]
    first = begin if begin >= 0 else len(body) + begin
    assert reply.status == 206
    assert reply.body == expected
    assert reply.headers["Content-Range"] == f"bytes {first}-{first + len(expected) - 1}/{len(body)}"
    assert reply.headers["Content-Length"] == str(len(expected))
    assert reply.headers["Docker-Content-Digest"] == str(Digest.of(body))


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("header", ["bytes=999999999-", "bytes=999999999-9999999999", "bytes=-0", "bytes=500-0"])
async def test_a_range_past_the_end_is_416_with_the_size(
    mirror: Mirror, upstream: FakeRegistry, body: bytes, header: str, *, warm: bool
) -> None:
    upstream.add_image(REPO, "v1", layers=[body])
    path = f"/v2/{REPO}/blobs/{Digest.of(body)}"
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    if warm:
        await warmed(mirror, path)
    reply = await mirror.get(path, Range=header)
    assert (reply.status, reply.code) == (416, "SIZE_INVALID")
    assert reply.headers["Content-Range"] == f"bytes */{len(body)}"
    await mirror.settled()
    assert (await mirror.get(path)).body == body


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    "header", ["nonsense", "bytes", "bytes=", "bytes=a-b", "bytes=--1", "items=0-5", "bytes=0-1;2", "bytes=0x1-2"]
)
async def test_a_range_that_makes_no_sense_is_ignored(
    mirror: Mirror, upstream: FakeRegistry, body: bytes, header: str, *, warm: bool
) -> None:
    upstream.add_image(REPO, "v1", layers=[body])
    path = f"/v2/{REPO}/blobs/{Digest.of(body)}"
    if warm:
        await warmed(mirror, path)
    reply = await mirror.get(path, Range=header)
    assert (reply.status, reply.body) == (200, body)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
async def test_several_ranges_come_as_multipart(
    mirror: Mirror, upstream: FakeRegistry, body: bytes, *, warm: bool
) -> None:
    """Podman's partial pulls of zstd:chunked layers count the parts."""
    upstream.add_image(REPO, "v1", layers=[body])
    path = f"/v2/{REPO}/blobs/{Digest.of(body)}"
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    if warm:
        await warmed(mirror, path)
    reply = await mirror.get(path, Range="bytes=0-9, 100-199,-5, 999999999-")
    assert reply.status == 206
    assert len(reply.body) == int(reply.headers["Content-Length"])
    kind = reply.headers["Content-Type"]
    assert re.fullmatch(r"multipart/byteranges; boundary=\w+", kind)
    message = message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + reply.body, policy=policy.HTTP)
    parts = [(part["Content-Range"], part.get_payload(decode=True)) for part in message.iter_parts()]  # type: ignore[attr-defined]
    size = len(body)
    assert [head for head, _ in parts] == [
        f"bytes {a}-{b}/{size}" for a, b in ((0, 9), (100, 199), (size - 5, size - 1))
    ]
    boundary = kind.partition("=")[2].encode()
    for head, content in ((parts[0][0], body[:10]), (parts[1][0], body[100:200]), (parts[2][0], body[-5:])):
        assert b"Content-Range: " + head.encode() + b"\r\n\r\n" + content + b"\r\n--" + boundary in reply.body


@pytest.mark.parametrize("header", [f"bytes={','.join(['0-'] * 2000)}", f"bytes={','.join(['0-1'] * 300)}"])
async def test_a_bomb_of_ranges_gets_the_whole(mirror: Mirror, upstream: FakeRegistry, header: str) -> None:
    blob = upstream.add_blob(REPO, LARGE)
    for _ in range(2):
        reply = await mirror.get(f"/v2/{REPO}/blobs/{blob}", Range=header)
        assert (reply.status, len(reply.body)) == (200, len(LARGE))
        await mirror.settled()


async def test_an_empty_blob_has_no_ranges_but_is_sent(mirror: Mirror, upstream: FakeRegistry) -> None:
    """containerd since 2.1 asks `bytes=0-` of whatever it fetches."""
    empty = upstream.add_blob(REPO, b"")
    for _ in range(2):
        for header in ({"Range": "bytes=0-"}, {}, {"Range": "bytes=-5"}):
            reply = await mirror.get(f"/v2/{REPO}/blobs/{empty}", **header)
            assert reply.body == b""
            assert reply.status == 200 or (reply.status == 416 and header == {"Range": "bytes=-5"})
        await mirror.settled()


async def test_if_range_decides_whether_a_range_counts(mirror: Mirror, upstream: FakeRegistry) -> None:
    image = upstream.add_image(REPO, "v1", layers=[SMALL, LARGE])
    paths = {f"blobs/{Digest.of(body)}": Digest.of(body) for body in (SMALL, LARGE)} | {"manifests/v1": image}
    for path, digest in paths.items():
        for condition, expected in ((f'"{digest}"', 206), ('"other"', 200), (f'W/"{digest}"', 200)):
            reply = await mirror.get(f"/v2/{REPO}/{path}", Range="bytes=1-3", If_Range=condition)
            assert reply.status == expected
            await mirror.settled()


async def test_a_manifest_has_ranges_too(mirror: Mirror, upstream: FakeRegistry) -> None:
    """containerd 2.1 sends `bytes=0-` with every GET."""
    image = upstream.add_image(REPO, "v1")
    body = upstream.shelf(REPO).manifests[str(image)].content.body
    for reference in ("v1", image):
        whole = await mirror.get(f"/v2/{REPO}/manifests/{reference}", Range="bytes=0-")
        assert (whole.status, whole.body) == (206, body)
        assert whole.headers["Content-Range"] == f"bytes 0-{len(body) - 1}/{len(body)}"
        part = await mirror.get(f"/v2/{REPO}/manifests/{reference}", Range="bytes=10-19")
        assert (part.status, part.body) == (206, body[10:20])
        assert (await mirror.get(f"/v2/{REPO}/manifests/{reference}", Range="bytes=99999-")).status == 416
        ignored = await mirror.get(f"/v2/{REPO}/manifests/{reference}", Range="lines=1-2")
        assert (ignored.status, ignored.body) == (200, body)
        head = await mirror.head(f"/v2/{REPO}/manifests/{reference}", Range="bytes=10-19")
        assert (head.status, head.headers["Content-Length"]) == (200, str(len(body)))


@pytest.mark.usefixtures("impatient")
async def test_a_manifest_past_4_mib_is_refused_and_a_smaller_one_is_not(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    def padded(size: int) -> bytes:
        start = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"x":"'
        return start + b"x" * (size - len(start) - 2) + b'"}'

    upstream.add_manifest(REPO, padded(4 * 1024 * 1024), OCI_INDEX, tag="most")
    upstream.add_manifest(REPO, padded(4 * 1024 * 1024 + 1), OCI_INDEX, tag="more")
    for _ in range(2):
        assert len((await mirror.get(f"/v2/{REPO}/manifests/most")).body) == 4 * 1024 * 1024
    reply = await mirror.get(f"/v2/{REPO}/manifests/more")
    assert (reply.status, reply.code) == (503, "UNAVAILABLE")
    assert "4096 KiB" in reply.message
    upstream.fault(then=NoLength())
    assert (await mirror.get(f"/v2/{REPO}/manifests/more")).status == 503


async def test_a_manifest_without_docker_content_digest_is_named_by_its_bytes(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    image = upstream.add_image(REPO, "v1")
    upstream.digest_header = False
    for _ in range(2):
        for method in ("GET", "HEAD"):
            reply = await mirror.ask(method, f"/v2/{REPO}/manifests/v1")
            assert reply.headers["Docker-Content-Digest"] == str(image)


async def test_a_manifest_that_is_asked_for_as_a_blob_is_answered_at_once(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    """containerd's FetchByDigest asks for blobs first, then for manifests."""
    image = upstream.add_image(REPO, "v1")
    body = (await mirror.get(f"/v2/{REPO}/manifests/v1")).body
    reply = await mirror.get(f"/v2/{REPO}/blobs/{image}")
    assert reply.status == 404 or reply.body == body
    head = await mirror.head(f"/v2/{REPO}/blobs/{image}")
    assert head.status == reply.status
    assert upstream.count(kind="blob") <= 1


async def test_a_blob_of_unknown_size_is_sent_whole(mirror: Mirror, upstream: FakeRegistry) -> None:
    blob = upstream.add_blob(REPO, LARGE)
    upstream.fault(kind="blob", then=NoLength())
    for _ in range(2):
        reply = await mirror.get(f"/v2/{REPO}/blobs/{blob}")
        assert (reply.status, reply.body) == (200, LARGE)
        await mirror.settled()
    assert (await mirror.get(f"/v2/{REPO}/blobs/{blob}")).headers["Content-Length"] == str(len(LARGE))


@pytest.mark.parametrize("broken", [False, True])
async def test_a_blob_of_unknown_size_over_http_1_0_ends_with_the_connection_and_breaks_with_a_reset(
    mirror: Mirror, upstream: FakeRegistry, *, broken: bool
) -> None:
    """nginx asks by HTTP/1.0 unless it is told otherwise; there are no chunks in that, and no length to be short of."""
    blob = upstream.add_blob(REPO, LARGE)
    gate = asyncio.Event()
    wrong = (Corrupt(at_byte=1),) if broken else ()
    upstream.fault(kind="blob", then=(NoLength(), NoRange(), Gate(gate, at_byte=200_000), *wrong))
    url = URL(mirror.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"GET /v2/{REPO}/blobs/{blob} HTTP/1.0\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 ")
    assert b"content-length" not in head.lower()
    assert b"chunked" not in head.lower()
    gate.set()
    if broken:
        with pytest.raises(ConnectionResetError):
            await reader.read()
    else:
        assert await reader.read() == LARGE
    writer.close()


async def test_a_request_that_failed_harms_no_other_on_its_connection(mirror: Mirror, upstream: FakeRegistry) -> None:
    blob = upstream.add_blob(REPO, LARGE)
    upstream.fault(kind="manifest", then=Status(404))
    for _ in range(3):
        for path, expected in (("manifests/v1", 404), (f"blobs/{blob}", 200), ("blobs/x", 400), ("tags/list", 200)):
            assert (await mirror.get(f"/v2/{REPO}/{path}")).status == expected
            assert (await mirror.head(f"/v2/{REPO}/{path}")).status == expected
