from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from mirror.errors import (
    UpstreamBroken,
    UpstreamDenied,
    UpstreamError,
    UpstreamLimited,
    UpstreamNotFound,
    UpstreamUnavailable,
)
from mirror.metrics import UPSTREAM_ANSWERS
from mirror.oci.digest import Digest
from mirror.oci.mediatype import ACCEPT, DOCKER_MANIFEST, OCI_MANIFEST
from mirror.oci.name import Tag
from mirror.upstream.content import verified
from tests.fakes.faults import Cut, Drop, Hang, Headers, Html, Status, Truncate
from tests.unit.upstream.dial import REPO

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.upstream.protocol import Upstream
    from tests.fakes.registry import FakeRegistry

    Connect = Callable[..., Upstream]

V1 = Tag("v1")


async def test_a_manifest_is_asked_for_with_every_type_in_one_line_and_named_requests(
    up: FakeRegistry, connect: Connect
) -> None:
    digest = up.add_image("org/app", "v1")
    found = await connect(request_id="req-7").manifest(REPO, V1, patience=5)
    assert (found.digest, found.media_type, found.public) == (digest, OCI_MANIFEST, True)
    assert digest.matches(found.body)
    (record,) = up.requests
    assert record.headers.getall("Accept") == [", ".join(ACCEPT)]
    assert record.headers["Accept-Encoding"] == "identity"
    assert record.headers["Via"] == "1.1 registry-mirror-test"
    assert record.headers["X-Request-Id"] == "req-7"
    assert record.headers["User-Agent"].startswith("registry-mirror/")


async def test_a_tag_without_a_digest_header_takes_the_bodys_own(up: FakeRegistry, connect: Connect) -> None:
    digest = up.add_image("org/app", "v1")
    up.digest_header = False
    upstream = connect()
    assert (await upstream.manifest(REPO, V1, patience=5)).digest == digest
    assert (await upstream.head(REPO, V1, patience=5)).digest is None


async def test_a_manifest_with_a_wrong_digest_is_fetched_once_more(up: FakeRegistry, connect: Connect) -> None:
    digest = up.add_image("org/app", "v1")
    up.fault(kind="manifest", times=1, then=Status(200, body=b'{"schemaVersion": 2}'))
    assert (await connect().manifest(REPO, digest, patience=5)).digest == digest
    assert up.count(kind="manifest") == 2


@pytest.mark.parametrize("by_digest", [True, False])
async def test_a_manifest_with_a_wrong_digest_twice_is_never_returned(
    up: FakeRegistry, connect: Connect, *, by_digest: bool
) -> None:
    digest = up.add_image("org/app", "v1")
    headers = {"Docker-Content-Digest": str(digest), "Content-Type": OCI_MANIFEST}
    up.fault(kind="manifest", then=Status(200, body=b'{"schemaVersion": 2}', headers=headers))
    with pytest.raises(UpstreamBroken, match="twice"):
        await connect().manifest(REPO, digest if by_digest else V1, patience=5)
    assert up.count(kind="manifest") == 2


async def test_a_manifest_past_the_limit_is_refused_with_and_without_a_length(
    up: FakeRegistry, connect: Connect
) -> None:
    up.add_manifest("org/app", b"{" + b" " * 4 * 1024 * 1024 + b"}", tag="v1")
    upstream = connect()
    with pytest.raises(UpstreamBroken, match="4096 KiB"):
        await upstream.manifest(REPO, V1, patience=5)
    up.fault(kind="manifest", then=Truncate(4 * 1024 * 1024 + 2, chunked=True))
    with pytest.raises(UpstreamBroken, match="4096 KiB"):
        await upstream.manifest(REPO, V1, patience=5)


async def test_a_web_page_is_no_manifest(up: FakeRegistry, connect: Connect) -> None:
    up.fault(kind="manifest", then=Html())
    upstream = connect()
    with pytest.raises(UpstreamBroken, match="web page"):
        await upstream.manifest(REPO, V1, patience=5)
    with pytest.raises(UpstreamBroken, match="web page"):
        await upstream.head(REPO, V1, patience=5)


@pytest.mark.parametrize(
    ("header", "own", "expected"),
    [
        ("text/plain; charset=utf-8", DOCKER_MANIFEST, DOCKER_MANIFEST),
        ("application/octet-stream", None, OCI_MANIFEST),
        ("", None, OCI_MANIFEST),
        (OCI_MANIFEST + "; charset=utf-8", DOCKER_MANIFEST, OCI_MANIFEST),  # the header is one: it counts
        ("application/vnd.other+json", DOCKER_MANIFEST, DOCKER_MANIFEST),
        ("application/vnd.other+json", None, "application/vnd.other+json"),
    ],
)
async def test_a_media_type_is_found_where_the_header_has_none(
    up: FakeRegistry, connect: Connect, header: str, own: str | None, expected: str
) -> None:
    body: dict[str, object] = {"schemaVersion": 2, "config": {}, "layers": []}
    up.add_manifest("org/app", {**body, "mediaType": own} if own else body, tag="v1")
    up.fault(kind="manifest", then=Headers({"Content-Type": header}))
    assert (await connect().manifest(REPO, V1, patience=5)).media_type == expected


async def test_a_manifest_that_is_encoded_unasked_is_decoded_only_where_that_is_right(
    up: FakeRegistry, connect: Connect
) -> None:
    body = json.dumps({"schemaVersion": 2, "layers": []}).encode()
    digest = up.add_manifest("org/app", body, tag="v1")
    upstream = connect()
    headers = {"Content-Encoding": "x-gzip", "Content-Type": OCI_MANIFEST}
    up.fault(kind="manifest", times=1, then=Status(200, body=gzip.compress(body), headers=headers))
    assert (await upstream.manifest(REPO, digest, patience=5)).body == body
    up.fault(kind="manifest", times=1, then=Headers({"Content-Encoding": "gzip"}))  # a label that is not true
    assert (await upstream.manifest(REPO, digest, patience=5)).body == body
    bomb = gzip.compress(b" " * 64 * 1024 * 1024)
    up.fault(kind="manifest", then=Status(200, body=bomb, headers=headers))
    with pytest.raises(UpstreamBroken):
        await upstream.manifest(REPO, digest, patience=5)


def test_what_is_decoded_takes_little_memory_however_much_it_would_be() -> None:
    bomb = gzip.compress(b" " * 64 * 1024 * 1024)
    tracemalloc.start()
    try:
        assert verified(bomb, Digest.of(b""), "gzip") is None
        assert tracemalloc.get_traced_memory()[1] < 16 * 1024 * 1024
    finally:
        tracemalloc.stop()


async def test_every_answer_is_counted(up: FakeRegistry, connect: Connect) -> None:
    up.auth.mode = "bearer"
    up.add_image("org/app", "v1")
    counters = [
        UPSTREAM_ANSWERS.labels("up.test", kind, status)
        for kind, status in (("manifest", "401"), ("token", "200"), ("manifest", "200"), ("manifest", "timeout"))
    ]
    before = [counter._value.get() for counter in counters]
    upstream = connect()
    await upstream.manifest(REPO, V1, patience=5)
    up.fault(then=Hang())
    with pytest.raises(UpstreamUnavailable):
        await upstream.manifest(REPO, V1, patience=0.05)
    assert [counter._value.get() - was for counter, was in zip(counters, before, strict=True)] == [1, 1, 1, 1]


async def test_a_server_that_knows_no_head_has_said_nothing(up: FakeRegistry, connect: Connect) -> None:
    up.fault(kind="manifest", method="HEAD", then=Status(405))
    head = await connect().head(REPO, V1, patience=5)
    assert (head.digest, head.size) == (None, None)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, UpstreamBroken), (403, UpstreamDenied), (404, UpstreamNotFound), (405, UpstreamBroken),
        (410, UpstreamNotFound), (416, UpstreamBroken), (418, UpstreamBroken), (429, UpstreamLimited),
        (451, UpstreamDenied), (500, UpstreamUnavailable), (502, UpstreamUnavailable), (508, UpstreamBroken),
        (206, UpstreamBroken), (300, UpstreamBroken),
    ],
)  # fmt: skip
async def test_each_status_has_its_error_with_the_cause_in_words(
    up: FakeRegistry, connect: Connect, status: int, error: type[UpstreamError]
) -> None:
    message = "ask https://x.test/?sig=canary again"
    up.fault(kind="manifest", then=Status(status, message=message, retry_after=3600))
    with pytest.raises(error) as caught:
        await connect().manifest(REPO, V1, patience=5)
    assert type(caught.value) is error
    assert caught.value.namespace == "up.test"
    assert caught.value.upstream_status == status
    assert "up.test" in str(caught.value)
    assert str(status) in str(caught.value)
    assert "canary" not in str(caught.value)


async def test_a_short_failure_is_not_noticed(up: FakeRegistry, connect: Connect) -> None:
    digest = up.add_image("org/app", "v1")
    up.fault(kind="manifest", times=1, then=Status(502))
    up.fault(kind="manifest", times=1, then=Drop())
    up.fault(kind="manifest", times=1, then=Cut(at_byte=10))
    assert (await connect().manifest(REPO, V1, patience=5)).digest == digest


async def test_an_upstream_is_away_after_a_failure_and_back_after_any_answer(
    up: FakeRegistry, connect: Connect
) -> None:
    upstream = connect()
    assert upstream.away, "before the first contact nothing is known"
    with pytest.raises(UpstreamNotFound):
        await upstream.head(REPO, V1, patience=5)
    assert not upstream.away
    up.requests.clear()
    up.fault(kind="manifest", then=Status(503))
    with pytest.raises(UpstreamUnavailable):
        await upstream.manifest(REPO, V1, patience=5)
    assert upstream.away
    asked = up.count(kind="manifest")
    assert asked == 4
    with pytest.raises(UpstreamUnavailable):
        await upstream.manifest(REPO, V1, patience=5)
    assert up.count(kind="manifest") == asked + 1  # known to be down: it is not asked over and over
    up.heal()
    with pytest.raises(UpstreamNotFound):
        await upstream.manifest(REPO, V1, patience=5)
    assert not upstream.away


async def test_an_upstream_that_is_not_there_is_unavailable_in_words(up: FakeRegistry, connect: Connect) -> None:
    upstream = connect()
    await up.stop()
    with pytest.raises(UpstreamUnavailable, match=r"up\.test: 127\.0\.0\.1:\d+: no connection"):
        await upstream.head(REPO, V1, patience=5)
    assert upstream.away


async def test_patience_ends_a_wait_for_headers(up: FakeRegistry, connect: Connect) -> None:
    up.fault(then=Hang())
    upstream = connect()
    with pytest.raises(UpstreamUnavailable, match=r"did not answer within 0\.05 s"):
        await upstream.manifest(REPO, V1, patience=0.05)
    assert upstream.away


async def test_a_limit_is_obeyed_without_asking_and_only_for_what_it_is_for(up: FakeRegistry, connect: Connect) -> None:
    digest = up.add_image("org/app", "v1")
    up.fault(
        kind="manifest",
        method="GET",
        then=Status(
            429,
            "TOOMANYREQUESTS",
            "You have reached your pull rate limit",
            retry_after=30,
            headers={"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "0;w=21600"},  # no abuse: that is bare
        ),
    )
    upstream = connect()
    with pytest.raises(UpstreamLimited, match="reached your pull rate limit") as caught:
        await upstream.manifest(REPO, V1, patience=20)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 25
    assert upstream.away
    with pytest.raises(UpstreamLimited) as caught:
        await upstream.manifest(REPO, V1, patience=20)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 25
    assert up.count(method="GET") == 1
    assert (await upstream.head(REPO, V1, patience=5)).digest == digest
    assert not upstream.away


async def test_a_limit_of_a_moment_is_waited_for(up: FakeRegistry, connect: Connect) -> None:
    digest = up.add_image("org/app", "v1")
    up.fault(kind="manifest", times=1, then=Status(429, retry_after="0.02"))
    assert (await connect().manifest(REPO, V1, patience=5)).digest == digest


async def test_tags_come_in_pages(up: FakeRegistry, connect: Connect) -> None:
    for tag in ("a", "b", "c"):
        up.add_image("org/app", tag)
    upstream = connect()
    page = await upstream.tags(REPO, n=2, last=None, patience=5)
    assert (page.tags, page.more) == (("a", "b"), True)
    page = await upstream.tags(REPO, n=2, last="b", patience=5)
    assert (page.tags, page.more) == (("c",), False)
    assert up.requests[-1].query == "n=2&last=b"


async def test_what_is_no_tag_is_left_out_of_the_list(up: FakeRegistry, connect: Connect) -> None:
    listed = {"tags": ["a", "\ud800", "", "b/c", "-d", "e" * 129, "é", "f" * 128, "v1\n"]}
    link = {"Link": '</v2/org/app/tags/list?last=v1>; rel="next"'}
    up.fault(kind="tags", then=Status(200, body=json.dumps(listed).encode(), headers=link))
    page = await connect().tags(REPO, n=None, last=None, patience=5)
    assert (page.tags, page.more) == (("a", "f" * 128), True)


async def test_a_long_list_of_tags_comes_whole(up: FakeRegistry, connect: Connect) -> None:
    tags = tuple(f"v{number}" for number in range(20_000))
    up.fault(kind="tags", then=Status(200, body=json.dumps({"tags": tags}).encode()))
    assert (await connect().tags(REPO, n=None, last=None, patience=5)).tags == tags


async def test_a_page_without_a_tag_leads_on_to_the_next_by_upstreams_own_link(
    up: FakeRegistry, connect: Connect
) -> None:
    up.add_image("org/app", "b")
    link = {"Link": '</v2/org/app/tags/list?last=a&n=5>; rel="next"'}
    up.fault(kind="tags", times=1, then=Status(200, body=b'{"tags": ["\\ud800"]}', headers=link))
    page = await connect().tags(REPO, n=5, last=None, patience=5)
    assert (page.tags, page.more) == (("b",), False)
    assert [record.query for record in up.requests] == ["n=5", "last=a&n=5"]


async def test_pages_without_tags_come_to_an_end(
    up: FakeRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.upstream.listing.MAX_PAGES", 3)
    link = {"Link": '</v2/org/app/tags/list?last=a>; rel="next"'}
    up.fault(kind="tags", then=Status(200, body=b'{"tags": []}', headers=link))
    with pytest.raises(UpstreamBroken, match="without end"):
        await connect().tags(REPO, n=None, last=None, patience=5)
    assert up.count(kind="tags") == 3


@pytest.mark.parametrize("body", [b"[]", b'{"tags": [1]}', b'{"tags": {}}', b"<html>", b"[" * 50_000])
async def test_what_is_no_list_of_tags_is_broken(up: FakeRegistry, connect: Connect, body: bytes) -> None:
    up.fault(kind="tags", then=Status(200, body=body))
    with pytest.raises(UpstreamBroken, match="no list of tags"):
        await connect().tags(REPO, n=None, last=None, patience=5)


async def test_referrers_are_joined_over_pages_and_one_page_is_left_as_it_is(
    up: FakeRegistry, connect: Connect
) -> None:
    subject = up.add_image("org/app", "v1")
    made = {str(up.add_artifact("org/app", subject, bytes([n]), artifact_type="application/x")) for n in range(5)}
    upstream = connect()
    whole = json.loads((await upstream.referrers(REPO, subject, patience=5)).body)
    assert up.count(kind="referrers") == 1
    up.page_limit = 2
    joined = json.loads((await upstream.referrers(REPO, subject, patience=5)).body)
    assert up.count(kind="referrers") == 4
    assert joined == whole
    assert {entry["digest"] for entry in joined["manifests"]} == made


async def test_a_registry_without_referrers_says_not_found_and_nothing_else_does(
    up: FakeRegistry, connect: Connect
) -> None:
    subject = up.add_image("org/app", "v1")
    up.referrers_api = False
    upstream = connect()
    with pytest.raises(UpstreamNotFound):
        await upstream.referrers(REPO, subject, patience=5)
    up.fault(kind="referrers", times=1, then=Status(200, body=b'{"manifests": []}'))
    with pytest.raises(UpstreamBroken, match="index of referrers"):
        await upstream.referrers(REPO, subject, patience=5)


async def test_pages_of_referrers_without_end_come_to_one(
    up: FakeRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.upstream.listing.MAX_PAGES", 3)
    subject = up.add_image("org/app", "v1")
    link = f'</v2/org/app/referrers/{subject}>; rel="next"'
    up.fault(kind="referrers", then=Headers({"Link": link}))
    with pytest.raises(UpstreamBroken, match="without end"):
        await connect().referrers(REPO, subject, patience=5)
    assert up.count(kind="referrers") == 3


async def test_a_next_page_on_another_host_is_not_asked(up: FakeRegistry, connect: Connect) -> None:
    subject = up.add_image("org/app", "v1")
    up.fault(kind="referrers", then=Headers({"Link": f'<{up.storage_url}/more>; rel="next"'}))
    with pytest.raises(UpstreamBroken, match="another host"):
        await connect().referrers(REPO, subject, patience=5)


async def test_a_caller_that_leaves_ends_its_request(up: FakeRegistry, connect: Connect) -> None:
    up.fault(then=Hang())
    call = asyncio.create_task(connect().manifest(REPO, Digest.of(b""), patience=20))
    record = await up.seen(kind="manifest")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await record.over()
