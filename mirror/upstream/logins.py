"""Whose credentials an upstream is shown: for which repository, from where, and whether there are newer ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mirror.errors import UpstreamDenied

if TYPE_CHECKING:
    from mirror.config.credentials import Credentials


class LoginRefused(UpstreamDenied):
    """Whoever asked was refused, whatever was asked for. `shown` are the credentials; None: it came without any."""

    def __init__(self, message: str, *, namespace: str, upstream_status: int, shown: Credentials | None) -> None:
        super().__init__(message, namespace=namespace, upstream_status=upstream_status)
        self.shown = shown


class Login(Protocol):
    """One identity. It is hashable, and equal to another only if both always have the same credentials."""

    async def credentials(self) -> Credentials | None:
        """Return what is to be shown now; None: nothing. Raise `UpstreamUnavailable` where it cannot be had."""
        ...

    async def renew(self, refused: Credentials) -> bool:
        """Get newer credentials than those; return whether there are any."""
        ...

    def secrets(self) -> tuple[str, ...]:
        """Return every secret that it gave out and that may still be good."""
        ...

    async def close(self) -> None:
        """End programs that are under way."""
        ...


class Logins(Protocol):
    """The identities under which one upstream is asked."""

    async def of(self, repository: str) -> Login | None:
        """Return the identity for a repository (its name without the namespace); None: it is asked anonymously."""
        ...

    async def renew(self, repository: str, login: Login, refused: Credentials) -> bool:
        """Look for newer credentials than those that were refused; return whether there are any."""
        ...

    def secrets(self) -> tuple[str, ...]:
        """Return every secret of every identity."""
        ...

    async def close(self) -> None:
        """End programs that are under way."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Credentials that stand somewhere; another pair there is another login."""

    given: Credentials

    async def credentials(self) -> Credentials:
        """See `Login.credentials`."""
        return self.given

    async def renew(self, refused: Credentials) -> bool:  # noqa: ARG002
        """See `Login.renew`."""
        return False

    def secrets(self) -> tuple[str, ...]:
        """See `Login.secrets`."""
        return self.given.secrets()

    async def close(self) -> None:
        """See `Login.close`."""


@dataclass(frozen=True, slots=True)
class InTurn:
    """The first login that has credentials at all."""

    logins: tuple[Login, ...]

    async def credentials(self) -> Credentials | None:
        """See `Login.credentials`."""
        for login in self.logins:
            if (found := await login.credentials()) is not None:
                return found
        return None

    async def renew(self, refused: Credentials) -> bool:
        """See `Login.renew`."""
        for login in self.logins:
            if await login.credentials() is not None:
                return await login.renew(refused)
        return False

    def secrets(self) -> tuple[str, ...]:
        """See `Login.secrets`."""
        return tuple(secret for login in self.logins for secret in login.secrets())

    async def close(self) -> None:
        """See `Login.close`."""
        for login in self.logins:
            await login.close()


class OneLogin:
    """`Logins` of an upstream that knows one identity, or (None) is asked anonymously."""

    def __init__(self, login: Login | None) -> None:
        self._login = login

    async def of(self, repository: str) -> Login | None:  # noqa: ARG002
        """See `Logins.of`."""
        return self._login

    async def renew(self, repository: str, login: Login, refused: Credentials) -> bool:  # noqa: ARG002
        """See `Logins.renew`."""
        return await login.renew(refused)

    def secrets(self) -> tuple[str, ...]:
        """See `Logins.secrets`."""
        return self._login.secrets() if self._login is not None else ()

    async def close(self) -> None:
        """See `Logins.close`."""
        if self._login is not None:
            await self._login.close()
