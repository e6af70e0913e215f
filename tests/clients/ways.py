"""Every way in which a real client can be told to use the mirror."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tests.parts.containerd import Containerd, ContainerdCri, default_hosts, override_hosts, path_hosts
from tests.parts.containers import Buildah, Podman, Skopeo, registries_conf
from tests.parts.docker import Dockerd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.parts.client import Client
    from tests.parts.mirror import MirrorProcess

    Start = Callable[[Path, MirrorProcess], AbstractContextManager[Client]]

REGISTRIES = ("docker.io", "quay.io")


def _own_name(_: MirrorProcess, registry: str, image: str) -> str:
    return f"{registry}/{image}"


def _name_by_path(mirror: MirrorProcess, registry: str, image: str) -> str:
    return f"{mirror.host}/{registry}/{image}"


@dataclass(frozen=True)
class Way:
    """One client, set up in one way."""

    programs: tuple[str, ...]
    start: Start
    name: Callable[[MirrorProcess, str, str], str] = _own_name  # how the client calls an image of a registry
    registries: tuple[str, ...] = REGISTRIES
    large: bool = False  # pulls the large images too: the first way of each client
    runs: bool = False  # can start a container


@contextmanager
def _library(kind: Callable[[Path, str], Client], directory: Path, mirror: MirrorProcess) -> Iterator[Client]:
    yield kind(directory, registries_conf(mirror.host, REGISTRIES))


def _dockerd(directory: Path, mirror: MirrorProcess) -> AbstractContextManager[Client]:
    return Dockerd(directory, mirrors=[mirror.url])


def _hosts(
    hosts: Callable[[str], dict[str, str]], directory: Path, mirror: MirrorProcess
) -> AbstractContextManager[Client]:
    return Containerd(directory, hosts=hosts(mirror.url))


def _cri(endpoint: str, directory: Path, mirror: MirrorProcess) -> AbstractContextManager[Client]:
    return ContainerdCri(directory, cri_mirrors=dict.fromkeys(REGISTRIES, mirror.url + endpoint))


def _every_registry(url: str) -> dict[str, str]:
    return {"_default": default_hosts(url)}


def _by_path(url: str) -> dict[str, str]:
    return {name: path_hosts(url, name) for name in REGISTRIES}


def _override_path(url: str) -> dict[str, str]:
    return {name: override_hosts(url, name) for name in REGISTRIES}


_DOCKER = ("dockerd", "docker", "runc")
_CTR = ("containerd", "ctr", "runc")
_CRI = (*_CTR, "curl")

WAYS = {
    "dockerd-registry-mirrors": Way(_DOCKER, _dockerd, registries=("docker.io",), large=True, runs=True),
    "dockerd-path": Way(_DOCKER, _dockerd, name=_name_by_path),
    "containerd-hosts-default": Way(_CTR, partial(_hosts, _every_registry), large=True, runs=True),
    "containerd-hosts-path": Way(_CTR, partial(_hosts, _by_path)),
    "containerd-hosts-override-path": Way(_CTR, partial(_hosts, _override_path)),
    "cri-mirrors": Way(_CRI, partial(_cri, ""), large=True, runs=True),
    "cri-mirrors-trailing-slash": Way(_CRI, partial(_cri, "/")),
    "podman": Way(("podman", "runc"), partial(_library, Podman), large=True, runs=True),
    "buildah": Way(("buildah", "runc"), partial(_library, Buildah), large=True, runs=True),
    "skopeo": Way(("skopeo",), partial(_library, Skopeo), large=True),
}
