"""k3s and RKE2: `registries.yaml`, from which they write containerd's `hosts.toml` when they start.

Sources: rancher/wharfie, pkg/registries; k3s, pkg/agent/containerd/config.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.clients.setup import ClientFile, ClientSetup, Role, mirrored, quoted

if TYPE_CHECKING:
    from mirror.clients.address import MirrorAddress
    from mirror.config import Config

_CONFIG = "/etc/rancher/k3s/registries.yaml"
_CA = "/etc/rancher/k3s/mirror-ca.crt"
_RELOAD = ("systemctl restart k3s        # on servers", "systemctl restart k3s-agent  # on agents")
_RKE2 = "RKE2: the same file at /etc/rancher/rke2/registries.yaml, then systemctl restart rke2-server or rke2-agent"
_NO_FALLBACK = (
    "server.fallback is false, but k3s goes on to the registry itself unless it is started with "
    "--disable-default-registry-endpoint (or that key in /etc/rancher/k3s/config.yaml; since January 2024)"
)


def setup(config: Config, mirror: MirrorAddress) -> ClientSetup:
    """Return `registries.yaml`, and the mirror's CA."""
    # A path is taken as it stands; without one k3s adds /v2 itself, and the registry's name goes along as `?ns=`.
    endpoint = f"{mirror.url}/v2" if mirror.path else mirror.url
    lines = [
        f"# {_CONFIG}, by `mirror client-config k3s`.",
        "# k3s reads it when it starts; running pods stay.",
        "mirrors:",
    ]
    # All of them by name even where "*" stands: what falls back from "*" alone fails in k3s 1.32.2 (k3s#11857).
    for name in [*mirrored(config), *(["*"] if config.wildcard else [])]:
        lines += [f"  {quoted(name)}:", f"    endpoint: [{quoted(endpoint)}]"]
    files = []
    if mirror.ca is not None:
        lines += ["configs:", f"  {quoted(mirror.host)}:", "    tls:", f"      ca_file: {quoted(_CA)}"]
        files.append(ClientFile(_CA, mirror.ca, Role.COPY))
    files.insert(0, ClientFile(_CONFIG, "\n".join(lines) + "\n"))
    notes = (*mirror.notes, _RKE2)
    return ClientSetup(tuple(files), _RELOAD, notes if config.server.fallback else (*notes, _NO_FALLBACK))
