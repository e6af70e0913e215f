"""What a configuration means when it is right."""

from __future__ import annotations

import math
import pickle
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import pytest
import yaml

from mirror.config import (
    Config,
    ConfigError,
    FreshnessRule,
    Listen,
    Proxies,
    Secret,
    Size,
    UpstreamConfig,
    effective,
    load,
    parse,
)

ROOT = Path(__file__).parents[2]
BUILT_IN = FreshnessRule("**", 60.0, 0.0, math.inf, immutable=False)


def read(text: str, environ: dict[str, str] | None = None) -> Config:
    return parse(text, "mirror.yaml", environ or {})


def test_an_empty_configuration_mirrors_the_well_known_registries_on_loopback() -> None:
    config = read("")
    assert config.server.listen == (Listen("127.0.0.1", 5000),)
    assert config.upstreams["docker.io"] == UpstreamConfig("docker.io", "https://registry-1.docker.io")
    assert set(config.upstreams) == {
        "docker.io", "quay.io", "ghcr.io", "gcr.io", "registry.k8s.io", "mcr.microsoft.com", "public.ecr.aws",
        "nvcr.io", "lscr.io", "registry.gitlab.com",
    }  # fmt: skip
    assert all(upstream.url.startswith("https://") for upstream in config.upstreams.values())
    assert (config.default_upstream, config.wildcard) == ("docker.io", False)
    assert (config.storage.path, config.storage.max_size) == (Path("data"), Size(bytes=50 * 2**30))
    assert config.storage.min_free == Size(percent=5.0)
    assert config.freshness == (BUILT_IN,)
    assert (config.server.fallback, config.server.offline, config.server.workers) == (True, False, 1)
    assert (config.log.level, config.log.format) == ("info", "auto")


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "{}", "server:\nstorage:\nupstreams: ~\nfreshness: null\nlog: {}", "---"]
)
def test_what_is_left_away_or_left_empty_has_its_default(text: str) -> None:
    assert read(text) == read("")


def test_the_commented_default_is_what_an_empty_file_means() -> None:
    assert load(ROOT / "mirror.yaml", {}) == read("")


def test_every_key_that_the_commented_default_explains_is_accepted(tmp_path: Path) -> None:
    """Uncomment each commented key but those that need a file of the machine, or stand in place of another."""
    text = (ROOT / "mirror.yaml").read_text()
    several = text.partition("#    credentials:\n")[2].partition("#\n")[0]
    for commented, plain in (
        ("  # public_url:", "  public_url:"),
        ("  # - {match", "  - {match"),
        ("pulls: []", "pulls:"),
        ("  # - {allow", "  - {allow"),
        ("  # - {deny", "  - {deny"),
        ("upstreams: {}", "upstreams:"),
        ("#  docker.io:", "  docker.io:"),
        ("#    username", "    username"),
        ("#    password_file: /run/secrets/hub", f"    password_file: {tmp_path}/hub"),
        ("#    read_ahead", "    read_ahead"),
        ("#    realms", "    realms"),
        ("#    ns:", "    ns:"),
        ("#    prefix:", "    prefix:"),
        ("#    max_connections:", "    max_connections:"),
        ("#    max_rate:", "    max_rate:"),
        ("#    stall_timeout:", "    stall_timeout:"),
        ("#    stall_rate:", "    stall_rate:"),
        ("#    endpoints:", "    endpoints:"),
        ("#      - https", "      - https"),
        ("#      - {url", "      - {url"),
        ("#      - registry", "      - registry"),
        ("#    endpoint_order:", "    endpoint_order:"),
        ("  # max_connections_per_client", "  max_connections_per_client"),
        ("  # max_requests_per_client", "  max_requests_per_client"),
        ("  # access_file", "  access_file"),
        ("#    proxy:", "    proxy:"),
        ("#  quay.io", "  quay.io"),
        ("#  registry.example:", "  registry.example:"),
        ("#    url:", "    url:"),
        ('#  "*"', '  "*"'),
    ):
        assert commented in text
        text = text.replace(commented, plain)
    (tmp_path / "hub").write_text("hunter2\n")
    config = read(text, {"PASS": "x"})
    hub = config.upstreams["docker.io"]
    assert hub.password == Secret("hunter2")
    assert (hub.ns, hub.prefix, hub.max_rate) == (True, "dockerhub", 50 * 2**20)
    assert [endpoint.label for endpoint in hub.endpoints] == [
        "mirror.eu.example", "cache.site:5000", "registry-1.docker.io", "harbor.example",
    ]  # fmt: skip
    assert [rule.written() for rule in config.pulls] == [
        "allow: docker.io/library/**", "allow: ghcr.io/prod/**", "deny: docker.io/**",
    ]  # fmt: skip
    several = several.replace("#  ", "  ").replace("/run/secrets", str(tmp_path))
    (tmp_path / "a").write_text("hunter3\n")
    (tmp_path / "b").write_text("hunter4\n")
    credentials = read(f"upstreams:\n  docker.io:\n    credentials:\n{several}").upstreams["docker.io"].credentials
    assert [credential.name for credential in credentials] == ["a", "team", "anonymous"]
    assert config.server.max_requests_per_client == 64
    assert config.log.access_file == Path("/var/log/registry-mirror/access.jsonl")
    assert config.upstreams["registry.example"].url == "https://registry.example:5443"
    assert "quay.io" not in config.upstreams
    assert config.refused == {"quay.io"}
    assert config.wildcard
    assert config.freshness == (
        FreshnessRule("docker.io/library/**", 600.0, 3600.0, math.inf, immutable=False),
        FreshnessRule("registry.example/releases/**", 60.0, 0.0, math.inf, immutable=True),
        BUILT_IN,
    )


def test_the_default_file_may_be_absent_and_a_named_one_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(None, {}) == read("")
    with pytest.raises(ConfigError, match="there is no such file"):
        load(tmp_path / "mirror.yaml", {})
    Path("mirror.yaml").write_text("server: {offline: true}")
    assert load(None, {}).server.offline


def test_values_are_frozen() -> None:
    config = read("")
    with pytest.raises(FrozenInstanceError):
        config.server = None
    with pytest.raises(TypeError):
        config.upstreams["x"] = None


@pytest.mark.parametrize(
    ("text", "listen", "local"),
    [
        ("127.0.0.1:5000", [Listen("127.0.0.1", 5000)], True),
        ('"[::1]:5000"', [Listen("::1", 5000)], True),
        ('"[::]:0"', [Listen("::", 0)], False),
        ("LOCALHOST:80", [Listen("localhost", 80)], True),
        ("mirror.lan:80", [Listen("mirror.lan", 80)], False),
        ("unix:/run/mirror.sock", [Listen(path="/run/mirror.sock")], True),
        ("[127.0.0.1:1, '0.0.0.0:2']", [Listen("127.0.0.1", 1), Listen("0.0.0.0", 2)], False),
    ],
)
def test_listen_takes_one_address_or_a_list(text: str, listen: list[Listen], local: bool) -> None:
    config = read(f"server: {{listen: {text}}}" if "::" not in text else f"server:\n  listen: {text}")
    assert list(config.server.listen) == listen
    assert all(address.local for address in listen) is local


def test_upstreams_are_merged_by_their_canonical_names() -> None:
    config = read(
        """
        upstreams:
          Index.Docker.IO: {read_ahead: false}
          quay.io: false
          ghcr.io: {url: "http://10.0.0.1:5000/"}
          registry.example:5443:
          plain.example: true
        """
    )
    assert config.upstreams["docker.io"] == UpstreamConfig(
        "docker.io", "https://registry-1.docker.io", read_ahead=False
    )
    assert "quay.io" not in config.upstreams
    assert config.upstreams["ghcr.io"].url == "http://10.0.0.1:5000"
    assert config.upstreams["registry.example:5443"].url == "https://registry.example:5443"
    assert config.upstreams["plain.example"].url == "https://plain.example"


@pytest.mark.parametrize(("written", "admitted"), [("true", True), ("false", False)])
def test_the_star_admits_every_public_registry(written: str, admitted: bool) -> None:
    assert read(f'upstreams: {{"*": {written}}}').wildcard is admitted


def test_a_secret_comes_from_the_environment_or_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("  s3cret \n")
    config = read(
        f"""
        upstreams:
          docker.io: {{username: "${{WHO}}", password: "a${{TOKEN}}b$${{c}}"}}
          quay.io: {{username: robot, password_file: {tmp_path}/token}}
          ghcr.io: {{username: robot, password: 0123}}
        """,
        {"WHO": "me", "TOKEN": "${NOT_AGAIN}"},
    )
    assert config.upstreams["docker.io"].username == "me"
    assert config.upstreams["docker.io"].password.reveal() == "a${NOT_AGAIN}b${c}"
    assert config.upstreams["quay.io"].password.reveal() == "  s3cret "  # only the line break goes
    assert config.upstreams["ghcr.io"].password.reveal() == "0123"  # YAML 1.1 would make it 83


def test_a_secret_shows_itself_only_to_who_asks() -> None:
    config = read("upstreams: {docker.io: {username: me, password: canary-7}}", {"all_proxy": "http://u:canary-8@p:1"})
    secret = config.upstreams["docker.io"].password
    shown = [repr(config), str(config), f"{secret} {secret!r} {secret!s}", str(asdict(config.upstreams["docker.io"]))]
    assert not any("canary" in text for text in [*shown, str(effective(config))])
    with pytest.raises(TypeError):
        pickle.dumps(config)
    assert secret.reveal() == "canary-7"
    assert secret == Secret("canary-7")
    assert secret != "canary-7"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", Size(bytes=1048576)),
        ("50GiB", Size(bytes=50 * 2**30)),
        ("50gib", Size(bytes=50 * 2**30)),
        ("50 Gi", Size(bytes=50 * 2**30)),
        ("1.5TiB", Size(bytes=3 * 2**39)),
        ("500MB", Size(bytes=500_000_000)),
        ("80%", Size(percent=80.0)),
        ("12.5 %", Size(percent=12.5)),
    ],
)
def test_sizes(text: str, size: Size) -> None:
    assert Size.parse(text) == size
    assert read(f"storage: {{max_size: {text}}}").storage.max_size == size
    assert Size.parse(str(size)) == size


def test_a_percentage_is_of_the_whole() -> None:
    assert Size(percent=12.5).of(1000) == 125
    assert Size(bytes=7).of(1000) == 7


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("0s", 0), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("7d", 604800), ("500ms", 0.5), ("2w", 1209600),
     ("1.5h", 5400), ("forever", math.inf)],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    config = read(f'freshness: [{{match: "**", ttl: {text}}}]')
    assert config.freshness == (replace(BUILT_IN, ttl=seconds),)


def test_what_a_rule_leaves_away_is_built_in_and_the_last_rule_is_always_there() -> None:
    config = read('freshness: [{match: "Docker.io/library/**"}]'.replace("Docker", "docker"))
    assert config.freshness == (replace(BUILT_IN, match="docker.io/library/**"), BUILT_IN)


def test_a_rule_may_name_an_upstream_by_its_alias() -> None:
    assert read("freshness: [{match: index.docker.io/library/*, ttl: 1s}]").freshness[0].match == "docker.io/library/*"


@pytest.mark.parametrize(
    ("environ", "proxies"),
    [
        ({}, Proxies()),
        ({"http_proxy": "http://a:1", "HTTP_PROXY": "http://b:2"}, Proxies(http="http://a:1")),
        ({"HTTPS_PROXY": "a:1", "NO_PROXY": "x,.y"}, Proxies(https="http://a:1", no_proxy="x,.y")),
        ({"all_proxy": "http://a:1", "https_proxy": ""}, Proxies(http="http://a:1")),
    ],
)
def test_proxies_come_from_the_environment(environ: dict[str, str], proxies: Proxies) -> None:
    config = read("", environ)
    assert (config.proxies.http, config.proxies.https) == (proxies.http, proxies.https)
    assert config.proxies == proxies


def test_the_effective_configuration_gives_the_same_configuration_again() -> None:
    config = read(
        """
        server: {listen: [127.0.0.1:0, "unix:/x"], public_url: "https://m.example/", offline: yes, shutdown_timeout: 5s}
        upstreams: {quay.io: false, "*": true, docker.io: {username: me, password: x, realms: auth.example}}
        freshness: [{match: quay.io/**, immutable: true, stale_if_error: 7d}, {match: "**", ttl: 1500ms}]
        """
    )
    document = effective(config)
    assert document["upstreams"]["docker.io"]["password"] == "***"
    document["upstreams"] |= {"quay.io": False}
    again = read(yaml.safe_dump(document))
    assert again.upstreams["docker.io"].password == Secret("***")
    upstreams = {**again.upstreams, "docker.io": config.upstreams["docker.io"]}
    assert replace(again, upstreams=dict(upstreams)) == replace(config, upstreams=dict(config.upstreams))
