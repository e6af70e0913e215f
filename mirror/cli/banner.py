"""What a person sees when the mirror starts: where it listens, what it mirrors, how to use it, what to beware of."""

from __future__ import annotations

import ipaddress
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mirror import __version__
from mirror.cli import cautions
from mirror.config.units import show_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.config import Config

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  # a comparison


def announce(config: Config, *, capacity_bytes: int, used_bytes: int, bound: list[str], as_json: bool = False) -> None:
    """Tell that the mirror is ready: the banner on a terminal, log lines elsewhere.

    `bound` has the URLs that it answers at (`http://127.0.0.1:5000`), or `unix:/path`, with the port that was taken
    where port 0 was asked for. `used_bytes` is what the cache takes, `capacity_bytes` the most that it may.
    """
    import structlog  # noqa: PLC0415  # `mirror check` needs the warnings of this module, and no log

    log = structlog.get_logger()
    if not as_json and config.log.format != "json" and sys.stderr.isatty():
        sys.stderr.write(banner(config, capacity_bytes=capacity_bytes, used_bytes=used_bytes, bound=bound) + "\n")
    else:
        for address in bound:
            log.info("listening", address=address)
        log.info("configured", source=origin(config))
        log.info("mirroring", upstreams=_mirrored(config), default_upstream=config.default_upstream)
        log.info(
            "storing", path=str(config.storage.path.absolute()), used_bytes=used_bytes, capacity_bytes=capacity_bytes
        )
        line = daemon_json(config, bound)
        if line is not None:
            log.info("for daemon.json", line=line)
    for caution in warnings(config, bound):
        log.warning(caution)
    if capacity_bytes <= 0:  # a full cache makes room; this one has less of the disk than has to stay free
        log.warning(
            "NOTHING NEW CAN BE KEPT, only streamed: free the disk, or lower storage.min_free",
            path=str(config.storage.path.absolute()),
        )


def origin(config: Config) -> str:
    """Return where the configuration was read from, for a person."""
    if config.source == "defaults":
        return "defaults (there is no ./mirror.yaml, and none was named)"
    return str(Path(config.source).absolute())


def banner(config: Config, *, capacity_bytes: int, used_bytes: int, bound: list[str]) -> str:
    """Return the lines that a person sees at start; see `announce` for the arguments."""
    mirrored = ", ".join(_mirrored(config))
    if config.server.offline:
        mirrored += "  (offline: only what is cached)"
    room = f"({show_bytes(used_bytes)} of {show_bytes(capacity_bytes)})"
    lines = [
        f"mirror {__version__}",
        f"  configured   {origin(config)}",
        f"  listens on   {', '.join(bound)}",
        f"  mirrors      {mirrored}",
        f"  stores in    {config.storage.path.absolute()}  {room}",
    ]
    line = daemon_json(config, bound)
    if line is not None:
        lines.append(f"  daemon.json  {line}{_for_others(config, bound)}")
    return "\n".join(lines)


def daemon_json(config: Config, bound: list[str]) -> str | None:
    """Return the line that makes Docker use this mirror, or None if Docker cannot reach it (Unix sockets only).

    Docker mirrors docker.io only, and asks without a namespace: the line is right while that is the default upstream.
    """
    url = _docker_url(config, bound)
    if url is None or config.default_upstream != "docker.io":
        return None
    return json.dumps({"registry-mirrors": [url]})


def warnings(config: Config, bound: Sequence[str] | None = None) -> list[str]:
    """Return a sentence for each thing that the configuration allows and its owner may not have meant.

    `bound`: see `announce`; without it the addresses of the configuration count. What to do stands behind "; ".
    """
    sentences: list[str] = []
    private = cautions.private(config)
    open_to = _configured(config) if bound is None else [url for url in bound if _beyond(url)]
    if private and open_to and not _narrowed(config):
        sentences.append(
            f"EVERYBODY who reaches {', '.join(open_to)} can read the private images of {', '.join(private)}, because "
            "the mirror fetches them with its own credentials; name the networks that may under server.allow_clients, "
            "listen on 127.0.0.1, or let a firewall keep strangers out"
        )
    return [*sentences, *cautions.of_upstreams(config), *cautions.of_pulls(config)]


def _configured(config: Config) -> list[str]:
    """Name the configured addresses that others than this machine may reach."""
    return [
        "the sockets that systemd passes" if listen.systemd is not None else str(listen)
        for listen in config.server.listen
        if not listen.local
    ]


def _beyond(url: str) -> bool:
    """Say whether others than this machine can reach a URL of `bound`."""
    host = urlsplit(url).hostname
    if url.startswith("unix:") or host is None:
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def _narrowed(config: Config) -> bool:
    """Say whether the owner has said who may ask; all addresses that there are is everybody after all."""
    allowed = config.server.allow_clients
    return bool(allowed) and not any(network.endswith("/0") for network in allowed)


def _mirrored(config: Config) -> list[str]:
    first = config.default_upstream
    names = [first, *(name for name in config.upstreams if name != first)]
    return [*names, "any other public registry"] if config.wildcard else names


def _docker_url(config: Config, bound: Sequence[str]) -> str | None:
    """Return the URL at which Docker reaches the mirror, or None if there are Unix sockets only."""
    return config.server.public_url or next((_dialled(url) for url in bound if not url.startswith("unix:")), None)


def _for_others(config: Config, bound: Sequence[str]) -> str:
    """Return what is to be said where the line for Docker is right on this machine alone, and others may ask too."""
    url = _docker_url(config, bound)
    if url is None or _beyond(url) or not any(map(_beyond, bound)):
        return ""
    return "  (on this machine; on others: mirror client-config docker)"


def _dialled(url: str) -> str:
    """Return a URL that can be dialled from this machine: nobody dials the address that means all of them."""
    parts = urlsplit(url)
    host = _EVERYWHERE.get(parts.hostname or "")
    return url if host is None else f"{parts.scheme}://{host}:{parts.port}"
