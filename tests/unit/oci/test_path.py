from __future__ import annotations

import pytest

from mirror.oci.path import Route, RouteKind, parse_path

D = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2", Route(RouteKind.PING)),
        ("/v2/", Route(RouteKind.PING)),
        ("/v2/?ns=docker.io", Route(RouteKind.PING)),
        ("/quay.io/v2", Route(RouteKind.PING, "quay.io")),
        ("/quay.io/v2/", Route(RouteKind.PING, "quay.io")),
        ("/v2/_catalog?n=10", Route(RouteKind.CATALOG)),
        ("/quay.io/v2/_catalog", Route(RouteKind.CATALOG, "quay.io")),
        ("/v2/library/nginx/manifests/latest?ns=docker.io", Route(RouteKind.MANIFEST, None, "library/nginx", "latest")),
        (f"/v2/library/nginx/manifests/{D}", Route(RouteKind.MANIFEST, None, "library/nginx", D)),
        ("/v2/nginx/tags/list?n=5&last=a/b", Route(RouteKind.TAGS, None, "nginx")),
        (f"/v2/quay.io/org/app/blobs/{D}", Route(RouteKind.BLOB, None, "quay.io/org/app", D)),
        (f"/v2/quay.io/org/app/blobs/{D.replace(':', '%3A')}", Route(RouteKind.BLOB, None, "quay.io/org/app", D)),
        (f"/v2/a/referrers/{D}?artifactType=x/y", Route(RouteKind.REFERRERS, None, "a", D)),
        (f"/quay.io/v2/org/app/blobs/{D}", Route(RouteKind.BLOB, "quay.io", "org/app", D)),
        ("/myreg:5000/v2/app/manifests/v1", Route(RouteKind.MANIFEST, "myreg:5000", "app", "v1")),
        ("/myreg%3a5000/v2/app/manifests/v1", Route(RouteKind.MANIFEST, "myreg:5000", "app", "v1")),
        ("/v2/a/blobs/uploads/", Route(RouteKind.UPLOAD, None, "a")),
        ("/v2/a/blobs/uploads", Route(RouteKind.UPLOAD, None, "a")),
        (f"/v2/a/blobs/uploads/?digest={D}", Route(RouteKind.UPLOAD, None, "a")),
        ("/v2/a/blobs/uploads/0b1c", Route(RouteKind.UPLOAD, None, "a", "0b1c")),
        ("http://mirror:5000/v2/a/manifests/b", Route(RouteKind.MANIFEST, None, "a", "b")),
    ],
)
def test_every_shape_of_the_specification_is_understood(path: str, expected: Route) -> None:
    assert parse_path(path) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/library/nginx/manifests/latest", Route(RouteKind.MANIFEST, None, "library/nginx", "latest")),
        (f"/nginx/blobs/{D}", Route(RouteKind.BLOB, None, "nginx", D)),
        ("/library/nginx/tags/list", Route(RouteKind.TAGS, None, "library/nginx")),
        ("/library/v2/manifests/latest", Route(RouteKind.MANIFEST, None, "library/v2", "latest")),
    ],
)
def test_a_request_that_lost_its_v2_is_understood(path: str, expected: Route) -> None:
    assert parse_path(path) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/manifests/manifests/manifests", Route(RouteKind.MANIFEST, None, "manifests", "manifests")),
        ("/v2/a/blobs/manifests/v1", Route(RouteKind.MANIFEST, None, "a/blobs", "v1")),
        ("/v2/a/manifests/b/manifests/v1", Route(RouteKind.MANIFEST, None, "a/manifests/b", "v1")),
        (f"/v2/blobs/uploads/blobs/{D}", Route(RouteKind.BLOB, None, "blobs/uploads", D)),
        ("/v2/a/blobs/uploads/manifests/v1", Route(RouteKind.MANIFEST, None, "a/blobs/uploads", "v1")),
        ("/v2/tags/list/tags/list", Route(RouteKind.TAGS, None, "tags/list")),
        ("/v2/tags/list/manifests/list", Route(RouteKind.MANIFEST, None, "tags/list", "list")),
        ("/v2/v2/manifests/v2", Route(RouteKind.MANIFEST, None, "v2", "v2")),
    ],
)
def test_the_last_keyword_decides(path: str, expected: Route) -> None:
    assert parse_path(path) == expected


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "*",
        "v2/",
        "//v2/",
        "/v2//",
        "/healthz",
        "/metrics",
        "/v2/tags/list",
        "/v2/manifests/latest",
        "/v2/a/manifests/",
        "/v2/a/manifests/b/c",
        "/v2/a/tags/list/",
        "/v2/a//b/manifests/latest",
        "/v2/../v2/a/manifests/latest",
        "/v2/a/../b/manifests/latest",
        "/v2/a/%2e%2E/b/manifests/latest",
        "/v2/./a/manifests/latest",
        "/v2/a%2Fb/manifests/latest",
        "/v2/a%5Cb/manifests/latest",
        "/v2/a/manifests/%00",
        "/v2/a/manifests/x%0d%0aSet-Cookie:y",
        "/v2/a/manifests/%C3%A4",
        "/v2/a/manifests/ä",
        "/v2/a/manifests/%",
        "/v2/a/manifests/%4",
        "/v2/a/manifests/%zz",
        "/v2/a b/manifests/latest",
        "/v2/a/signatures/latest",
    ],
)
def test_everything_else_is_not_of_the_api(path: str) -> None:
    assert parse_path(path) == Route(RouteKind.OTHER)


def test_escapes_are_decoded_once() -> None:
    assert parse_path("/v2/a%252Fb/manifests/v%2531") == Route(RouteKind.MANIFEST, None, "a%2Fb", "v%31")
