"""Credentials that stand in files: a password alone, or what Docker, Podman and Kubernetes write."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from mirror.config.credentials import (
    MAX_FILE,
    MAX_SECRET,
    AuthFile,
    Credentials,
    auth_hosts,
    parse_auth_file,
    parse_secret,
)
from mirror.upstream.logins import Fixed, Group, InTurn, Login, Logins, Nobody, OneLogin, named_after
from mirror.upstream.program import Program
from mirror.upstream.several_logins import Bound, SeveralLogins
from mirror.upstream.watched import Watched

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.config import UpstreamConfig
    from mirror.config.values import CredentialConfig

_REMEMBERED = 64  # credentials, in use or replaced, that are still known as secrets
_HUB = "https://index.docker.io/v1/"  # the name of Docker Hub in Docker's own files and to its helpers


def watch_auth_file(path: Path) -> Watched[AuthFile]:
    """Return what a `config.json` holds, now and later; raise `OSError` or `ValueError` where it cannot be used."""
    return Watched((path,), lambda: parse_auth_file(_read(path, MAX_FILE)))


def logins_of(upstream: UpstreamConfig, files: tuple[Watched[AuthFile], ...]) -> Logins:
    """Return where the credentials of one upstream come from; `files` count where it names nothing itself.

    Raise `OSError` or `ValueError` where its password's file cannot be used.
    """
    server = server_name(auth_hosts(upstream.name, upstream.url))
    if upstream.credentials:
        return SeveralLogins(
            tuple(Bound(each.repositories, _given(each, server, upstream.name)) for each in upstream.credentials)
        )
    if upstream.username is not None and upstream.password_file is not None:
        return PasswordFile(upstream.username, upstream.password_file)
    if upstream.username is not None and upstream.password is not None:
        return OneLogin(_fixed(Credentials.of(upstream.username, upstream.password.reveal())))
    if upstream.exec:
        return OneLogin(Program(upstream.exec, server, namespace=upstream.name))
    return AuthFiles(upstream.name, upstream.url, files) if files else OneLogin()


def _given(one: CredentialConfig, server: str, namespace: str) -> Logins:
    """Return one of several credentials, under the name that it has there."""
    if one.anonymous:
        return OneLogin(Nobody(one.name))
    if one.exec:
        return OneLogin(Program(one.exec, server, namespace=namespace, name=one.name))
    assert one.username is not None  # noqa: S101  # the configuration sees to it
    if one.password_file is not None:
        return PasswordFile(one.username, one.password_file, name=one.name)
    assert one.password is not None  # noqa: S101
    return OneLogin(Fixed(Credentials.of(one.username, one.password.reveal()), one.name))


def _fixed(credentials: Credentials) -> Fixed:
    return Fixed(credentials, named_after(credentials.username))


def server_name(hosts: tuple[str, ...]) -> str:
    """Return what a program that prints credentials is told, as Docker would tell it."""
    return _HUB if "docker.io" in hosts else hosts[0]


class PasswordFile:
    """`Logins` of a user whose password stands in a file, which somebody may write anew."""

    def __init__(self, username: str, path: Path, *, name: str | None = None) -> None:
        """`name` is what it is called; None: as the user is."""
        self._username = username
        self._name = name or named_after(username)
        self._password = Watched((path,), lambda: parse_secret(_read(path, MAX_SECRET)))
        self._last: deque[Fixed] = deque(maxlen=_REMEMBERED)

    async def of(self, repository: str) -> tuple[Group, ...]:  # noqa: ARG002
        """See `Logins.of`."""
        return ((await self._login(),),)

    async def renew(self, repository: str, login: Login, refused: Credentials) -> bool:  # noqa: ARG002
        """See `Logins.renew`."""
        return await self._login(now=True) != login

    def names(self, repository: str | None) -> tuple[str, ...]:  # noqa: ARG002
        """See `Logins.names`."""
        return (self._name,)

    def secrets(self) -> tuple[str, ...]:
        """See `Logins.secrets`."""
        return tuple(secret for login in self._last for secret in login.secrets())

    async def close(self) -> None:
        """See `Logins.close`."""

    async def _login(self, *, now: bool = False) -> Fixed:
        password = await self._password.current(now=now)
        login = Fixed(Credentials.of(self._username, password.reveal()), self._name)
        if login not in self._last:
            self._last.append(login)
        return login


class AuthFiles:
    """`Logins` from the files of Docker, Podman or Kubernetes: the first that has something for a repository counts.

    In each, a helper for the host is asked before the one for all hosts, and both before `auths`.
    """

    def __init__(self, namespace: str, url: str, files: tuple[Watched[AuthFile], ...]) -> None:
        self._namespace = namespace
        self._hosts = auth_hosts(namespace, url)
        self._files = files
        self._programs: dict[str, Program] = {}
        self._last: deque[Fixed] = deque(maxlen=_REMEMBERED)

    async def of(self, repository: str) -> tuple[Group, ...]:
        """See `Logins.of`."""
        return ((await self._login(repository),),)

    async def renew(self, repository: str, login: Login, refused: Credentials) -> bool:
        """See `Logins.renew`."""
        return await self._login(repository, now=True) != login or await login.renew(refused)

    def names(self, repository: str | None) -> tuple[str, ...]:
        """See `Logins.names`. Of all, those that were used so far."""
        general = self._chosen([watched.latest for watched in self._files], repository or "").name
        if repository is not None:
            return (general,)
        logins: tuple[Login, ...] = (*self._programs.values(), *self._last)
        return tuple(dict.fromkeys((general, *(login.name for login in logins))))

    def secrets(self) -> tuple[str, ...]:
        """See `Logins.secrets`."""
        logins: tuple[Login, ...] = (*self._programs.values(), *self._last)
        return tuple(secret for login in logins for secret in login.secrets())

    async def close(self) -> None:
        """See `Logins.close`."""
        for program in self._programs.values():
            await program.close()

    async def _login(self, repository: str, *, now: bool = False) -> Login:
        return self._chosen([await watched.current(now=now) for watched in self._files], repository)

    def _chosen(self, files: list[AuthFile], repository: str) -> Login:
        logins: list[Login] = []
        for file in files:
            logins += [self._program(name) for name in file.programs(self._hosts, repository)]
            credentials = file.credentials(self._hosts, repository)
            if credentials is not None:
                logins.append(self._remembered(_fixed(credentials)))
                break  # it always has an answer
        return Nobody() if not logins else logins[0] if len(logins) == 1 else InTurn(tuple(logins))

    def _program(self, name: str) -> Program:
        if name not in self._programs:
            command = (f"docker-credential-{name}", "get")
            self._programs[name] = Program(command, server_name(self._hosts), namespace=self._namespace)
        return self._programs[name]

    def _remembered(self, login: Fixed) -> Fixed:
        if login not in self._last:
            self._last.append(login)
        return login


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        return file.read(most + 1)
