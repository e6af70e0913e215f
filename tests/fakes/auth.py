"""Who may ask the fake upstream: nobody in particular, whoever has a token, or whoever has a password."""

from __future__ import annotations

import base64
import binascii
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fakes.records import Record


@dataclass(eq=False)
class Token:
    """One token that was issued. `expires` by `Auth.clock`."""

    value: str
    user: str | None
    scopes: tuple[str, ...]
    expires: float
    query: str  # as it came
    uses: int = 0

    def allows(self, repo: str) -> bool:
        """Say whether the token is for pulling from `repo`."""
        return any(
            scope.startswith(f"repository:{repo}:") and "pull" in scope.rpartition(":")[2].split(",")
            for scope in self.scopes
        )


@dataclass(eq=False)
class Auth:
    """How the registry lets people in."""

    mode: str | None = None  # None: nobody is asked; "bearer"; "basic"; "both": Bearer first, and Basic
    users: dict[str, str] = field(default_factory=dict)
    anonymous: bool = True  # a token without a password
    service: str | None = "fake-registry"
    realm: str | None = None  # None: /token on the registry's own origin
    expires_in: int | None = 300  # what the token service says; None: it does not say
    lifetime: float = 300  # seconds that a token is in truth good for
    token_field: str = "token"
    scope_bound: bool = True  # a token is good for its scopes only
    scope: str | None = None  # what the challenge says in place of the true scope (ghcr's placeholder)
    challenge: list[str] | None = None  # WWW-Authenticate, in place of the true ones
    private: dict[str, set[str]] = field(default_factory=dict)  # repository -> who may pull
    clock: Callable[[], float] = time.monotonic
    tokens: list[Token] = field(default_factory=list)
    refused_passwords: int = 0

    def challenges(self, origin: str, repo: str | None, error: str | None) -> list[str]:
        """Return the WWW-Authenticate headers of a 401."""
        if self.challenge is not None:
            return self.challenge
        bearer = f'Bearer realm="{self.realm or origin + "/token"}"'
        if self.service is not None:
            bearer += f',service="{self.service}"'
        if repo is not None or self.scope is not None:
            bearer += f',scope="{self.scope or f"repository:{repo}:pull"}"'
        if error is not None:
            bearer += f',error="{error}"'
        basic = 'Basic realm="fake registry"'
        return {"bearer": [bearer], "basic": [basic], "both": [bearer, basic]}[self.mode or "basic"]

    def refusal(self, record: Record) -> tuple[int, str | None] | None:
        """Return status and error of a refusal, or None if `record` may pass; note who asks."""
        scheme, _, given = record.headers.get("Authorization", "").partition(" ")
        refused: tuple[int, str | None] | None = None
        if self.mode is None:
            return None
        if self.mode in ("bearer", "both") and scheme.lower() == "bearer":
            refused = self._refuse_token(record, given)
        elif self.mode in ("basic", "both") and scheme.lower() == "basic":
            record.user = self.user_of(given)
            refused = None if record.user is not None else (401, None)
        else:
            refused = 401, None
        if refused is None and record.repo in self.private and record.user not in self.private[record.repo]:
            refused = 403, None
        return refused

    def _refuse_token(self, record: Record, given: str) -> tuple[int, str] | None:
        token = next((token for token in self.tokens if token.value == given), None)
        if token is None or token.expires <= self.clock():
            return 401, "invalid_token"
        token.uses += 1
        record.user = token.user
        if record.repo is not None and self.scope_bound and not token.allows(record.repo):
            return 401, "insufficient_scope"
        return None

    def user_of(self, given: str) -> str | None:
        """Return the user whose Basic credentials these are, if they are right."""
        try:
            user, _, password = base64.b64decode(given, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            user, password = "", ""
        if user and self.users.get(user) == password:
            return user
        self.refused_passwords += 1
        return None

    def issue(self, record: Record) -> tuple[int, bytes]:
        """Answer a GET of the token service: status and JSON body."""
        user = None
        scheme, _, given = record.headers.get("Authorization", "").partition(" ")
        if scheme:
            user = self.user_of(given) if scheme.lower() == "basic" else None
            if user is None:
                return 401, b'{"details":"incorrect username or password"}'
        elif not self.anonymous:
            return 401, b'{"details":"authentication is required"}'
        record.user = user
        scopes = tuple(parse_qs(record.query).get("scope", []))
        granted = tuple(scope for scope in scopes if self._grants(scope, user))
        token = Token(f"tok-{len(self.tokens)}-secret", user, granted, self.clock() + self.lifetime, record.query)
        self.tokens.append(token)
        answer: dict[str, object] = {self.token_field: token.value}
        if self.expires_in is not None:
            answer["expires_in"] = self.expires_in
        return 200, json.dumps(answer).encode()

    def _grants(self, scope: str, user: str | None) -> bool:
        repo = scope.removeprefix("repository:").rpartition(":")[0]
        return repo not in self.private or user in self.private[repo]

    def revoke(self) -> None:
        """Make every token that was issued so far worthless."""
        for token in self.tokens:
            token.expires = float("-inf")
