"""The shape of `mirror.yaml`, section by section. Nothing outside `mirror.config` sees these models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from mirror.config import scalars  # noqa: TC001  # pydantic reads it at run time
from mirror.config.units import Size
from mirror.config.values import Listen


class Section(BaseModel):
    """A part of the document: keys that are not declared are refused, keys without a value are not given."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


class ServerSection(Section):
    """`server:`, without `tls`."""

    listen: scalars.Addresses = [Listen("127.0.0.1", 5000)]
    public_url: scalars.MaybeUrl = None
    trusted_proxies: scalars.Networks = []
    allow_clients: scalars.Networks = []
    deny_clients: scalars.Networks = []
    max_connections: scalars.Count = 4096
    max_connections_per_client: scalars.MaybeCount = None
    max_requests_per_client: scalars.MaybeCount = None
    workers: scalars.Workers = 1
    offline: scalars.Boolean = False
    fallback: scalars.Boolean = True
    shutdown_timeout: scalars.Duration = 30.0


class TlsSection(Section):
    """`server.tls:`."""

    cert_file: scalars.ReadableFile
    key_file: scalars.ReadableFile


class StorageSection(Section):
    """`storage:`."""

    path: scalars.Directory = Path("data")
    max_size: scalars.Amount = Size(bytes=50 * 1024**3)
    min_free: scalars.Amount = Size(percent=5.0)
    high_water: scalars.Share = 0.95
    low_water: scalars.Share = 0.90
    scrub_rate: scalars.Rate = 8 * 1024**2
    scrub_every: scalars.Duration = 30 * 24 * 3600.0


class LoginSection(Section):
    """How somebody shows who they are."""

    username: scalars.MaybeUsername = None
    password: scalars.MaybeSecret = None
    password_file: scalars.MaybeSecretFile = None
    exec: scalars.Command = ()


class DialSection(LoginSection):
    """How an address is dialled, and what is said there."""

    ns: scalars.Boolean = False
    prefix: scalars.Prefix = ""
    realms: scalars.Realms = []
    ca_file: scalars.MaybeAuthority = None
    client_cert_file: scalars.MaybeReadableFile = None
    client_key_file: scalars.MaybeReadableFile = None
    proxy: scalars.MaybeProxy = None


class UpstreamSection(DialSection):
    """One entry of `upstreams:`, without `endpoints` and `credentials`."""

    url: scalars.MaybeUrl = None
    endpoint_order: Literal["written", "health"] = "written"
    read_ahead: scalars.Boolean = True
    max_connections: scalars.Connections = 16
    max_rate: scalars.MaybeMostRate = None
    stall_timeout: scalars.StallTimeout = 10.0
    stall_rate: scalars.StallRate = 1024


class EndpointSection(DialSection):
    """One entry of an upstream's `endpoints:`, where it is no single address."""

    url: scalars.Url
    authoritative: scalars.Boolean = False


class CredentialSection(LoginSection):
    """One entry of an upstream's `credentials:`."""

    name: scalars.MaybeCredentialName = None
    anonymous: scalars.Boolean = False
    repositories: scalars.Globs = []


class CredentialsSection(Section):
    """`credentials_files:`, which stands at the top level."""

    credentials_files: scalars.AuthFiles = []


class RuleSection(Section):
    """One entry of `freshness:`."""

    match: scalars.Glob
    ttl: scalars.Duration = 60.0
    stale_while_revalidate: scalars.Duration = 0.0
    stale_if_error: scalars.Duration = float("inf")
    immutable: scalars.Boolean = False


class PullSection(Section):
    """One entry of `pulls:`."""

    allow: scalars.MaybeGlob = None
    deny: scalars.MaybeGlob = None
    reason: scalars.MaybeReason = None
    require_digest: scalars.Boolean = False
    min_age: scalars.MinAge = 0.0


class BudgetSection(Section):
    """One entry of `budget:`; what is left away is as in the rule for more."""

    below: scalars.Below
    ttl: scalars.MaybeDuration = None
    read_ahead: scalars.MaybeBoolean = None
    prefetch: scalars.MaybeBoolean = None


class LogSection(Section):
    """`log:`."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    access_file: scalars.MaybeWritableFile = None
