"""What a client needs: files, how it comes to read them, and what a person should know."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from mirror.errors import ConfigError

if TYPE_CHECKING:
    from mirror.clients.address import MirrorAddress
    from mirror.config import Config


class Role(Enum):
    """How a file is shown, and what is done where one is there already."""

    MAIN = "main"  # printed
    MERGED = "merged"  # printed; JSON, whose lists are put in front of what a file that is there holds
    FURTHER = "further"  # named only, so that what is printed is one file that can be piped
    COPY = "copy"  # a certificate that the person gave: named only


@dataclass(frozen=True, slots=True)
class ClientFile:
    """One file: where it goes (absolute), and what it holds. It is for everybody to read: none holds a secret.

    `displaces` are patterns of files beside it that the client reads only as long as this one is not there.
    """

    path: str
    content: str
    role: Role = Role.MAIN
    mode: int = 0o644
    displaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClientSetup:
    """The files of one client. `reload` has commands for a shell; none where the files are read at each pull."""

    files: tuple[ClientFile, ...]
    reload: tuple[str, ...]
    notes: tuple[str, ...]


def quoted(text: str) -> str:
    """Return a string as TOML, YAML and JSON all write it: the text is a host, a path or a URL, all of them ASCII."""
    return json.dumps(text)


def host_directory(host: str) -> str:
    """Return the name of a registry's directory below `certs.d`: containerd writes `:5000` as `_5000_`.

    Source: containerd, core/remotes/docker/config/hosts.go, `hostDirectory`.
    """
    name, colon, port = host.rpartition(":")
    return f"{name}_{port}_" if colon and not host.endswith("]") else host


def mirrored(config: Config) -> list[str]:
    """Return the namespaces of all upstreams that are named, the default one first."""
    first = config.default_upstream
    rest = [name for name in config.upstreams if name != first]
    return [first, *rest] if first in config.upstreams else rest


def no_catch_all(config: Config, client: str) -> tuple[str, ...]:
    """Return the note for clients that cannot be told to ask one mirror for every registry there is."""
    if not config.wildcard:
        return ()
    note = f'the mirror admits every public registry (upstreams: "*"), but {client} has no entry for all of them: '
    return (note + "name those that you use under upstreams:, and print this again",)


def refuse_path(mirror: MirrorAddress, client: str) -> None:
    """Raise `ConfigError` if the mirror's URL has a path: some clients put it behind `/v2`, where no proxy looks."""
    if mirror.path:
        problem = f"{client} cannot reach the mirror at {mirror.url}: it asks for /v2/ at the root of a host only; "
        raise ConfigError([problem + "give the mirror a host or a port of its own, and name it with --url"])
