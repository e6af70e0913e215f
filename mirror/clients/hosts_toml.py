"""`hosts.toml`, which containerd reads for each registry, and Docker from version 28 on.

Source: containerd, docs/hosts.md and core/remotes/docker/config/hosts.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.clients.setup import ClientFile, Role, host_directory, mirrored, quoted
from mirror.oci.namespaces import DOCKER_HUB

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.clients.address import MirrorAddress
    from mirror.config import Config

REFERRERS = (
    'containerd 2.2 and later ask the mirror for signatures and attestations too if "referrers" stands among the '
    "capabilities; earlier ones ignore a hosts.toml that names it, so it is left away"
)
# containerd looks at these only where there is no hosts.toml (hosts.go, `loadHostDir`).
_CERTIFICATES = ("*.crt", "*.cert")
_HUB_HOST = "registry-1.docker.io"


def hosts_files(
    config: Config,
    mirror: MirrorAddress,
    root: str,
    ca: str,
    *,
    client: str,
    directory: Callable[[str], str] = host_directory,
    role: Role = Role.MAIN,
) -> tuple[ClientFile, ...]:
    """Return a `hosts.toml` for each upstream below `root`, or one for all registries.

    `ca` is where the mirror's CA is put, if it has one of its own; the file follows the others. `directory` turns a
    registry into the name of its directory.
    """
    files = []
    for name in ["_default"] if config.wildcard else mirrored(config):
        path = f"{root}/{directory(name)}/hosts.toml"
        head = (
            f"# {path}, by `mirror client-config {client}`.\n# It is read at each pull: there is nothing to restart.\n"
        )
        body = hosts_toml(name, mirror, ca if mirror.ca else None, fallback=config.server.fallback)
        files.append(ClientFile(path, head + body, role, displaces=_CERTIFICATES))
    if mirror.ca is not None:
        files.append(ClientFile(ca, mirror.ca, Role.COPY))
    return tuple(files)


def private_authorities(config: Config) -> tuple[str, ...]:
    """Return a note on upstreams that have a CA of their own: beside a hosts.toml no `.crt` file is looked at."""
    names = [name for name, upstream in config.upstreams.items() if upstream.ca_file is not None]
    if not names or config.wildcard or not config.server.fallback:
        return ()
    note = f"{', '.join(names)}: has an authority of its own (ca_file); for pulls that fall back to it, write "
    return (note + 'ca = "…" above [host] in its hosts.toml, with the path that the file has there',)


def hosts_toml(registry: str, mirror: MirrorAddress, ca: str | None, *, fallback: bool) -> str:
    """Return the file for one registry, or for `_default`: the mirror first, then the registry itself, or nobody.

    The registry's name reaches the mirror as `?ns=`, so its URL stays as it is. `ca` is the path of a PEM file.
    """
    # Without "push" an image that is pushed goes to the registry itself, and not to a mirror that refuses it.
    settings = ['capabilities = ["pull", "resolve"]', *([f"ca = {quoted(ca)}"] if ca else [])]
    lines = []
    if not fallback:
        # The mirror in the place of the registry, as well as before it: containerd 1 ignores a file without a [host].
        lines += [f"server = {quoted(mirror.url)}", *settings, ""]
    elif server := _server(registry):
        lines += [f"server = {quoted(server)}", ""]
    lines += [f"[host.{quoted(mirror.url)}]", *(f"  {setting}" for setting in settings)]
    return "\n".join(lines) + "\n"


def _server(registry: str) -> str | None:
    """Return the registry's own URL; None where containerd knows it best: for any registry, and on this machine."""
    if registry == "_default" or registry.partition(":")[0] in ("localhost", "127.0.0.1"):
        return None
    return f"https://{_HUB_HOST if registry == DOCKER_HUB else registry}"
