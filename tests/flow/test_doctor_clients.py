"""`mirror doctor` on the clients of a host: whether their files name the mirror, and in a way that works."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from yarl import URL

from mirror.doctor import containerd, docker
from mirror.doctor.authorities import authorities
from mirror.doctor.case import Case
from mirror.doctor.examination import examine
from mirror.doctor.finding import Level
from tests.flow.doctoring import Host, as_nobody, certificate, listening, one, only, wrong
from tests.parts.process import free_port, room

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import StartMirror

DAEMON, CONFIG, HOSTS = "/etc/docker/daemon.json", "/etc/containerd/config.toml", "/etc/containerd/certs.d"
DROPPED, K3S = "/etc/containers/registries.conf.d/50-mirror.conf", "/etc/rancher/k3s/registries.yaml"
CRI2, CRI3 = '[plugins."io.containerd.grpc.v1.cri".registry]', '[plugins."io.containerd.cri.v1.images".registry]'
PATHED = f'config_path = "{HOSTS}"\n'
CANARY = "canary-71ac"


def package(name: str, version: str) -> str:
    return f"Package: {name}\nStatus: install ok installed\nVersion: {version}\nArchitecture: amd64\n\n"


class Clients(Host):
    """A host whose mirror runs, at `url`."""

    url: str
    upstream: FakeRegistry

    async def found(self, **sections: Any) -> Any:
        return await self.examined({"docker.io": self.upstream, "quay.io": self.upstream}, self.url, **sections)

    def docker(self, *mirrors: str, **settings: Any) -> None:
        self.put(DAEMON, {"registry-mirrors": list(mirrors), **settings})

    def containerd(self, registry: str, text: str) -> None:
        self.put(CONFIG, f"version = 2\n{CRI2}\n{PATHED}")
        self.put(f"{HOSTS}/{registry}/hosts.toml", text)

    def podman(self, text: str) -> None:
        self.put("/usr/bin/podman")
        self.put(DROPPED, text)

    @property
    def netloc(self) -> str:
        return self.url.removeprefix("http://")


@pytest.fixture
async def host(tmp_path: Path, start: StartMirror, upstream: FakeRegistry) -> Clients:
    host = Clients(tmp_path)
    host.upstream = upstream
    host.url = (await start({"docker.io": upstream, "quay.io": upstream})).url  # type: ignore[dict-item]
    return host


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path is short enough for a socket."""
    with room("doctor") as directory:
        yield directory


async def test_clients_that_name_the_mirror(host: Clients) -> None:
    host.docker(host.url)
    host.containerd("docker.io", f'server = "https://registry-1.docker.io"\n[host."{host.url}"]\n')
    host.put(f"{HOSTS}/quay.io/hosts.toml", f'[host."{host.url}"]\ncapabilities = ["pull", "resolve"]\n')
    host.podman(
        f'[[registry]]\nprefix = "quay.io"\nlocation = "quay.io"\n'
        f'[[registry.mirror]]\nlocation = "{host.netloc}/quay.io"\ninsecure = true\n'
    )
    host.put(K3S, f'mirrors:\n  docker.io:\n    endpoint: ["{host.url}"]\n')
    findings = await host.found()
    assert wrong(findings) == []
    said = {finding.check: finding.found for finding in findings}
    assert said["docker"] == f"names the mirror: {host.url}"
    assert said["containerd"] == "names the mirror for docker.io, quay.io"
    assert said["podman"] == "names the mirror for quay.io"
    assert said["k3s"] == "names the mirror for docker.io"


# Docker.


async def test_docker_without_daemon_json(host: Clients) -> None:
    host.put("/usr/bin/dockerd")
    found = only(await host.found())
    assert "is not there: Docker pulls past the mirror" in found.found
    assert "mirror client-config docker" in found.cure


@pytest.mark.parametrize(
    ("text", "found", "cure"),
    [
        ('{\n"registry-mirrors": [],\n}', "is not JSON (line 3)", "none after the last"),
        ("[]", "holds no keys", "mirror client-config"),
        ("{}", "has no registry-mirrors", "mirror client-config docker"),
        ('{"registry-mirrors": "http://a"}', "is no list", '"registry-mirrors": ["http://127.0.0.1'),
        ('{"registry-mirrors": ["a.example:5000"]}', "'a.example:5000', which is no URL", "http://127.0.0.1"),
        ('{"registry-mirrors": ["http://me:canary-71ac@a.example"]}', "has a user name", "leave it away"),
        ('{"registry-mirrors": ["me:canary-71ac@a.example"]}', "which is no URL", "http://127.0.0.1"),
    ],
)
async def test_a_daemon_json_that_docker_does_not_take(text: str, found: str, cure: str, host: Clients) -> None:
    host.put(DAEMON, text)
    findings = await host.found()
    assert found in only(findings).found
    assert cure in only(findings).cure
    assert CANARY not in str(findings)


@pytest.mark.parametrize("option", ["--registry-mirror={}", "--registry-mirror {}"])
async def test_a_mirror_on_dockers_command_line(option: str, host: Clients) -> None:
    host.put("/usr/bin/dockerd")
    host.put("/usr/lib/systemd/system/docker.service", "[Service]\nExecStart=/usr/bin/dockerd -H fd://\n")
    unit = "/etc/systemd/system/docker.service.d/mirror.conf"
    command = f"ExecStart=\nExecStart=/usr/bin/dockerd -H fd:// \\\n  {option.format(host.url)}"
    host.put(unit, f"[Service]\n{command}\n")
    assert wrong(await host.found()) == []
    host.docker(host.url)  # dockerd says then: directives are specified both as a flag and in the configuration file
    found = only(await host.found())
    assert "dockerd does not start with both" in found.found
    assert unit in found.found
    assert "take --registry-mirror out" in found.cure


async def test_docker_that_names_a_port_where_nobody_listens(host: Clients) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    host.docker(dead)
    found = only(await host.found())
    assert (found.check, found.level) == ("docker", Level.FAILURE)
    assert f"names {dead}, where nothing helps: the connection is refused" in found.found
    assert f"write {host.url} there" in found.cure


async def test_docker_that_names_the_mirror_by_https_where_it_speaks_http(host: Clients) -> None:
    host.docker(host.url.replace("http:", "https:"))
    found = only(await host.found())
    assert "http is spoken there, not https" in found.found
    assert f"write {host.url} there" in found.cure


async def test_docker_that_names_another_mirror(host: Clients) -> None:
    async def other(_request: web.BaseRequest) -> web.Response:
        return web.Response(text="{}", headers={"Docker-Distribution-Api-Version": "registry/2.0"})

    async with listening(other) as port:
        host.docker(f"http://127.0.0.1:{port}")
        found = only(await host.found())
        assert (found.level, "is not this mirror" in found.found) == (Level.WARNING, True)
        assert host.url in found.cure
        host.docker(f"http://127.0.0.1:{port}", host.url)
        assert wrong(await host.found()) == []


async def test_docker_that_names_the_mirror_and_a_dead_one(host: Clients) -> None:
    host.docker(f"http://127.0.0.1:{free_port()}", host.url)
    found = only(await host.found())
    assert found.level is Level.WARNING
    assert "loses time" in found.found


@pytest.mark.parametrize(
    ("packages", "level", "says"),
    [
        (package("docker.io", "20.10.24+dfsg1-1"), Level.FAILURE, "Docker 20, which this host has, does not start"),
        (package("a", "1.0") + package("docker-ce", "5:27.1.1-1~debian"), None, ""),
        (None, Level.WARNING, "older than 25 does not start"),
    ],
)
async def test_a_path_behind_the_mirror_for_an_old_docker(
    packages: str | None, level: Level | None, says: str, host: Clients
) -> None:
    if packages is not None:
        host.put("/var/lib/dpkg/status", packages)
    host.docker(f"{host.url}/docker.io")
    findings = await host.found()
    if level is None:
        assert wrong(findings) == []
    else:
        found = only(findings)
        assert (found.level, says in found.found) == (level, True)
        assert f"write {host.url} there" in found.cure


async def test_docker_whose_mirror_has_another_default(host: Clients) -> None:
    host.docker(host.url)
    found = only(await host.found(default_upstream="quay.io"))
    assert "gives Docker images of quay.io" in found.found
    assert f"{host.url}/docker.io" in found.cure


async def test_docker_with_a_v2_at_the_end(host: Clients) -> None:
    host.docker(f"{host.url}/v2/")
    found = only(await host.found())
    assert "ends in /v2" in found.found
    assert f"write {host.url} there" in found.cure


async def test_a_docker_daemon_that_was_not_told(host: Clients, short: Path) -> None:
    told: dict[str, Any] = {"ServerVersion": "27.1.1", "RegistryConfig": {"Mirrors": []}}

    async def engine(request: web.BaseRequest) -> web.Response:
        assert request.path == "/info"
        return web.Response(text=json.dumps(told))

    host.docker(host.url)
    (host.root / "run").symlink_to(short)
    async with listening(engine, path=short / "docker.sock"):
        found = only(await host.found())
        assert (found.subject, found.level) == ("dockerd", Level.FAILURE)
        assert "does not have what daemon.json says" in found.found
        assert "systemctl reload docker" in found.cure
        told["RegistryConfig"] = {"Mirrors": [f"{host.url}/"]}
        assert wrong(await host.found()) == []
        (host.root / DAEMON.lstrip("/")).unlink()  # it may have been told by its command line
        assert wrong(await host.found()) == []


# 0.0.0.0 leads to this machine, and is not among what no proxy is ever asked for.
@pytest.mark.parametrize("where", ["daemon.json", "unit"])
async def test_a_docker_daemon_that_asks_its_proxy_for_the_mirror(
    where: str, tmp_path_factory: pytest.TempPathFactory, start: StartMirror, upstream: FakeRegistry
) -> None:
    mirror = await start(upstream, server={"listen": "0.0.0.0:0"})
    host = Host(tmp_path_factory.mktemp("other"))
    proxies = {"http-proxy": f"http://me:{CANARY}@proxy.corp:3128", "no-proxy": "localhost"}
    if where == "unit":
        unit = f'[Service]\nEnvironment="HTTP_PROXY={proxies["http-proxy"]}" NO_PROXY=localhost\n'
        host.put("/etc/systemd/system/docker.service.d/proxy.conf", unit)
    host.put(DAEMON, {"registry-mirrors": [mirror.url], **({"proxies": proxies} if where == "daemon.json" else {})})
    findings = await host.examined(upstream, url=mirror.url)
    found = only(findings)
    assert "sends its requests for the mirror" in found.found
    assert ("proxy.conf" if where == "unit" else "daemon.json") in found.found
    assert "add 0.0.0.0 to no_proxy" in found.cure
    assert CANARY not in str(findings)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_whoever_may_not_read_the_files_is_told_to_ask_as_root() -> None:
    with room("doctor") as directory:
        directory.chmod(0o755)
        host = Host(directory)
        host.put(DAEMON, "{}").parent.chmod(0o700)
        host.put(CONFIG).chmod(0o600)
        host.put(f"{HOSTS}/docker.io/hosts.toml")
        case = Case(root=host.root)
        found = as_nobody(lambda: asyncio.run(docker.examine(case)) + asyncio.run(containerd.examine(case)))
    assert [finding.subject.rpartition("/")[2] for finding in found] == ["daemon.json", "config.toml"]
    assert {finding.found for finding in found} == {"cannot be read (Permission denied)"}
    assert {finding.cure for finding in found} == {"ask as root"}


# containerd.


@pytest.mark.parametrize(
    ("text", "level", "found", "cure"),
    [
        ("version = 2\n[plugins\n", Level.FAILURE, "is not TOML (line 2)", "[table] only once"),
        (f"version = 2\n{CRI3}\n{PATHED}", Level.FAILURE, "cri.v1.images", "io.containerd.grpc.v1.cri"),
        (
            f"version = 3\n{CRI2}\n{PATHED}",
            Level.FAILURE,
            "(version = 3) does not look",
            "io.containerd.cri.v1.images",
        ),
        (f"{CRI2}\n{PATHED}", Level.FAILURE, "(version = 1) does not look", "or change version"),
        (
            f'version = 2\n{CRI2}\n{PATHED}{CRI2[:-1]}.mirrors."docker.io"]\nendpoint = []\n',
            Level.FAILURE,
            "both config_path and registry.mirrors",
            "take the registry.mirrors tables out",
        ),
        ("version = 2\n", Level.WARNING, "names no config_path", "systemctl restart containerd"),
    ],
)
async def test_a_containerd_that_reads_no_hosts_toml(
    text: str, level: Level, found: str, cure: str, host: Clients
) -> None:
    host.containerd("docker.io", f'[host."{host.url}"]\n')
    host.put(CONFIG, text)
    bad = only(await host.found())
    assert (bad.check, bad.level) == ("containerd", level)
    assert found in bad.found
    assert cure in bad.cure


async def test_what_containerd_1_reads_of_a_newer_format(host: Clients) -> None:
    """It starts with it, and looks for its own plugin all the same (seen with 1.6.20)."""
    host.containerd("docker.io", f'[host."{host.url}"]\n')
    host.put("/var/lib/dpkg/status", package("containerd", "1.6.20~ds1-1+b1"))
    host.put(CONFIG, f"version = 3\n{CRI3}\n{PATHED}")
    found = only(await host.found())
    assert "cri.v1.images" in found.found
    assert f"put it below {CRI2}" in found.cure
    host.put(CONFIG, f"version = 3\n{CRI2}\n{PATHED}")
    assert wrong(await host.found()) == []


async def test_a_config_path_that_is_imported_counts(host: Clients) -> None:
    host.containerd("docker.io", f'[host."{host.url}"]\n')
    host.put(CONFIG, 'version = 2\nimports = ["/etc/containerd/conf.d/*.toml"]\n')
    host.put("/etc/containerd/conf.d/hosts.toml", f"{CRI2}\n{PATHED}")
    assert wrong(await host.found()) == []


async def test_a_config_path_of_two_directories_which_containerd_2_does_not_find(host: Clients) -> None:
    """It is also the default from 2.2 on (containerd#12636)."""
    host.containerd("docker.io", f'[host."{host.url}"]\n')
    host.put("/var/lib/dpkg/status", package("containerd.io", "2.2.1-1~debian.12~bookworm"))
    (host.root / CONFIG.lstrip("/")).unlink()
    by_default = only(await host.found())
    assert "the default of two directories" in by_default.found
    host.put(CONFIG, f'version = 3\n{CRI3}\nconfig_path = "{HOSTS}:/etc/docker/certs.d"\n')
    written = only(await host.found())
    assert "names several directories" in written.found
    assert by_default.cure == written.cure
    assert f'config_path = "{HOSTS}"' in written.cure
    host.put(CONFIG, f"version = 3\n{CRI3}\n{PATHED}")
    assert wrong(await host.found()) == []


@pytest.mark.parametrize(
    ("registry", "text", "level", "found", "cure"),
    [
        ("docker.io", '[host."URL"]\nserver = \n', Level.FAILURE, "hosts.toml", "correct line 2"),
        ("docker.io", '[host."HOST"]\n', Level.FAILURE, "https is meant", "write URL there"),
        ("docker.io", '[host."URL"]\ncapabilities = ["pull"]', Level.WARNING, "digests only", '"resolve"'),
        (
            "gitea.example_3000_",
            '[host."URL"]\n',
            Level.FAILURE,
            "gitea.example:3000, which the mirror",
            "upstreams: {",
        ),
        (
            "docker.io",
            '[host."URL"]\nca = "/etc/no.pem"\n',
            Level.FAILURE,
            "/etc/no.pem, and there is no such file",
            "put the certificate",
        ),
        ("docker.io", 'server = "https://a.example"\n', Level.WARNING, "no hosts.toml in it names", "client-config"),
    ],
)
async def test_a_hosts_toml_that_does_not_do_what_is_meant(  # noqa: PLR0917
    registry: str, text: str, level: Level, found: str, cure: str, host: Clients
) -> None:
    host.containerd(registry, text.replace("URL", host.url).replace("HOST", host.netloc))
    bad = only(await host.found())
    assert (bad.check, bad.level) == ("containerd", level)
    assert found in f"{bad.subject} {bad.found}"
    assert cure.replace("URL", host.url) in bad.cure


async def test_a_directory_of_hosts_toml_that_is_not_there(host: Clients) -> None:
    host.put(CONFIG, f'version = 2\n{CRI2}\nconfig_path = "/etc/containerd/hosts.d"\n')
    found = only(await host.found())
    assert "hosts.d" in found.subject
    assert "no registry has a mirror" in found.found


async def test_mirrors_in_the_old_form(host: Clients) -> None:
    mirrors = f'version = 2\n{CRI2[:-1]}.mirrors."quay.io"]\nendpoint = ["URL"]\n'
    host.put(CONFIG, mirrors.replace("URL", host.url))
    findings = await host.found()
    assert wrong(findings) == []
    assert "names the mirror for quay.io, in the old form" in one(findings, "containerd", Level.OK).found
    host.put(CONFIG, mirrors.replace("URL", f"http://127.0.0.1:{free_port()}"))
    found = only(await host.found())
    assert "for quay.io: the connection is refused" in found.found
    assert f"write {host.url} there" in found.cure


async def test_a_containerd_that_is_dockers_alone(host: Clients) -> None:
    host.docker(host.url)
    host.put("/usr/bin/containerd")
    host.put(CONFIG, 'disabled_plugins = ["cri"]\n')
    findings = await host.found()
    assert wrong(findings) == []
    assert "only Docker uses it" in one(findings, "containerd", Level.OK).found


# Podman, CRI-O, k3s.


@pytest.mark.parametrize(
    ("location", "rest", "found", "cure"),
    [
        ("http://HOST/quay.io", "", "with a scheme in front", 'location = "HOST/quay.io", and insecure = true'),
        ("HOST/quay.io", "", "does not allow it", "insecure = true"),
        ("HOST", "insecure = true\n", "with no registry behind it", 'location = "HOST/quay.io"'),
        ("HOST/docker.io", "insecure = true\n", "images of docker.io come", 'location = "HOST/quay.io"'),
        ("127.0.0.1:1/quay.io", "insecure = true\n", "nobody listens", "mirror serve"),
    ],
)
async def test_a_registries_conf_that_does_not_do_what_is_meant(
    location: str, rest: str, found: str, cure: str, host: Clients
) -> None:
    location, cure = location.replace("HOST", host.netloc), cure.replace("HOST", host.netloc)
    host.podman(f'[[registry]]\nprefix = "quay.io"\n[[registry.mirror]]\nlocation = "{location}"\n{rest}')
    bad = only(await host.found())
    assert bad.check == "podman"
    assert found in bad.found
    assert cure in bad.cure


async def test_a_registries_conf_that_cannot_be_read(host: Clients) -> None:
    host.podman("[[registry]\n")
    found = only(await host.found())
    assert "Podman and CRI-O pull nothing with it" in found.found
    assert found.subject.endswith("50-mirror.conf")


async def test_podman_for_a_registry_that_the_mirror_does_not_serve(host: Clients) -> None:
    host.podman(
        f'[[registry]]\nprefix = "a.example"\n[[registry.mirror]]\nlocation = "{host.netloc}/a.example"\n'
        "insecure = true\n"
    )
    found = only(await host.found())
    assert "a.example, which the mirror does not serve" in found.found
    assert "upstreams: {a.example: {}}" in found.cure


async def test_cri_o_that_does_not_name_the_mirror(host: Clients) -> None:
    host.put("/usr/bin/crio")
    found = only(await host.found())
    assert found.level is Level.WARNING
    assert "mirror client-config crio" in found.cure


@pytest.mark.parametrize(
    ("text", "found", "cure"),
    [
        ("mirrors:\n\t- a\n", "is not YAML (line 2)", "no tabs"),
        ("", "names the mirror for no registry", "mirror client-config k3s"),
        ('mirrors: {docker.io: {endpoint: ["URL/docker.io"]}}', "leaves /v2 to whoever writes it", "URL/v2/docker.io"),
        ('mirrors: {a.example: {endpoint: ["URL"]}}', "which the mirror does not serve", "upstreams: {a.example"),
    ],
)
async def test_a_registries_yaml_that_does_not_do_what_is_meant(
    text: str, found: str, cure: str, host: Clients
) -> None:
    host.put(K3S, text.replace("URL", host.url))
    bad = only(await host.found())
    assert bad.check == "k3s"
    assert found in bad.found
    assert cure.replace("URL", host.url) in bad.cure


async def test_k3s_without_registries_yaml(host: Clients) -> None:
    host.put("/usr/local/bin/k3s")
    found = only(await host.found())
    assert "k3s pulls past the mirror" in found.found
    assert "mirror client-config k3s" in found.cure


async def test_an_authority_that_only_podman_knows(host: Clients, start: StartMirror, upstream: FakeRegistry) -> None:
    cert_file, key_file, ca_file = certificate(host.directory / "tls")
    tls = {"tls": {"cert_file": str(cert_file), "key_file": str(key_file)}}
    host.url = (await start(upstream, server=tls)).url
    netloc = host.url.removeprefix("https://")
    host.put(f"/etc/containers/certs.d/{netloc}/ca.crt", ca_file.read_text())
    host.podman(f'[[registry]]\nprefix = "quay.io"\n[[registry.mirror]]\nlocation = "{netloc}/quay.io"\n')
    assert wrong(await host.found(server=tls)) == []


async def test_an_authority_beside_the_hosts_toml_that_names_it(
    host: Clients, start: StartMirror, upstream: FakeRegistry
) -> None:
    """As the node set-up of the Helm chart has it; nothing else is known of the mirror here."""
    cert_file, key_file, ca_file = certificate(host.directory / "tls")
    url = (await start(upstream, server={"tls": {"cert_file": str(cert_file), "key_file": str(key_file)}})).url
    host.containerd("docker.io", f'[host."{url}"]\nca = "mirror.pem"\n')
    host.put(f"{HOSTS}/docker.io/mirror.pem", ca_file.read_text())
    findings = await examine(Case(root=host.root))
    assert wrong(findings) == []
    assert any("names the mirror for docker.io" in finding.found for finding in findings)


@pytest.mark.parametrize("path", ["/etc/docker/certs.d/mirror.example", "/etc/containerd/certs.d/mirror.example_443_"])
def test_an_authority_for_a_url_without_a_port(path: str, tmp_path: Path) -> None:
    host = Host(tmp_path)
    _, _, ca_file = certificate(tmp_path / "tls")
    file = host.put(f"{path}/ca.crt", ca_file.read_text())
    assert authorities(Case(root=host.root), URL("https://mirror.example"))[1] == [str(file)]
