"""A `Config` written back as the document that would give it, with every key, and secrets masked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirror.config.proxies import show_proxy
from mirror.config.units import Size, show_duration, show_rate

if TYPE_CHECKING:
    from mirror.config.values import Config, UpstreamConfig

_MASK = "***"


def effective(config: Config) -> dict[str, Any]:
    """Return the configuration in effect as plain data, in the shape of `mirror.yaml`; what is not set is left away."""
    server = config.server
    serving: dict[str, Any] = {
        "listen": [str(listen) for listen in server.listen],
        "tls": {"cert_file": str(server.tls.cert_file), "key_file": str(server.tls.key_file)} if server.tls else None,
        "public_url": server.public_url,
        "trusted_proxies": list(server.trusted_proxies) or None,
        "allow_clients": list(server.allow_clients) or None,
        "deny_clients": list(server.deny_clients) or None,
        "max_connections": server.max_connections,
        "max_connections_per_client": server.max_connections_per_client,
        "max_requests_per_client": server.max_requests_per_client,
        "workers": server.workers,
        "offline": server.offline,
        "fallback": server.fallback,
        "shutdown_timeout": show_duration(server.shutdown_timeout),
    }
    upstreams: dict[str, Any] = {name: _upstream(upstream) for name, upstream in config.upstreams.items()}
    upstreams |= dict.fromkeys(sorted(config.refused), False)
    if config.wildcard:
        upstreams["*"] = True
    return {
        "server": _set(serving),
        "storage": {
            "path": str(config.storage.path),
            "max_size": str(config.storage.max_size),
            "min_free": str(config.storage.min_free),
            "high_water": str(Size(percent=config.storage.high_water * 100)),
            "low_water": str(Size(percent=config.storage.low_water * 100)),
            "scrub_rate": show_rate(config.storage.scrub_rate),
            "scrub_every": show_duration(config.storage.scrub_every),
        },
        "upstreams": upstreams,
        **({"credentials_files": [str(path) for path in config.credentials_files]} if config.credentials_files else {}),
        "default_upstream": config.default_upstream,
        "freshness": [
            {"match": rule.match, "immutable": True, "stale_if_error": show_duration(rule.stale_if_error)}
            if rule.immutable
            else {
                "match": rule.match,
                "ttl": show_duration(rule.ttl),
                "stale_while_revalidate": show_duration(rule.stale_while_revalidate),
                "stale_if_error": show_duration(rule.stale_if_error),
            }
            for rule in config.freshness
        ],
        "log": _set(
            {
                "level": config.log.level,
                "format": config.log.format,
                "access_file": str(config.log.access_file) if config.log.access_file else None,
            }
        ),
    }


def _upstream(upstream: UpstreamConfig) -> dict[str, Any]:
    return _set(
        {
            "url": upstream.url,
            "username": upstream.username,
            "password": _MASK if upstream.password and not upstream.password_file else None,
            "password_file": str(upstream.password_file) if upstream.password_file else None,
            "exec": [upstream.exec[0], *(_MASK for _ in upstream.exec[1:])] if upstream.exec else None,
            "read_ahead": upstream.read_ahead,
            "realms": list(upstream.realms) or None,
            "ca_file": str(upstream.ca_file) if upstream.ca_file else None,
            "client_cert_file": str(upstream.client_cert_file) if upstream.client_cert_file else None,
            "client_key_file": str(upstream.client_key_file) if upstream.client_key_file else None,
            "proxy": show_proxy(upstream.proxies) if upstream.proxies else None,
        }
    )


def _set(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
