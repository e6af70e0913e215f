"""`mirror client-config`: every form of every client as it is printed, and what happens to files that are there."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from mirror.cli.main import main
from mirror.clients.address import Machine, find_address
from mirror.clients.client import Client, set_up
from mirror.config import ConfigError, parse
from mirror.config.upstreams import WELL_KNOWN
from tests.parts.certificate import certificate

if TYPE_CHECKING:
    from mirror.clients.setup import ClientSetup

GOLDEN = Path(__file__).parent / "golden/client-config"
HTTP, HTTPS = "http://mirror.example:5000", "https://mirror.example:5443"
CA = "-----BEGIN CERTIFICATE-----\nthe site's own\n-----END CERTIFICATE-----\n"
KEPT = ("docker.io", "quay.io")
FEW = ", ".join([*(f"{name}: {{}}" for name in KEPT), *(f"{name}: false" for name in WELL_KNOWN if name not in KEPT)])
OWN = FEW.replace("quay.io: {}", "quay.io: false")
CASES: dict[str, tuple[str, str, str | None]] = {
    "http": (f"upstreams: {{{FEW}}}", HTTP, None),
    "https": (f"upstreams: {{{FEW}}}", HTTPS, CA),
    "everything": (f"upstreams: {{{FEW}, '*': true}}", HTTP, None),
    "own-registry": (f"upstreams: {{{OWN}, 'registry.example:5443': {{}}}}", HTTP, None),
    "no-fallback": (f"server: {{fallback: false}}\nupstreams: {{{FEW}}}", HTTPS, CA),
    "other-default": (f"default_upstream: quay.io\nupstreams: {{{FEW}}}", HTTP, None),
}


def prepared(client: Client, text: str, url: str, ca: str | None = None) -> ClientSetup:
    config = parse(text, "mirror.yaml", {})
    return set_up(client, config, find_address(config, url=url, ca=ca, machine=nowhere))


def nowhere() -> Machine:
    return Machine(name=None, address=None)


def shown(result: ClientSetup) -> str:
    parts = [f"== {file.path} {file.mode:04o} {file.role.value}\n{file.content}" for file in result.files]
    return "\n".join(
        [*parts, *(f"== reload: {line}" for line in result.reload), *(f"== {n}" for n in result.notes), ""]
    )


def parsed(client: Client, case: str, path: str) -> Any:
    (content,) = [file.content for file in prepared(client, *CASES[case]).files if file.path == path]
    if path.endswith(".json"):
        return json.loads(content)
    return yaml.safe_load(content) if path.endswith(".yaml") else tomllib.loads(content)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("client", Client)
def test_every_form_is_as_it_was_agreed(client: Client, case: str) -> None:
    golden = GOLDEN / case / f"{client}.txt"
    text = shown(prepared(client, *CASES[case]))
    if os.environ.get("MIRROR_WRITE_GOLDEN"):  # then look at what changed, and commit it
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("client", Client)
def test_every_file_is_of_its_syntax_and_names_no_registry_that_is_not_mirrored(client: Client, case: str) -> None:
    for file in prepared(client, *CASES[case]).files:
        if not file.path.endswith(".crt"):
            assert parsed(client, case, file.path)
        assert "ghcr.io" not in file.content + file.path
        assert ("quay.io" in file.content) <= (case != "own-registry")


def test_docker_is_told_the_path_where_another_registry_is_the_default() -> None:
    path = "/etc/docker/daemon.json"
    assert parsed(Client.DOCKER, "http", path) == {"registry-mirrors": [HTTP]}
    assert parsed(Client.DOCKER, "other-default", path) == {"registry-mirrors": [f"{HTTP}/docker.io"]}
    assert "Docker 25" in " ".join(prepared(Client.DOCKER, *CASES["other-default"]).notes)


def test_docker_needs_no_daemon_json_where_docker_hub_is_not_mirrored() -> None:
    result = prepared(Client.DOCKER, "upstreams: {docker.io: false}\ndefault_upstream: quay.io", HTTP)
    assert "/etc/docker/daemon.json" not in [file.path for file in result.files]
    assert result.reload == ()
    assert "docker.io is not mirrored" in result.notes[0]


def test_docker_hub_is_not_named_where_not_even_the_wildcard_admits_it() -> None:
    result = prepared(Client.DOCKER, 'default_upstream: quay.io\nupstreams: {docker.io: false, "*": true}', HTTP)
    assert [file.path for file in result.files] == ["/etc/docker/certs.d/_default/hosts.toml"]


def test_containerd_falls_back_to_the_registry_itself() -> None:
    hosts = parsed(Client.CONTAINERD, "http", "/etc/containerd/certs.d/quay.io/hosts.toml")
    assert hosts == {"server": "https://quay.io", "host": {HTTP: {"capabilities": ["pull", "resolve"]}}}
    hub = parsed(Client.CONTAINERD, "http", "/etc/containerd/certs.d/docker.io/hosts.toml")
    assert hub["server"] == "https://registry-1.docker.io"


def test_containerd_without_fallback_knows_the_mirror_alone() -> None:
    hosts = parsed(Client.CONTAINERD, "no-fallback", "/etc/containerd/certs.d/docker.io/hosts.toml")
    mirror = {"capabilities": ["pull", "resolve"], "ca": "/etc/containerd/certs.d/mirror.example_5443_/ca.crt"}
    assert hosts == {"server": HTTPS, **mirror, "host": {HTTPS: mirror}}


def test_containerd_finds_a_registry_with_a_port() -> None:
    path = "/etc/containerd/certs.d/registry.example_5443_/hosts.toml"
    assert parsed(Client.CONTAINERD, "own-registry", path)["server"] == "https://registry.example:5443"


def test_containerd_has_one_file_for_every_registry_there_is() -> None:
    (file,) = prepared(Client.CONTAINERD, *CASES["everything"]).files
    assert file.path == "/etc/containerd/certs.d/_default/hosts.toml"
    assert "server" not in tomllib.loads(file.content)


def test_a_registry_on_this_machine_is_left_to_containerd_which_knows_how_to_speak_to_it() -> None:
    result = prepared(Client.CONTAINERD, "upstreams: {'localhost:5001': {url: 'http://localhost:5001'}}", HTTP)
    (file,) = [file for file in result.files if "localhost_5001_" in file.path]
    assert "server" not in tomllib.loads(file.content)


@pytest.mark.parametrize("client", [Client.PODMAN, Client.CRIO])
def test_podman_and_crio_find_the_registry_in_the_path(client: Client) -> None:
    path = "/etc/containers/registries.conf.d/50-mirror.conf"
    tables = parsed(client, "own-registry", path)["registry"]
    mirror = {"location": "mirror.example:5000/registry.example_5443", "insecure": True}
    assert tables[1] == {"prefix": "registry.example:5443", "location": "registry.example:5443", "mirror": [mirror]}
    secure = parsed(client, "https", path)["registry"]
    assert secure[0]["mirror"] == [{"location": "mirror.example:5443/docker.io"}]
    only = parsed(client, "no-fallback", path)["registry"]
    assert only[0] == {"prefix": "docker.io", "location": "mirror.example:5443/docker.io"}


def test_podman_takes_a_host_without_a_dot_for_a_host() -> None:
    for url, location in (("http://mirror", "mirror:80"), ("https://mirror", "mirror:443"), ("http://m:1", "m:1")):
        files = prepared(Client.PODMAN, "", url, CA if url.startswith("https") else None).files
        assert tomllib.loads(files[0].content)["registry"][0]["mirror"][0]["location"] == f"{location}/docker.io"
        assert all(f"/{location}/" in file.path for file in files[1:])


def test_podman_is_not_given_a_location_that_it_refuses() -> None:
    with pytest.raises(ConfigError, match="an IPv4 address, with --url"):
        prepared(Client.PODMAN, "", "http://[fd00::2]:5000")
    result = prepared(Client.PODMAN, "upstreams: {'[fd00::1]:5000': {}}", HTTP)
    assert "fd00" not in result.files[0].content
    assert "[fd00::1]:5000 is left away" in " ".join(result.notes)


def test_buildkit_is_told_how_to_speak_to_the_mirror() -> None:
    path = "/etc/buildkit/buildkitd.toml"
    plain = parsed(Client.BUILDKIT, "own-registry", path)["registry"]
    assert plain["registry.example:5443"] == {"mirrors": ["mirror.example:5000"]}
    assert plain["mirror.example:5000"] == {"http": True}
    secure = parsed(Client.BUILDKIT, "https", path)["registry"]
    assert secure["mirror.example:5443"] == {"http": False, "ca": ["/etc/buildkit/mirror-ca.crt"]}


def test_k3s_names_every_registry_and_all_others() -> None:
    path = "/etc/rancher/k3s/registries.yaml"
    tree = parsed(Client.K3S, "everything", path)
    assert tree["mirrors"] == {name: {"endpoint": [HTTP]} for name in ("docker.io", "quay.io", "*")}
    tls = parsed(Client.K3S, "https", path)["configs"]
    assert tls == {"mirror.example:5443": {"tls": {"ca_file": "/etc/rancher/k3s/mirror-ca.crt"}}}


def test_a_mirror_below_a_path_is_given_to_those_who_can_ask_there() -> None:
    url = "https://example.org/mirror"
    assert json.loads(prepared(Client.DOCKER, "", url).files[0].content) == {"registry-mirrors": [url]}
    assert url in prepared(Client.CONTAINERD, "", url).files[0].content
    assert f'"{url}/v2"' in prepared(Client.K3S, "", url).files[0].content
    for client in (Client.PODMAN, Client.CRIO, Client.BUILDKIT):
        with pytest.raises(ConfigError, match="a host or a port of its own"):
            prepared(client, "", url)


@pytest.mark.parametrize(
    ("server", "machine", "url", "note"),
    [
        ("{}", nowhere(), "http://127.0.0.1:5000", "for this machine alone"),
        ("{listen: '10.1.2.3:5000'}", nowhere(), "http://10.1.2.3:5000", None),
        ("{listen: '[fd00::1]:5000'}", nowhere(), "http://[fd00::1]:5000", None),
        ("{listen: ['unix:/run/m', '10.1.2.3:80']}", nowhere(), "http://10.1.2.3", None),
        ("{public_url: 'https://m.example/'}", nowhere(), "https://m.example", "--ca FILE"),
        ("{listen: '0.0.0.0:5000'}", Machine("host.example", "10.1.2.3"), "http://10.1.2.3:5000", "assumed"),
        ("{listen: '[::]:5000'}", Machine("host.example", None), "http://host.example:5000", "assumed"),
        ("{listen: '0.0.0.0:443', TLS}", Machine("host.example", "10.1.2.3"), "https://host.example", "assumed"),
        ("{listen: ['http://10.1.2.3:5000', '10.1.2.3:5443'], TLS}", nowhere(), "http://10.1.2.3:5000", None),
    ],
)
def test_the_url_is_where_clients_reach_the_mirror(
    server: str, machine: Machine, url: str, note: str | None, tmp_path: Path
) -> None:
    cert_file, key_file = certificate(tmp_path)
    server = server.replace("TLS", f"tls: {{cert_file: {cert_file}, key_file: {key_file}}}")
    config = parse(f"server: {server}", "mirror.yaml", {})
    address = find_address(config, url=None, ca=None, machine=lambda: machine)
    assert address.url == url
    assert (note in " ".join(address.notes)) if note else address.notes == ()


@pytest.mark.parametrize("listen", ["unix:/run/m", "0.0.0.0:5000", "127.0.0.1:0", "systemd"])
def test_a_url_that_cannot_be_known_is_asked_for(listen: str) -> None:
    config = parse(f"server: {{listen: '{listen}'}}", "mirror.yaml", {})
    with pytest.raises(ConfigError, match="--url"):
        find_address(config, url=None, ca=None, machine=nowhere)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as raised:
        main(["client-config", *arguments])
    assert isinstance(raised.value.code, int)
    return raised.value.code


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mirror.yaml").write_text(f"upstreams: {{{FEW}}}")
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return tmp_path


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize("client", Client)
def test_what_is_printed_can_be_piped_and_the_person_still_sees_where_it_goes(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(client, "--url", HTTP) == 0
    out, err = capsys.readouterr()
    files = prepared(client, *CASES["http"]).files
    assert out.startswith(files[0].content)
    assert f"file:   {files[0].path}" in err
    assert "reload: " in err
    if client is not Client.CONTAINERD:
        assert out == files[0].content


@pytest.mark.usefixtures("directory")
def test_json_has_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("docker", "--url", HTTP, "--json") == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert err == ""
    assert report["url"] == HTTP
    assert report["reload"] == ["systemctl reload docker"]
    assert {"path", "content", "mode"} == set(report["files"][0])
    assert [file["path"] for file in report["files"]] == [
        "/etc/docker/daemon.json",
        "/etc/docker/certs.d/docker.io/hosts.toml",
        "/etc/docker/certs.d/quay.io/hosts.toml",
    ]


def test_files_are_put_below_a_directory_and_a_second_time_nothing_changes(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cert_file, _ = certificate(directory)
    for outcome in ("written", "unchanged"):
        assert run("podman", "--url", HTTPS, "--ca", "cert.pem", "--write", "root", "--json") == 0
        placed = json.loads(capsys.readouterr().out)["placed"]
        assert [(file["outcome"], file["kept"]) for file in placed] == [(outcome, None)] * 2
    certs = directory / "root/etc/containers/certs.d/mirror.example:5443"
    assert (certs / "ca.crt").read_text() == cert_file.read_text()
    assert [path.name for path in certs.iterdir()] == ["ca.crt"]
    assert (certs / "ca.crt").stat().st_mode & 0o777 == 0o644


def daemon_json(directory: Path, text: str) -> Path:
    path = directory / "root/etc/docker/daemon.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("before", "mirrors"),
    [
        ("", [HTTP]),
        ('{"debug": true}', [HTTP]),
        ('{"registry-mirrors": ["https://old.example"]}', [HTTP, "https://old.example"]),
        (f'{{"registry-mirrors": ["https://old.example", "{HTTP}/"]}}', [HTTP, "https://old.example"]),
    ],
)
def test_a_daemon_json_keeps_what_it_holds(before: str, mirrors: list[str], directory: Path) -> None:
    path = daemon_json(directory, before)
    path.chmod(0o600)
    assert run("docker", "--url", HTTP, "--write", "root") == 0
    merged = json.loads(path.read_text())
    assert merged.pop("registry-mirrors") == mirrors
    assert merged == {key: value for key, value in json.loads(before or "{}").items() if key != "registry-mirrors"}
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.with_name("daemon.json.bak").read_text() == before
    after = path.read_text()
    assert run("docker", "--url", HTTP, "--write", "root") == 0
    assert path.read_text() == after
    assert path.with_name("daemon.json.bak").read_text() == before


def test_a_daemon_json_that_names_the_mirror_already_is_not_touched(directory: Path) -> None:
    before = f'{{"registry-mirrors":["{HTTP}/"],"debug":true}}'
    path = daemon_json(directory, before)
    assert run("docker", "--url", HTTP, "--write", "root") == 0
    assert path.read_text() == before
    assert not path.with_name("daemon.json.bak").exists()


@pytest.mark.parametrize("before", ["{", "[]", '{"registry-mirrors": "http://x"}'])
def test_a_daemon_json_that_cannot_be_merged_is_left_as_it_is(
    before: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = daemon_json(directory, before)
    assert run("docker", "--url", HTTP, "--write", "root") == 1
    assert "daemon.json is there and " in capsys.readouterr().err
    assert path.read_text() == before
    assert run("docker", "--url", HTTP, "--write", "root", "--force") == 0
    assert json.loads(path.read_text()) == {"registry-mirrors": [HTTP]}


def test_a_file_that_holds_something_else_is_never_lost(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = directory / "root/etc/containerd/certs.d/quay.io/hosts.toml"
    path.parent.mkdir(parents=True)
    path.write_text('server = "https://somebody"\n')
    assert run("containerd", "--url", HTTP, "--write", "root") == 1
    assert "root/etc/containerd/certs.d/quay.io/hosts.toml is there" in capsys.readouterr().err
    assert path.read_text() == 'server = "https://somebody"\n'
    assert not (path.parents[1] / "docker.io").exists(), "all of the files, or none"
    assert run("containerd", "--url", HTTP, "--write", "root", "--force") == 0
    assert HTTP in path.read_text()
    assert path.with_name("hosts.toml.bak").read_text() == 'server = "https://somebody"\n'


def test_a_link_stays_a_link(directory: Path) -> None:
    path = daemon_json(directory, "{}")
    kept = path.rename(directory / "root/kept.json")
    path.symlink_to("../../kept.json")
    assert run("docker", "--url", HTTP, "--write", "root") == 0
    assert path.is_symlink()
    assert json.loads(kept.read_text()) == {"registry-mirrors": [HTTP]}


@pytest.mark.parametrize("link", ["etc/docker/daemon.json", "etc/docker"])
def test_a_link_that_leads_out_of_the_directory_is_not_followed(
    link: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the tree of an image a link may name a path of the image's own, which here is this machine's."""
    outside = directory / "machine"
    outside.mkdir()
    (outside / "daemon.json").write_text("{}")
    path = directory / "root" / link
    path.parent.mkdir(parents=True)
    path.symlink_to(outside if link == "etc/docker" else outside / "daemon.json")
    assert run("docker", "--url", HTTP, "--write", "root", "--force") == 1
    assert "outside of root" in capsys.readouterr().err
    assert [file.name for file in outside.iterdir()] == ["daemon.json"]
    assert (outside / "daemon.json").read_text() == "{}"


@pytest.mark.parametrize(("client", "certs"), [("docker", "etc/docker"), ("containerd", "etc/containerd")])
def test_certificates_that_a_hosts_toml_would_put_out_of_use_are_not_passed_over(
    client: str, certs: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither client looks at them any more where there is a hosts.toml beside them."""
    theirs = directory / "root" / certs / "certs.d/quay.io/ca.crt"
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    assert run(client, "--url", HTTP, "--write", "root") == 1
    assert "quay.io/hosts.toml would put ca.crt beside it out of use" in capsys.readouterr().err
    assert [path.name for path in (directory / "root").rglob("*") if path.is_file()] == ["ca.crt"]
    for more in (["--force"], []):
        assert run(client, "--url", HTTP, "--write", "root", *more) == 0
    assert theirs.with_name("hosts.toml").exists()


def test_what_was_kept_before_is_never_written_over(directory: Path) -> None:
    path = daemon_json(directory, '{"debug": true}')
    elsewhere = directory / "elsewhere"
    elsewhere.write_text("somebody's")
    path.with_name("daemon.json.bak").symlink_to(elsewhere)
    for url in (HTTP, HTTPS):
        assert run("docker", "--url", url, "--write", "root", "--force") == 0
    assert elsewhere.read_text() == "somebody's"
    assert path.with_name("daemon.json.bak.2").read_text() == '{"debug": true}'
    assert json.loads(path.with_name("daemon.json.bak.3").read_text())["registry-mirrors"] == [HTTP]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_stays_whose_it_is(directory: Path) -> None:
    path = daemon_json(directory, "{}")
    os.chown(path, 12345, 54321)
    assert run("docker", "--url", HTTP, "--write", "root") == 0
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)


def test_everybody_may_read_the_directories_that_are_made(directory: Path) -> None:
    """Podman without root fails at a directory that it may not read."""
    before = os.umask(0o077)
    try:
        assert run("podman", "--url", HTTP, "--write", "root") == 0
    finally:
        os.umask(before)
    made = directory / "root/etc/containers/registries.conf.d"
    assert [path.stat().st_mode & 0o777 for path in (made, made.parent, made.parents[1])] == [0o755] * 3


def test_what_cannot_be_written_is_named_before_anything_is(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certs = directory / "root/etc/containerd/certs.d"
    (certs / "quay.io/hosts.toml").mkdir(parents=True)
    assert run("containerd", "--url", HTTP, "--write", "root", "--force") == 1
    assert "quay.io/hosts.toml cannot be used: Is a directory" in capsys.readouterr().err
    assert [path.name for path in certs.iterdir()] == ["quay.io"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["minikube"], "minikube"),
        ([], "CLIENT"),
        (["docker", "--url", "mirror:5000"], "http or https URL"),
        (["docker", "--url", "http://[::1"], "is not a URL"),
        (["docker", "--url", "https://me:canary@mirror"], "user name or password"),
        (["docker", "--url", HTTP, "--ca", "cert.pem"], "not encrypted"),
        (["docker", "--url", HTTPS, "--ca", "absent.pem"], "No such file"),
        (["docker", "--url", HTTPS, "--ca", "key.pem"], "private key"),
        (["docker", "--url", HTTPS, "--ca", "mirror.yaml"], "holds no certificate"),
        (["docker", "--url", HTTPS, "--ca", "cert.der"], "is not PEM"),
    ],
)
def test_wrong_usage_is_2_and_says_what_would_be_right(
    arguments: list[str], said: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate(directory)
    (directory / "cert.der").write_bytes(b"\x30\x82\xff")
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert "canary" not in err
    assert out == ""
