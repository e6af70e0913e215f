from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import pytest

from mirror.errors import UpstreamUnavailable
from mirror.upstream.tokens import Token, TokenKey, Tokens, parse_token

KEY = TokenKey("https://auth.test/token", "s", ("repository:a:pull",))


def _parse(**answer: Any) -> tuple[Token, float]:
    begin = time.monotonic()
    token = parse_token(json.dumps(answer).encode(), identity=False, now=1_700_000_000.0)
    return token, token.expires_at - begin


@pytest.mark.parametrize(
    ("expires_in", "life"),
    [(None, 60), (0, 60), (-5, 60), (59, 60), (300, 300), ("300", 300), ("soon", 60), (True, 60), (1e300, 86_400)],
)
def test_a_life_is_never_under_a_minute_nor_over_a_day(expires_in: object, life: float) -> None:
    token, left = _parse(token="t", expires_in=expires_in)
    assert left == pytest.approx(life, abs=0.5)
    assert 0.79 * life < token.refresh_at - (token.expires_at - life) < 0.91 * life


@pytest.mark.parametrize(
    ("issued_at", "left"),
    [
        ("2023-11-14T22:11:40Z", 200),  # 100 s ago
        ("2023-11-14T22:11:40.123456789Z", 200),
        ("2023-11-14T22:15:00Z", 300),  # in the future: its clock is fast
        ("2023-11-14T20:00:00Z", 300),  # long ago: its clock is slow
        ("2023-11-14T22:08:21Z", 60),  # 299 s ago: not believed to the letter
        ("yesterday", 300),
        (17, 300),
    ],
)
def test_a_life_counts_from_issued_at_where_that_is_believable(issued_at: object, left: float) -> None:
    assert _parse(token="t", expires_in=300, issued_at=issued_at)[1] == pytest.approx(left, abs=1.5)


@pytest.mark.parametrize("answer", [{"token": "v"}, {"access_token": "v"}, {"token": "", "access_token": "v"}])
def test_both_names_of_the_token_are_known(answer: dict[str, str]) -> None:
    assert parse_token(json.dumps(answer).encode(), identity=True).value == "v"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"token": 7}',
        b'{"token": "a b"}',
        b'{"token": "' + b"a" * 40_000 + b'"}',
        b'{"token": "a\\r\\nX: y"}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_what_is_no_token_is_refused_without_being_repeated(body: bytes) -> None:
    with pytest.raises(ValueError, match="its token service sent") as caught:
        parse_token(body, identity=False)
    assert "X:" not in str(caught.value)


def test_a_token_is_not_shown() -> None:
    assert "canary" not in repr(Token("canary", 0, 0, identity=True))


def _token(value: str, *, refresh_in: float, expires_in: float = 1000) -> Token:
    return Token(value, time.monotonic() + refresh_in, time.monotonic() + expires_in, identity=False)


class Service:
    """A token service that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer = asyncio.get_running_loop().create_future()

    async def fetch(self) -> Token:
        self.asked += 1
        token: Token = await self.answer
        return token


async def test_a_token_is_fetched_once_however_many_ask() -> None:
    tokens, service = Tokens(), Service()
    waiting = [asyncio.create_task(tokens.get(KEY, service.fetch)) for _ in range(50)]
    await asyncio.sleep(0)
    service.answer.set_result(_token("one", refresh_in=100))
    assert {token.value for token in await asyncio.gather(*waiting)} == {"one"}
    assert (await tokens.get(KEY, service.fetch)).value == "one"
    assert service.asked == 1


async def test_a_caller_that_leaves_does_not_stop_the_fetch() -> None:
    tokens, service = Tokens(), Service()
    first = asyncio.create_task(tokens.get(KEY, service.fetch))
    second = asyncio.create_task(tokens.get(KEY, service.fetch))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    service.answer.set_result(_token("one", refresh_in=100))
    assert (await second).value == "one"
    assert service.asked == 1


async def test_a_token_that_is_due_is_replaced_before_it_expires() -> None:
    tokens, service = Tokens(), Service()
    service.answer.set_result(_token("old", refresh_in=-1))
    await tokens.get(KEY, service.fetch)
    service.answer = asyncio.get_running_loop().create_future()
    service.answer.set_result(_token("new", refresh_in=100))
    assert (await tokens.get(KEY, service.fetch)).value == "new"


async def test_a_token_that_is_due_still_serves_while_its_service_is_down() -> None:
    tokens, service = Tokens(), Service()
    service.answer.set_result(_token("old", refresh_in=-1))
    await tokens.get(KEY, service.fetch)
    service.answer = asyncio.get_running_loop().create_future()
    service.answer.set_exception(UpstreamUnavailable("down", namespace="x"))
    assert (await tokens.get(KEY, service.fetch)).value == "old"


async def test_only_the_token_that_was_refused_is_dropped() -> None:
    tokens, service = Tokens(), Service()
    service.answer.set_result(_token("new", refresh_in=100))
    await tokens.get(KEY, service.fetch)
    tokens.drop(KEY, "old")
    assert tokens.kept(KEY) is not None
    tokens.drop(KEY, "new")
    assert tokens.kept(KEY) is None


async def test_the_tokens_of_a_service_that_makes_them_long_take_a_few_megabytes_at_most() -> None:
    tokens = Tokens()
    for number in range(300):
        service = Service()
        service.answer.set_result(_token(str(number) + "x" * 32_000, refresh_in=100))
        await tokens.get(replace(KEY, service=str(number)), service.fetch)
    assert sum(map(len, tokens.values())) < 5 * 1024 * 1024


async def test_closing_ends_a_fetch_that_is_under_way() -> None:
    tokens, service = Tokens(), Service()
    waiting = asyncio.create_task(tokens.get(KEY, service.fetch))
    await asyncio.sleep(0)
    await tokens.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_token_that_was_replaced_or_refused_is_still_known_as_a_secret() -> None:
    tokens = Tokens()
    for value in ("one", "two"):
        service = Service()
        service.answer.set_result(_token(value, refresh_in=-1))
        await tokens.get(KEY, service.fetch)
    assert set(tokens.values()) == {"one", "two"}
    tokens.drop(KEY, "two")
    assert tokens.kept(KEY) is None
    assert set(tokens.values()) == {"one", "two"}
