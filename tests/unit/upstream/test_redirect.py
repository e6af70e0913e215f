from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from mirror.upstream.redirect import Signed, SignedMemory, next_hop

HERE = URL("https://registry.test/v2/a/blobs/sha256:0")


@pytest.mark.parametrize(
    "location",
    [
        "https://cdn.test/x?sig=%7E%3A%2b%2B+~:'()&e=1",
        "https://cdn.test/sha256%3Aabc/data?X-Amz-Signature=abc%2F",
        "https://cdn.test:8443/a//b/../c?",
    ],
)
def test_an_address_is_followed_byte_for_byte(location: str) -> None:
    target = next_hop(HERE, location)
    assert f"{target.scheme}://{target.raw_host}" in location
    assert target.raw_path_qs.rstrip("?") in location


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/blobs/x?sig=%7E", "https://registry.test/blobs/x?sig=%7E"),
        ("//cdn.test/x", "https://cdn.test/x"),
        ("https://cdn.test/a b\u00e9", "https://cdn.test/a%20b%C3%A9"),
    ],
)
def test_relative_and_careless_addresses_are_understood(location: str, expected: str) -> None:
    assert str(next_hop(HERE, location)) == expected


@pytest.mark.parametrize(
    "location",
    [
        "",
        "http://cdn.test/x",
        "ftp://cdn.test/x",
        "file:///etc/passwd",
        "https:///x",
        "https://u:p@cdn.test/x",
        "https://a:b:c/",
        "https://cdn.test:99999/",
        "https://127.0.0%2e1/",  # what a proxy may take for 127.0.0.1
        "https://loc%61lhost/",
        "https://\uff11\uff12\uff17.0.0.1/",
        "https://" + "a" * 300 + "/",
    ],
)
def test_what_must_not_be_followed_is_refused(location: str) -> None:
    with pytest.raises(ValueError, match="a redirect"):
        next_hop(HERE, location)


def test_plain_http_may_lead_anywhere() -> None:
    assert next_hop(URL("http://a.test/"), "http://b.test/x").host == "b.test"
    assert next_hop(URL("http://a.test/"), "https://b.test/x").scheme == "https"


@given(st.text())
def test_no_location_whatever_raises_anything_else(location: str) -> None:
    try:
        target = next_hop(HERE, location)
    except ValueError:
        return
    assert str(target).isascii()
    assert " " not in str(target)


def test_a_signed_address_is_kept_for_its_own_blob_in_its_own_repository_and_never_shown() -> None:
    memory = SignedMemory()
    one, two, digest = Repository("u", "one"), Repository("u", "two"), Digest.of(b"")
    signed = Signed(URL("https://cdn.test/x?sig=canary"), public=False)
    memory.put(one, digest, signed)
    assert memory.get(one, digest) is signed
    assert memory.get(two, digest) is None
    assert "canary" not in repr(signed)
    memory.forget(one, digest)
    assert memory.get(one, digest) is None


def test_an_address_of_a_length_that_nobody_signs_is_not_kept() -> None:
    memory, repository, digest = SignedMemory(), Repository("up.test", "a"), Digest.of(b"a")
    memory.put(repository, digest, Signed(URL("https://cdn.test/" + "a" * 60_000), public=True))
    assert memory.get(repository, digest) is None
