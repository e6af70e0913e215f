"""What a person means by an argument."""

from __future__ import annotations

import pytest

from mirror.errors import MirrorError
from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from mirror.oci.pattern import ImagePattern

DIGEST = Digest.of(b"")  # e3b0c44298fc1c14…

NGINX = "docker.io/library/nginx"
APP = "quay.io/org/app"
DEEP = "registry.example:5000/a/b/c"
SHELF = (NGINX, "docker.io/bitnami/redis", APP, "quay.io/org/tool", DEEP)


def named(path: str) -> Repository:
    namespace, _, name = path.partition("/")
    return Repository(namespace, name)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("nginx", {NGINX}),
        ("docker.io/nginx", {NGINX}),
        ("docker.io/library/nginx", {NGINX}),
        ("index.docker.io/library/nginx", {NGINX}),
        ("nginx:1.25", {NGINX}),
        ("ngin?", {NGINX}),
        ("bitnami/redis", {"docker.io/bitnami/redis"}),
        ("bitnami*/redis", {"docker.io/bitnami/redis"}),
        ("quay.io/org/*", {APP, "quay.io/org/tool"}),
        ("quay.io/*", set()),
        ("quay.io", {APP, "quay.io/org/tool"}),
        ("quay.io/", {APP, "quay.io/org/tool"}),
        ("*.io/org/app", {APP}),
        ("*/org/app", {APP}),
        ("*/nginx", {NGINX}),
        ("**/app", {APP}),
        ("*", set(SHELF)),
        ("**", set(SHELF)),
        ("*:v1.*", set(SHELF)),
        ("registry.example:5000", {DEEP}),
        ("registry.example:5000/a/**:v1", {DEEP}),
        ("app", set()),
        (f"quay.io/org/app@{DIGEST}", {APP}),
        (str(DIGEST), set(SHELF)),
    ],
)
def test_a_pattern_means_these_repositories(text: str, meant: set[str]) -> None:
    pattern = ImagePattern.parse(text)
    assert {path for path in SHELF if pattern.has_repository(named(path))} == meant


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("nginx", {"1.25", "1.25-alpine", "latest"}),
        ("nginx:1.25", {"1.25"}),
        ("nginx:1.25*", {"1.25", "1.25-alpine"}),
        ("*:lat*", {"latest"}),
        ("registry.example:5000", {"1.25", "1.25-alpine", "latest"}),
    ],
)
def test_a_pattern_means_these_tags(text: str, tags: set[str]) -> None:
    pattern = ImagePattern.parse(text)
    assert {tag for tag in ("1.25", "1.25-alpine", "latest") if pattern.has_tag(tag)} == tags
    assert pattern.has_untagged is (len(tags) == 3)


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        (str(DIGEST), True),
        (DIGEST.hex, True),
        (DIGEST.hex[:12], True),
        (f"sha256:{DIGEST.hex[:13]}", True),
        (f"nginx@{DIGEST}", False),
        (f"nginx@sha256:{DIGEST.hex[:12]}", False),
    ],
)
def test_a_digest_may_be_shortened_to_twelve_digits(text: str, bare: bool) -> None:
    pattern = ImagePattern.parse(text)
    assert pattern.bare is bare
    assert pattern.exact
    assert pattern.has_digest(DIGEST)
    assert not pattern.has_digest(Digest.of(b"other"))


def test_eleven_digits_are_a_name() -> None:
    assert ImagePattern.parse("e3b0c44298f").digest is None


@pytest.mark.parametrize(("text", "exact"), [("nginx", False), ("nginx:1", True), ("nginx:1*", False), ("n*:1", False)])
def test_only_what_can_mean_one_tag_is_exact(text: str, exact: bool) -> None:
    assert ImagePattern.parse(text).exact is exact


@pytest.mark.parametrize("text", ["", "Nginx", "a b", "nginx:", "nginx@1.25", "nginx@sha256:12"])
def test_what_can_mean_nothing_is_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(MirrorError, match=r"letters and digits|letters, digits|sha256:"):
        ImagePattern.parse(text)


@pytest.mark.parametrize("path", SHELF)
def test_a_name_that_is_no_glob_lists_the_repositories_that_it_can_mean(path: str) -> None:
    for text in (path, path.removeprefix("docker.io/"), path.removeprefix("docker.io/library/")):
        pattern = ImagePattern.parse(text)
        assert {other for other in SHELF if pattern.has_path(other)} == set(pattern.paths) & set(SHELF)
    assert ImagePattern.parse(f"{path}*").paths == ()
