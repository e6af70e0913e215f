"""Several endpoints and several credentials of one upstream, and its limits: what keys mean, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import yaml

from mirror.config import Config, ConfigError, Proxies, Secret, UpstreamConfig, effective, parse

if TYPE_CHECKING:
    from pathlib import Path

HUB = "https://registry-1.docker.io"


def read(entry: str, name: str = "docker.io") -> UpstreamConfig:
    return parse(f"upstreams: {{{name}: {{{entry}}}}}", "mirror.yaml", {}).upstreams[name]


def labels(*entries: str) -> list[str]:
    return [endpoint.label for endpoint in read(f"endpoints: [{', '.join(entries)}]").endpoints]


def test_endpoints_come_in_their_order_and_the_registry_itself_last_where_it_is_not_named() -> None:
    first, second, third = read(
        "username: me, password: secret, max_rate: 1MiB/s, endpoints: ['https://Mirror.example/', "
        "{url: 'http://cache:5000', authoritative: true, ns: true, prefix: /hub/, username: you, "
        "password: x, proxy: none}]"
    ).endpoints
    assert (first.label, first.authoritative, first.itself) == ("mirror.example", False, False)
    assert first.at == UpstreamConfig("docker.io", "https://mirror.example", max_rate=2**20)  # and no password
    assert (second.label, second.authoritative) == ("cache:5000", True)
    assert second.at == UpstreamConfig(
        "docker.io", "http://cache:5000", ns=True, prefix="hub", max_rate=2**20, username="you", password=Secret("x"),
        proxies=Proxies(),
    )  # fmt: skip
    assert (third.label, third.authoritative, third.itself) == ("registry-1.docker.io", True, True)
    assert (third.at.url, third.at.username) == (HUB, "me")
    assert labels("registry", "'https://a'") == ["registry-1.docker.io", "a"]


def test_a_registry_that_is_its_only_endpoint_has_none() -> None:
    assert (
        read("endpoints: []").endpoints == read("endpoints: [registry]").endpoints == read("endpoints:").endpoints == ()
    )


def test_each_endpoint_has_a_label_of_its_own() -> None:
    assert labels("'https://a:443'", "'http://b:80'", "'https://c:80'") == ["a", "b", "c:80", "registry-1.docker.io"]
    assert labels("{url: 'https://a', prefix: x}", "{url: 'https://a', prefix: y}", "'https://a/z'")[:3] == [
        "a/x", "a/y", "a/z",
    ]  # fmt: skip
    assert labels("'https://a'", "'http://a'")[:2] == ["https://a", "http://a"]
    assert labels("'http://registry'")[0] == "http://registry", "`registry` is what the registry itself is called"


def test_an_upstream_may_be_a_project_of_another_registry() -> None:
    upstream = read("url: 'https://harbor.example', prefix: hub/proxy, ns: true")
    assert (upstream.ns, upstream.prefix, upstream.endpoints) == (True, "hub/proxy", ())


def test_credentials_have_names_and_perhaps_repositories(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("canary\n")
    anonymous, team, helper, bound = read(
        f"credentials: [{{anonymous: true}}, {{name: team, username: b, password_file: {tmp_path}/secret}}, "
        "{exec: [/bin/sh, -c, x]}, {username: c, password: d, repositories: [docker.io/acme/**, 'library/*']}]"
    ).credentials
    assert (anonymous.name, anonymous.anonymous, anonymous.username) == ("anonymous", True, None)
    assert (team.name, team.username, team.password, team.password_file) == (
        "team", "b", Secret("canary"), tmp_path / "secret",
    )  # fmt: skip
    assert (helper.name, helper.exec) == ("sh", ("/bin/sh", "-c", "x"))
    assert (bound.name, bound.repositories) == ("c", ("acme/**", "library/*"))
    assert read("credentials: [{anonymous: true, repositories: acme/**}]").credentials[0].repositories == ("acme/**",)


def test_limits_have_defaults_and_bounds() -> None:
    upstream = read("")
    assert (upstream.max_connections, upstream.max_rate) == (16, None)
    assert (upstream.stall_timeout, upstream.stall_rate) == (10.0, 1024)
    upstream = read("max_connections: 256, max_rate: 50MiB/s, stall_timeout: 1m, stall_rate: 0")
    assert (upstream.max_connections, upstream.max_rate) == (256, 50 * 2**20)
    assert (upstream.stall_timeout, upstream.stall_rate) == (60.0, 0)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("endpoints: [mirror.example]", "endpoints[0]: 'mirror.example' is not an http or https URL"),
        ("endpoints: mirror.example", "endpoints: 'mirror.example' is not an http or https URL"),
        ("endpoints: {url: 'https://a'}", "endpoints: is a mapping, and should be a list"),
        ("endpoints: [~]", "endpoints[0]: is empty; write a URL or registry"),
        ("endpoints: [[a]]", "endpoints[0]: is a list, and should hold keys"),
        ("endpoints: ['https://a', 'https://A/']", "endpoints[1]: stands there twice"),
        ("endpoints: [registry, registry]", "endpoints[1]: stands there twice"),
        (f"endpoints: ['{HUB}']", "endpoints[0]: is the registry's own url; write registry"),
        ("endpoints: ['https://a/v2/']", "endpoints[0]: 'https://a/v2/' ends in /v2"),
        ("endpoints: [registry, 'http://127.0.0.1:5000']", "endpoints[1]: is this mirror itself"),
        ("endpoints: [{authoritative: true}]", "endpoints[0].url: is missing"),
        (
            "endpoints: [{url: 'https://a', authorative: true}]",
            "authorative: is not a key; did you mean authoritative?",
        ),
        ("endpoints: [{url: 'https://a', max_rate: 1MiB/s}]", "it belongs to upstreams.NAME"),
        ("endpoints: [{url: 'https://a', username: b}]", "endpoints[0].username: has no password beside it"),
        (
            "endpoints: [{url: 'https://a', ca_file: /dev/null}]",
            "endpoints[0].ca_file: '/dev/null' holds no certificate",
        ),
        ("endpoints: [{url: 'https://a', client_cert_file: /dev/null}]", "has no client_key_file beside it"),
        ("endpoint_order: random", "endpoint_order: 'random' is not one of the choices; write 'written' or 'health'"),
        ("prefix: Hub", "prefix: 'Hub' is not the beginning of a repository's name"),
        ("ns: docker.io", "ns: 'docker.io' is not a yes or no"),
        ("credentials: []", "credentials: is an empty list; write"),
        ("credentials: {username: a}", "credentials: is a mapping, and should be a list"),
        ("credentials: [~]", "credentials[0]: is empty"),
        ("credentials: [{name: a}]", "credentials[0]: has no credentials; write username and password_file"),
        ("credentials: [{username: a}]", "credentials[0].username: has no password beside it"),
        ("credentials: [{usrname: a}]", "credentials[0].usrname: is not a key; did you mean username?"),
        ("credentials: [{anonymous: true, username: a, password: b}]", "anonymous: stands beside username"),
        (
            "credentials: [{username: a, password: b}, {username: a, password: c}]",
            "credentials[1]: has the name of one",
        ),
        ("credentials: [{name: anonymous, username: a, password: b}]", "is what asking without credentials is called"),
        ("credentials: [{name: 'a:b', anonymous: true}]", "credentials[0].name: 'a:b' is not a name"),
        ("credentials: [{anonymous: true}], username: a, password: b", "credentials: stands beside username; move"),
        ("credentials: [{anonymous: true, repositories: []}]", "repositories: is an empty list"),
        ("credentials: [{anonymous: true, repositories: nginx}]", "repositories: 'nginx' matches nothing: official"),
        ("credentials: [{anonymous: true, repositories: ['a/b:1']}]", "repositories[0]: 'a/b:1' names a tag"),
        (
            "credentials: [{anonymous: true, repositories: ['quay.io/a/*']}]",
            "is of another upstream; write it below quay",
        ),
        ("credentials: [{anonymous: true, repositories: ['docker.io']}]", "names no repository; leave it away for all"),
        ("max_connections: 0", "max_connections: '0' is not a number of connections from 1 to 256"),
        ("max_connections: 257", "max_connections: '257' is not a number of connections from 1 to 256"),
        ("max_rate: 50MiB", "max_rate: '50MiB' is not a rate; write for example 50MiB/s"),
        ("max_rate: 0", "max_rate: '0' would let nothing through"),
        ("stall_timeout: 500ms", "stall_timeout: '500ms' is not between 1s and 10m"),
        ("stall_timeout: forever", "stall_timeout: 'forever' is not between 1s and 10m"),
        ("stall_rate: slow", "stall_rate: 'slow' is not a rate; write for example 1KiB/s, or 0"),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(entry: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(entry)
    assert len(raised.value.problems) == 1, raised.value.problems
    assert f"mirror.yaml:1: upstreams.docker.io.{problem}" in raised.value.problems[0] or (
        problem in raised.value.problems[0]
    ), raised.value.problems


def test_all_that_is_wrong_with_an_upstream_comes_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        read("max_rate: 0, endpoints: [x, {url: y}], credentials: [{name: a}, {anonymous: maybe}]")
    assert sorted(problem.split(": ")[1] for problem in raised.value.problems) == [
        "upstreams.docker.io.credentials[0]", "upstreams.docker.io.credentials[1].anonymous",
        "upstreams.docker.io.endpoints[0]", "upstreams.docker.io.endpoints[1].url", "upstreams.docker.io.max_rate",
    ]  # fmt: skip


def test_files_of_credentials_are_for_endpoints_too(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auths": {"cache.example": {"auth": "YTpi"}}}')
    text = (
        f"credentials_files: {tmp_path}/config.json\nupstreams: {{quay.io: {{endpoints: ['https://cache.example']}}}}"
    )
    assert parse(text, "mirror.yaml", {}).named_in_files == {"quay.io"}


def test_what_is_in_effect_hides_secrets_and_reads_the_same_again(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("canary")
    text = f"""
        upstreams:
          docker.io:
            endpoints:
              - {{url: "https://a.example", authoritative: yes, username: me, password_file: {tmp_path}/secret, ns: on}}
              - registry
              - https://b.example
            endpoint_order: health
            prefix: hub
            credentials:
              - {{name: team, username: me, password_file: {tmp_path}/secret, repositories: [acme/**]}}
              - anonymous: true
            max_rate: 50MiB/s
            stall_rate: 0
          quay.io:
            credentials: [{{exec: [sh, canary]}}, {{username: me, password: canary}}]
            endpoints: [{{url: "https://c.example", proxy: "http://me:canary@p:1", exec: [sh, canary]}}]
    """
    config = parse(text, "mirror.yaml", {})
    shown = effective(config)
    assert "canary" not in f"{shown} {config!r}"
    assert shown["upstreams"]["docker.io"]["endpoints"][1] == "registry"
    assert shown["upstreams"]["quay.io"]["credentials"] == [
        {"name": "sh", "exec": ["sh", "***"]},
        {"name": "me", "username": "me", "password": "***"},
    ]
    again: Config = parse(yaml.safe_dump(shown), "mirror.yaml", {})
    assert again.upstreams["docker.io"] == config.upstreams["docker.io"]
    assert replace(again, upstreams={}) == replace(config, upstreams={})
