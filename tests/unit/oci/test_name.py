from __future__ import annotations

import hashlib

import pytest

from mirror.errors import DigestInvalid, NameInvalid, TagInvalid
from mirror.oci.digest import Digest
from mirror.oci.name import Tag, check_name, parse_reference


@pytest.mark.parametrize("name", ["nginx", "library/nginx", "a.b_c__d-e--f/0", "manifests", "a" * 255])
def test_names_of_the_specification_are_allowed(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        "..",
        "a/../b",
        ".a",
        "a.",
        "a___b",
        "A",
        "ä",
        "a b",
        "a\n",
        "a\x00",
        "a:b",
        "a" * 256,
    ],
)
def test_no_other_name_is_allowed(name: str) -> None:
    with pytest.raises(NameInvalid):
        check_name(name)


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_a_digest_knows_its_content_and_no_other(algorithm: str) -> None:
    digest = Digest.parse(f"{algorithm}:{hashlib.new(algorithm, b'content').hexdigest()}")

    assert digest.matches(b"content")
    assert not digest.matches(b"content ")
    assert Digest.parse(str(digest)) == digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 64 + "\n",
        "sha512:" + "a" * 64,
        "md5:" + "a" * 32,
        "sha256:../" + "a" * 61,
        "sha256:" + "٣" * 64,
    ],
)
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(DigestInvalid):
        Digest.parse(text)


def test_a_reference_with_a_colon_is_a_digest_and_without_one_a_tag() -> None:
    assert parse_reference("v1.0-rc_1") == Tag("v1.0-rc_1")
    assert parse_reference("sha256-" + "a" * 64) == Tag("sha256-" + "a" * 64)
    assert parse_reference("sha256:" + "a" * 64) == Digest("sha256", "a" * 64)
    with pytest.raises(DigestInvalid):
        parse_reference("sha256:abc")


@pytest.mark.parametrize("tag", ["", ".hidden", "-x", "a/b", "..", "a b", "a\n", "ä", "a" * 129])
def test_what_is_no_tag_is_refused(tag: str) -> None:
    with pytest.raises(TagInvalid):
        Tag.parse(tag)
