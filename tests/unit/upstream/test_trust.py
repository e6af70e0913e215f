from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from mirror.upstream.address import AddressRefused, is_private_host, is_public, public_socket
from mirror.upstream.trust import Trust

if TYPE_CHECKING:
    from ipaddress import IPv4Address


@pytest.mark.parametrize(
    ("registry", "realm", "covered"),
    [
        ("https://registry-1.docker.io", "https://auth.docker.io/token", True),
        ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth", True),
        ("https://quay.io", "https://quay.io/v2/auth", True),
        ("https://quay.io", "https://QUAY.io:8443/v2/auth", True),
        ("https://lscr.io", "https://ghcr.io/token", False),
        ("https://nvcr.io", "https://authn.nvidia.com/token", False),
        ("https://quay.io", "http://quay.io/v2/auth", False),  # without TLS
        ("https://a.co.uk", "https://b.co.uk/token", False),  # a public suffix of two labels
        ("https://one.github.io", "https://two.github.io/token", False),  # a private suffix
        ("https://registry.corp", "https://evil.corp/token", False),  # a suffix that nobody registered is one
        ("https://10.0.0.5", "https://10.0.0.5/token", True),
        ("https://10.0.0.5", "https://10.0.0.6/token", False),
        ("https://quay.io", "https://evilquay.io/token", False),
        ("https://quay.io", "https://quay.io.evil.net/token", False),
        ("http://localhost:5000", "http://localhost:5001/token", True),
    ],
)
def test_credentials_stay_inside_the_registrys_own_domain(registry: str, realm: str, *, covered: bool) -> None:
    assert Trust(URL(registry)).covers(URL(realm)) is covered


@pytest.mark.parametrize("named", ["ghcr.io", "https://ghcr.io/token", "GHCR.io", "ghcr.io:443"])
def test_a_realm_that_the_configuration_names_may_see_them(named: str) -> None:
    assert Trust(URL("https://lscr.io"), (named,)).covers(URL("https://ghcr.io/token"))


@pytest.mark.parametrize(
    "realm",
    [
        "http://127.0.0.1/token", "https://127.0.0.1/token", "https://[::1]/token", "https://localhost/token",
        "https://10.1.2.3/token", "https://169.254.169.254/token", "https://metadata.google.internal/t",
        "https://127.0.0%2e1/token", "https://loc%61lhost/token", "https://\uff11\uff12\uff17.0.0.1/",
        "https://" + "a" * 300,
        "http://auth.docker.io/token", "ftp://auth.docker.io/token", "https://me@auth.docker.io/token",
    ],
)  # fmt: skip
def test_a_realm_that_leads_astray_is_not_dialled(realm: str) -> None:
    assert Trust(URL("https://registry-1.docker.io")).refusal(URL(realm)) is not None


def test_a_private_realm_is_dialled_where_the_registry_is_private_or_the_realm_is_named() -> None:
    realm = URL("https://10.1.2.3/token")
    assert Trust(URL("https://10.9.9.9")).refusal(realm) is None
    assert Trust(URL("https://registry.example"), ("10.1.2.3",)).refusal(realm) is None


def test_a_registry_over_tls_does_not_have_a_password_sent_in_the_clear_to_a_realm_that_is_named() -> None:
    trust = Trust(URL("https://registry.example"), ("login.example.net",))
    assert trust.covers(URL("https://login.example.net/token"))
    assert not trust.covers(URL("http://login.example.net/token"))
    assert "without TLS" in (trust.refusal(URL("http://login.example.net/token")) or "")


@pytest.mark.parametrize(
    "host", ["bücher.example", "xn--bcher-kva.example", "a_b.example", "[fd00::1%25eth0]", "[::1]"]
)
def test_hosts_as_people_write_them_are_hosts(host: str) -> None:
    assert Trust(URL("https://localhost")).refusal(URL(f"https://{host}/token")) is None


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
        "192.0.0.192", "168.63.129.16", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0",
        "fc00::1", "fec0::1", "3fff::1", "::7f00:1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "not an address",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


def test_names_are_private_only_by_definition() -> None:
    assert is_private_host("registry.localhost.")
    assert is_private_host("[::1]")
    assert not is_private_host("quay.io")
    assert not is_private_host("xn--bcher-kva.example")
    assert not is_private_host("")


@pytest.mark.parametrize(
    "host",
    [
        "127.1", "2130706433", "0177.0.0.1", "0x7f.0.0.1", "0x7f000001", "0", "127.0.0.1.", "10.1", "2852039166",
        "0251.0376.0251.0376",
    ],
)  # fmt: skip
def test_an_address_is_known_in_every_spelling_that_a_resolver_takes(host: str) -> None:
    assert is_private_host(host)


@given(st.ip_addresses(v=4))
def test_how_an_address_is_spelled_changes_nothing(address: IPv4Address) -> None:
    number, (a, b, c, d) = int(address), address.packed
    private = not is_public(str(address))
    for host in (f"{number}", f"{number:#x}", f"0{number:o}", f"0{a:o}.{b:#x}.{c}.{d}", f"{a}.{number & 0xFFFFFF}"):
        assert is_private_host(host) is private
    assert is_public(f"::ffff:{address}") is not private


def test_a_socket_is_made_for_public_addresses_only() -> None:
    public_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1", 443))).close()
    with pytest.raises(AddressRefused):
        public_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 443)))
