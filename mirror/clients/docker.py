"""Docker: `registry-mirrors` in `daemon.json` for docker.io, and `hosts.toml` for every registry where it is read.

Sources: moby, daemon/pkg/registry/config.go (`ValidateMirror`) and daemon/hosts.go (since 28.0).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mirror.clients.hosts_toml import hosts_files, private_authorities
from mirror.clients.setup import ClientFile, ClientSetup, Role
from mirror.oci.namespaces import DOCKER_HUB

if TYPE_CHECKING:
    from mirror.clients.address import MirrorAddress
    from mirror.config import Config

_DAEMON_JSON = "/etc/docker/daemon.json"
_CERTS = "/etc/docker/certs.d"


def setup(config: Config, mirror: MirrorAddress) -> ClientSetup:
    """Return `daemon.json` if docker.io is mirrored, a `hosts.toml` for each registry, and the mirror's CA."""
    hub = DOCKER_HUB in config.upstreams or (config.wildcard and DOCKER_HUB not in config.refused)
    others = hosts_files(
        config,
        mirror,
        _CERTS,
        f"{_CERTS}/{mirror.host}/ca.crt",  # registry-mirrors looks there too
        client="docker",
        directory=str,  # Docker has always called them HOST:PORT
        role=Role.FURTHER if hub else Role.MAIN,
    )
    after = (_others(mirror), *private_authorities(config))
    if not hub:
        note = "docker.io is not mirrored (upstreams:), so daemon.json needs nothing: registry-mirrors is for docker.io"
        return ClientSetup(others, (), (*mirror.notes, note, *after))
    # A mirror that is asked without a registry's name takes its default upstream.
    url = mirror.url if config.default_upstream == DOCKER_HUB else f"{mirror.url}/{DOCKER_HUB}"
    notes = ["daemon.json makes Docker ask the mirror for docker.io, and for no other registry"]
    if urlsplit(url).path:
        notes.append("the URL in daemon.json has a path: Docker 25 and later take that, earlier ones do not start")
    if not config.server.fallback:
        notes.append(
            "from registry-mirrors Docker goes on to Docker Hub when the mirror cannot help; nothing ends that"
        )
    daemon = ClientFile(_DAEMON_JSON, json.dumps({"registry-mirrors": [url]}, indent=2) + "\n", Role.MERGED)
    return ClientSetup((daemon, *others), ("systemctl reload docker",), (*mirror.notes, *notes, *after))


def _others(mirror: MirrorAddress) -> str:
    """Return how images of other registries come through the mirror."""
    note = (
        "the hosts.toml files are for every registry: Docker 28 and later read them for docker build, and for "
        "docker pull with the containerd image store (the default of new installations since Docker 29)"
    )
    if mirror.path:
        return note
    note += f"; with the classic store, docker pull {mirror.host_of_image}/quay.io/ORG/IMAGE"
    if mirror.plain and not mirror.local:  # Docker takes plain HTTP from 127.0.0.0/8 as it is
        note += f', which needs {{"insecure-registries": ["{mirror.host_of_image}"]}} in daemon.json'
    return note
