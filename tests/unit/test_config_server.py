"""Where the server listens, who may ask, and how much: what the keys mean, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirror.config import Config, ConfigError, Listen, effective, parse
from tests.parts.certificate import certificate


def read(text: str) -> Config:
    return parse(text, "mirror.yaml", {})


def listens(*addresses: str) -> tuple[Listen, ...]:
    return read(f"server: {{listen: {list(addresses)}}}").server.listen


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("http://127.0.0.1:80", Listen("127.0.0.1", 80, scheme="http")),
        ("HTTP://[::1]:80/", Listen("::1", 80, scheme="http")),
        ("systemd", Listen(systemd="")),
        ("systemd:mirror.socket", Listen(systemd="mirror.socket")),
        ("systemd:80", Listen(systemd="80")),  # though a host could be called so
        ("unix:/run/mirror.sock", Listen(path="/run/mirror.sock")),
    ],
)
def test_an_address_may_have_a_scheme_or_come_from_systemd(text: str, listen: Listen) -> None:
    assert listens(text) == (listen,)


def test_tls_is_spoken_where_it_is_set_and_not_where_http_or_a_unix_socket_says_otherwise(tmp_path: Path) -> None:
    cert_file, key_file = certificate(tmp_path)
    tls = f"tls: {{cert_file: {cert_file}, key_file: {key_file}}}"
    server = read(f"server: {{listen: ['a:1', 'http://a:2', 'https://a:3', 'unix:/s', systemd], {tls}}}").server
    assert [server.encrypts(listen) for listen in server.listen] == [True, False, True, False, True]
    assert [str(listen) for listen in server.listen] == ["a:1", "http://a:2", "https://a:3", "unix:/s", "systemd"]
    assert not any(map(read("").server.encrypts, server.listen))


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        (["a:1", "http://a:1"], "server.listen[1]: 'http://a:1' stands there twice"),
        (["systemd", "systemd:x"], "server.listen[1]: 'systemd:x' stands there twice"),
        (["systemd:x", "systemd:x"], "stands there twice"),
        (["unix:/s", "unix:/s"], "stands there twice"),
        (["a:1", "https://a:2"], "server.listen[1]: 'https://a:2' needs a certificate; write server.tls"),
        (["https://a"], "'https://a' is not an address; write for example"),
        (["systemd:a:b"], "write systemd, or systemd: and its FileDescriptorName"),
        (["systemd:"], "write systemd, or systemd: and its FileDescriptorName"),
        (["systemdx"], "is not an address"),
    ],
)
def test_addresses_that_cannot_be_are_refused(addresses: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        listens(*addresses)
    assert [problem for problem in raised.value.problems if said in problem], raised.value.problems


def test_addresses_that_only_look_alike_stand_together() -> None:
    assert len(listens("a:0", "a:0", "0.0.0.0:5000", "[::]:5000", "systemd:x", "systemd:y")) == 6


def test_what_systemd_passes_may_be_open_to_everybody() -> None:
    assert not listens("systemd")[0].local


@pytest.mark.parametrize("key", ["trusted_proxies", "allow_clients", "deny_clients"])
@pytest.mark.parametrize(
    ("written", "networks"),
    [
        ("[10.0.0.0/8, 'fd00::/8']", ("10.0.0.0/8", "fd00::/8")),
        ("192.0.2.7", ("192.0.2.7/32",)),
        ("'2001:db8::1'", ("2001:db8::1/128",)),
        ("10.0.0.0/255.0.0.0", ("10.0.0.0/8",)),
        ("'::ffff:10.0.0.0/104'", ("10.0.0.0/8",)),
        ("'::ffff:192.0.2.7'", ("192.0.2.7/32",)),
        ("[unix, 10.0.0.1, 10.0.0.1/32]", ("unix", "10.0.0.1/32")),
        ("0.0.0.0/0", ("0.0.0.0/0",)),
        ("[]", ()),
    ],
)
def test_networks_are_written_in_one_way(key: str, written: str, networks: tuple[str, ...]) -> None:
    assert getattr(read(f"server: {{{key}: {written}}}").server, key) == networks


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("10.0.0.1/8", "has bits behind its mask; write 10.0.0.0/8 for the network, or 10.0.0.1 for the host"),
        ("office", "'office' is not a network; write for example 10.0.0.0/8"),
        ("10.0.0.0/33", "is not a network"),
        ("'::ffff:0:0/90'", "has bits behind its mask"),
        ("'fe80::1%eth0'", "is not a network"),
        ("{a: b}", "is not a single text"),
    ],
)
def test_what_is_no_network_is_refused(written: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.allow_clients") as raised:
        read(f"server: {{allow_clients: [{written}]}}")
    assert said in str(raised.value)


def test_limits_are_numbers_of_at_least_one() -> None:
    server = read("").server
    assert (server.max_connections, server.max_connections_per_client, server.max_requests_per_client) == (
        4096,
        None,
        None,
    )
    server = read("server: {max_connections: 10, max_connections_per_client: 5, max_requests_per_client: 3}").server
    assert (server.max_connections, server.max_connections_per_client, server.max_requests_per_client) == (10, 5, 3)
    for wrong in ("0", "-1", "many", "1.5", "10000000", "[1]"):
        with pytest.raises(ConfigError, match=r"server\.max_connections"):
            read(f"server: {{max_connections: {wrong}}}")


def test_the_access_file_is_a_path() -> None:
    assert read("log: {access_file: logs/access.log}").log.access_file == Path("logs/access.log")
    for wrong in ("''", "logs/", '"a\\0b"'):
        with pytest.raises(ConfigError, match=r"log\.access_file: .* is not the path of a file"):
            read(f"log: {{access_file: {wrong}}}")


def test_what_is_in_effect_shows_them_and_reads_the_same_again() -> None:
    config = read(
        "server: {listen: ['http://a:1', 'systemd:x'], trusted_proxies: unix, deny_clients: 10.0.0.9, "
        "max_requests_per_client: 7}\nlog: {access_file: a.log}"
    )
    shown = effective(config)
    assert shown["server"]["listen"] == ["http://a:1", "systemd:x"]
    assert shown["server"]["deny_clients"] == ["10.0.0.9/32"]
    assert "allow_clients" not in shown["server"]
    assert shown["log"]["access_file"] == "a.log"
    again = read(f"server: {shown['server']}\nlog: {shown['log']}")
    assert (again.server, again.log) == (config.server, config.log)
