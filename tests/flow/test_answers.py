"""What to answer: the status that makes each client do the right thing, whatever upstream does (promise 5)."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from yarl import URL

from mirror.cache.blobs import PATIENCE  # the true one: `impatient` comes later
from mirror.oci.digest import Digest
from mirror.server import blobs
from tests.fakes.faults import Drop, Fault, Gate, Hang, Html, Status
from tests.flow.fills import MIB, path_of, ranged

if TYPE_CHECKING:
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, Mirror, Reply, StartMirror

pytestmark = pytest.mark.usefixtures("impatient")

REPO = "library/app"
CHALLENGE = {
    "WWW-Authenticate": 'Basic realm="upstream"',
    "Set-Cookie": "session=1",
    "X-Registry-Supports-Signatures": "1",
}

# What a client gets: the status; for errors the code, and `Retry-After` where there is one.
NO_MANIFEST = (404, "MANIFEST_UNKNOWN", None)
NO_BLOB = (404, "BLOB_UNKNOWN", None)
NO_NAME = (404, "NAME_UNKNOWN", None)
LATER = (503, "UNAVAILABLE", "5")
LIMITED = (503, "TOOMANYREQUESTS", "7")
LIMITED_5 = (503, "TOOMANYREQUESTS", "[1-5]")
GOOD = (200, "", None)
STALE = (200, "stale", None)  # with a Warning

Row = dict[str, tuple[int, str, str | None]]


@dataclass(frozen=True)
class Trouble:
    """What upstream does to every request, and what is to be answered to what is not cached, and to what is, but stale.

    `blob` is the answer while clients have somewhere else to go, `only` the one where they have not.
    """

    fault: Fault
    says: str  # the true cause, as the message has it
    absent: Row
    blob: tuple[int, str, str | None]
    only: tuple[int, str, str | None]
    cached: Row


KEPT: Row = {"tag": STALE, "digest": GOOD, "signature": STALE, "blob": GOOD, "referrers": STALE, "tags": STALE}
GONE: Row = {
    "tag": NO_MANIFEST, "digest": GOOD, "signature": NO_MANIFEST,
    "blob": GOOD, "referrers": NO_MANIFEST, "tags": NO_NAME,
}  # fmt: skip
NOTHING: Row = {
    "tag": NO_MANIFEST, "digest": NO_MANIFEST, "signature": NO_MANIFEST, "referrers": NO_MANIFEST, "tags": NO_NAME,
}  # fmt: skip
# Whether an image is signed is not said to be known when it is not: no 404.
DENIED: Row = {"tag": NO_MANIFEST, "digest": NO_MANIFEST, "signature": LATER, "referrers": LATER, "tags": NO_NAME}


def every(answer: tuple[int, str, str | None]) -> Row:
    return dict.fromkeys(("tag", "digest", "signature", "referrers", "tags"), answer)


def status(code: int, retry_after: int | None = None) -> Status:
    return Status(code, message="so says the registry", retry_after=retry_after, headers=CHALLENGE)


TROUBLES = {
    "404": Trouble(status(404), "docker.io does not have", NOTHING, NO_BLOB, NO_BLOB, GONE),
    "401": Trouble(status(401), "docker.io", DENIED, NO_BLOB, NO_BLOB, KEPT),
    "403": Trouble(status(403), "does not let this mirror have", DENIED, NO_BLOB, NO_BLOB, KEPT),
    "429, come back in 7 s": Trouble(status(429, 7), "limits requests", every(LIMITED), NO_BLOB, LIMITED, KEPT),
    "429": Trouble(status(429), "limits requests", every(LIMITED_5), NO_BLOB, LIMITED_5, KEPT),
    "500": Trouble(status(500), "answered 500", every(LATER), NO_BLOB, LATER, KEPT),
    "503, come back in 7 s": Trouble(
        status(503, 7), "answered 503", every((503, "UNAVAILABLE", "7")), NO_BLOB, (503, "UNAVAILABLE", "7"), KEPT
    ),
    "no answer": Trouble(Hang(), r"did not (answer|begin)", every(LATER), NO_BLOB, LATER, KEPT),
    "connection closed": Trouble(Drop(), "closed the connection", every(LATER), NO_BLOB, LATER, KEPT),
    "a page to sign in": Trouble(Html(), "docker.io", every(LATER), NO_BLOB, LATER, KEPT),
}


@dataclass(frozen=True)
class Content:
    """What upstream holds, and how each kind of it is asked for."""

    paths: dict[str, str]
    signature: str


@pytest.fixture
def content(upstream: FakeRegistry) -> Content:
    image = upstream.add_image(REPO, "v1")
    signature = f"sha256-{image.hex}.sig"
    upstream.add_artifact(REPO, image, b"signed", artifact_type="application/x-signature", tag=signature)
    base = f"/v2/{REPO}"
    return Content(
        {
            "tag": f"{base}/manifests/v1",
            "digest": f"{base}/manifests/{image}",
            "signature": f"{base}/manifests/{signature}",
            "blob": f"{base}/blobs/{Digest.of(b'a layer')}",
            "referrers": f"{base}/referrers/{image}",
            "tags": f"{base}/tags/list",
        },
        signature,
    )


def check(kind: str, reply: Reply, expected: tuple[int, str, str | None], says: str) -> None:
    wanted, code, retry_after = expected
    where = f"{kind}: {reply.status} {dict(reply.headers)} {reply.body[:300]!r}"
    assert reply.status == wanted, where
    assert reply.cache.startswith("registry-mirror"), where
    assert reply.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert reply.headers["X-Request-Id"]
    for never in (*CHALLENGE, "Location", "Content-Encoding"):
        assert never not in reply.headers, where
    if wanted == 200:
        assert ("Warning" in reply.headers) == (code == "stale"), where
        assert reply.headers.get("Warning", '299 - "').startswith('299 - "'), where
        assert "hit" in reply.cache, where
        return
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Cache-Control"] == "no-store"
    if reply.body:
        assert reply.code == code, where
        assert re.search(says, reply.message), where
    if retry_after is None:
        assert "Retry-After" not in reply.headers, where
    else:
        assert re.fullmatch(retry_after, reply.headers["Retry-After"]), where


async def check_all(mirror: Mirror, content: Content, row: Row, says: str) -> None:
    for kind, expected in row.items():
        check(kind, await mirror.get(content.paths[kind]), expected, says)
        head = await mirror.head(content.paths[kind])
        assert head.body == b""
        check(f"HEAD {kind}", head, expected, says)


@pytest.mark.parametrize("fallback", [True, False], ids=["fallback", "only"])
@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES.keys())
async def test_trouble_over_what_is_not_cached(
    start: StartMirror, upstream: FakeRegistry, content: Content, trouble: Trouble, *, fallback: bool
) -> None:
    mirror = await start(upstream, server={"fallback": fallback})
    upstream.fault(then=trouble.fault)
    blob = trouble.blob if fallback else trouble.only
    await check_all(mirror, content, {**trouble.absent, "blob": blob}, trouble.says)
    ping = await mirror.get("/v2/")
    assert (ping.status, ping.body) == (200, b"{}")
    assert upstream.count(kind="ping") == sum(record.status == 401 for record in upstream.log.matching(kind="ping"))


@pytest.mark.parametrize("fallback", [True, False], ids=["fallback", "only"])
@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES.keys())
async def test_trouble_over_what_is_cached_and_stale(
    start: StartMirror, upstream: FakeRegistry, content: Content, clock: Clock, trouble: Trouble, *, fallback: bool
) -> None:
    mirror = await start(upstream, server={"fallback": fallback})
    await mirror.pull(REPO, "v1")
    await mirror.pull(REPO, content.signature)
    for path in content.paths.values():
        assert (await mirror.get(path)).status == 200
    clock.advance(3600)
    upstream.fault(then=trouble.fault)
    await check_all(mirror, content, trouble.cached, trouble.says)


def test_a_blob_is_given_up_before_its_client_gives_up() -> None:
    """containerd waits 30 s for a header; the patience with upstream ends first, so that the cause can be told."""
    assert PATIENCE == 20.0
    assert PATIENCE < blobs.HEADERS_WITHIN < 30


async def test_a_cold_blob_of_which_no_byte_comes_is_an_answer_and_no_header(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream has sent its header, and hangs: who is sent the mirror's can no longer go elsewhere."""
    monkeypatch.setattr(blobs, "HEADERS_WITHIN", 0.3)
    digest = upstream.add_pattern_blob(REPO, MIB)
    gate = asyncio.Event()
    upstream.fault(kind="blob", then=Gate(gate))
    mirror = await start(upstream)
    async with asyncio.timeout(10):
        reply = await mirror.get(path_of(digest))
    check("blob", reply, NO_BLOB, "docker.io sent no byte of")
    gate.set()
    await mirror.settled()
    assert (await mirror.get(path_of(digest))).status == 200


async def test_a_part_that_is_late_of_a_blob_that_comes_gets_its_header_in_time(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "HEADERS_WITHIN", 0.3)
    digest = upstream.add_pattern_blob(REPO, 3 * MIB)
    gate = asyncio.Event()
    upstream.fault(kind="blob", then=Gate(gate, at_byte=MIB))
    mirror = await start(upstream)
    early = asyncio.create_task(mirror.get(path_of(digest), **ranged(0, MIB)))
    assert (await early).body == upstream.content(REPO, digest)[:MIB]
    url = URL(mirror.url + path_of(digest), encoded=True)
    async with asyncio.timeout(10), mirror.session.get(url, headers=ranged(2 * MIB, 2 * MIB + 100)) as late:
        assert (late.status, late.headers["Content-Length"]) == (206, "100")
        gate.set()
        assert await late.read() == upstream.content(REPO, digest)[2 * MIB : 2 * MIB + 100]


async def test_a_404_of_upstream_is_believed_for_seconds_only(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Build systems push and pull at once."""
    mirror = await start(upstream)
    upstream.add_image(REPO, "v1")
    assert (await mirror.get(f"/v2/{REPO}/manifests/v2")).status == 404
    asked = upstream.count(kind="manifest")
    upstream.add_image(REPO, "v2", layers=[b"pushed just now"])
    assert (await mirror.get(f"/v2/{REPO}/manifests/v2")).status == 404
    assert upstream.count(kind="manifest") == asked
    negative = mirror.server.cache.manifests._negative
    now = negative.timer()
    assert negative.ttl <= 5
    monkeypatch.setattr(negative, "_TimedCache__timer", type(negative.timer)(lambda: now + 5.1))
    assert (await mirror.get(f"/v2/{REPO}/manifests/v2")).status == 200


async def test_the_warning_of_a_stale_answer_names_the_true_cause(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    """Podman prints it to its user."""
    mirror = await start(upstream)
    upstream.add_image(REPO, "v1")
    await mirror.pull(REPO, "v1")
    clock.advance(3600)
    upstream.fault(then=Status(500, message='a "quoted" \\ cause \x07\u20ac' + "x" * 5000))
    warning = (await mirror.get(f"/v2/{REPO}/manifests/v1")).headers["Warning"]
    assert "docker.io failed to send docker.io/library/app:v1 (it answered 500" in warning
    assert re.fullmatch(r'299 - "(?:[^"\\]|\\.)*"', warning)
    assert warning.isascii()
    assert len(warning) < 4096


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE", "OPTIONS"])
async def test_a_write_is_refused_and_goes_nowhere(start: StartMirror, upstream: FakeRegistry, method: str) -> None:
    mirror = await start(upstream)
    for path in ("/v2/", "/v2/a/b/manifests/v1", "/v2/a/b/blobs/uploads/", "/v2/a/b/blobs/uploads/1?digest=x", "/x"):
        reply = await mirror.ask(method, path)
        assert (reply.status, reply.code, reply.headers["Allow"]) == (405, "UNSUPPORTED", "GET, HEAD")
        assert reply.cache == "registry-mirror; detail=local"
    assert upstream.requests == []
