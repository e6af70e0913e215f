"""Who may ask the fake upstream: nobody in particular, whoever has a token, or whoever has a password."""

from __future__ import annotations

import base64
import binascii
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from tests.fakes.manner import TOO_LITTLE, Manner, Refusal

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
    query: str  # as it came: of the address, or the form
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
    identity_tokens: dict[str, str] = field(default_factory=dict)  # refresh token -> user
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
    manner: Manner = field(default_factory=Manner)
    breaches: list[str] = field(default_factory=list)  # what nobody may do who knows how

    @property
    def token_path(self) -> str:
        """Where the token service is on its host."""
        return urlsplit(self.realm).path if self.realm is not None else "/token"

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

    def refusal(self, record: Record) -> Refusal | None:
        """Return the refusal that `record` meets, or None if it may pass; note who asks."""
        scheme, _, given = record.headers.get("Authorization", "").partition(" ")
        if self.mode is None:
            if scheme and self.manner.strict:
                self.breaches.append(f"{record.host} was sent {scheme}, which it never asked for")
                return Refusal(400, "UNSUPPORTED", "this registry takes no credentials", bare=True)
            return None
        refused = self._refuse(record, scheme.lower(), given)
        if refused is None and record.repo in self.private and record.user not in self.private[record.repo]:
            refused = self.manner.not_yours
        return refused

    def _refuse(self, record: Record, scheme: str, given: str) -> Refusal | None:
        if scheme == "bearer" and self.mode in ("bearer", "both"):
            return self._refuse_token(record, given)
        if scheme == "basic" and self.mode in ("basic", "both"):
            record.user = self.user_of(given)
            return None if record.user is not None else self.manner.old_password or self.manner.stranger
        if scheme == "basic":
            if self.manner.strict:
                self.breaches.append(f"{record.host} was sent Basic, where tokens are the way")
            return self.manner.stray_basic
        if record.kind == "ping" and self.manner.ping is not None:
            return self.manner.ping
        return self.manner.stranger

    def _refuse_token(self, record: Record, given: str) -> Refusal | None:
        token = next((token for token in self.tokens if token.value == given), None)
        if token is None and self.manner.strict:
            self.breaches.append(f"{record.host} was sent a token that is not one of its own")
        if token is None or token.expires <= self.clock():
            return self.manner.old_token
        token.uses += 1
        record.user = token.user
        if record.repo is not None and self.scope_bound and not token.allows(record.repo):
            return TOO_LITTLE
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
        """Answer a request to the token service: status and JSON body."""
        if record.method == "POST":
            return self._issue_to_identity(record)
        user = None
        scheme, _, given = record.headers.get("Authorization", "").partition(" ")
        if scheme:
            user = self.user_of(given) if scheme.lower() == "basic" else None
            if user is None:
                return _details(401, "incorrect username or password")
        elif not self.anonymous:
            return _details(401, "authentication is required")
        return self._issue(record, user, record.query)

    def _issue_to_identity(self, record: Record) -> tuple[int, bytes]:
        """Answer a POST (distribution, docs/spec/auth/oauth.md): an identity token for a refresh token's user."""
        if self.manner.token_post is not None:
            return _details(self.manner.token_post, "the token service knows no such request")
        form = parse_qs(record.form)
        if form.get("grant_type") != ["refresh_token"]:
            return _details(400, "unsupported grant_type")
        user = self.identity_tokens.get(form.get("refresh_token", [""])[0])
        if user is None:
            self.refused_passwords += 1
            return _details(401, "the refresh token is not good")
        return self._issue(record, user, record.form)

    def _issue(self, record: Record, user: str | None, query: str) -> tuple[int, bytes]:
        asked = parse_qs(query)
        if (wrong := self._misconduct(record, asked)) is not None:
            self.breaches.append(f"{record.host}: {wrong.message} ({query})")
            return _errors(wrong)
        record.user = user
        # A form has one `scope`, its scopes between spaces; an address repeats it.
        scopes = tuple(scope for value in asked.get("scope", []) for scope in value.split())
        granted = tuple(scope for scope in scopes if self._grants(scope, user))
        if len(granted) < len(scopes) and self.manner.closed_tokens is not None:
            return _errors(self.manner.closed_tokens)
        token = Token(f"tok-{len(self.tokens)}-secret", user, granted, self.clock() + self.lifetime, query)
        self.tokens.append(token)
        answer: dict[str, object] = {self.token_field: token.value}
        if self.expires_in is not None:
            answer["expires_in"] = self.expires_in
        return 200, json.dumps(answer).encode()

    def _misconduct(self, record: Record, asked: dict[str, list[str]]) -> Refusal | None:
        """Say what is wrong with a request for a token, where the registry is strict."""
        if not self.manner.strict:
            return None
        if asked.get("service") != ([self.service] if self.service is not None else None):
            return Refusal(400, "UNSUPPORTED", "the token is asked for another service")
        if "service=" in record.query and self.service is None:
            return Refusal(400, "UNSUPPORTED", "the token is asked for a service, and there is none")
        for value in asked.get("scope", []):
            for scope in value.split():
                kind, _, rest = scope.partition(":")
                if scope not in self.manner.scopes and (kind != "repository" or not rest.endswith(":pull")):
                    return Refusal(403, "DENIED", "the token is asked for more than pulling")
        return None

    def _grants(self, scope: str, user: str | None) -> bool:
        repo = scope.removeprefix("repository:").rpartition(":")[0]
        return repo not in self.private or user in self.private[repo]

    def revoke(self) -> None:
        """Make every token that was issued so far worthless."""
        for token in self.tokens:
            token.expires = float("-inf")


def _details(status: int, text: str) -> tuple[int, bytes]:
    return status, json.dumps({"details": text}).encode()


def _errors(refusal: Refusal) -> tuple[int, bytes]:
    return refusal.status, json.dumps({"errors": [{"code": refusal.code, "message": refusal.message}]}).encode()
