"""A `Config` written back as the document that would give it, with every key, and secrets masked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirror.config.proxies import show_proxy
from mirror.config.units import Size, show_duration, show_rate
from mirror.config.values import ITSELF

if TYPE_CHECKING:
    from mirror.config.values import (
        BudgetRule,
        Config,
        CredentialConfig,
        EndpointConfig,
        FreshnessRule,
        PullRule,
        UpstreamConfig,
    )

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
        "freshness": [_freshness(rule) for rule in config.freshness],
        **({"pulls": [_pull(rule) for rule in config.pulls]} if config.pulls else {}),
        "budget": [_saving(rule) for rule in config.budget],
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
            "endpoints": [_endpoint(endpoint) for endpoint in upstream.endpoints] or None,
            "endpoint_order": upstream.endpoint_order if upstream.endpoints else None,
            "credentials": [_credential(credential) for credential in upstream.credentials] or None,
            **_dialled(upstream),
            "read_ahead": upstream.read_ahead,
            "max_connections": upstream.max_connections,
            "max_rate": show_rate(upstream.max_rate) if upstream.max_rate else None,
            "stall_timeout": show_duration(upstream.stall_timeout),
            "stall_rate": show_rate(upstream.stall_rate),
        }
    )


def _endpoint(endpoint: EndpointConfig) -> dict[str, Any] | str:
    if endpoint.itself:
        return ITSELF
    return _set({"url": endpoint.at.url, "authoritative": endpoint.authoritative, **_dialled(endpoint.at)})


def _dialled(at: UpstreamConfig) -> dict[str, Any]:
    return {
        "ns": at.ns or None,
        "prefix": at.prefix or None,
        **_login(at),
        "realms": list(at.realms) or None,
        "ca_file": str(at.ca_file) if at.ca_file else None,
        "client_cert_file": str(at.client_cert_file) if at.client_cert_file else None,
        "client_key_file": str(at.client_key_file) if at.client_key_file else None,
        "proxy": show_proxy(at.proxies) if at.proxies else None,
    }


def _credential(credential: CredentialConfig) -> dict[str, Any]:
    return _set(
        {
            "name": credential.name,
            "anonymous": credential.anonymous or None,
            **_login(credential),
            "repositories": list(credential.repositories) or None,
        }
    )


def _login(login: UpstreamConfig | CredentialConfig) -> dict[str, Any]:
    return {
        "username": login.username,
        "password": _MASK if login.password and not login.password_file else None,
        "password_file": str(login.password_file) if login.password_file else None,
        "exec": [login.exec[0], *(_MASK for _ in login.exec[1:])] if login.exec else None,
    }


def _freshness(rule: FreshnessRule) -> dict[str, Any]:
    if rule.immutable:
        return {"match": rule.match, "immutable": True, "stale_if_error": show_duration(rule.stale_if_error)}
    return {
        "match": rule.match,
        "ttl": show_duration(rule.ttl),
        "stale_while_revalidate": show_duration(rule.stale_while_revalidate),
        "stale_if_error": show_duration(rule.stale_if_error),
    }


def _pull(rule: PullRule) -> dict[str, Any]:
    if not rule.allow:
        return _set({"deny": rule.match, "reason": rule.reason})
    return _set(
        {
            "allow": rule.match,
            "require_digest": rule.require_digest or None,
            "min_age": show_duration(rule.min_age) if rule.min_age else None,
        }
    )


def _saving(rule: BudgetRule) -> dict[str, Any]:
    return {
        "below": str(Size(percent=rule.below * 100)),
        "ttl": show_duration(rule.ttl),
        "read_ahead": rule.read_ahead,
        "prefetch": rule.prefetch,
    }


def _set(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
