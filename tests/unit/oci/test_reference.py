from __future__ import annotations

import pytest

from mirror.errors import DigestInvalid, NameInvalid, TagInvalid
from mirror.oci.digest import Digest
from mirror.oci.name import Repository, Tag
from mirror.oci.reference import ImageReference

HEX = "a" * 64
D = Digest("sha256", HEX)


@pytest.mark.parametrize(
    ("text", "repository", "tag", "digest"),
    [
        ("nginx", Repository("docker.io", "library/nginx"), Tag("latest"), None),
        (" nginx:1.27 ", Repository("docker.io", "library/nginx"), Tag("1.27"), None),
        ("org/app", Repository("docker.io", "org/app"), Tag("latest"), None),
        ("index.docker.io/nginx", Repository("docker.io", "library/nginx"), Tag("latest"), None),
        ("quay.io/org/app:v1", Repository("quay.io", "org/app"), Tag("v1"), None),
        (f"quay.io/org/app:v1@sha256:{HEX}", Repository("quay.io", "org/app"), Tag("v1"), D),
        (f"quay.io/org/app@sha256:{HEX}", Repository("quay.io", "org/app"), None, D),
        ("localhost:5000/app", Repository("localhost:5000", "app"), Tag("latest"), None),
        ("localhost:5000", Repository("docker.io", "library/localhost"), Tag("5000"), None),
        ("localhost/app", Repository("localhost", "app"), Tag("latest"), None),
        ("myreg:5000/a/b/c:x", Repository("myreg:5000", "a/b/c"), Tag("x"), None),
        ("[::1]:5000/app:x", Repository("[::1]:5000", "app"), Tag("x"), None),
    ],
)
def test_a_reference_means_what_it_means_to_docker(
    text: str, repository: Repository, tag: Tag | None, digest: Digest | None
) -> None:
    assert ImageReference.parse(text) == ImageReference(repository, tag, digest)


def test_another_default_names_the_upstream_where_no_host_is_written() -> None:
    assert ImageReference.parse("app", default="quay.io").repository == Repository("quay.io", "app")


def test_the_digest_is_what_a_registry_is_asked_for() -> None:
    assert ImageReference.parse(f"app:v1@{D}").reference == D
    assert ImageReference.parse("app:v1").reference == Tag("v1")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", NameInvalid),
        ("quay.io/", NameInvalid),
        ("https://quay.io/app", NameInvalid),
        ("App", NameInvalid),
        ("a/../b", NameInvalid),
        ("app:", TagInvalid),
        ("app:a b", TagInvalid),
        ("app@", DigestInvalid),
        ("app@sha256:abc", DigestInvalid),
        (f"app@{D}@{D}", DigestInvalid),
        (f"@{D}", NameInvalid),
    ],
)
def test_what_is_no_reference_is_refused_by_the_part_that_is_wrong(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        ImageReference.parse(text)
