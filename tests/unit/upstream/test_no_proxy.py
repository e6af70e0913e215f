from __future__ import annotations

import pytest
from yarl import URL

from mirror.upstream.no_proxy import NoProxy


def covers(no_proxy: str, server: str) -> bool:
    return NoProxy.parse(no_proxy).covers(URL(server if "://" in server else f"https://{server}/v2/"))


@pytest.mark.parametrize(
    ("no_proxy", "server"),
    [
        ("*", "quay.io"), ("x.test, *", "10.0.0.1"),
        ("corp.example", "corp.example"), ("corp.example", "r.corp.example"), ("CORP.example", "r.Corp.Example"),
        (".corp.example", "r.corp.example"), (".corp.example", "a.b.corp.example"),
        ("*.svc.local", "r.svc.local"), ("*.svc.local", "a.b.svc.local"),
        (" x.test ,, r.test ", "r.test"),
        ("r.test:443", "r.test"), ("r.test:80", "http://r.test"), ("r.test:", "r.test:5000"),
        (".r.test:5000", "a.r.test:5000"), ("*.r.test:5000", "a.r.test:5000"),
        ("münchen.example", "xn--mnchen-3ya.example"), ("xn--mnchen-3ya.example", "münchen.example"),
        ("10.1.2.3", "10.1.2.3"), ("10.1.2.3:5000", "10.1.2.3:5000"),
        ("10.0.0.0/8", "10.1.2.3"), ("10.1.2.3/8", "10.9.9.9:5000"), ("fd00::/8", "[fd12::1]:5000"),
        ("fd00::1", "[fd00::1]"), ("[fd00::1]", "[fd00::1]:5000"), ("[fd00::1]:5000", "[fd00:0::1]:5000"),
        ("10.1.2.3", "[::ffff:10.1.2.3]"), ("::ffff:10.1.2.3", "10.1.2.3"), ("fe80::1", "[fe80::1%25eth0]"),
    ],
)  # fmt: skip
def test_what_no_proxy_names_is_asked_directly(no_proxy: str, server: str) -> None:
    assert covers(no_proxy, server)


@pytest.mark.parametrize(
    ("no_proxy", "server"),
    [
        ("", "quay.io"),
        ("corp.example", "notcorp.example"), ("corp.example", "corp.example.org"), ("r.corp.example", "corp.example"),
        (".corp.example", "corp.example"), ("*.svc.local", "svc.local"), (".example", "corpexample"),
        ("r.test:5000", "r.test"), ("r.test:443", "http://r.test"), ("10.1.2.3:5000", "10.1.2.3"),
        ("[fd00::1]:5000", "[fd00::1]"),
        ("10.0.0.0/8", "11.1.2.3"), ("10.0.0.0/8", "r.test"), ("10.1.2.3", "10.1.2.33"), ("fd00::/8", "10.0.0.1"),
        (".2.3", "10.1.2.3"), ("2.3", "10.1.2.3"), ("10.1.2", "10.1.2.3"),
    ],
)  # fmt: skip
def test_what_it_does_not_name_goes_through_the_proxy(no_proxy: str, server: str) -> None:
    assert not covers(no_proxy, server)


@pytest.mark.parametrize(
    "garbage",
    ["", ".", "*.", "*x.test", ":443", "[", "[]", "[]:443", "a:b:c", "http://r.test", "r.test/v2", "10.0.0.0/99", "/8",
     "10.0.0.0/255.0.0.0", "10.0.0.0/8:443", "010.1.2.3", "r test", "\ud800", "é" * 300, "r.test:https"],
)  # fmt: skip
def test_an_entry_that_makes_no_sense_covers_nothing_and_leaves_the_others_alone(garbage: str) -> None:
    assert not covers(garbage, "r.test")
    assert not covers(garbage, "10.1.2.3")
    assert covers(f"{garbage},good.test", "good.test")


@pytest.mark.parametrize(
    "server", ["localhost:5000", "127.0.0.1", "127.8.9.10:5000", "[::1]:5000", "[::ffff:127.0.0.1]"]
)
def test_this_machine_is_never_asked_through_a_proxy(server: str) -> None:
    assert covers("", server)
    assert not covers("", "localhost.example")
