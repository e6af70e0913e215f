"""A real `Registries` that dials a fake registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirror.config import (
    Config,
    FreshnessRule,
    Listen,
    LogConfig,
    Proxies,
    Secret,
    ServerConfig,
    Size,
    StorageConfig,
    UpstreamConfig,
)
from mirror.oci.name import Repository
from mirror.upstream.registries import Registries

if TYPE_CHECKING:
    from collections.abc import Mapping

USER, PASSWORD = "ann", "canary-pass:word"
NAMESPACE = "up.test"
REPO = Repository(NAMESPACE, "org/app")


def config(
    upstreams: Mapping[str, UpstreamConfig],
    *,
    wildcard: bool = False,
    offline: bool = False,
    proxies: Proxies | None = None,
) -> Config:
    """Return a configuration with these upstreams and nothing else of note."""
    return Config(
        server=ServerConfig(
            (Listen("127.0.0.1", 0, None),), None, None, (), 1, offline, fallback=True, shutdown_timeout=5
        ),
        storage=StorageConfig(Path("data"), Size(bytes=None, percent=50.0), Size(bytes=0, percent=None)),
        upstreams=dict(upstreams),
        wildcard=wildcard,
        default_upstream=NAMESPACE,
        freshness=(FreshnessRule("**", 60, 0, 60, immutable=False),),
        log=LogConfig("info", "json"),
        proxies=proxies or Proxies(),
    )


def dial(
    url: str, *, credentials: bool = False, request_id: str | None = None, wildcard: bool = False, **more: Any
) -> Registries:
    """Return upstreams of which one, `up.test`, is at `url`."""
    secret: dict[str, Any] = {"username": USER, "password": Secret(PASSWORD)} if credentials else {}
    upstream = UpstreamConfig(NAMESPACE, url, **secret, **more)
    return Registries(config({NAMESPACE: upstream}, wildcard=wildcard), instance="test", request_id=lambda: request_id)
