"""The script that the chart runs on each node, really run on a directory: it puts files there and takes its own off."""

from __future__ import annotations

import os
import signal
import subprocess
import tomllib
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from mirror import config
from mirror.clients import setup
from mirror.clients.address import MirrorAddress
from mirror.clients.hosts_toml import hosts_toml
from tests.deploy.kubernetes import CHART, mounted, one, pod, rendered

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCRIPT = CHART / "files" / "node-setup.sh"
FOREIGN = '# mine\nserver = "https://other.example"\n'


@dataclass
class Node:
    """A node's certs.d, and a pod on it."""

    path: Path
    certs: Path = field(init=False)
    environ: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.certs = self.path / "certs.d"
        self.certs.mkdir()
        self.environ = {
            "PATH": os.environ["PATH"],
            "CERTS_DIR": str(self.certs),
            "REGISTRIES": str(self.path / "registries"),
            "OWNER": "site/m",
            "INSTANCE": "first",
            "HOST_IP": "192.0.2.7",
            "NODE_PORT": "30500",
            "INTERVAL": "3600",
        }
        self.wants("docker.io", "registry.example:5443")

    def wants(self, *registries: str) -> None:
        (self.path / "registries").write_text("".join(f"{registry}\n" for registry in registries))

    def script(self, verb: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", str(SCRIPT), verb],
            env=self.environ | environ,
            check=False,
            capture_output=True,
            text=True,
            timeout=20,
        )

    @contextmanager
    def pod(self, **environ: str) -> Iterator[subprocess.Popen[str]]:
        """The script as the DaemonSet runs it, from when its first installation is done."""
        process = subprocess.Popen(
            ["/bin/sh", str(SCRIPT), "run"], env=self.environ | environ, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        with process:
            try:
                assert any(line.startswith("done:") for line in process.stdout)
                yield process
            finally:
                process.terminate()
                process.communicate(timeout=20)

    def files(self) -> dict[str, str]:
        return {str(path.relative_to(self.certs)): path.read_text() for path in self.certs.rglob("*") if path.is_file()}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_each_upstream_gets_a_file_that_names_the_mirror_first(node: Node) -> None:
    done = node.script("install")

    assert done.returncode == 0, done.stderr
    assert set(node.files()) == {"docker.io/hosts.toml", "registry.example_5443_/hosts.toml"}
    assert tomllib.loads(node.files()["docker.io/hosts.toml"]) == {
        "server": "https://registry-1.docker.io",
        "host": {"http://192.0.2.7:30500": {"capabilities": ["pull", "resolve"]}},
    }
    assert tomllib.loads(node.files()["registry.example_5443_/hosts.toml"])["server"] == "https://registry.example:5443"
    assert (node.certs / "docker.io/hosts.toml").stat().st_mode & 0o777 == 0o644


def test_an_address_of_ipv6_stands_in_brackets(node: Node) -> None:
    node.script("install", HOST_IP="fd00::7")

    assert "http://[fd00::7]:30500" in tomllib.loads(node.files()["docker.io/hosts.toml"])["host"]


def test_a_mirror_without_fallback_stands_in_the_place_of_the_registry(node: Node) -> None:
    node.script("install", FALLBACK="false", MIRROR_URL="https://mirror.example")

    assert tomllib.loads(node.files()["docker.io/hosts.toml"]) == {
        "server": "https://mirror.example",
        "capabilities": ["pull", "resolve"],
        "host": {"https://mirror.example": {"capabilities": ["pull", "resolve"]}},
    }


def test_the_authority_of_the_mirror_lies_beside_the_file_that_names_it(node: Node) -> None:
    authority = node.path / "ca.crt"
    authority.write_text("-----BEGIN CERTIFICATE-----\n")

    node.script("install", CA_FILE=str(authority))

    named = tomllib.loads(node.files()["docker.io/hosts.toml"])["host"]["http://192.0.2.7:30500"]["ca"]
    assert node.files()[f"docker.io/{named}"].endswith("\n-----BEGIN CERTIFICATE-----\n")
    node.script("install")
    assert set(node.files()) == {"docker.io/hosts.toml", "registry.example_5443_/hosts.toml"}


@pytest.mark.parametrize("registry", ["docker.io", "quay.io", "registry.example:5443", "localhost:5000", "_default"])
@pytest.mark.parametrize("fallback", [True, False])
@pytest.mark.parametrize("authority", [True, False])
def test_the_files_say_what_client_config_prints(node: Node, registry: str, fallback: bool, authority: bool) -> None:
    node.wants(registry)
    (node.path / "ca.crt").write_text("an authority\n")
    url = "https://mirror.example:5443"
    environ = {"CA_FILE": str(node.path / "ca.crt")} if authority else {}

    node.script("install", MIRROR_URL=url, FALLBACK=str(fallback).lower(), **environ)

    address = MirrorAddress(url)
    printed = hosts_toml(registry, address, "registry-mirror-ca.pem" if authority else None, fallback=fallback)
    written = (node.certs / setup.host_directory(registry) / "hosts.toml").read_text()
    assert tomllib.loads(written) == tomllib.loads(printed)


def test_a_wildcard_is_the_default_of_all_registries(node: Node) -> None:
    node.wants("_default")

    node.script("install")

    assert "server" not in tomllib.loads(node.files()["_default/hosts.toml"])


def test_a_second_installation_changes_nothing(node: Node) -> None:
    node.script("install")
    before = (node.certs / "docker.io/hosts.toml").stat()

    done = node.script("install")

    assert done.stdout == ""
    assert (node.certs / "docker.io/hosts.toml").stat().st_ino == before.st_ino


def test_an_upgrade_changes_the_url_and_takes_off_what_is_no_longer_wanted(node: Node) -> None:
    node.script("install")
    node.wants("docker.io", "quay.io")

    node.script("install", MIRROR_URL="http://mirror.example", INSTANCE="second")

    assert set(node.files()) == {"docker.io/hosts.toml", "quay.io/hosts.toml"}
    assert "http://mirror.example" in tomllib.loads(node.files()["docker.io/hosts.toml"])["host"]
    assert not (node.certs / "registry.example_5443_").exists()


@pytest.mark.parametrize("mark", ["", "# Written by registry-mirror other/m; its node set-up changes and removes"])
def test_a_file_of_somebody_else_is_left_alone_and_that_is_said(node: Node, mark: str) -> None:
    (node.certs / "docker.io").mkdir()
    (node.certs / "docker.io/hosts.toml").write_text(mark + FOREIGN)

    done = node.script("install")

    assert done.returncode == 0
    assert "left alone" in done.stderr
    assert "docker.io/hosts.toml" in done.stderr
    assert node.files()["docker.io/hosts.toml"] == mark + FOREIGN
    assert node.script("check").returncode == 0
    node.script("remove")
    assert node.files() == {"docker.io/hosts.toml": mark + FOREIGN}


def test_a_link_is_left_alone_even_if_it_leads_to_a_file_of_ours(node: Node) -> None:
    node.script("install")
    link = node.certs / "docker.io/hosts.toml"
    target = link.rename(node.path / "elsewhere")
    link.symlink_to(target)
    before = target.read_text()

    done = node.script("install", MIRROR_URL="http://mirror.example")
    node.script("remove")

    assert "left alone" in done.stderr
    assert link.is_symlink()
    assert target.read_text() == before


def test_a_link_that_leads_nowhere_here_is_somebody_elses(node: Node) -> None:
    """A pod sees certs.d alone: what such a link names may well be there on the node."""
    link = node.certs / "docker.io/hosts.toml"
    link.parent.mkdir()
    link.symlink_to("/opt/site/hosts.toml")

    done = node.script("install")
    check = node.script("check")
    node.script("remove")

    assert "left alone" in done.stderr
    assert (check.returncode, check.stderr) == (0, "")
    assert link.is_symlink()


def test_certificates_of_a_registry_are_not_put_out_of_use(node: Node) -> None:
    (node.certs / "registry.example_5443_").mkdir()
    (node.certs / "registry.example_5443_/ca.crt").write_text("theirs")

    done = node.script("install")

    assert "holds certificates" in done.stderr
    assert set(node.files()) == {"docker.io/hosts.toml", "registry.example_5443_/ca.crt"}


def test_removal_leaves_the_node_as_it_was(node: Node) -> None:
    (node.certs / "docker.io").mkdir()
    (node.certs / "docker.io/note").write_text("theirs")
    authority = node.path / "ca.crt"
    authority.write_text("an authority\n")
    node.script("install", CA_FILE=str(authority))

    done = node.script("remove")

    assert done.returncode == 0, done.stderr
    assert node.files() == {"docker.io/note": "theirs"}
    assert [path.name for path in node.certs.iterdir()] == ["docker.io"]


def test_a_pod_that_is_told_to_end_takes_its_files_off(node: Node) -> None:
    with node.pod() as process:
        assert set(node.files()) == {"docker.io/hosts.toml", "registry.example_5443_/hosts.toml"}
        assert node.script("check").returncode == 0

        process.terminate()
        assert process.wait(timeout=20) == 0

    assert list(node.certs.iterdir()) == []


def test_an_update_leaves_no_moment_without_the_files(node: Node) -> None:
    with node.pod(INSTANCE="first") as old, node.pod(INSTANCE="second", MIRROR_URL="http://mirror.example"):
        old.terminate()
        assert old.wait(timeout=20) == 0

        assert "http://mirror.example" in tomllib.loads(node.files()["docker.io/hosts.toml"])["host"]
        assert len(node.files()) == 2

    assert list(node.certs.iterdir()) == []


def test_what_disappears_is_put_back_and_what_another_pod_took_over_is_not(node: Node) -> None:
    with node.pod(INTERVAL="0.05") as process:
        assert process.stdout is not None
        node.script("install", INSTANCE="second")
        for _ in range(2):
            (node.certs / "docker.io/hosts.toml").unlink()

            assert process.stdout.readline() == f"wrote {node.certs}/docker.io/hosts.toml\n"

    assert set(node.files()) == {"registry.example_5443_/hosts.toml"}
    assert "# Instance second" in node.files()["registry.example_5443_/hosts.toml"]


def test_an_installation_that_was_killed_is_finished_by_the_next_and_removed_by_a_removal(node: Node) -> None:
    half = node.certs / "docker.io/hosts.toml.registry-mirror.tmp"
    half.parent.mkdir()
    half.write_text("# Written by reg")

    node.script("remove")
    assert list(node.certs.iterdir()) == []

    half.parent.mkdir()
    half.write_text("# Written by reg")
    node.script("install")
    assert set(node.files()) == {"docker.io/hosts.toml", "registry.example_5443_/hosts.toml"}


def test_a_pod_that_is_told_to_end_while_it_writes_leaves_nothing(node: Node) -> None:
    node.wants(*(f"r{number}.example" for number in range(50)))
    environ = node.environ
    process = subprocess.Popen(["/bin/sh", str(SCRIPT), "run"], env=environ, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None

    with process:
        assert process.stdout.readline().startswith("wrote ")
        process.send_signal(signal.SIGTERM)
        said = process.stdout.read()
        assert process.wait(timeout=20) == 0

    assert "done:" not in said
    assert list(node.certs.iterdir()) == []


def test_a_node_that_cannot_be_written_to_is_not_ready_and_says_why(node: Node) -> None:
    (node.certs / "docker.io").write_text("in the way")

    done = node.script("install")

    assert done.returncode != 0
    assert "docker.io" in done.stderr
    assert (node.certs / "registry.example_5443_/hosts.toml").exists()
    assert node.script("check").returncode != 0


def test_the_chart_gives_the_script_the_upstreams_of_the_mirror_and_all_that_it_asks_for(tmp_path: Path) -> None:
    documents = rendered("--values", str(CHART / "ci" / "everything-values.yaml"))
    text = one(documents, "ConfigMap", "registry-mirror")["data"]["mirror.yaml"]
    settings = config.parse(mounted(text, tmp_path), "mirror.yaml", {})
    data = one(documents, "ConfigMap", "-nodes")["data"]
    [container] = pod(documents, "DaemonSet")["containers"]

    assert data["registries"].split() == sorted(setup.mirrored(settings))
    assert data["node-setup.sh"] == SCRIPT.read_text()
    assert {"CERTS_DIR", "REGISTRIES", "OWNER", "INSTANCE", "HOST_IP", "NODE_PORT"} <= {
        variable["name"] for variable in container["env"]
    }
    assert container["command"][1:] == ["/node-setup/node-setup.sh", "run"]


def test_pods_of_an_update_overlap_and_cannot_do_more_than_write_roots_files() -> None:
    documents = rendered("--set", "nodeSetup.enabled=true")
    specification = pod(documents, "DaemonSet")

    assert one(documents, "DaemonSet")["spec"]["updateStrategy"]["rollingUpdate"] == {
        "maxSurge": 1,
        "maxUnavailable": 0,
    }
    assert specification["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert specification["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    assert specification["automountServiceAccountToken"] is False
    assert not [key for key in specification if key.startswith("host")]
