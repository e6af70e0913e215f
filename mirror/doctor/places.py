"""Where upstreams are asked, and as whom: each address with each of its credentials, to be tried one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mirror.errors import ConfigError
from mirror.upstream.endpoints import Endpoints
from mirror.upstream.registries import Registries
from mirror.upstream.several_logins import each_alone

if TYPE_CHECKING:
    from mirror.config import Config, CredentialConfig, UpstreamConfig
    from mirror.config.values import Secret
    from mirror.doctor.case import Case
    from mirror.store.dealings import Dealings
    from mirror.upstream.protocol import Upstream


@dataclass(frozen=True, slots=True)
class Place:
    """One address of an upstream, and one of its credentials, asked as the mirror itself asks it.

    `number` is its place among the upstream's `endpoints`; None: it is the registry itself. `entry` is where the
    configuration has it, and `login` where it has what is shown there.
    """

    upstream: UpstreamConfig
    at: UpstreamConfig
    registry: Upstream
    entry: str
    label: str = ""
    number: int | None = None
    authoritative: bool = True
    credential: CredentialConfig | None = None

    @property
    def subject(self) -> str:
        """What a person calls it."""
        where = f" at {self.label}" if self.number is not None else ""
        return self.upstream.name + where + (f", as {self.credential.name}" if self.credential is not None else "")

    @property
    def login(self) -> str:
        """Where the configuration has its credentials."""
        return f"{self.entry}.credentials ({self.credential.name})" if self.credential is not None else self.entry

    @property
    def password(self) -> Secret | None:
        """What stands in the configuration, or in a file that it names, as it was when that was read."""
        return self.credential.password if self.credential is not None else self.at.password


class Places:
    """All of them. What is found out by asking goes into `book`, which is nobody else's."""

    def __init__(self, case: Case, config: Config, book: Dealings) -> None:
        """Raise `ConfigError` for a file of the configuration that cannot be used."""
        self._case = case
        self._config = config
        self._book = book
        self._made: list[Registries] = []
        self.all: list[Place] = []
        problems: list[str] = []
        for upstream in config.upstreams.values():
            try:
                self.all += self._of(upstream)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))  # a file may serve all of them

    def otherwise(self, place: Place, **changed: Any) -> Upstream:
        """Return the same place as it would be asked with another setting; it is shown the same credentials at most."""
        if place.number is None:
            upstream = replace(place.at, **changed)
        else:
            endpoints = list(place.upstream.endpoints)
            endpoint = endpoints[place.number]
            endpoints[place.number] = replace(endpoint, at=replace(endpoint.at, **changed))
            upstream = replace(place.upstream, endpoints=tuple(endpoints))
        return self._asked(upstream, place.upstream.name, place.number)

    async def close(self) -> None:
        """Close every connection."""
        for registries in self._made:
            await registries.close()

    def _of(self, upstream: UpstreamConfig) -> list[Place]:
        entry = f"upstreams.{upstream.name}"
        places = []
        for alone in each_alone(upstream):
            credential = alone.credentials[0] if alone.credentials else None
            asked = self._asked(alone, alone.name)
            places.append(Place(upstream, alone, asked, entry, credential=credential))
        for number, endpoint in enumerate(upstream.endpoints):
            if not endpoint.itself:
                places.append(
                    Place(
                        upstream,
                        endpoint.at,
                        self._asked(upstream, upstream.name, number),
                        f"{entry}.endpoints[{number}]",
                        endpoint.label,
                        number,
                        endpoint.authoritative,
                    )
                )
        return places

    def _asked(self, upstream: UpstreamConfig, name: str, number: int | None = None) -> Upstream:
        """Return one address, made by whoever makes them for the mirror: what is shown there is decided once."""
        registries = Registries(
            replace(self._config, upstreams={name: upstream}),
            instance="doctor",
            request_id=lambda: None,
            book=self._book,
            clock=self._case.now,
        )
        self._made.append(registries)
        found = registries.of(name)
        if number is None:
            return found
        assert isinstance(found, Endpoints)  # noqa: S101  # that is what has a number
        return found.members[number].registry
