"""What a reload says of two configurations: each key that differs, and no secret."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mirror.config import Config, Proxies, parse
from mirror.config.difference import difference

if TYPE_CHECKING:
    from pathlib import Path


def read(text: str) -> Config:
    return parse(text, "mirror.yaml", {})


def test_the_same_has_no_difference_wherever_it_was_read() -> None:
    assert difference(read(""), replace(read("log: {level: info}"), source="elsewhere")) == []


def test_each_key_is_named_with_what_it_was_and_is() -> None:
    old = read("upstreams: {quay.io: false}\nserver: {max_requests_per_client: 5}\nstorage: {max_size: 1GiB}")
    new = read(
        "upstreams: {'*': true, ghcr.io: {read_ahead: false}}\nserver: {listen: ['a:1', 'b:2']}\n"
        "storage: {max_size: 80%}\nfreshness: [{match: '**', ttl: 5s}]"
    )
    lines = {line.partition(":")[0]: line for line in difference(old, new)}
    assert lines["server.max_requests_per_client"] == "server.max_requests_per_client: 5, now not set"
    assert lines["server.listen"] == "server.listen: ['127.0.0.1:5000'], now ['a:1', 'b:2']"
    assert lines["storage.max_size"] == "storage.max_size: 1GiB, now 80%"
    assert lines["upstreams.ghcr.io.read_ahead"] == "upstreams.ghcr.io.read_ahead: True, now False"
    assert lines["upstreams.quay.io.url"] == "upstreams.quay.io.url: not set, now https://quay.io"
    assert lines["upstreams.*"] == "upstreams.*: not set, now True"
    assert set(lines) == {
        "server.max_requests_per_client", "server.listen", "storage.max_size", "upstreams.ghcr.io.read_ahead",
        "upstreams.quay.io", "upstreams.quay.io.url", "upstreams.quay.io.read_ahead", "upstreams.*", "freshness",
        "upstreams.quay.io.max_connections", "upstreams.quay.io.stall_timeout", "upstreams.quay.io.stall_rate",
    }  # fmt: skip


def test_of_a_secret_only_that_it_differs(tmp_path: Path) -> None:
    def login(password: str) -> Config:
        (tmp_path / "password").write_text(password)
        return read(f"upstreams: {{docker.io: {{username: me, password_file: {tmp_path}/password}}}}")

    lines = difference(login("canary-one"), login("canary-two"))
    assert lines == ["upstreams.docker.io.password: another value"]
    proxied = replace(read(""), proxies=Proxies(https="http://me:canary@proxy:3128"))
    assert difference(read(""), proxied) == ["environment.https: another value"]


def test_what_an_endpoint_has_from_its_upstream_is_told_once() -> None:
    text = (
        "upstreams: {{docker.io: {{stall_rate: {rate}, credentials: [{{username: me, password: {password}}}],"
        " endpoints: [{{url: 'https://a.example', username: me, password: {other}}}]}}}}"
    )
    first = read(text.format(rate="1KiB/s", password="canary-1", other="canary-2"))
    quicker = read(text.format(rate="2KiB/s", password="canary-1", other="canary-2"))
    assert difference(first, quicker) == ["upstreams.docker.io.stall_rate: 1KiB/s, now 2KiB/s"]
    assert difference(first, read(text.format(rate="1KiB/s", password="canary-3", other="canary-2"))) == [
        "upstreams.docker.io.credentials: another value"
    ]
    assert difference(first, read(text.format(rate="1KiB/s", password="canary-1", other="canary-3"))) == [
        "upstreams.docker.io.endpoints: another value"
    ]
