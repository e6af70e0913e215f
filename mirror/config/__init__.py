"""`mirror.yaml` into frozen values. Read once, at the start, and passed down; nothing below reads the environment.

The values cost nothing to import; the schema behind `load` and `parse` (pydantic) is imported by the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.config.effective import effective
from mirror.config.units import Size
from mirror.config.values import (
    BudgetRule,
    Config,
    CredentialConfig,
    EndpointConfig,
    FreshnessRule,
    Listen,
    LogConfig,
    Proxies,
    PullRule,
    Secret,
    ServerConfig,
    StorageConfig,
    Tls,
    UpstreamConfig,
)
from mirror.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "BudgetRule",
    "Config",
    "ConfigError",
    "CredentialConfig",
    "EndpointConfig",
    "FreshnessRule",
    "Listen",
    "LogConfig",
    "Proxies",
    "PullRule",
    "Secret",
    "ServerConfig",
    "Size",
    "StorageConfig",
    "Tls",
    "UpstreamConfig",
    "effective",
    "load",
    "parse",
]


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read the file at `path`, or `./mirror.yaml` if there is one; raise `ConfigError` with every problem."""
    from mirror.config import reader  # noqa: PLC0415  # pydantic is slow to import

    return reader.load(path, environ)


def parse(text: str, source: str, environ: Mapping[str, str]) -> Config:
    """Read a configuration from its text; `source` names it in problems. Raise `ConfigError` with every problem."""
    from mirror.config import reader  # noqa: PLC0415  # pydantic is slow to import

    return reader.parse(text, source, environ)
