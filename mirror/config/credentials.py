"""Credentials for upstreams, and the files of Docker, Podman and Kubernetes that hold them."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from mirror.config.values import Secret
from mirror.oci.namespaces import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_T = TypeVar("_T")

MAX_FILE = 1024 * 1024  # bytes; a Kubernetes secret ends there too
MAX_SECRET = 64 * 1024  # bytes; an identity token is a few KiB

_IDENTITY_TOKEN_USER = "<token>"  # noqa: S105  # the user whose secret is an identity token (docker-credential-helpers)
_PROGRAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_VERSION = re.compile(r"/v[12]/?")


class Kind(Enum):
    """What the secret is."""

    PASSWORD = "password"  # noqa: S105  # shown by Basic, to the registry or to its token service
    IDENTITY_TOKEN = "identity token"  # noqa: S105  # an OAuth 2 refresh token: for the token service alone
    REGISTRY_TOKEN = "registry token"  # noqa: S105  # a bearer token: for the registry alone


@dataclass(frozen=True, slots=True)
class Credentials:
    """A secret, and the user whose it is (nothing: tokens carry that inside)."""

    username: str
    password: Secret
    kind: Kind = Kind.PASSWORD

    @classmethod
    def of(cls, username: str, password: str) -> Credentials:
        """Return what a pair means: the user `<token>` has no password but an identity token."""
        if username == _IDENTITY_TOKEN_USER:
            return cls("", Secret(password), Kind.IDENTITY_TOKEN)
        return cls(username, Secret(password))

    @property
    def sendable(self) -> bool:
        """Say whether a header can carry it: JSON can write halves of characters, and line breaks in a bearer token."""
        try:
            f"{self.username}{self.password.reveal()}".encode()
        except UnicodeEncodeError:
            return False
        return self.kind is not Kind.REGISTRY_TOKEN or _VISIBLE.fullmatch(self.password.reveal()) is not None

    def basic(self) -> str:
        """Return the value of the header (RFC 7617 §2)."""
        pair = f"{self.username}:{self.password.reveal()}"
        return "Basic " + base64.b64encode(pair.encode()).decode()

    def secrets(self) -> tuple[str, ...]:
        """Return the secret, plain and as `basic` sends it; without padding, which not everybody writes."""
        if self.kind is not Kind.PASSWORD:
            return (self.password.reveal(),)
        return self.password.reveal(), self.basic().removeprefix("Basic ").rstrip("=")


@dataclass(frozen=True, slots=True)
class AuthFile:
    """What one such file says.

    Keys are canonical: `docker.io`, `quay.io:8443`, and, in `auths`, namespaces too: `quay.io/org/app`. A helper is the
    NAME of a program `docker-credential-NAME`; `store` is the one for hosts that have none of their own.
    """

    auths: Mapping[str, Credentials]
    helpers: Mapping[str, str]
    store: str | None = None

    def credentials(self, hosts: Sequence[str], repository: str) -> Credentials | None:
        """Return what `auths` has for a repository of one of `hosts`: the longest key that covers it."""
        return _longest(self.auths, hosts, repository)

    def programs(self, hosts: Sequence[str], repository: str) -> tuple[str, ...]:
        """Return the NAMEs of the helpers to ask, the closest first."""
        own = _longest(self.helpers, hosts, repository)
        return tuple(dict.fromkeys(name for name in (own, self.store) if name is not None))

    def covers(self, hosts: Sequence[str]) -> bool:
        """Say whether the file names one of `hosts`, or a repository there."""
        keys = (*self.auths, *self.helpers)
        return any(key == host or key.startswith(host + "/") for host in hosts for key in keys)


def parse_auth_file(content: bytes) -> AuthFile:
    """Read a Docker or Podman configuration, a Kubernetes `.dockerconfigjson`, or a legacy `.dockercfg`.

    Raise `ValueError`, whose text names the key and never shows a value: "is not JSON; …".
    """
    if len(content) > MAX_FILE:
        raise ValueError("is longer than 1 MiB; name a config.json with credentials")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON; name a config.json of Docker, an auth.json of Podman, or the like") from None
    if not isinstance(document, dict):
        raise ValueError('is not a JSON object; it should look like {"auths": {…}}')  # noqa: TRY004  one kind for all
    if not document.keys() & {"auths", "credHelpers", "credsStore"} and any(map(_is_entry, document.values())):
        document = {"auths": document}  # .dockercfg is what stands under `auths` later
    store = document.get("credsStore") or None
    if store is not None:
        _check_program("credsStore", store)
    helpers = _object(document, "credHelpers")
    for host, name in helpers.items():
        _check_program(f"credHelpers: {host[:100]}", name)
    auths: dict[str, Credentials] = {}
    for key, entry in _object(document, "auths").items():
        credentials = _entry(key[:100], entry)
        if credentials is not None and not credentials.sendable:
            raise ValueError(f"has auths: {key[:100]} that holds what cannot be sent; log in again")
        if credentials is not None:  # Docker leaves `{}` where the secret is in a store
            auths[auth_key(key)] = credentials
    # An empty name says that this host is in no store (Podman, Docker).
    return AuthFile(auths, {auth_key(host): name for host, name in helpers.items() if name}, store)


def parse_secret(content: bytes) -> Secret:
    """Read a file that holds a password and nothing else but a line break at its end; raise `ValueError`."""
    try:
        secret = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ValueError("cannot be read (it is not a text file); name a file that the mirror may read") from None
    if not secret or len(content) > MAX_SECRET:
        raise ValueError("is empty or longer than 64 KiB; put the password into it, and nothing else")
    return Secret(secret)


def auth_key(key: str) -> str:
    """Return the one spelling of a key: `https://index.docker.io/v1/` is docker.io, and so is registry-1.docker.io."""
    _, found, rest = key.strip().rpartition("://")
    host, slash, path = rest.partition("/")
    path = path.rstrip("/")
    # What follows an address is the path of its API; what follows a bare host is a namespace (containers-auth.json(5)).
    if found or not path or _VERSION.fullmatch(slash + path):
        return canonical(host)
    return f"{canonical(host)}/{path}"


def auth_hosts(name: str, url: str) -> tuple[str, ...]:
    """Return the keys under which credentials for an upstream may stand: the host that is dialled, then its name.

    The name counts only if it is that host's, on whatever port: credentials for docker.io are not for the server that
    stands in for it (promise 9).
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    dialled = canonical(parts.netloc)
    named = urlsplit(f"//{name}").hostname
    return tuple(dict.fromkeys([dialled, *([name] if named == host or name == canonical(host) else [])]))


def _longest(found: Mapping[str, _T], hosts: Sequence[str], repository: str) -> _T | None:
    for host in hosts:
        key = f"{host}/{repository}" if repository else host
        while key:
            if key in found:
                return found[key]
            key = key.rpartition("/")[0]
    return None


def _entry(key: str, entry: object) -> Credentials | None:
    if not isinstance(entry, dict):
        raise ValueError(f"has auths: {key} that is not an object")  # noqa: TRY004  one kind for all
    texts = {name: entry.get(name) or "" for name in ("registrytoken", "identitytoken", "auth", "username", "password")}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise ValueError(f"has auths: {key}: {name} that is not a text")  # noqa: TRY004  one kind for all
    if texts["registrytoken"]:
        return Credentials("", Secret(texts["registrytoken"]), Kind.REGISTRY_TOKEN)
    if texts["identitytoken"]:
        return Credentials("", Secret(texts["identitytoken"]), Kind.IDENTITY_TOKEN)
    username, password = _pair(key, texts["auth"]) if texts["auth"] else (texts["username"], texts["password"])
    return Credentials.of(username, password) if password else None


def _pair(key: str, auth: str) -> tuple[str, str]:
    try:
        bare = auth.strip().rstrip("=")
        pair = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        pair = ""
    username, colon, password = pair.partition(":")
    if not colon:
        raise ValueError(f"has auths: {key}: auth that is not base64 of USER:PASSWORD; log in again")
    return username, password.rstrip("\0")  # old versions of Docker padded it


def _check_program(where: str, name: object) -> None:
    if not isinstance(name, str) or (name and _PROGRAM.fullmatch(name) is None):
        raise ValueError(f"has {where} that is not the NAME of a program docker-credential-NAME")


def _is_entry(value: object) -> bool:
    return isinstance(value, dict) and bool(value.keys() & {"auth", "username", "identitytoken", "registrytoken"})


def _object(document: dict[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f'has {key} that is not an object; write {{"{key}": {{…}}}}')  # noqa: TRY004  one kind for all
    return value
