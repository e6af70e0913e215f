"""What one origin wants to see before it answers: no credentials, a token, or a password."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from yarl import URL

from mirror.errors import UpstreamBroken, UpstreamDenied, UpstreamError, UpstreamLimited, UpstreamUnavailable
from mirror.upstream import redirect
from mirror.upstream.backoff import parse_retry_after
from mirror.upstream.challenge import Challenge, first
from mirror.upstream.tokens import MAX_BODY, Token, TokenKey, Tokens, parse_token
from mirror.upstream.wire import quote_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.config import Secret
    from mirror.upstream.trust import Trust
    from mirror.upstream.wire import Answer, Wire

_log = structlog.get_logger(__name__)
_TOKEN_PATIENCE = 20.0  # seconds; a fetch is shared, so it does not end with the patience of whoever began it


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and a password."""

    username: str
    password: Secret

    def basic(self) -> str:
        """Return the value of the header (RFC 7617 §2)."""
        pair = f"{self.username}:{self.password.reveal()}"
        return "Basic " + base64.b64encode(pair.encode()).decode()

    def secrets(self) -> tuple[str, ...]:
        """Return the password, plain and as `basic` sends it; without padding, which not everybody writes."""
        return self.password.reveal(), self.basic().removeprefix("Basic ").rstrip("=")


@dataclass(frozen=True, slots=True, repr=False)
class Authorization:
    """The value of an `Authorization` header, and whether it comes of credentials."""

    header: str
    identity: bool
    token: str | None = None  # the bearer token in it, if that is what it is
    key: TokenKey | None = None
    fresh: bool = False  # fetched for this very request


class Authorizer:
    """The dealings with one origin, under one identity (`credentials`, or none). It learns from each challenge."""

    def __init__(self, origin: URL, wire: Wire, trust: Trust, credentials: Credentials | None = None) -> None:
        self._origin = origin
        self._wire = wire
        self._trust = trust
        self._credentials = credentials
        self._tokens = Tokens()
        self._learnt: Challenge | None = None
        self._warned: set[str] = set()

    @property
    def has_credentials(self) -> bool:
        """Whether there is a user name and a password for this origin."""
        return self._credentials is not None

    async def known(self, scopes: tuple[str, ...]) -> Authorization | None:
        """Return what this origin is known to want for `scopes`, or None where it must be asked.

        A registry that has asked for tokens once is not asked again for each repository: that saves a round trip.
        Where its token service fails now, the challenge may be out of date (nvcr.io), and None sends the caller for a
        new one.
        """
        if self._learnt is None:
            return None
        if self._learnt.scheme == "basic":
            return self._basic()
        if not scopes:
            return None
        try:
            return await self._bearer(self._learnt, self._origin, scopes)
        except (UpstreamBroken, UpstreamDenied, UpstreamUnavailable):
            self._learnt = None
            return None

    def refused(self, used: Authorization) -> None:
        """Forget what was sent and refused, and, if it was made for that very request, the challenge that led to it."""
        if used.key is not None and used.token is not None:
            self._tokens.drop(used.key, used.token)
        if used.token is None or used.fresh:
            self._learnt = None

    async def answer(self, challenges: Sequence[Challenge], url: URL, scopes: tuple[str, ...]) -> Authorization:
        """Return what satisfies the challenges that `url` sent; a token is fetched for `scopes`.

        `Bearer` is preferred; where its token service fails and `Basic` is offered too, credentials go that way. Raise
        `UpstreamDenied` where there is nothing to show, else what the token service's failure is.
        """
        bearer, basic = first(challenges, "bearer"), first(challenges, "basic")
        if bearer is not None:
            try:
                authorization = await self._bearer(bearer, url, scopes or bearer.scopes)
            except UpstreamError:
                if basic is None or self._credentials is None:
                    raise
            else:
                self._learnt = bearer
                return authorization
        if basic is not None and (shown := self._basic()) is not None:
            self._learnt = basic
            return shown
        if basic is not None:
            raise self._denied("asks for a user name and a password, and none are configured")
        raise self._denied("refuses without saying what it wants")

    def secrets(self) -> tuple[str, ...]:
        """Return what must not be repeated to anyone: the password, plain and as it is sent, and every token."""
        return (*self._tokens.values(), *(self._credentials.secrets() if self._credentials else ()))

    async def close(self) -> None:
        """End token fetches that are under way."""
        await self._tokens.close()

    def _basic(self) -> Authorization | None:
        return Authorization(self._credentials.basic(), identity=True) if self._credentials else None

    async def _bearer(self, challenge: Challenge, url: URL, scopes: tuple[str, ...]) -> Authorization:
        try:
            realm = url.join(URL(challenge.realm))  # some are relative
            refusal = self._trust.refusal(realm)
        except ValueError:
            refusal = "its token realm is not an address"
        if refusal is not None:
            raise UpstreamBroken(f"{self._wire.namespace}: {refusal}", namespace=self._wire.namespace)
        key = TokenKey(str(realm), challenge.service, tuple(sorted(scopes)))
        before = self._tokens.kept(key)
        token = await self._tokens.get(key, lambda: self._fetch(realm, challenge.service, key.scopes))
        fresh = before is None or before.value != token.value
        return Authorization(f"Bearer {token.value}", token.identity, token.value, key, fresh)

    async def _fetch(self, realm: URL, service: str, scopes: tuple[str, ...]) -> Token:
        try:
            async with asyncio.timeout(_TOKEN_PATIENCE):
                answer, identity = await self._ask(realm, service, scopes)
                try:
                    if answer.status != 200:  # noqa: PLR2004
                        raise await self._token_refused(answer, identity=identity)
                    body = await self._wire.read(answer, MAX_BODY)
                finally:
                    answer.close()
        except TimeoutError:
            self._wire.count("token", "timeout")
            raise UpstreamUnavailable(
                f"{self._wire.namespace}: its token service {realm.host} did not answer in time",
                namespace=self._wire.namespace,
            ) from None
        try:
            return parse_token(body, identity=identity)
        except ValueError as error:
            raise UpstreamBroken(f"{self._wire.namespace}: {error}", namespace=self._wire.namespace) from None

    async def _ask(self, realm: URL, service: str, scopes: tuple[str, ...]) -> tuple[Answer, bool]:
        """GET the realm, through redirects; say whether credentials were shown on the way."""
        asked = [("service", service)] if service else []
        url = realm.extend_query([*asked, *(("scope", scope) for scope in scopes)])
        identity = False
        for _ in range(redirect.MAX_HOPS + 1):
            headers = {"Accept": "application/json"}
            if self._credentials is not None and self._may_show(url):
                headers["Authorization"] = self._credentials.basic()
                identity = True
            answer = await self._wire.send("GET", url, headers, kind="token")
            if answer.status not in redirect.STATUSES:
                return answer, identity
            answer.close()
            try:
                url = redirect.next_hop(url, answer.headers.get("Location", ""))
            except ValueError as error:
                refusal: str | None = str(error)
            else:
                refusal = self._trust.refusal(url)
            if refusal is not None:
                raise UpstreamBroken(
                    f"{self._wire.namespace}: its token service sent what is not followed: {refusal}",
                    namespace=self._wire.namespace,
                )
        raise UpstreamBroken(
            f"{self._wire.namespace}: its token service redirects without end", namespace=self._wire.namespace
        )

    def _may_show(self, realm: URL) -> bool:
        if self._trust.covers(realm):
            return True
        host = realm.host or ""
        if host not in self._warned and len(self._warned) < 16:  # noqa: PLR2004  a hostile registry may name many
            self._warned.add(host)
            _log.warning(
                "credentials withheld: this token service is outside the registry's domain; "
                "add it to `realms` of the upstream if it may see them",
                upstream=self._wire.namespace,
                realm=host,
            )
        return False

    async def _token_refused(self, answer: Answer, *, identity: bool) -> UpstreamError:
        body = await self._wire.read_error(answer)
        said = quote_error(body, self.secrets())
        tail = f": {said}" if said else ""
        namespace, status, host = self._wire.namespace, answer.status, answer.url.host
        if status in (401, 403):
            why = "the configured user name and password" if identity else "a token without credentials"
            return UpstreamDenied(
                f"{namespace}: its token service {host} refused {why} ({status}){tail}",
                namespace=namespace,
                upstream_status=status,
            )
        retry_after = parse_retry_after(answer.headers.get("Retry-After"))
        if status == 429:  # noqa: PLR2004
            kind: type[UpstreamError] = UpstreamLimited
        elif status >= 500 or status == 408:  # noqa: PLR2004
            kind = UpstreamUnavailable
        else:
            kind = UpstreamBroken
        return kind(
            f"{namespace}: its token service {host} answered {status}{tail}",
            namespace=namespace,
            upstream_status=status,
            retry_after=retry_after,
        )

    def _denied(self, why: str) -> UpstreamDenied:
        return UpstreamDenied(
            f"{self._wire.namespace}: {self._origin.host} {why}", namespace=self._wire.namespace, upstream_status=401
        )
