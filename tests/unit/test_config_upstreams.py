"""Where credentials, certificates and proxies of upstreams are configured, and what is refused with what to do."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest
import yaml

from mirror.config import ConfigError, Proxies, Secret, effective, parse
from tests.parts.certificate import certificate

if TYPE_CHECKING:
    from pathlib import Path

AUTH = base64.b64encode(b"ann:canary").decode()


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        parse(text, "mirror.yaml", {"SECRET": "canary"})
    assert "canary" not in str(raised.value.problems)
    return raised.value.problems


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("credentials_files: /nowhere", "credentials_files: '/nowhere' cannot be read (No such file or directory)"),
        ("credentials_files: [/nowhere]", "credentials_files[0]: '/nowhere' cannot be read"),
        ("credentials_files: /dev/null", "'/dev/null' is not JSON; name a config.json of Docker"),
        ("credentials_files: [{a: b}]", "credentials_files[0]: this is not a single text"),
        ("credential_files: /x", "credential_files: is not a key; did you mean credentials_files?"),
        ("upstreams: {x.io: {credentials_files: /x}}", "does not stand here; it belongs to the top level"),
        ("upstreams: {x.io: {exec: [/nowhere/x, '${SECRET}']}}", "x.io.exec: this names no program that can be run"),
        ("upstreams: {x.io: {exec: []}}", "is not a command; write [PROGRAM, ARGUMENT, …]"),
        ("upstreams: {x.io: {exec: [[a]]}}", "is not a single text"),
        ("upstreams: {x.io: {exec: sh, username: a, password: b}}", "x.io.exec: stands beside username"),
        ("upstreams: {x.io: {proxy: 'socks5://a:canary@b'}}", "x.io.proxy: the value is not an HTTP proxy"),
        ("upstreams: {x.io: {proxy: 'http://'}}", "write http://HOST:PORT, or none to dial directly"),
        ("upstreams: {x.io: {client_cert_file: /dev/null}}", "client_cert_file: has no client_key_file beside it"),
        ("upstreams: {x.io: {client_key_file: /dev/null}}", "client_key_file: has no client_cert_file beside it"),
        (
            "upstreams: {x.io: {client_cert_file: /dev/null, client_key_file: /dev/null}}",
            "client_cert_file: and client_key_file do not load together",
        ),
        (
            "upstreams: {x.io: {url: 'http://x', client_cert_file: /dev/null, client_key_file: /dev/null}}",
            "client_cert_file: is shown to nobody over http://",
        ),
        (
            "upstreams: {x.io: {proxy: 'https://p', client_cert_file: /dev/null, client_key_file: /dev/null}}",
            "would be shown to a proxy",
        ),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(text: str, problem: str) -> None:
    assert any(problem in found for found in problems(text)), problems(text)


def test_a_certificate_and_the_key_of_another_do_not_fit(tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files.append(certificate(tmp_path / name))
    entry = f"{{client_cert_file: {files[0][0]}, client_key_file: {files[1][1]}}}"
    assert "do not load together" in problems(f"upstreams: {{x.io: {entry}}}")[0]
    config = parse(f"upstreams: {{x.io: {entry.replace('two', 'one')}}}", "mirror.yaml", {})
    assert config.upstreams["x.io"].client_key_file == files[0][1]


def test_files_of_credentials_are_one_or_a_list_and_say_whom_they_are_for(tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    one.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": AUTH}, "else.io": {"auth": AUTH}}}))
    two.write_text(json.dumps({"auths": {"quay.io/org": {"auth": AUTH}}, "credHelpers": {"gcr.io": "gcloud"}}))
    config = parse(f"credentials_files: [{one}, {two}]", "mirror.yaml", {})
    assert config.credentials_files == (one, two)
    assert config.named_in_files == {"docker.io", "quay.io", "gcr.io"}
    assert parse(f"credentials_files: {one}", "mirror.yaml", {}).credentials_files == (one,)


def test_a_proxy_is_an_address_or_none() -> None:
    config = parse("upstreams: {a.io: {proxy: 'me:x@p:3128'}, b.io: {proxy: none}, c.io: {}}", "mirror.yaml", {})
    own = config.upstreams["a.io"].proxies
    assert own == Proxies(http="http://me:x@p:3128", https="http://me:x@p:3128", everywhere=True)
    assert config.upstreams["b.io"].proxies == Proxies()
    assert config.upstreams["c.io"].proxies is None


def test_what_is_in_effect_hides_secrets_and_reads_the_same_again(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "secret").write_text("canary")
    cert_file, key_file = certificate(tmp_path)
    text = f"""
        credentials_files: {tmp_path}/config.json
        upstreams:
          a.io: {{exec: [sh, -c, "echo ${{SECRET}}"], proxy: "http://me:canary@p:1"}}
          b.io: {{username: me, password_file: {tmp_path}/secret, proxy: none}}
          c.io: {{client_cert_file: {cert_file}, client_key_file: {key_file}}}
    """
    config = parse(text, "mirror.yaml", {"SECRET": "canary"})
    shown = effective(config)
    assert "canary" not in f"{shown} {config!r}"
    assert shown["upstreams"]["a.io"] | {"url": ""} == {
        "url": "",
        "exec": ["sh", "***", "***"],
        "proxy": "http://***@p:1",
        "read_ahead": True,
        "max_connections": 16,
        "stall_timeout": "10s",
        "stall_rate": "1KiB/s",
    }
    again = parse(yaml.safe_dump(shown), "mirror.yaml", {})
    assert again.credentials_files == config.credentials_files
    assert again.upstreams["b.io"] == config.upstreams["b.io"]
    assert again.upstreams["b.io"].password == Secret("canary")
    assert again.upstreams["c.io"] == config.upstreams["c.io"]
