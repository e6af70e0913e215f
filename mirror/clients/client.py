"""The clients that can be set up, and which module knows each."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from mirror.clients import buildkit, containerd, containers, docker, k3s

if TYPE_CHECKING:
    from mirror.clients.address import MirrorAddress
    from mirror.clients.setup import ClientSetup
    from mirror.config import Config


class Client(StrEnum):
    """The clients that files can be had for."""

    DOCKER = "docker"
    CONTAINERD = "containerd"
    PODMAN = "podman"
    CRIO = "crio"
    BUILDKIT = "buildkit"
    K3S = "k3s"


_SETUPS = {
    Client.DOCKER: docker.setup,
    Client.CONTAINERD: containerd.setup,
    Client.PODMAN: containers.setup_podman,
    Client.CRIO: containers.setup_crio,
    Client.BUILDKIT: buildkit.setup,
    Client.K3S: k3s.setup,
}


def set_up(client: Client, config: Config, mirror: MirrorAddress) -> ClientSetup:
    """Return the files with which `client` asks `mirror` for everything that `config` mirrors.

    Raise `ConfigError` where this client cannot use this mirror at all, and say what to change.
    """
    return _SETUPS[client](config, mirror)
