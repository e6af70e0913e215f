"""Several credentials of one upstream (`credentials:`), some of them for certain repositories only."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cachetools import LRUCache

from mirror.oci.pattern import compiled
from mirror.upstream.logins import Nobody

if TYPE_CHECKING:
    import re

    from mirror.config import UpstreamConfig
    from mirror.config.credentials import Credentials
    from mirror.upstream.logins import Group, Login, Logins

_KNOWN = 4096  # repositories whose credentials are remembered


@dataclass(frozen=True)
class Bound:
    """Credentials, and the globs of the repositories that they are for; none: for those that have none of their own."""

    repositories: tuple[str, ...]
    logins: Logins
    _globs: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compile the globs."""
        object.__setattr__(self, "_globs", tuple(compiled(glob) for glob in self.repositories))

    def covers(self, repository: str) -> bool:
        """Say whether they are bound to this repository."""
        return any(glob.fullmatch(repository) for glob in self._globs)


class SeveralLogins:
    """`Logins` of which several may be had for a repository: those that are bound to it come first, then the general.

    Bound ones are used where they are bound, and nowhere else. Where there is nothing but those, the rest of the
    upstream is asked anonymously.
    """

    def __init__(self, several: tuple[Bound, ...]) -> None:
        self._several = several
        self._general = tuple(bound for bound in several if not bound.repositories)
        self._known: LRUCache[str, tuple[Bound, ...]] = LRUCache(_KNOWN)

    async def of(self, repository: str) -> tuple[Group, ...]:
        """See `Logins.of`."""
        groups = (self._bound(repository), self._general)
        return tuple([await _logins(group, repository) for group in groups if group]) or ((Nobody(),),)

    async def renew(self, repository: str, login: Login, refused: Credentials) -> bool:
        """See `Logins.renew`."""
        for bound in self._several:
            if login.name in bound.logins.names(None):
                return await bound.logins.renew(repository, login, refused)
        return False

    def names(self, repository: str | None) -> tuple[str, ...]:
        """See `Logins.names`."""
        several = self._several if repository is None else self._bound(repository) or self._general
        found = tuple(name for bound in several for name in bound.logins.names(repository))
        return found or (Nobody().name,)

    def secrets(self) -> tuple[str, ...]:
        """See `Logins.secrets`."""
        return tuple(secret for bound in self._several for secret in bound.logins.secrets())

    async def close(self) -> None:
        """See `Logins.close`."""
        for bound in self._several:
            await bound.logins.close()

    def _bound(self, repository: str) -> tuple[Bound, ...]:
        found = self._known.get(repository)
        if found is None:
            found = self._known[repository] = tuple(bound for bound in self._several if bound.covers(repository))
        return found


def each_alone(upstream: UpstreamConfig) -> list[UpstreamConfig]:
    """Return the registry itself with each of its credentials alone, for whatever they are meant: to try them all."""
    itself = replace(upstream, endpoints=())
    several = [replace(credential, repositories=()) for credential in upstream.credentials]
    return [replace(itself, credentials=(credential,)) for credential in several] or [itself]


async def _logins(group: tuple[Bound, ...], repository: str) -> Group:
    return tuple([login for bound in group for (login,) in await bound.logins.of(repository)])
