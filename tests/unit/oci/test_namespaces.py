from __future__ import annotations

import pytest

from mirror.errors import NameInvalid, NameUnknown
from mirror.oci.name import Repository
from mirror.oci.namespaces import Namespaces, canonical

NAMESPACES = Namespaces(frozenset({"docker.io", "quay.io", "myreg:5000", "corp"}), "docker.io")
OPEN = Namespaces(frozenset({"docker.io"}), "docker.io", wildcard=True)
NGINX = Repository("docker.io", "library/nginx")


@pytest.mark.parametrize(
    ("host", "name", "ns", "expected"),
    [
        # Docker's registry-mirrors: nothing names the upstream
        (None, "library/nginx", None, NGINX),
        (None, "nginx", None, NGINX),
        (None, "grafana/grafana", None, Repository("docker.io", "grafana/grafana")),
        # containerd and BuildKit: ns names it
        (None, "library/nginx", "docker.io", NGINX),
        (None, "nginx", "docker.io", NGINX),
        (None, "org/app", "quay.io", Repository("quay.io", "org/app")),
        (None, "app", "quay.io", Repository("quay.io", "app")),
        (None, "app", "myreg:5000", Repository("myreg:5000", "app")),
        (None, "nginx", "", NGINX),
        # Podman, CRI-O, override_path: the first component names it
        (None, "quay.io/org/app", None, Repository("quay.io", "org/app")),
        (None, "docker.io/nginx", None, NGINX),
        (None, "docker.io/library/nginx", None, NGINX),
        (None, "myreg:5000/app", None, Repository("myreg:5000", "app")),
        (None, "myreg_5000/app", None, Repository("myreg:5000", "app")),  # where no colon may stand
        (None, "other_5000/app", None, Repository("docker.io", "other_5000/app")),
        (None, "myreg_5001/app", None, Repository("docker.io", "myreg_5001/app")),
        (None, "corp/app", None, Repository("corp", "app")),
        # a single component is a name, even where it has a dot
        (None, "nginx.example", None, Repository("docker.io", "library/nginx.example")),
        (None, "corp", None, Repository("docker.io", "library/corp")),
        # hosts.toml, Docker 25: the host stands before /v2
        ("quay.io", "org/app", None, Repository("quay.io", "org/app")),
        ("docker.io", "nginx", None, NGINX),
        ("quay.io", "ghcr.io/app", None, Repository("quay.io", "ghcr.io/app")),
        # both: dropped once where they are equal, else part of the name
        (None, "quay.io/org/app", "quay.io", Repository("quay.io", "org/app")),
        (None, "docker.io/nginx", "docker.io", NGINX),
        (None, "index.docker.io/nginx", "docker.io", NGINX),
        ("quay.io", "org/app", "quay.io", Repository("quay.io", "org/app")),
        ("quay.io", "quay.io/app", "quay.io", Repository("quay.io", "quay.io/app")),
        (None, "proxy.docker.io/library/x", "docker.io", Repository("docker.io", "proxy.docker.io/library/x")),
        ("hub", "library/x", "docker.io", Repository("docker.io", "hub/library/x")),
        (None, "quay.io", "quay.io", Repository("quay.io", "quay.io")),
        # one upstream has many spellings
        (None, "nginx", "index.docker.io", NGINX),
        (None, "nginx", "registry-1.docker.io", NGINX),
        (None, "nginx", "registry.hub.docker.com:443", NGINX),
        (None, "org/app", "QUAY.IO:443", Repository("quay.io", "org/app")),
        (None, "Quay.io/org/app", None, Repository("quay.io", "org/app")),
        (None, "org/app", "quay.io.", Repository("quay.io", "org/app")),
    ],
)
def test_each_client_reaches_the_upstream_that_it_means(
    host: str | None, name: str, ns: str | None, expected: Repository
) -> None:
    assert NAMESPACES.resolve(host, name, ns) == expected


@pytest.mark.parametrize(
    ("host", "name", "ns"),
    [
        (None, "org/app", "ghcr.io"),
        (None, "ghcr.io/org/app", None),
        ("ghcr.io", "org/app", None),
        ("hub", "org/app", None),
        (None, "localhost/app", None),
        (None, "quay.io/org/app", "ghcr.io"),
        (None, "org/app", "quay.io:5000"),
    ],
)
def test_an_upstream_that_is_not_configured_is_refused_with_what_to_write(
    host: str | None, name: str, ns: str | None
) -> None:
    with pytest.raises(NameUnknown, match=r"corp, docker\.io, myreg:5000, quay\.io.*upstreams:"):
        NAMESPACES.resolve(host, name, ns)


def test_the_wildcard_admits_hosts_and_nothing_else() -> None:
    assert OPEN.resolve(None, "org/app", "ghcr.io") == Repository("ghcr.io", "org/app")
    assert OPEN.resolve(None, "ghcr.io/org/app", None) == Repository("ghcr.io", "org/app")
    assert OPEN.resolve(None, "org/app", None) == Repository("docker.io", "org/app")
    with pytest.raises(NameUnknown):
        OPEN.resolve("hub", "org/app", None)


def test_an_upstream_that_was_taken_away_is_not_admitted_by_the_wildcard() -> None:
    shut = Namespaces(frozenset({"docker.io"}), "docker.io", wildcard=True, refused=frozenset({"quay.io"}))
    assert shut.resolve(None, "org/app", "ghcr.io") == Repository("ghcr.io", "org/app")
    for path, ns in (("org/app", "quay.io"), ("quay.io/org/app", None), ("org/app", "QUAY.io:443")):
        with pytest.raises(NameUnknown, match=r'"quay\.io: false"'):
            shut.resolve(None, path, ns)


def test_a_default_that_was_taken_away_is_refused() -> None:
    with pytest.raises(NameUnknown):
        Namespaces(frozenset({"quay.io"}), "docker.io").resolve(None, "nginx", None)


@pytest.mark.parametrize(
    ("name", "ns"),
    [
        ("a", ".."),
        ("a", "../../etc"),
        ("a", "quay.io/x"),
        ("a", "user@quay.io"),
        ("a", "quay.io\r\nX: y"),
        ("a", "quay.io\n"),
        ("a", "quay.io:443:443"),
        ("a", "quay.io:5000:443"),
        ("a", "quay.io:443."),
        ("a", "quay..io"),
        ("a", "-a.io"),
        ("a", "quäy.io"),
        ("a", "a." * 200 + "io"),
        ("A", None),
        ("", None),
        ("a/../b", None),
        ("../a.b", None),
        ("a.b/", "quay.io"),
        ("quay.io/", None),
        ("", "quay.io"),
    ],
)
def test_what_is_no_name_is_refused_however_open_the_mirror_is(name: str, ns: str | None) -> None:
    with pytest.raises(NameInvalid):
        OPEN.resolve(None, name, ns)


def test_the_canonical_spelling_of_a_host() -> None:
    assert canonical("Registry-1.Docker.IO:443") == "docker.io"
    assert canonical("registry.example:80") == "registry.example"
    assert canonical("registry.example:5443") == "registry.example:5443"
    assert canonical("[::1]:443") == "[::1]"
