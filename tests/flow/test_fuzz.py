"""Whatever strangers send, on either side: a clear answer, never a 500, nothing outside the store, no undue link."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from tests.fakes.faults import Status
from tests.fakes.library import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Mirror, StartMirror

pytestmark = pytest.mark.usefixtures("impatient")

REPO = "library/app"
BODY = bytes(range(256)) * 400  # 102,400 bytes: from disk
PRIVATE = Digest.of(b"private")
REASONABLE = {200, 206, 304, 400, 404, 405, 412, 416, 503}

fuzzed = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    # The mirror and its upstream live as long as the test; what one example leaves does not matter to the next.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
async def mirror(start: StartMirror, upstream: FakeRegistry) -> Mirror:
    upstream.add_image(REPO, "v1", layers=[BODY, b"small"])
    mirror = await start(upstream)
    await mirror.pull(REPO, "v1")
    return mirror


def check_store(root: Path) -> None:
    """Every file of the store is one that has its place there."""
    known = re.compile(
        r"blobs\.v1/sha(256|384|512)/[0-9a-f]{2}/[0-9a-f]{64,128}|fills\.v1/[\w.:-]+|(index|upstreams\.v1)\.sqlite(-wal|-shm)?"
        r"|aside\.v1/sha(256|384|512)-[0-9a-f]{64,128}|journal[\w.-]*|served\.log|(room|recent|turns)\.v2|VERSION|[\w.-]*lock"
    )
    files = [path for path in root.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert known.fullmatch(str(path.relative_to(root))), path
    assert {path.name for path in root.parent.iterdir()} == {"store"}


# --- clients ------------------------------------------------------------------------------------------------------

_piece = st.sampled_from(
    [
        b"/",
        b"/",
        b"/",
        b"v2",
        b"/v2/",
        b"library",
        b"app",
        b"library/app",
        b"manifests",
        b"/manifests/",
        b"blobs",
        b"/blobs/",
        b"tags",
        b"/tags/list",
        b"/referrers/",
        b"_catalog",
        b"uploads",
        b"latest",
        b"v1",
        b"quay.io",
        b"docker.io",
        b"localhost:1",
        b"[::1]",
        b"127.0.0.1:80",
        b"..",
        b".",
        b"%2e%2e",
        b"%2E",
        b"%2F",
        b"%00",
        b"%0d%0a",
        b"%",
        b"%zz",
        b"%ff",
        b"\xff",
        b"\xc3\xa9",
        b"\\",
        b"//",
        b"?",
        b"?ns=",
        b"&ns=",
        b"?n=",
        b"&last=",
        b"?last=",
        b"#",
        b"@",
        b":",
        b"sha256:",
        b"sha256:" + b"a" * 64,
        str(Digest.of(BODY)).encode(),
        b"sha512:" + b"b" * 128,
        b"A",
        b"&",
        b"=",
        b";",
        b"+",
        b"http://",
        b"http://x/v2/",
        b"*",
        b"a" * 300,
        b"etc/passwd",
        b"%25",
        b"%2525",
        b"|",
        b"{",
        b"^",
        b"`",
    ]
)
_target = st.lists(
    _piece | st.binary(min_size=1, max_size=4).filter(lambda raw: not set(raw) & set(b" \r\n\x00")), max_size=9
)
_value = st.binary(max_size=24).filter(lambda raw: not set(raw) & set(b"\r\n\x00"))
_header = st.tuples(
    st.sampled_from(
        [
            b"Range",
            b"If-None-Match",
            b"If-Match",
            b"If-Range",
            b"Accept",
            b"OCI-Namespace",
            b"X-Request-Id",
            b"Via",
            b"Content-Length",
            b"Transfer-Encoding",
            b"Expect",
            b"Connection",
            b"Upgrade",
            b"Host",
            b"Authorization",
        ]
    ),
    _value
    | st.sampled_from(
        [
            b"bytes=0-",
            b"bytes=5-1",
            b"bytes=0-0,2-2",
            b"*",
            b'"' + str(Digest.of(BODY)).encode() + b'"',
            b"quay.io",
            b"5",
            b"chunked",
            b"100-continue",
            b"close",
            b"\xff\xfe",
            b"docker.io",
            b"a\tb",
        ]
    ),
)


@fuzzed
@given(
    method=st.sampled_from([b"GET", b"GET", b"GET", b"HEAD", b"POST", b"CONNECT", b"OPTIONS", b"get", b"X-Y"]),
    target=_target.map(b"".join),
    headers=st.lists(_header, max_size=3),
)
@example(method=b"GET", target=b"/v2/library/app/tags/list?n=1&last=\xff", headers=[])
@example(method=b"GET", target=b"/v2/_catalog?n=1&x=%ff&y=\xff", headers=[])
@example(method=b"GET", target=b"/v2/library/app/manifests/v1?ns=\xff", headers=[(b"OCI-Namespace", b"\xff")])
@example(method=b"GET", target=b"http://[::1/v2/", headers=[])
@example(method=b"GET", target=b"/v2/", headers=[(b"Content-Length", b"1")])
async def test_whatever_a_client_sends_is_answered_reasonably(
    *,
    mirror: Mirror,
    upstream: FakeRegistry,
    tmp_path: Path,
    method: bytes,
    target: bytes,
    headers: list[tuple[bytes, bytes]],
) -> None:
    lines = [
        method + b" /" + target.removeprefix(b"/") + b" HTTP/1.1"
        if not target.startswith((b"http", b"*"))
        else method + b" " + target + b" HTTP/1.1",
        b"Host: mirror",
    ]
    lines += [name + b": " + value for name, value in headers]
    lines += [b"Connection: close", b"", b""]
    async with asyncio.timeout(8):
        answer = await mirror.raw(b"\r\n".join(lines))
    if answer:
        found = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
        assert found, answer[:200]
        status = int(found[1])
        if status == 100:
            return
        assert status in REASONABLE or status == 408, answer[:500]
        assert b"WWW-Authenticate" not in answer
        assert b"Traceback" not in answer
        assert b"root:" not in answer
    for record in upstream.requests:
        assert re.match(r"/v2/[a-z0-9._/-]+/(manifests|blobs|tags|referrers)/[\w.:-]+$", record.path), record.path
        assert ".." not in record.path.split("/")
    upstream.forget()
    check_store(tmp_path / "store")


@fuzzed
@given(
    header=st.text("bytes=,- 0123456789", max_size=20)
    | st.from_regex(r"bytes=(\d{0,7}-\d{0,7}, ?){0,3}\d{0,7}-\d{0,7}", fullmatch=True)
)
async def test_whatever_range_is_asked_for_the_bytes_are_right(mirror: Mirror, header: str) -> None:
    for body in (BODY, b"small"):
        reply = await mirror.get(f"/v2/{REPO}/blobs/{Digest.of(body)}", Range=header.strip())
        assert reply.status in (200, 206, 416)
        if reply.status == 200:
            assert reply.body == body
        elif reply.status == 416:
            assert reply.headers["Content-Range"] == f"bytes */{len(body)}"
        elif "Content-Range" in reply.headers:
            first, last = map(int, re.findall(r"\d+", reply.headers["Content-Range"])[:2])
            assert reply.body == body[first : last + 1] != b""
        else:
            assert reply.headers["Content-Type"].startswith("multipart/byteranges; boundary=")
            assert len(reply.body) == int(reply.headers["Content-Length"])


# --- upstreams ----------------------------------------------------------------------------------------------------

_digests = st.sampled_from(
    [
        str(PRIVATE),
        str(Digest.of(BODY)),
        "sha256:" + "0" * 64,
        "sha256:../../../../etc/passwd",
        "md5:0",
        "",
        "sha512:" + "f" * 128,
    ]
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6) | _digests,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_descriptor = st.fixed_dictionaries(
    {"mediaType": st.sampled_from([OCI_MANIFEST, "application/x", "\ud800", "é"]) | _json, "digest": _digests},
    optional={"size": st.integers(-1, 2**64) | _json, "urls": _json, "platform": _json, "annotations": _json},
)
_document = st.fixed_dictionaries(
    {"schemaVersion": st.sampled_from([2, 1, "2"])},
    optional={
        "mediaType": st.sampled_from([OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, "text/html\r\nX: y", "é"]) | _json,
        "config": _descriptor | _json,
        "layers": st.lists(_descriptor, max_size=3) | _json,
        "manifests": st.lists(_descriptor, max_size=3) | _json,
        "fsLayers": _json,
        "subject": _descriptor | _json,
        "artifactType": _json,
        "annotations": _json,
    },
)
_manifest = (
    _document.map(lambda document: json.dumps(document).encode())
    | st.binary(max_size=60)
    | st.sampled_from(
        [b"[" * 200_000, b'{"a":' * 50_000, b"1" * 10_000, b'{"a":1,"a":2}', b"null", b"{}", b'"\\ud800"']
    )
)
_type = st.sampled_from(
    [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, "", "text/plain", "application/json", "x/é", "x" * 3000]
) | st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=20)


@fuzzed
@given(body=_manifest, media_type=_type, digest=st.none() | _digests | st.just("own"), by_digest=st.booleans())
@example(body=b'{"schemaVersion":2,"layers":[]}', media_type="x/é", digest=None, by_digest=False)
@example(body=b'{"schemaVersion":2,"layers":[]}', media_type="application/x; a=b\u00ff", digest="own", by_digest=True)
async def test_whatever_manifest_upstream_sends_is_served_as_it_is_or_refused(
    *,
    mirror: Mirror,
    upstream: FakeRegistry,
    tmp_path: Path,
    body: bytes,
    media_type: str,
    digest: str | None,
    by_digest: bool,
) -> None:
    own = Digest.of(body)
    repo = f"fuzz/{own.hex[:40]}"
    headers = {"Content-Type": media_type.strip() or "text/plain"}
    if digest is not None:
        headers["Docker-Content-Digest"] = str(own) if digest == "own" else digest
    upstream.heal()
    upstream.fault(kind="manifest", then=Status(200, body=body, headers=headers))
    for reference in ("v1", own if by_digest else "v1"):
        for method in ("GET", "HEAD", "GET"):
            reply = await mirror.ask(method, f"/v2/{repo}/manifests/{reference}")
            assert reply.status in (200, 503), reply.body
            if reply.status == 200:
                assert reply.headers["Docker-Content-Digest"] == str(own)
                assert ";" not in reply.headers["Content-Type"]
                assert method == "HEAD" or reply.body == body
            elif method == "GET":
                assert "docker.io" in reply.message
    index = mirror.server.store.index
    for named in (PRIVATE, Digest.of(BODY), Digest("sha256", "0" * 64), Digest("sha512", "f" * 128)):
        assert not index.standing(Repository("docker.io", repo), named).linked
    reply = await mirror.get(f"/v2/{repo}/blobs/{PRIVATE}")
    assert reply.status == 404
    check_store(tmp_path / "store")
    upstream.forget()


_status_line = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 206 P\r\n",
        b"HTTP/1.1 302 F\r\n",
        b"HTTP/1.1 401 U\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/9.9 999 \r\n",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 100 C\r\n\r\n",
        b"",
    ]
)
_line = st.sampled_from(
    [
        b"Content-Length: 5\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Type: " + OCI_MANIFEST.encode() + b"\r\n",
        b"Location: /v2/\r\n",
        b"Location: http://[::\r\n",
        b"Location: file:///etc/passwd\r\n",
        b"Location: \xff\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Docker-Content-Digest: sha256:\xff\r\n",
        b"Content-Range: bytes 0-4/5\r\n",
        b"Content-Range: bytes 4-0/*\r\n",
        b"no colon\r\n",
        b'WWW-Authenticate: Bearer realm="http://127.0.0.1:1/"\r\n',
        b"WWW-Authenticate: Basic \xff\r\n",
        b"Set-Cookie: a=b\r\n",
        b"Retry-After: \xff\r\n",
        b"Retry-After: 1e999\r\n",
        b"X: " + b"x" * 70_000 + b"\r\n",
        b"Link: <//x>; rel=next\r\n",
    ]
)


@settings(fuzzed, max_examples=40)
@given(
    answer=st.tuples(
        _status_line,
        st.lists(_line, max_size=4).map(b"".join),
        st.sampled_from([b"\r\n", b""]),
        st.binary(max_size=8) | st.sampled_from([b"5\r\nhello\r\n0\r\n\r\n", b"{}", b"hello"]),
    ).map(b"".join)
)
async def test_whatever_bytes_upstream_sends_the_client_gets_an_answer(
    *,
    start: StartMirror,
    upstream: FakeRegistry,
    fuzz_server: FuzzServer,
    fuzz_mirror: Mirror,
    tmp_path: Path,
    answer: bytes,
) -> None:
    del start, upstream
    fuzz_server.answer = answer
    fuzz_server.number += 1
    digest = Digest.of(b"%d" % fuzz_server.number)
    asked = [
        ("HEAD", f"manifests/v{fuzz_server.number}"),
        ("GET", f"manifests/v{fuzz_server.number}"),
        ("GET", f"blobs/{digest}"),
        ("GET", f"referrers/{digest}"),
        ("GET", "tags/list"),
    ]
    for method, path in asked:
        async with asyncio.timeout(10):
            reply = await fuzz_mirror.ask(method, f"/v2/{REPO}/{path}")
        assert reply.status in (200, 404, 503), reply.body
        assert not {"WWW-Authenticate", "Location", "Set-Cookie", "Content-Encoding"} & set(reply.headers)
        if path.startswith("blobs"):
            assert reply.status != 200 or Digest.of(reply.body) == digest
    check_store(tmp_path / "store")


class FuzzServer:
    """Sends the same bytes to whoever connects, whatever is asked."""

    def __init__(self) -> None:
        self.answer = b""
        self.number = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.answer)
            await writer.drain()
        writer.close()


@pytest.fixture
async def fuzz_server() -> Any:
    fuzz = FuzzServer()
    server = await asyncio.start_server(fuzz.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    fuzz.url = f"http://{host}:{port}"
    async with server:
        yield fuzz


@pytest.fixture
async def fuzz_mirror(start: StartMirror, fuzz_server: FuzzServer) -> Mirror:
    return await start({"docker.io": {"url": fuzz_server.url}})
