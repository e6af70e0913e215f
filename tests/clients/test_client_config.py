"""What `client-config --write` puts on a host is what real clients read: they pull through the mirror."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts.certificate import certificate
from tests.parts.containerd import Containerd, ContainerdCri
from tests.parts.containers import Podman, Skopeo
from tests.parts.docker import Dockerd
from tests.parts.mirror import MirrorProcess
from tests.parts.process import room, run
from tests.parts.token_server import PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.images import Images
    from tests.parts.registry import DockerRegistry

pytestmark = [
    pytest.mark.needs("docker-registry", "mmdebstrap", "skopeo", "unshare"),
    pytest.mark.slow,
    pytest.mark.timeout(300),  # the first test also builds the images
]

WITH_PORT = "registry.example:5443"


@dataclass(frozen=True)
class Way:
    """One real client: what it is called by `client-config`, and how it is started where `root/etc` is over `/etc`."""

    client: str
    programs: tuple[str, ...]
    start: Callable[..., Any]
    every_registry: bool = True  # else docker.io alone

    def address(self, secure: bool) -> str:
        """Return where the mirror listens: Docker verifies no certificate of 127.0.0.0/8, only from 25 on of ::1."""
        return "[::1]" if self.client == "docker" and secure and _has_ipv6() else "127.0.0.1"


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


WAYS = {
    "dockerd": Way("docker", ("dockerd", "docker", "runc"), Dockerd, every_registry=False),
    "containerd-ctr": Way("containerd", ("containerd", "ctr", "runc"), Containerd),
    "containerd-cri": Way("containerd", ("containerd", "ctr", "runc", "curl"), ContainerdCri),
    "podman": Way("podman", ("podman", "runc"), Podman),
    "skopeo": Way("crio", ("skopeo",), Skopeo),
}
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {  # server, upstreams, https
    "http": ({}, {}, False),
    "https": ({}, {}, True),
    "https-no-fallback": ({"fallback": False}, {}, True),
    "everything": ({}, {"*": True}, False),
}


def pairs() -> list[Any]:
    found = []
    for name, way in WAYS.items():
        for setting in SETTINGS:
            if setting in ("http", "https") or way.client == "containerd" or name == "podman":
                marks = pytest.mark.needs(*way.programs)
                found.append(pytest.param(way, setting, id=f"{name}-{setting}", marks=marks))
    return found


@pytest.mark.parametrize(("way", "setting"), pairs())
def test_a_real_client_pulls_with_the_files_that_were_written(
    way: Way, setting: str, registry: DockerRegistry, pushed: Images
) -> None:
    server, upstreams, secure = SETTINGS[setting]
    wanted = {"docker.io/library/signed:v1": pushed.signed}
    if way.every_registry:
        wanted |= {"quay.io/org/app:v1": pushed.app, f"{WITH_PORT}/org/app:v1": pushed.app}
    with ExitStack() as stack:
        directory = stack.enter_context(room("mirror"))
        tls = certificate(directory) if secure else None
        config = {
            "server": {"listen": f"{way.address(secure)}:0", **server},
            "upstreams": {
                "docker.io": {"url": registry.url, "username": USER, "password": PASSWORD},
                "quay.io": {"url": registry.url},
                WITH_PORT: {"url": registry.url},
                **upstreams,
            },
        }
        mirror = stack.enter_context(MirrorProcess(directory, config, tls=tls))
        place = stack.enter_context(room("client", memory=True))
        root = place / "root"
        written = write(way.client, mirror, root, tls)
        assert ("ca.crt" in written) is secure
        client = way.start(place, root=root)
        if isinstance(client, (Dockerd, Containerd)):
            stack.enter_context(client)
        for reference, image in wanted.items():
            client.pull(reference)
            client.check(reference, image)


def write(client: str, mirror: MirrorProcess, root: Path, tls: tuple[Path, Path] | None) -> str:
    command = [sys.executable, "-m", "mirror", "client-config", client, "--config", mirror.file]
    trust = ["--ca", tls[0]] if tls else []
    return run(*command, "--url", mirror.url, "--write", root, *trust)
