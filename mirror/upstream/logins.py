"""Whose credentials an upstream is shown: for which repository, from where, and whether there are newer ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mirror.errors import UpstreamDenied, UpstreamUnavailable
from mirror.upstream.accounts import ANONYMOUS

if TYPE_CHECKING:
    from mirror.config.credentials import Credentials

Group = tuple["Login", ...]  # identities of which any will do

_TOKEN = "token"  # noqa: S105  # what a bare token is called: nobody's name is on it
_LONGEST_NAME = 64  # characters


class LoginRefused(UpstreamDenied):
    """Whoever asked was refused, whatever was asked for. `shown` are the credentials; None: it came without any."""

    def __init__(self, message: str, *, namespace: str, upstream_status: int, shown: Credentials | None) -> None:
        super().__init__(message, namespace=namespace, upstream_status=upstream_status)
        self.shown = shown


class NoCredentials(UpstreamUnavailable):
    """An identity whose credentials cannot be had now: the program that prints them fails."""


class Login(Protocol):
    """One identity. It is hashable, and equal to another only if both always have the same credentials."""

    @property
    def name(self) -> str:
        """What logs, metrics and tables call it; `anonymous` where it has nothing to show. It is no secret."""
        ...

    async def credentials(self) -> Credentials | None:
        """Return what is to be shown now; None: nothing. Raise `NoCredentials` where it cannot be had."""
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

    async def of(self, repository: str) -> tuple[Group, ...]:
        """Return the identities for a repository (its name without the namespace), those that are closest to it first.

        There is at least one.
        """
        ...

    async def renew(self, repository: str, login: Login, refused: Credentials) -> bool:
        """Look for newer credentials than those that were refused; return whether there are any."""
        ...

    def names(self, repository: str | None) -> tuple[str, ...]:
        """Return the names of those that are closest to a repository, or (None) of all."""
        ...

    def secrets(self) -> tuple[str, ...]:
        """Return every secret of every identity."""
        ...

    async def close(self) -> None:
        """End programs that are under way."""
        ...


@dataclass(frozen=True, slots=True)
class Nobody:
    """Whoever shows nothing."""

    name: str = ANONYMOUS

    async def credentials(self) -> None:
        """See `Login.credentials`."""

    async def renew(self, refused: Credentials) -> bool:  # noqa: ARG002
        """See `Login.renew`."""
        return False

    def secrets(self) -> tuple[str, ...]:
        """See `Login.secrets`."""
        return ()

    async def close(self) -> None:
        """See `Login.close`."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Credentials that stand somewhere; another pair there is another login."""

    given: Credentials
    name: str

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

    @property
    def name(self) -> str:
        """See `Login.name`."""
        return next((login.name for login in self.logins if login.name != ANONYMOUS), ANONYMOUS)

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
    """`Logins` of an upstream that knows one identity, whatever is asked for."""

    def __init__(self, login: Login | None = None) -> None:
        """None: it is asked anonymously."""
        self._login = login or Nobody()

    async def of(self, repository: str) -> tuple[Group, ...]:  # noqa: ARG002
        """See `Logins.of`."""
        return ((self._login,),)

    async def renew(self, repository: str, login: Login, refused: Credentials) -> bool:  # noqa: ARG002
        """See `Logins.renew`."""
        return await login.renew(refused)

    def names(self, repository: str | None) -> tuple[str, ...]:  # noqa: ARG002
        """See `Logins.names`."""
        return (self._login.name,)

    def secrets(self) -> tuple[str, ...]:
        """See `Logins.secrets`."""
        return self._login.secrets()

    async def close(self) -> None:
        """See `Logins.close`."""
        await self._login.close()


def named_after(username: str) -> str:
    """Return what credentials are called that have no name but their user's."""
    return "".join(c if c.isprintable() else "?" for c in username[:_LONGEST_NAME]) or _TOKEN
