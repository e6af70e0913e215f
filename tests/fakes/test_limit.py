"""The limits and the changing health of the fake upstream are what their docstrings say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from aiohttp import ClientSession, encode_basic_auth

from tests.fakes import faults, limit
from tests.fakes.limit import RateLimit
from tests.fakes.registry import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from multidict import CIMultiDictProxy


class Time:
    now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Said:
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
async def up() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as fake:
        fake.add_image("app", "v1")
        yield fake


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession(auto_decompress=False) as session:
        yield session


async def ask(
    http: ClientSession, up: FakeRegistry, method: str = "GET", *, path: str = "manifests/v1", user: str | None = None
) -> Said:
    headers = {"Authorization": encode_basic_auth(user, "p")} if user else {}
    async with http.request(method, f"{up.url}/v2/app/{path}", headers=headers) as response:
        return Said(response.status, response.headers, await response.read())


async def test_only_gets_of_manifests_are_counted_in_a_window_that_slides(
    up: FakeRegistry, http: ClientSession, clock: Time
) -> None:
    up.limit = RateLimit(2, window=100, clock=clock)
    blob = next(iter(up.shelf("app").blobs))
    assert (await ask(http, up)).headers["ratelimit-limit"] == "2;w=100"
    clock.now += 60
    await ask(http, up, path=f"blobs/{blob}")
    await ask(http, up, path="tags/list")
    second = await ask(http, up)
    assert second.headers["ratelimit-remaining"] == "0;w=100"
    assert second.headers["docker-ratelimit-source"] == "192.0.2.1"
    refused = await ask(http, up)
    assert (refused.status, refused.headers["ratelimit-remaining"]) == (429, "0;w=100")
    assert b"TOOMANYREQUESTS" in refused.body
    assert "Retry-After" not in refused.headers
    head = await ask(http, up, "HEAD")
    assert (head.status, head.headers["ratelimit-remaining"]) == (200, "0;w=100")
    clock.now += 40  # the first is out of the window, the second is not
    assert [(await ask(http, up)).status for _ in range(2)] == [200, 429]
    assert up.count(counted=True) == 3
    assert up.count(limited=True) == len(up.limit.refused) == 2
    assert up.limit.worst() == 2
    assert up.limit.worst(window=200) == 3


async def test_each_account_and_each_uplink_has_a_limit_of_its_own(
    up: FakeRegistry, http: ClientSession, clock: Time
) -> None:
    up.auth.mode, up.auth.users = "basic", {"ann": "p", "bob": "p", "firm": "p"}
    up.limit = RateLimit(accounts={"ann": 1, "bob": 1, "firm": None}, clock=clock)
    assert [(await ask(http, up, user=user)).status for user in ("ann", "ann", "bob")] == [200, 429, 200]
    paid = await ask(http, up, user="firm")
    assert paid.status == 200
    assert "ratelimit-limit" not in paid.headers
    up.auth.mode = None
    up.limit = RateLimit(3, sources=("192.0.2.1", "198.51.100.7"), clock=clock)
    up.limit.use("192.0.2.1", 2)
    said = [(await ask(http, up)).headers for _ in range(3)]
    assert [headers["ratelimit-remaining"] for headers in said] == ["0;w=21600", "2;w=21600", "0;w=21600"]
    assert said[1]["docker-ratelimit-source"] == "198.51.100.7"


async def test_the_abuse_limit_is_about_everything_and_says_nothing(
    up: FakeRegistry, http: ClientSession, clock: Time
) -> None:
    up.limit = RateLimit(None, abuse=2, clock=clock)
    answers = [await ask(http, up, "HEAD") for _ in range(2)] + [await ask(http, up, path="tags/list")]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert "ratelimit-limit" not in answers[-1].headers
    assert b"TOOMANYREQUESTS" not in answers[-1].body
    clock.now += 61
    assert (await ask(http, up)).status == 200


@pytest.mark.parametrize("said", [True, 0, limit.PAST, limit.YEARS, limit.GARBAGE], ids=str)
async def test_a_refusal_says_true_or_false_when_to_come_again(
    up: FakeRegistry,
    http: ClientSession,
    clock: Time,
    said: str | int | bool,
) -> None:
    up.limit = RateLimit(1, window=100, clock=clock, retry_after=said)
    await ask(http, up)
    clock.now += 30
    assert (await ask(http, up)).headers["Retry-After"] == ("70" if said is True else str(said))


async def test_it_flaps_by_requests_or_by_the_clock(up: FakeRegistry, http: ClientSession, clock: Time) -> None:
    up.fault(kind="manifest", then=faults.Status(502), flapping=faults.Flapping(2, 1))
    assert [(await ask(http, up)).status for _ in range(5)] == [200, 200, 502, 200, 200]
    up.heal()
    up.fault(then=faults.Status(503), flapping=faults.Flapping(10, 5, clock))
    statuses = []
    for _ in range(4):
        statuses.append((await ask(http, up)).status)
        clock.now += 5
    assert statuses == [200, 200, 503, 200]


async def test_a_slow_start_is_slow_only_at_its_start(up: FakeRegistry, http: ClientSession) -> None:
    digest = up.add_pattern_blob("app", 2_000_000)
    up.fault(kind="blob", then=faults.Slow(rate=20_000, upto=2_000))
    async with http.get(f"{up.url}/v2/app/blobs/{digest}") as response:
        assert digest.matches(await response.read())
    record = up.requests[-1]
    assert record.ended is not None
    assert 0.05 < record.ended - record.time < 1  # all of it at this speed would be 100 s


async def test_a_false_digest_is_said_of_true_content(up: FakeRegistry, http: ClientSession) -> None:
    up.fault(kind="manifest", method="HEAD", then=faults.FalseDigest())
    true = up.shelf("app").tags["v1"]
    assert (await ask(http, up, "HEAD")).headers["Docker-Content-Digest"] == faults.FalseDigest().digest
    assert (await ask(http, up)).headers["Docker-Content-Digest"] == true
