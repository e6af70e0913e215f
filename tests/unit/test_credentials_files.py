"""What the files of Docker, Podman and Kubernetes say, read as those programs read them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from mirror.config import Secret
from mirror.config.credentials import (
    MAX_FILE,
    MAX_SECRET,
    Credentials,
    Kind,
    auth_hosts,
    parse_auth_file,
    parse_secret,
)

HUB = ("docker.io",)
QUAY = ("quay.io",)


def pair(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()


def of(document: Any, hosts: tuple[str, ...] = QUAY, repository: str = "org/app") -> Credentials | None:
    return parse_auth_file(json.dumps(document).encode()).credentials(hosts, repository)


ANN = Credentials("ann", Secret("pass"))
BOB = Credentials("bob", Secret("word"))


@pytest.mark.parametrize(
    "key",
    [
        "https://index.docker.io/v1/",
        "https://index.docker.io/v1",
        "index.docker.io/v1/",
        "index.docker.io",
        "docker.io",
        "registry-1.docker.io",
        "https://registry-1.docker.io",
        "https://registry-1.docker.io/v2/",
    ],
)
def test_every_name_of_docker_hub_is_docker_hub(key: str) -> None:
    assert of({"auths": {key: {"auth": pair("ann", "pass")}}}, HUB, "library/nginx") == ANN


@pytest.mark.parametrize("key", ["quay.io", "QUAY.io", "https://quay.io", "http://quay.io/v1/", "quay.io:443"])
def test_a_host_may_be_written_as_an_address(key: str) -> None:
    assert of({"auths": {key: {"auth": pair("ann", "pass")}}}) == ANN


def test_the_longest_key_that_covers_a_repository_counts() -> None:
    document = {
        "auths": {
            "quay.io": {"auth": pair("host", "a")},
            "quay.io/org": {"auth": pair("org", "b")},
            "quay.io/org/app": {"auth": pair("app", "c")},
            "quay.io/org/ap": {"auth": pair("wrong", "d")},
        }
    }
    names = {
        repository: of(document, QUAY, repository) for repository in ("org/app", "org/app/x", "org/other", "or", "")
    }
    assert {repository: found.username for repository, found in names.items() if found is not None} == {
        "org/app": "app",
        "org/app/x": "app",
        "org/other": "org",
        "or": "host",
        "": "host",
    }


def test_a_namespaced_key_is_for_its_namespace_alone() -> None:
    assert of({"auths": {"quay.io/org": {"auth": pair("ann", "pass")}}}, QUAY, "organ/app") is None


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"auth": pair("ann", "pa:ss:word")}, Credentials("ann", Secret("pa:ss:word"))),
        ({"auth": pair("_json_key", '{\n "key": "x"\n}\n')}, Credentials("_json_key", Secret('{\n "key": "x"\n}\n'))),
        ({"auth": pair("ann", "pass").rstrip("=")}, ANN),
        ({"auth": pair("ann", "pass\0\0")}, ANN),
        ({"username": "ann", "password": "pass"}, ANN),
        ({"auth": pair("ann", "pass"), "username": "bob", "password": "word"}, ANN),
        ({"auth": pair("$oauthtoken", "nv")}, Credentials("$oauthtoken", Secret("nv"))),
        ({"auth": pair("00000000-0000-0000-0000-000000000000", "t")},
         Credentials("00000000-0000-0000-0000-000000000000", Secret("t"))),
        ({"auth": pair("AWS", "t"), "identitytoken": "r"}, Credentials("", Secret("r"), Kind.IDENTITY_TOKEN)),
        ({"auth": pair("<token>", "refresh")}, Credentials("", Secret("refresh"), Kind.IDENTITY_TOKEN)),
        ({"registrytoken": "bearer"}, Credentials("", Secret("bearer"), Kind.REGISTRY_TOKEN)),
        ({}, None),
        ({"auth": "", "email": "a@b"}, None),
    ],
)  # fmt: skip
def test_an_entry_holds_a_password_or_a_token(entry: dict[str, str], expected: Credentials | None) -> None:
    assert of({"auths": {"quay.io": entry}}) == expected


def test_the_legacy_form_has_no_auths_around_it() -> None:
    assert of({"quay.io": {"auth": pair("ann", "pass"), "email": "a@b"}}) == ANN
    assert of({"HttpHeaders": {"User-Agent": "x"}}) is None


def test_helpers_are_asked_the_closest_first() -> None:
    document = {"credHelpers": {"quay.io": "one", "https://ghcr.io": "two", "plain.io": ""}, "credsStore": "store"}
    file = parse_auth_file(json.dumps(document).encode())
    assert file.programs(QUAY, "org/app") == ("one", "store")
    assert file.programs(("ghcr.io",), "a") == ("two", "store")
    assert file.programs(("else.io",), "a") == ("store",)
    assert file.covers(QUAY)
    assert not file.covers(("else.io",))


@pytest.mark.parametrize(
    ("name", "url", "hosts"),
    [
        ("docker.io", "https://registry-1.docker.io", ("docker.io",)),
        ("quay.io", "https://quay.io", ("quay.io",)),
        ("registry.example", "https://registry.example:5443", ("registry.example:5443", "registry.example")),
        ("registry.example:5443", "https://registry.example:5443", ("registry.example:5443",)),
        ("docker.io", "https://mirror.corp/hub", ("mirror.corp",)),  # the Hub's password is not for that server
        ("quay.io", "http://quay.io.evil.example", ("quay.io.evil.example",)),
        ("a", "http://[::1]:5000", ("[::1]:5000",)),
    ],
)
def test_credentials_are_looked_up_by_the_host_that_is_dialled(name: str, url: str, hosts: tuple[str, ...]) -> None:
    assert auth_hosts(name, url) == hosts


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b'{"auths": []}', "auths that is not an object"),
        (b'{"auths": {"quay.io": "canary"}}', "auths: quay.io that is not an object"),
        (b'{"auths": {"quay.io": {"username": "a", "password": "canary\\ud800"}}}', "auths: quay.io that holds what"),
        (
            b'{"auths": {"quay.io": {"registrytoken": "canary\\nX: y"}}}',
            "auths: quay.io that holds what cannot be sent",
        ),
        (b'{"auths": {"quay.io": {"auth": 7}}}', "auths: quay.io: auth that is not a text"),
        (b'{"auths": {"quay.io": {"auth": "canary!"}}}', "auths: quay.io: auth that is not base64"),
        (b'{"auths": {"quay.io": {"auth": "Y2FuYXJ5"}}}', "auths: quay.io: auth that is not base64 of USER:PASSWORD"),
        (b'{"credHelpers": {"quay.io": "../canary"}}', "credHelpers: quay.io that is not the NAME"),
        (b'{"credsStore": ["canary"]}', "credsStore that is not the NAME"),
        (b" " * (MAX_FILE + 1), "longer than 1 MiB"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place_and_without_the_value(content: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        parse_auth_file(content)
    assert "canary" not in str(caught.value)


def test_a_password_file_loses_its_last_line_break_and_nothing_else() -> None:
    assert parse_secret(b" a\nb \r\n").reveal() == " a\nb "
    for wrong in (b"", b"\n", b"\xff", b"x" * (MAX_SECRET + 1)):
        with pytest.raises(ValueError, match=r"password|cannot be read"):
            parse_secret(wrong)


def test_no_representation_shows_a_secret() -> None:
    file = parse_auth_file(json.dumps({"auths": {"quay.io": {"auth": pair("ann", "canary")}}}).encode())
    assert "canary" not in f"{file!r} {file.credentials(QUAY, '')}"
    assert ANN.secrets() == ("pass", pair("ann", "pass").rstrip("="))
