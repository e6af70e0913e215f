"""Podman, Buildah, Skopeo and CRI-O: one library, and one drop-in of `registries.conf`.

Source: containers/image, docs/containers-registries.conf.5.md and docs/containers-certs.d.5.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.clients.setup import ClientFile, ClientSetup, Role, mirrored, no_catch_all, quoted, refuse_path
from mirror.errors import ConfigError

if TYPE_CHECKING:
    from mirror.clients.address import MirrorAddress
    from mirror.config import Config

_DROP_IN = "/etc/containers/registries.conf.d/50-mirror.conf"
_RELOAD = "systemctl reload crio"
_HEAD = f"""\
# {_DROP_IN}, by `mirror client-config podman` (crio: the same).
# Podman, Buildah and Skopeo read it at each pull, CRI-O at `{_RELOAD}`.
"""
_CERTS = "/etc/containers/certs.d"
_ROOTLESS = (
    "Podman without root reads this file too, and ~/.config/containers/registries.conf.d besides; with a "
    "~/.config/containers/registries.conf of its own, put the file there"
)
_OPENSHIFT = (
    "on OpenShift the machine config operator writes such files: use ImageDigestMirrorSet and ImageTagMirrorSet"
)


def setup_podman(config: Config, mirror: MirrorAddress) -> ClientSetup:
    """Return the drop-in for Podman, Buildah and Skopeo, and the mirror's CA."""
    files, notes = _drop_in(config, mirror, "podman")
    return ClientSetup(files, (), (*mirror.notes, *notes, *no_catch_all(config, "Podman"), _ROOTLESS))


def setup_crio(config: Config, mirror: MirrorAddress) -> ClientSetup:
    """Return the drop-in for CRI-O, which reads the same file as Podman, and the mirror's CA."""
    files, notes = _drop_in(config, mirror, "crio")
    return ClientSetup(files, (_RELOAD,), (*mirror.notes, *notes, *no_catch_all(config, "CRI-O"), _OPENSHIFT))


def _drop_in(config: Config, mirror: MirrorAddress, client: str) -> tuple[tuple[ClientFile, ...], tuple[str, ...]]:
    """Return the files, and a note for each upstream that cannot be written into them."""
    refuse_path(mirror, client)
    if "[" in mirror.host:
        # The library takes the location for the front of an image's name, and then fails every pull of that registry.
        problem = f"{client} cannot write the address of {mirror.url} into a mirror's location; "
        raise ConfigError([problem + "give the mirror a name, or an IPv4 address, with --url"])
    tables, notes = [_HEAD], []
    for name in mirrored(config):
        if "[" in name:
            notes.append(f"{name} is left away: {client} cannot write an IPv6 address into a mirror's location")
        else:
            tables.append(_table(name, mirror, fallback=config.server.fallback))
    files = [ClientFile(_DROP_IN, "\n".join(tables))]
    if mirror.ca is not None:
        files.append(ClientFile(f"{_CERTS}/{mirror.host_of_image}/ca.crt", mirror.ca, Role.COPY))
    return tuple(files), tuple(notes)


def _table(name: str, mirror: MirrorAddress, *, fallback: bool) -> str:
    """Return the tables of one registry; its name stands in the mirror's path, these clients send it nowhere else."""
    # A location is the front of an image's name, where no colon may stand behind the first slash.
    in_path = name.replace(":", "_")
    location = f"location = {quoted(f'{mirror.host_of_image}/{in_path}')}"
    lines = ["[[registry]]", f"prefix = {quoted(name)}"]
    if fallback:
        lines += [f"location = {quoted(name)}", "[[registry.mirror]]"]
    lines.append(location)
    if mirror.plain:
        lines.append("insecure = true")
    return "\n".join(lines) + "\n"
