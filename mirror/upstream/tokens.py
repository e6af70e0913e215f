"""Tokens: read from a token service's answer, kept while they are good, fetched once however many ask."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cachetools import LRUCache

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MAX_BODY = 1024 * 1024  # bytes of a token service's answer

_DEFAULT_LIFE = 60.0  # seconds, where `expires_in` is missing or less (distribution, docs/spec/auth/token.md)
_MAX_LIFE = 86_400.0
_AROUND = 1024  # bytes that a token takes besides its text
_REMEMBERED = 256  # tokens out of use that are still known as secrets
_MAX_TOKEN = 32 * 1024  # characters; no server takes a longer header, and a thousand are kept
_VISIBLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token. Times are monotonic, in seconds; `identity`: credentials were shown to get it."""

    value: str
    refresh_at: float
    expires_at: float
    identity: bool

    def __repr__(self) -> str:
        return f"Token(***, expires_at={self.expires_at:.0f}, identity={self.identity})"


@dataclass(frozen=True, slots=True)
class TokenKey:
    """What a token is for: the answer of one token service, to one identity, for a set of scopes."""

    realm: str
    service: str
    scopes: tuple[str, ...]


def parse_token(body: bytes, *, identity: bool, now: float | None = None) -> Token:
    """Read a token service's answer, received just now (`now`: seconds since the epoch).

    Raise `ValueError`, whose text never holds the body, for one without a usable token. The life counts from
    `issued_at` where that is believable, else from now, and the token is to be replaced at 80 to 90 % of it.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("its token service sent something that is not JSON") from None
    if not isinstance(answer, dict):
        raise ValueError("its token service sent something that is not a JSON object")  # noqa: TRY004  one kind for all
    value = answer.get("token") or answer.get("access_token")
    if not isinstance(value, str) or len(value) > _MAX_TOKEN or not _VISIBLE.fullmatch(value):
        raise ValueError("its token service sent no usable token")
    life = _life(answer.get("expires_in"))
    # A service may hand out a token that it made earlier. An age that is negative, or as long as the life, is a clock
    # that is wrong; and one that would leave next to nothing is not believed either.
    age = (time.time() if now is None else now) - _issued(answer.get("issued_at"), now)
    left = max(life - age, life / 5) if 0 < age < life else life
    received = time.monotonic()
    return Token(value, received + left * random.uniform(0.8, 0.9), received + left, identity)  # noqa: S311  jitter


def _life(expires_in: object) -> float:
    if isinstance(expires_in, str) and expires_in.isascii() and expires_in.isdigit():
        expires_in = int(expires_in[:9])
    if isinstance(expires_in, bool) or not isinstance(expires_in, int | float):
        return _DEFAULT_LIFE
    if not expires_in >= _DEFAULT_LIFE:  # NaN too
        return _DEFAULT_LIFE
    return float(min(expires_in, _MAX_LIFE))


def _issued(issued_at: object, now: float | None) -> float:
    if isinstance(issued_at, str):
        try:
            when = datetime.fromisoformat(issued_at)
            return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            pass  # counts as absent
    return time.time() if now is None else now


class Tokens:
    """The tokens of one origin. A fetch is nobody's own: whoever asks for the same token meanwhile waits for it."""

    def __init__(self, capacity: int = 4 * 1024 * 1024) -> None:  # characters of all tokens
        self._kept: LRUCache[TokenKey, Token] = LRUCache(capacity, getsizeof=lambda token: len(token.value) + _AROUND)
        self._out_of_use: deque[str] = deque(maxlen=_REMEMBERED)
        self._fetches: dict[TokenKey, asyncio.Task[Token]] = {}

    def kept(self, key: TokenKey) -> Token | None:
        """Return a token that is still good."""
        token = self._kept.get(key)
        return token if token is not None and time.monotonic() < token.expires_at else None

    @property
    def identified(self) -> bool:
        """Whether credentials have got one that is still good."""
        now = time.monotonic()
        return any(token.identity and now < token.expires_at for token in self._kept.values())

    def drop(self, key: TokenKey, value: str) -> None:
        """Forget a token that was refused, unless another one has taken its place."""
        token = self._kept.get(key)
        if token is not None and token.value == value:
            self._out_of_use.append(value)
            del self._kept[key]

    def values(self) -> tuple[str, ...]:
        """Return every token there is, and those that were refused or replaced: a refusal may repeat what it refuses.

        A registry may err in calling a token bad, and one that was replaced is good for a while yet.
        """
        return (*(token.value for token in self._kept.values()), *self._out_of_use)

    async def get(self, key: TokenKey, fetch: Callable[[], Awaitable[Token]]) -> Token:
        """Return a token that is not due for replacement, by `fetch` if there is none. Raises what `fetch` raises."""
        token = self.kept(key)
        if token is not None and time.monotonic() < token.refresh_at:
            return token
        task = self._fetches.get(key)
        if task is None:
            task = self._fetches[key] = asyncio.create_task(self._fetch(key, fetch), name="token")
            task.add_done_callback(lambda done: self._finished(key, done))
        try:
            return await asyncio.shield(task)
        except Exception:
            if token is not None and self.kept(key) is token:
                return token  # due for replacement, but good for a while yet
            raise

    async def close(self) -> None:
        """End the fetches that are under way."""
        tasks = list(self._fetches.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fetch(self, key: TokenKey, fetch: Callable[[], Awaitable[Token]]) -> Token:
        token = await fetch()
        if (before := self._kept.get(key)) is not None:
            self._out_of_use.append(before.value)
        self._kept[key] = token
        return token

    def _finished(self, key: TokenKey, task: asyncio.Task[Token]) -> None:
        del self._fetches[key]
        if not task.cancelled():
            task.exception()  # whoever waits has it; if all have left, nobody needs to hear of it
