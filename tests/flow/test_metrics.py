"""The metrics: what they tell of each upstream, and that strangers can make them neither grow nor name anything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import aiohttp
import pytest
from multidict import CIMultiDict
from prometheus_client.parser import text_string_to_metric_families

from mirror import __version__, config
from mirror.oci.digest import Digest
from mirror.server import health, loop_lag
from mirror.server.answers import Kind
from mirror.store.dealings import FILE, Dealings
from mirror.upstream.accounts import COUNTED, Accounts
from tests.fakes.faults import Cut, Gate
from tests.fakes.limit import RateLimit
from tests.flow.conftest import document

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, Mirror, StartMirror

REPO = "library/app"
LARGE = bytes(range(251)) * 4000  # about 1 MB
SMALL = b"small"

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]

# What a label may say, whoever asks for whatever. Namespaces are those of the configuration.
FIXED = {
    "kind": {kind.value for kind in Kind} | {"token"},
    "cache": {"hit", "miss", "stale", "revalidated", "collapsed", "none", "denied"},
    "outcome": {"stored", "failed", "stopped", "begun", "refused", "past the limit", "no room"},
    "reason": {
        "denied",
        "max_connections",
        "max_connections_per_client",
        "max_requests_per_client",
        "slow_header",
        "large_header",
        "full",
        "high-water",
        "min-free",
        "too large",
        "all in use",
        "no room",
        "disk",
    },
    "result": {"right", "wrong", "healed", "unreadable"},
}
NUMBERS = {"status": r"[1-5]\d\d|connect|timeout", "le": r"[0-9.]+|\+Inf", "generation": r"\d"}


async def scrape(mirror: Mirror) -> Series:
    reply = await mirror.get("/metrics")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(reply.body.decode())
        for sample in family.samples
    }


def value(series: Series, name: str, **labels: str) -> float:
    return series.get((name, frozenset(labels.items())), 0.0)


async def test_they_tell_of_each_upstream_on_its_own(
    start: StartMirror, upstream: FakeRegistry, other: FakeRegistry
) -> None:
    mirror = await start({"docker.io": upstream, "quay.io": other})
    for registry in (upstream, other):
        registry.add_image(REPO, "v1", layers=[LARGE + registry.host.encode()])
    before = await scrape(mirror)
    await mirror.pull(REPO, "v1")
    await mirror.pull(f"quay.io/{REPO}", "v1")
    await mirror.pull(f"quay.io/{REPO}", "v1")
    after = await scrape(mirror)

    def gained(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    for namespace, hits in {"docker.io": 0, "quay.io": 1}.items():
        for kind, number in {"manifest": 1, "blob": 2}.items():
            asked = {"namespace": namespace, "kind": kind}
            assert gained("mirror_requests_total", **asked, cache="miss", status="200") == number
            assert gained("mirror_requests_total", **asked, cache="hit", status="200") == number * hits
            for name in ("mirror_request_seconds_count", "mirror_first_byte_seconds_count"):
                assert gained(name, **asked, cache="miss") == number
                assert gained(name, **asked, cache="hit") == number * hits
            assert gained("mirror_upstream_first_byte_seconds_count", **asked) == number
        assert gained("mirror_upstream_queue_seconds_count", namespace=namespace) == 2
        assert gained("mirror_fills_total", namespace=namespace, outcome="stored") == 2
        assert gained("mirror_sent_bytes_total", namespace=namespace) > len(LARGE)


async def test_every_byte_of_content_that_goes_out_is_counted_once(start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream)
    upstream.add_image(REPO, "v1", layers=[LARGE, SMALL])

    async def sent() -> float:
        return value(await scrape(mirror), "mirror_sent_bytes_total", namespace="docker.io")

    for _ in range(2):  # as it comes, from memory, and from disk
        before = await sent()
        replies = await mirror.pull(REPO, "v1")
        assert await sent() - before == sum(len(reply.body) for reply in replies)
    before = await sent()
    (layer,) = [reply.headers["Docker-Content-Digest"] for reply in replies if reply.body == SMALL]
    for path in (f"blobs/{layer}", "manifests/v1"):
        await mirror.head(f"/v2/{REPO}/{path}")
        await mirror.get(f"/v2/{REPO}/{path}", If_None_Match="*")
    await mirror.get(f"/v2/{REPO}/manifests/absent")
    assert await sent() == before


@pytest.mark.usefixtures("impatient")
async def test_an_upstream_that_a_reload_took_away_raises_no_alarm_for_ever(
    start: StartMirror, upstream: FakeRegistry
) -> None:
    """`mirror_upstream_away` would stay 1 with nobody to set it, and an alert rings on that."""
    mirror = await start({"docker.io": upstream, "quay.io": {"url": "http://127.0.0.1:1"}})
    await mirror.get(f"/v2/quay.io/{REPO}/manifests/v1")
    assert value(await scrape(mirror), "mirror_upstream_away", namespace="quay.io") == 1
    text = json.dumps(document(upstream, mirror.server.config.storage.path))
    await mirror.server.reconfigure(config.parse(text, "mirror.yaml", {}))
    names = {labels for name, labels in await scrape(mirror) if name == "mirror_upstream_away"}
    assert frozenset({("namespace", "quay.io")}) not in names


@pytest.mark.usefixtures("impatient")
async def test_a_reload_takes_no_gauge_of_those_that_stay_and_what_ends_after_it_brings_none_back(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    upstream.limit = RateLimit(100, clock=clock)
    upstream.add_image(REPO, "v1")
    blob = upstream.add_blob(REPO, LARGE)
    gate = asyncio.Event()
    dead = "http://127.0.0.1:1"
    mirror = await start({"docker.io": {"url": upstream.url, "endpoints": [dead]}, "quay.io": upstream})
    await mirror.get(f"/v2/{REPO}/manifests/v1")
    upstream.fault(kind="blob", then=[Gate(gate, at_byte=300_000), Cut(at_byte=400_000)])
    async with mirror.session.get(f"{mirror.url}/v2/quay.io/{REPO}/blobs/{blob}") as response:
        await response.content.readexactly(1000)
        text = json.dumps(document({"docker.io": {"url": upstream.url, "endpoints": [dead]}}, _store(mirror)))
        before = {name for name in await scrape(mirror) if "docker.io" in dict(name[1]).values()}
        await mirror.server.reconfigure(replace(config.parse(text, "mirror.yaml", {}), default_upstream="docker.io"))
        shown = await scrape(mirror)
        kept = {name for name in shown if "docker.io" in dict(name[1]).values()}
        assert {name[0] for name in before - kept} <= {"mirror_upstream_away"}, "nobody was asked since"
        assert value(shown, "mirror_upstream_ratelimit_remaining", namespace="docker.io", credential="anonymous") == 99
        assert (
            value(shown, "mirror_upstream_circuit_open", namespace="docker.io", endpoint="127.0.0.1:1")
            == value(shown, "mirror_upstream_circuit_open", namespace="docker.io", endpoint="registry")
            == 0
        )
        await upstream.stop()
        gate.set()
        with contextlib.suppress(aiohttp.ClientError):
            await response.content.read()
    (closing,) = mirror.server.cache._upstreams._leaving
    await asyncio.wait_for(closing, 5)
    await asyncio.sleep(0)
    gauges = {name for name, labels in await scrape(mirror) if dict(labels).get("namespace") == "quay.io"}
    assert not gauges & {"mirror_upstream_away", "mirror_upstream_rests_until_timestamp_seconds"}


def _store(mirror: Mirror) -> Path:
    return mirror.server.config.storage.path


async def test_writing_them_holds_up_nobody(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of series take a tenth of a second and more."""
    mirror = await start(upstream)
    asked, go_on = threading.Event(), threading.Event()

    def slowly() -> bytes:
        asked.set()
        assert go_on.wait(5)
        return b"slow 1\n"

    monkeypatch.setattr(health, "generate_latest", slowly)
    scraping = asyncio.create_task(mirror.get("/metrics"))
    assert await asyncio.to_thread(asked.wait, 5)
    assert (await mirror.get("/v2/")).status == 200
    go_on.set()
    assert (await scraping).body == b"slow 1\n"


async def test_the_first_byte_is_told_from_the_last(start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream)
    blob = upstream.add_blob(REPO, LARGE)
    gate = asyncio.Event()
    upstream.fault(kind="blob", then=Gate(gate, at_byte=300_000))
    before = await scrape(mirror)
    async with mirror.session.get(f"{mirror.url}/v2/{REPO}/blobs/{blob}") as response:
        await response.content.readexactly(1000)
        asyncio.get_running_loop().call_later(0.3, gate.set)
        await response.content.read()
    await mirror.settled()
    after = await scrape(mirror)
    asked = {"namespace": "docker.io", "kind": "blob", "cache": "miss"}
    first, whole = (
        value(after, name, **asked) - value(before, name, **asked)
        for name in ("mirror_first_byte_seconds_sum", "mirror_request_seconds_sum")
    )
    assert whole >= first + 0.25


async def test_an_error_is_no_first_byte(start: StartMirror, upstream: FakeRegistry) -> None:
    mirror = await start(upstream)
    before = await scrape(mirror)
    await mirror.get(f"/v2/{REPO}/manifests/none")
    after = await scrape(mirror)
    asked = {"namespace": "docker.io", "kind": "manifest", "cache": "miss"}
    for name, gained in {"mirror_request_seconds_count": 1, "mirror_first_byte_seconds_count": 0}.items():
        assert value(after, name, **asked) - value(before, name, **asked) == gained


@pytest.mark.parametrize("wildcard", [False, True])
async def test_strangers_name_nothing_in_them(start: StartMirror, upstream: FakeRegistry, *, wildcard: bool) -> None:
    """Each value of a label is kept for ever: a thousand names that somebody made up must not be."""
    upstreams = {"docker.io": upstream, **({"*": True} if wildcard else {})}
    mirror = await start(upstreams, server={"offline": True, "trusted_proxies": ["127.0.0.1"]})
    before = await scrape(mirror)
    for number in range(1000):
        name = f"evil{number}.example"
        path = (
            f"/v2/{REPO}/manifests/v1?ns={name}",
            f"/v2/{name}/{REPO}/blobs/{Digest.of(name.encode())}",
            f"/{name}/v2/{REPO}/tags/list",
            f"/v2/{REPO}/evil/{name}",
        )[number % 4]
        await mirror.ask(
            ("GET", "HEAD", f"EVIL{number}")[number % 3], path,
            X_Forwarded_For=f"192.0.2.{number % 250}", User_Agent=name, X_Request_Id=name, OCI_Namespace=name,
        )  # fmt: skip
    after = await scrape(mirror)
    told = {key for key, value in after.items() if before.get(key) != value}  # other tests may have made some of them
    assert any(name == "mirror_requests_total" for name, _ in told)
    namespaces = {"docker.io", "none", *(("*",) if wildcard else ())}
    for name, labels in after:
        assert "evil" not in name.lower() + repr(labels).lower()
    for name, labels in told:
        for label, text in labels:
            if label in NUMBERS:
                assert re.fullmatch(NUMBERS[label], text), (name, label, text)
            else:
                assert text in {**FIXED, "namespace": namespaces}[label], (name, label, text)
    assert len({labels for name, labels in told if name == "mirror_requests_total"}) < 20


async def test_a_loop_that_is_held_up_is_seen(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_lag, "EVERY", 0.02)
    mirror = await start(upstream)
    before = await scrape(mirror)
    time.sleep(0.3)  # noqa: ASYNC251  # this is what is to be seen
    async with asyncio.timeout(5):
        while True:
            after = await scrape(mirror)
            if value(after, "mirror_loop_lags_seconds_count") > value(before, "mirror_loop_lags_seconds_count"):
                break
    assert value(after, "mirror_loop_lags_seconds_sum") - value(before, "mirror_loop_lags_seconds_sum") > 0.2
    assert "mirror_loop_lag_seconds" in {name for name, _ in after}


async def test_they_say_what_runs(start: StartMirror, upstream: FakeRegistry) -> None:
    series = await scrape(await start(upstream))
    (labels,) = [dict(labels) for name, labels in series if name == "mirror_build_info"]
    assert labels["version"] == __version__
    assert not any(name.endswith("_created") for name, _ in series)


async def test_they_tell_what_another_process_on_the_store_was_told(
    start: StartMirror, upstream: FakeRegistry, clock: Clock
) -> None:
    """As `mirror ratelimit` is, or another worker."""
    two = [{"username": "ann", "password": "one"}, {"anonymous": True}]
    mirror = await start({"docker.io": {"url": upstream.url, "credentials": two}})
    book = Dealings(mirror.server.config.storage.path / FILE)
    try:
        accounts = Accounts("docker.io", "another process", book=book, clock=clock)
        said = CIMultiDict({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "7;w=21600"})
        accounts.note("anonymous", said, 200)
        accounts.limited("anonymous", COUNTED, 90.0)
        accounts.set_aside("ann", "refused", 300.0)
        book.flush()
    finally:
        book.close()
    series = await scrape(mirror)
    ann, nobody = ({"namespace": "docker.io", "credential": name} for name in ("ann", "anonymous"))
    assert value(series, "mirror_upstream_ratelimit_remaining", **nobody) == 7
    assert value(series, "mirror_upstream_rests_until_timestamp_seconds", **nobody) > clock()
    assert value(series, "mirror_upstream_credential_set_aside", **ann) == 1
