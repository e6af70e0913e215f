"""Whether a URL is this very mirror, as far as its address shows it; `Via` shows the rest at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mirror.config.values import Listen

if TYPE_CHECKING:
    from mirror.config.values import ServerConfig

_PORT_OF = {"http": 80, "https": 443}
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  # a comparison


def is_itself(url: str, server: ServerConfig) -> bool:
    """Say whether somebody who dials `url` on this machine comes to `server`."""
    target = _target(url)
    return any(_reaches(target, listen) for listen in server.listen) or (
        server.public_url is not None and target == _target(server.public_url)
    )


def _target(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or _PORT_OF[parts.scheme]


def _reaches(target: tuple[str, int], listen: Listen) -> bool:
    host, port = target
    if listen.path is not None or listen.systemd is not None or listen.port == 0 or listen.port != port:
        return False
    if host == listen.host:
        return True
    if listen.host in _EVERYWHERE:
        return Listen(host=host).local or host in _EVERYWHERE
    return "localhost" in (host, listen.host) and Listen(host=host).local and listen.local
