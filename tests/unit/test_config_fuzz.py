"""Whatever a file holds, reading it gives a configuration or a `ConfigError`, and nothing else."""

from __future__ import annotations

import math

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mirror.config import Config, ConfigError, Size, effective, parse
from mirror.config.units import parse_duration, show_duration

KEYS = st.sampled_from(
    [
        "server",
        "storage",
        "upstreams",
        "default_upstream",
        "freshness",
        "log",
        "listen",
        "tls",
        "cert_file",
        "key_file",
        "public_url",
        "trusted_proxies",
        "workers",
        "offline",
        "fallback",
        "shutdown_timeout",
        "path",
        "max_size",
        "min_free",
        "docker.io",
        "quay.io",
        "*",
        "x.example:5000",
        "url",
        "endpoints",
        "username",
        "password",
        "password_file",
        "read_ahead",
        "realms",
        "ca_file",
        "exec",
        "proxy",
        "client_cert_file",
        "client_key_file",
        "credentials_files",
        "match",
        "ttl",
        "stale_if_error",
        "immutable",
        "credentials",
        "endpoint_order",
        "authoritative",
        "ns",
        "prefix",
        "name",
        "anonymous",
        "repositories",
        "max_connections",
        "max_rate",
        "stall_timeout",
        "stall_rate",
        "pulls",
        "allow",
        "deny",
        "reason",
        "require_digest",
        "min_age",
        "budget",
        "below",
        "prefetch",
        "level",
        "format",
    ]
) | st.text(max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        [
            "${X}",
            "$${",
            "127.0.0.1:5000",
            "unix:/a",
            "https://a.example",
            "http://[",
            "5%",
            "1GiB",
            "90s",
            "forever",
            "**",
            "registry",
            "1MiB/s",
            "docker.io/**",
            "/dev/null",
            "a\0b",
            "info",
        ]
    )
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=25
)
UPSTREAMS = st.dictionaries(KEYS, SCALARS, max_size=4) | st.fixed_dictionaries(
    {},
    optional={
        name: st.lists(st.dictionaries(KEYS, SCALARS, max_size=4) | SCALARS, max_size=3)
        for name in ("endpoints", "credentials")
    },
)
SHAPED = st.fixed_dictionaries(
    {},
    optional={
        "server": st.dictionaries(KEYS, TREES, max_size=5),
        "storage": st.dictionaries(KEYS, TREES, max_size=3),
        "upstreams": st.dictionaries(KEYS, UPSTREAMS | SCALARS, max_size=4),
        "freshness": st.lists(st.dictionaries(KEYS, SCALARS, max_size=4), max_size=3),
        "pulls": st.lists(st.dictionaries(KEYS, SCALARS, max_size=4), max_size=3),
        "budget": st.lists(st.fixed_dictionaries({"below": SCALARS}, optional={"ttl": SCALARS}), max_size=3),
        "log": st.dictionaries(KEYS, SCALARS, max_size=2),
    },
)


def outcome(text: str, environ: dict[str, str] | None = None) -> Config | None:
    found: list[str] = []
    try:
        return parse(text, "mirror.yaml", environ or {"X": "x"})
    except ConfigError as error:
        found = error.problems
    assert found
    assert all(problem.startswith(("mirror.yaml", "environment: ")) for problem in found)
    assert "\n".join(found).encode()
    return None


@given(st.text(max_size=200) | st.text(st.characters(), max_size=60))
@example("a: !!timestamp 2001-99-99")
@example("&a [*a]")
@example("? ? ?")
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    outcome(text)


@settings(max_examples=300)
@given(TREES | SHAPED)
def test_any_yaml_is_a_configuration_or_a_config_error(tree: object) -> None:
    config = outcome(yaml.safe_dump(tree, allow_unicode=True))
    if config is not None:
        assert isinstance(config, Config)
        assert yaml.safe_load(yaml.safe_dump(effective(config)))
        assert config.freshness[-1].match == "**"


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_environment_is_a_configuration_or_a_config_error(value: str, proxy: str) -> None:
    outcome("upstreams: {a.io: {username: '${X}', password: '${X}', url: '${X}'}}", {"X": value, "https_proxy": proxy})


@given(st.integers(0, 2**63 - 1))
def test_a_size_in_bytes_is_read_as_it_is_written(count: int) -> None:
    assert Size.parse(str(Size(bytes=count))) == Size(bytes=count)


@given(st.integers(0, 10**9).map(lambda milliseconds: milliseconds / 1000))
def test_a_duration_is_read_as_it_is_written(seconds: float) -> None:
    assert math.isclose(parse_duration(show_duration(seconds)), seconds, abs_tol=1e-9)


@given(st.text(max_size=20) | st.from_regex(r"\d*[.]?\d*[ ]?[a-zA-Z%]{0,3}", fullmatch=True))
def test_what_is_neither_a_size_nor_a_duration_says_what_would_be_right(text: str) -> None:
    for read in (Size.parse, parse_duration):
        sentence = "write"
        try:
            read(text)
        except ValueError as error:
            sentence = str(error)
        assert "write" in sentence
