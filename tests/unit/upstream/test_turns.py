"""Whose turn it is, and that nobody waits for a rest who has no time for it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from multidict import CIMultiDict

from mirror.config.credentials import Credentials
from mirror.errors import UpstreamLimited
from mirror.oci.name import Tag
from mirror.store.dealings import Dealings
from mirror.upstream.accounts import COUNTED, Accounts
from mirror.upstream.logins import Fixed, LoginRefused, OneLogin
from mirror.upstream.several_logins import Bound, SeveralLogins
from mirror.upstream.turns import Turns
from tests.fakes.faults import Status
from tests.unit.upstream.dial import NAMESPACE, REPO

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.upstream.protocol import Upstream
    from tests.fakes.registry import FakeRegistry

APP = "org/app"


def login(name: str, given: str = "canary") -> Fixed:
    return Fixed(Credentials.of(name, given), name)


def accounts(book: Dealings) -> Accounts:
    return Accounts(NAMESPACE, NAMESPACE, book=book, clock=lambda: 1_790_000_000.0)


def turns(book: Dealings, *logins: Fixed, bound: Fixed | None = None) -> Turns:
    several = [Bound((), OneLogin(each)) for each in logins]
    if bound is not None:
        several.append(Bound(("org/*",), OneLogin(bound)))
    return Turns(NAMESPACE, SeveralLogins(tuple(several)), accounts(book))


async def asked(of: Turns, kind: str = COUNTED, repository: str = APP) -> list[str]:
    return [each.login.name for each in (await of.begin(kind, repository)).candidates]


def left(book: Dealings, **remaining: int) -> None:
    for name, count in remaining.items():
        told = CIMultiDict({"ratelimit-limit": "100;w=60", "ratelimit-remaining": str(count)})
        accounts(book).note(name, told, 200)


def refusal(of: Fixed) -> LoginRefused:
    return LoginRefused("no", namespace=NAMESPACE, upstream_status=401, shown=of.given)


async def test_whoever_has_the_most_left_is_asked_with_first_but_not_at_every_turn_another() -> None:
    book = Dealings(None)
    ann, bob = login("ann"), login("bob")
    order = turns(book, ann, bob)
    left(book, ann=40, bob=60)
    assert await asked(order) == ["bob", "ann"]
    order.let_in(APP, bob, identity=True)
    left(book, ann=65)
    assert await asked(order) == ["bob", "ann"]  # a token for each turn would cost more than it saves
    assert await asked(order, repository="other") == ["ann", "bob"]
    left(book, ann=90)
    assert await asked(order) == ["ann", "bob"]
    assert await asked(order, "blob GET") == ["bob", "ann"]  # those use nothing up


async def test_whoever_is_bound_comes_first_whatever_is_left() -> None:
    book = Dealings(None)
    order = turns(book, login("ann"), bound=login("team"))
    left(book, ann=100, team=1)
    assert await asked(order) == ["team", "ann"]
    assert await asked(order, repository="acme/app") == ["ann"]


async def test_what_one_process_sets_aside_no_other_uses_until_it_has_other_credentials() -> None:
    book = Dealings(None)
    ann, bob = login("ann"), login("bob")
    one, other = turns(book, ann, bob), turns(book, ann, bob)
    one.set_aside(ann, refusal(ann))
    assert await asked(one) == await asked(other) == ["bob"]
    assert await other.order(COUNTED, APP) == ["bob", "ann"]
    begun_since = turns(book, ann, bob)
    assert await asked(begun_since) == ["ann", "bob"]  # perhaps it was put right: that is why it was started again
    other._logins = SeveralLogins((Bound((), OneLogin(login("ann", "another"))), Bound((), OneLogin(bob))))
    assert await asked(other) == ["ann", "bob"]


async def test_where_all_are_set_aside_they_are_tried_all_the_same() -> None:
    book = Dealings(None)
    ann, bob = login("ann"), login("bob")
    order = turns(book, ann, bob)
    for each in (ann, bob):
        order.set_aside(each, refusal(each))
    assert await asked(order) == ["ann", "bob"]


async def test_a_rest_says_nothing_of_where_the_upstream_is(up: FakeRegistry, connect: Callable[..., Upstream]) -> None:
    up.add_image(APP, "v1")
    told = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "0;w=21600"}
    up.fault(kind="manifest", method="GET", then=Status(429, headers=told))
    upstream = connect()
    for away in (True, False):
        with pytest.raises(UpstreamLimited):
            await upstream.manifest(REPO, Tag("v1"), patience=5)
        assert upstream.away == away
        await upstream.head(REPO, Tag("v1"), patience=5)
    assert up.count(kind="manifest", method="GET") == 1


async def test_only_who_has_time_waits_for_the_end_of_a_rest(up: FakeRegistry, connect: Callable[..., Any]) -> None:
    up.add_image(APP, "v1")
    up.fault(kind="manifest", times=1, then=Status(429, retry_after="0.5"))
    upstream = connect()
    began = time.monotonic()
    with pytest.raises(UpstreamLimited) as limited:
        await upstream.manifest(REPO, Tag("v1"), patience=3)
    assert limited.value.retry_after == pytest.approx(0.5, abs=0.1)
    assert time.monotonic() - began < 0.4
    assert await upstream.manifest(REPO, Tag("v1"), patience=20)
    assert up.count(kind="manifest") == 2
