"""What a configuration says when it is wrong: everything at once, where, what, and what would be right."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mirror.config import ConfigError, parse

if TYPE_CHECKING:
    from pathlib import Path


def problems(text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        parse(text, "mirror.yaml", environ or {})
    return raised.value.problems


CASES = [
    # keys
    ("servr: {}", "mirror.yaml:1: servr: is not a key; did you mean server?"),
    ("server: {listn: x}", "server.listn: is not a key; did you mean listen?"),
    ("storage: {max-size: 1GiB}", "storage.max-size: is not a key; did you mean max_size?"),
    ("listen: x", "listen: does not stand here; it belongs to server"),
    ("username: x", "username: does not stand here; it belongs to upstreams.NAME or upstreams.NAME.credentials[]"),
    ("server: {zzz: 1}", "server.zzz: is not a key; here can stand"),
    ("upstreams: {docker.io: {usrname: x}}", "upstreams.docker.io.usrname: is not a key; did you mean username?"),
    ("freshness: [{match: '**', tll: 1s}]", "freshness[0].tll: is not a key; did you mean ttl?"),
    ("log: {levl: info}", "log.levl: is not a key; did you mean level?"),
    ("log: {}\nlog: {}", "log: is written twice, in lines 1 and 2"),
    ("log: {level: info, level: debug}", "log.level: is written twice"),
    # kinds
    ("- server", "mirror.yaml: is a list; a configuration begins with a key"),
    ("server", "is a single value; a configuration begins with a key"),
    ("server: 5", "server: is a single value, and should hold keys"),
    ("storage: [1]", "storage: is a list, and should hold keys"),
    ("storage: {path: [a]}", "storage.path: this is not a single text"),
    ("upstreams: [docker.io]", "upstreams: is a list, and should hold names of registries"),
    ("upstreams: {docker.io: 'https://x'}", "upstreams.docker.io: is a single value; write {url:"),
    ("freshness: {match: '**'}", "freshness: is a mapping, and should be a list of rules"),
    ("freshness: [x]", "freshness[0]: is a single value, and should hold keys"),
    ("freshness: [~]", "freshness[0]: is empty"),
    # server
    ("server: {listen: 5000}", "server.listen: '5000' does not say for whom; write 127.0.0.1:5000"),
    ("server: {listen: ':5000'}", "0.0.0.0:5000 for everybody"),
    ("server: {listen: []}", "server.listen: is an empty list"),
    ("server: {listen: ['a:1', 'a:1']}", "server.listen[1]: 'a:1' stands there twice"),
    ("server: {listen: ['a:1', 'b']}", "server.listen[1]: 'b' is not an address"),
    ("server: {listen: '::1:5000'}", "server.listen: '::1:5000' is not an address"),
    ("server: {listen: '[1.2.3.4]:5000'}", "no IPv6 address in its brackets"),
    ("server: {listen: 'a:65536'}", "ports end at 65535"),
    ("server: {listen: 'unix:relative'}", "write unix: and an absolute path"),
    ("server: {public_url: mirror.example}", "server.public_url: 'mirror.example' is not an http or https URL"),
    ("server: {workers: 0}", "server.workers: '0' is not a number of processes from 1 to 64"),
    ("server: {workers: 65}", "server.workers: '65' is not a number of processes from 1 to 64"),
    ("server: {workers: many}", "server.workers: 'many' is not a number of processes from 1 to 64"),
    ("storage: {high_water: 90GiB}", "storage.high_water: '90GiB' is not a percentage of storage.max_size"),
    ("storage: {low_water: 99%}", "storage.low_water: must be more than 0% and at most high_water"),
    ("storage: {low_water: 0%}", "storage.low_water: must be more than 0% and at most high_water"),
    ("storage: {scrub_rate: 8MiB}", "storage.scrub_rate: '8MiB' is not a rate; write for example 8MiB/s"),
    ("storage: {scrub_rate: 8%/s}", "storage.scrub_rate: '8%/s' is not a rate; write for example 8MiB/s"),
    ("storage: {scrub_every: often}", "storage.scrub_every: 'often' is not a duration"),
    ("server: {trusted_proxies: [10.0.0.1/8]}", "server.trusted_proxies[0]: '10.0.0.1/8' has bits behind its mask"),
    ("server: {offline: maybe}", "server.offline: 'maybe' is not a yes or no; write true or false"),
    ("server: {shutdown_timeout: forever}", "server.shutdown_timeout: 'forever' would never end"),
    ("server: {tls: {cert_file: /nowhere}}", "server.tls.cert_file: '/nowhere' cannot be read (No such file"),
    ("server: {tls: {cert_file: /nowhere}}", "server.tls.key_file: is missing"),
    ("server: {tls: {cert_file: /dev/null, key_file: /dev/null}}", "server.tls: cert_file and key_file do not load"),
    # storage
    ("storage: {max_size: 50 Gibs}", "storage.max_size: '50 Gibs' is not a size; write for example 50GiB"),
    ("storage: {max_size: 50G}", "could mean two sizes; write 50GiB (1024) or 50GB (1000)"),
    ("storage: {max_size: -1}", "is not a size"),
    ("storage: {max_size: 0}", "storage.max_size: leaves no room"),
    ("storage: {max_size: 101%}", "is more than the whole"),
    ("storage: {max_size: 100000000000000PiB}", "more than any disk"),
    ("storage: {min_free: 100%}", "storage.min_free: leaves no room"),
    # upstreams
    ("upstreams: {docker.io: {url: 'ftp://x'}}", "upstreams.docker.io.url: 'ftp://x' is not an http or https URL"),
    ("upstreams: {docker.io: {url: 'https://a:b@x'}}", "'https://***@x' holds a user name or password"),
    ("upstreams: {docker.io: {url: 'https://x?y=1'}}", "has a query or a fragment"),
    ("upstreams: {docker.io: {url: 'https://x/v2/'}}", "ends in /v2"),
    ("upstreams: {docker.io: {url: 'https://x:99999'}}", "is not a URL"),
    ("upstreams: {docker.io: {url: 'https://a b'}}", "is not a URL"),
    ("upstreams: {docker.io: {username: a}}", "upstreams.docker.io.username: has no password beside it"),
    ("upstreams: {docker.io: {password: a}}", "upstreams.docker.io.password: has no username beside it"),
    ("upstreams: {docker.io: {username: a, password: ''}}", "upstreams.docker.io.password: the value is empty"),
    ("upstreams: {x.io: {username: a, password: b, password_file: /c}}", "password_file: stands beside password"),
    ("upstreams: {x.io: {username: a, password_file: /nowhere}}", "'/nowhere' cannot be read"),
    ("upstreams: {x.io: {ca_file: /dev/null}}", "upstreams.x.io.ca_file: '/dev/null' holds no certificate"),
    ("upstreams: {x.io: {realms: ['https://a']}}", "upstreams.x.io.realms[0]: 'https://a' is not a host"),
    ("upstreams: {docker.io: {}, index.docker.io: {}}", "is the same registry as docker.io"),
    ("upstreams: {'https://x.io': {}}", "is a URL; write the registry's name here"),
    ("upstreams: {'*.x.io': {}}", '"*" alone admits every public one'),
    ("upstreams: {'a/b': {}}", "upstreams.a/b: is not a registry"),
    ("upstreams: {'*': {}}", 'write "*": true'),
    ("default_upstream: quai.io", "'quai.io' is not among the upstreams; write one of these: docker.io"),
    ("upstreams: {docker.io: false}", "default_upstream: docker.io is not among the upstreams"),
    ("default_upstream: [a]", "default_upstream: is a list"),
    # an upstream that is the mirror itself
    ("upstreams: {x.io: {url: 'http://127.0.0.1:5000'}}", "upstreams.x.io.url: is this mirror itself"),
    ("upstreams: {x.io: {url: 'http://localhost:5000'}}", "is this mirror itself"),
    ("server: {listen: '0.0.0.0:80'}\nupstreams: {x.io: {url: 'http://127.9.9.9'}}", "is this mirror itself"),
    ("server: {listen: '[::]:443'}\nupstreams: {x.io: {url: 'https://[::1]'}}", "is this mirror itself"),
    ("server: {public_url: 'https://m.io'}\nupstreams: {x.io: {url: 'https://m.io:443'}}", "is this mirror itself"),
    # freshness
    ("freshness: [{match: '**', ttl: 90}]", "freshness[0].ttl: '90' has no unit; write 90s"),
    ("freshness: [{match: '**', ttl: soon}]", "freshness[0].ttl: 'soon' is not a duration"),
    ("freshness: [{ttl: 1s}]", "freshness[0].match: is missing"),
    ("freshness: [{match: 'docker.io/library/nginx@sha256:ab'}]", "does not match repositories"),
    ("freshness: [{match: 'docker.io/nginx:1.*'}]", "official images are in docker.io/library/"),
    ("freshness: [{match: 'docker.io/lib**'}]", "has ** beside other characters"),
    ("freshness: [{match: 'library/**'}]", "'library/**' matches nothing: it begins with no upstream"),
    ("freshness: [{match: 'docker.io'}]", "write docker.io/**"),
    ("freshness: [{match: 'docker.io/nginx'}]", "official images are in docker.io/library/"),
    ("freshness: [{match: '**'}, {match: 'quay.io/**'}]", "freshness[1]: is never reached"),
    ("freshness: [{match: '**', immutable: true, ttl: 1s}]", "freshness[0]: is immutable"),
    # log
    ("log: {level: loud}", "log.level: 'loud' is not one of the choices; write 'debug', 'info', 'warning' or 'error'"),
    # YAML
    ("a: [", "is not YAML"),
    ("upstreams:\n  *: true", "line 2, column 4: is not YAML: while scanning an alias"),
    ("upstreams:\n  *: true", 'is written in quotes: "*"'),
    ("server:\n\tlisten: x", "indent with spaces"),
    ("log: {level: ${X}}", 'between { and } it is written in quotes: "${NAME}"'),
    ("log: !!python/object:os.system {}", "log: has the tag tag:yaml.org,2002:python/object:os.system"),
    ("log: &a {level: info}\nserver: {<<: *a}", "merge key"),
    ("? [a]\n: b", "has a key in line 1 that is not a text"),
    ("log: &a [*a]", "nested too deeply"),
    ("[" * 500, "nested too deeply"),
    ("%YAML " + "1" * 5000 + ".1\n---\na: b", "is not YAML"),
    ('a: "\\UFFFFFFFF"', "is not YAML"),
    ('log: {level: "\\ud800"}', "log.level: holds what is no Unicode text"),
    ('"\\ud800": 1', "has a key in line 1 that is no Unicode text"),
    ("a: \x00", "is not YAML"),
    ("a: 1\n---\nb: 1", "is not YAML"),
    ("# " + "x" * 2**20, "longer than 1 MiB"),
    # ${NAME}
    ("log: {level: '${NO_SUCH}'}", "log.level: needs the environment variable NO_SUCH, which is not set"),
    ("log: {level: '${NO-SUCH}'}", "write $${ for the characters themselves"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), CASES)
def test_a_problem_names_the_place_and_what_would_be_right(text: str, said: str) -> None:
    found = problems(text)
    assert any(said in problem for problem in found), found


def test_all_problems_come_at_once_with_their_lines() -> None:
    found = problems(
        "server:\n  listen: 5000\n  workers: 0\nstorage: {max_size: 1x}\nupstreams:\n  a.io:\n    username: me\n"
        "    url: http://127.0.0.1:7\n    read_ahead: 7\nlog: {level: x}\n",
        {"http_proxy": "socks5://a"},
    )
    assert [problem.split(": ")[:2] for problem in found] == [
        ["mirror.yaml:2", "server.listen"],
        ["mirror.yaml:3", "server.workers"],
        ["mirror.yaml:4", "storage.max_size"],
        ["mirror.yaml:7", "upstreams.a.io.username"],
        ["mirror.yaml:9", "upstreams.a.io.read_ahead"],
        ["mirror.yaml:10", "log.level"],
        ["environment", "http_proxy"],
    ]


def test_one_mistake_is_one_problem() -> None:
    assert len(problems("upstreams: {a.io: {username: me, password: '${NO_SUCH}'}}")) == 1
    assert len(problems("upstreams: {docker.io: {url: 'nonsense'}}\nfreshness: [{match: docker.io/**, ttl: 1}]")) == 2


@pytest.mark.parametrize(
    "text",
    [
        "upstreams: {a.io: {username: 'me:canary', password: x}}",
        "upstreams: {a.io: {username: me, password: [canary]}}",
        "upstreams: {a.io: {username: me, pasword: canary}}",
        "upstreams: {a.io: {url: 'https://me:canary@x'}}",
        "upstreams: {a.io: {url: 'https://me:ca/canary@x'}}",
        "upstreams: {a.io: {url: 'https://x?token=canary'}}",
        "upstreams: {a.io: 'me:canary'}",
        "upstreams: {a.io: {url: 'me:canary@x'}}",
        "upstreams: {a.io: {exec: 'sh -c canary'}}",
        "upstreams: {a.io: {endpoints: ['https://me:canary@x', 'me:canary@x', 'https://x?t=canary']}}",
        "upstreams: {a.io: {endpoints: [{url: 'https://x', username: 'me:canary', password: [canary]}]}}",
        "upstreams: {a.io: {endpoints: [{url: 'https://x', proxy: 'socks5://me:canary@x'}]}}",
        "upstreams: {a.io: {credentials: [{username: 'me:canary', password: x}, {exec: [/no/such, canary]}]}}",
        "upstreams: {a.io: {credentials: [{name: '', username: me, password: canary}, canary]}}",
        "upstreams: {a.io: {username: me, password: canary, read_ahead: 7}}",
        "server: {listen: '${SECRET}', public_url: '${SECRET}', workers: '${SECRET}', shutdown_timeout: '${DIGITS}'}",
        "storage: {max_size: '${DIGITS}G'}",
        "default_upstream: '${SECRET}'",
        "freshness: [{match: '${SECRET}/**'}, {match: '${SECRET}'}]",
        "log: {level: '${SECRET}'}",
    ],
)
def test_no_problem_shows_a_secret(text: str) -> None:
    found = problems(text, {"SECRET": "canary", "DIGITS": "1234567890"})
    assert found
    assert not any("canary" in problem or "1234567890" in problem for problem in found), found


def test_a_proxys_password_is_not_shown() -> None:
    assert "canary" not in str(
        problems("", {"https_proxy": "socks5://u:canary@h:1", "all_proxy": "http://u:canary@:x"})
    )


def test_aliases_do_not_make_a_small_file_a_large_one() -> None:
    layers = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert any("more than 20000 values" in problem for problem in problems("\n".join(layers)))


def make_certificate(directory: Path, name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / f"{name}.crt").write_bytes(certificate.public_bytes(pem))
    for suffix, encryption in (
        ("key", serialization.NoEncryption()),
        ("enc", serialization.BestAvailableEncryption(b"x")),
    ):
        content = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, encryption)
        (directory / f"{name}.{suffix}").write_bytes(content)


def test_a_certificate_and_its_own_key_are_accepted_and_another_key_is_not(tmp_path: Path) -> None:
    make_certificate(tmp_path, "one")
    make_certificate(tmp_path, "two")
    tls = "server: {{tls: {{cert_file: {0}/one.crt, key_file: {0}/{1}}}}}"
    config = parse(tls.format(tmp_path, "one.key"), "mirror.yaml", {})
    assert config.server.tls.key_file == tmp_path / "one.key"
    for wrong in ("two.key", "one.enc", "one.crt"):
        assert "do not load together" in str(problems(tls.format(tmp_path, wrong)))
    ca = parse(f"upstreams: {{a.io: {{ca_file: {tmp_path}/one.crt}}}}", "mirror.yaml", {})
    assert ca.upstreams["a.io"].ca_file == tmp_path / "one.crt"
