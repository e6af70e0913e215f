"""What the configuration says of how requests are answered: one value, exchanged whole when it is read anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.oci.namespaces import Namespaces
from mirror.server.clients import Clients

if TYPE_CHECKING:
    from mirror.config import Config


@dataclass(frozen=True, slots=True)
class Policy:
    """`fallback`: clients have another registry to go to. The limits are counts; None is without."""

    namespaces: Namespaces
    clients: Clients
    fallback: bool
    max_connections: int
    max_connections_per_client: int | None
    max_requests_per_client: int | None  # at once

    @classmethod
    def of(cls, config: Config) -> Policy:
        """Return what a configuration says."""
        server = config.server
        return cls(
            namespaces=Namespaces(
                frozenset(config.upstreams), config.default_upstream, config.wildcard, config.refused
            ),
            clients=Clients(trusted=server.trusted_proxies, allow=server.allow_clients, deny=server.deny_clients),
            fallback=server.fallback,
            max_connections=server.max_connections,
            max_connections_per_client=server.max_connections_per_client,
            max_requests_per_client=server.max_requests_per_client,
        )

    def label(self, namespace: str | None) -> str:
        """Return what metrics call an upstream: clients choose the names of those that only the wildcard admits."""
        if namespace is None:
            return "none"
        return namespace if namespace in self.namespaces.known else "*"
