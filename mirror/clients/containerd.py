"""containerd: a `hosts.toml` for each registry, which `ctr`, `nerdctl`, and the kubelet through CRI read.

Sources: containerd, docs/hosts.md and docs/cri/config.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.clients.hosts_toml import REFERRERS, hosts_files, private_authorities
from mirror.clients.setup import ClientSetup, host_directory

if TYPE_CHECKING:
    from mirror.clients.address import MirrorAddress
    from mirror.config import Config

_CERTS = "/etc/containerd/certs.d"

# The plug-in's name changed with the configuration's version. The default from 2.2 on is a list of two directories,
# which CRI hands to the transfer service, and that takes it for the name of one (containerd#12636).
_CONFIG_PATH = f"""\
the kubelet's pulls (CRI) use these files only where config_path names this directory, and no other beside it (the
default of containerd 2.2 and later, a list of two, is not found). Put it into /etc/containerd/config.toml, once, and
systemctl restart containerd:
  containerd 1.5 to 1.7 (version = 2):
    [plugins."io.containerd.grpc.v1.cri".registry]
      config_path = "{_CERTS}"
  containerd 2 (version = 3):
    [plugins."io.containerd.cri.v1.images".registry]
      config_path = "{_CERTS}"
  The tables registry.mirrors and registry.configs.*.tls there must go: containerd refuses them beside config_path."""
_CTR = f"nerdctl looks there by itself; ctr is told: ctr images pull --hosts-dir {_CERTS} IMAGE"
_NO_FALLBACK = (
    "server.fallback is false: the mirror stands in the registry's own place too, so that nobody else is asked; "
    "containerd cannot push to these registries then"
)


def setup(config: Config, mirror: MirrorAddress) -> ClientSetup:
    """Return a `hosts.toml` for each registry, or one for all of them, and the mirror's CA."""
    ca = f"{_CERTS}/{host_directory(mirror.host)}/ca.crt"
    files = hosts_files(config, mirror, _CERTS, ca, client="containerd")
    notes = (*mirror.notes, _CONFIG_PATH, _CTR, REFERRERS, *private_authorities(config))
    return ClientSetup(files, (), notes if config.server.fallback else (*notes, _NO_FALLBACK))
