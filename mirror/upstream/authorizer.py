"""What one origin wants to see before it answers: no credentials, a token, or a password."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import structlog
from cachetools import TTLCache
from yarl import URL

from mirror.config.credentials import Credentials, Kind
from mirror.errors import UpstreamBroken, UpstreamDenied, UpstreamError, UpstreamLimited, UpstreamUnavailable
from mirror.upstream import redirect
from mirror.upstream.backoff import parse_retry_after
from mirror.upstream.challenge import Challenge, first
from mirror.upstream.logins import LoginRefused, Nobody
from mirror.upstream.tokens import MAX_BODY, Token, TokenKey, Tokens, parse_token
from mirror.upstream.wire import quote_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirror.upstream.logins import Login
    from mirror.upstream.trust import Trust
    from mirror.upstream.wire import Answer, Wire

_log = structlog.get_logger(__name__)
_REFUSED_FOR = 5.0  # seconds; whoever asks meanwhile hears of it, and no account is locked for too many wrong logins
_TOKEN_PATIENCE = 20.0  # seconds; a fetch is shared, so it does not end with the patience of whoever began it


@dataclass(frozen=True, slots=True, repr=False)
class Authorization:
    """The value of an `Authorization` header, and whether it comes of credentials."""

    header: str
    identity: bool
    token: str | None = None  # the bearer token in it, if that is what it is
    key: TokenKey | None = None
    fresh: bool = False  # fetched for this very request
    shown: Credentials | None = None  # what is in it, if that is no token that was fetched


class Authorizer:
    """The dealings with one origin, under one identity (`login`, or none). It learns from each challenge.

    Credentials are looked for only once a challenge wants them.
    """

    def __init__(
        self,
        origin: URL,
        wire: Wire,
        trust: Trust,
        login: Login | None = None,
        *,
        known: Callable[[], tuple[str, ...]] | None = None,
    ) -> None:
        """`login` is None for hosts that are to see no credentials; `known` returns what others have shown there."""
        self._origin = origin
        self._wire = wire
        self._trust = trust
        self._login = login or Nobody()
        self._known_secrets = known or self.secrets
        self._tokens = Tokens()
        self._refusals: TTLCache[TokenKey, LoginRefused] = TTLCache(256, _REFUSED_FOR)
        self._learnt: Challenge | None = None
        self._warned: set[str] = set()

    @property
    def identified(self) -> bool:
        """Whether its credentials have got a token that is still good."""
        return self._tokens.identified

    async def known(self, scopes: tuple[str, ...] | None) -> Authorization | None:
        """Return what this origin is known to want for `scopes`, or None where it must be asked.

        A registry that has asked for tokens once is not asked again for each repository: that saves a round trip.
        Where its token service fails now, the challenge may be out of date (nvcr.io), and None sends the caller for a
        new one.
        """
        if self._learnt is None:
            return None
        if self._learnt.scheme == "basic":
            return await self._basic()
        if scopes is None:
            return None
        try:
            return await self._bearer(self._learnt, self._origin, scopes)
        except (UpstreamBroken, UpstreamDenied, UpstreamUnavailable):
            self._learnt = None
            return None

    def may_meet(self, challenges: Sequence[Challenge]) -> bool:
        """Say whether there is anything to answer these challenges with: a token service, or credentials."""
        return first(challenges, "bearer") is not None or (
            not isinstance(self._login, Nobody) and first(challenges, "basic") is not None
        )

    def refused(self, used: Authorization) -> None:
        """Forget what was sent and refused, and, if it was made for that very request, the challenge that led to it."""
        if used.key is not None and used.token is not None:
            self._tokens.drop(used.key, used.token)
        if used.token is None or used.fresh:
            self._learnt = None

    async def answer(self, challenges: Sequence[Challenge], url: URL, scopes: tuple[str, ...] | None) -> Authorization:
        """Return what satisfies the challenges that `url` sent; a token is for `scopes` (None: those of the challenge).

        `Bearer` is preferred; where its token service fails and `Basic` is offered too, credentials go that way. Raise
        `UpstreamDenied` where there is nothing to show, else what the token service's failure is.
        """
        bearer, basic = first(challenges, "bearer"), first(challenges, "basic")
        if bearer is not None:
            try:
                authorization = await self._bearer(bearer, url, bearer.scopes if scopes is None else scopes)
            except UpstreamError:
                if basic is None or await self._basic() is None:
                    raise
            else:
                self._learnt = bearer
                return authorization
        if basic is not None and (shown := await self._basic()) is not None:
            self._learnt = basic
            return shown
        if basic is not None:
            only = await self._shown(Kind.IDENTITY_TOKEN)
            what = "none are configured" if only is None else f"there is only an {only.kind.value} for it"
            raise self._denied(f"asks for a user name and a password, and {what}")
        raise self._denied("refuses without saying what it wants")

    def secrets(self) -> tuple[str, ...]:
        """Return what must not be repeated to anyone: passwords, plain and as they are sent, and every token."""
        return (*self._tokens.values(), *self._login.secrets(), *self._wire.secrets())

    async def close(self) -> None:
        """End token fetches that are under way."""
        await self._tokens.close()

    async def _shown(self, *kinds: Kind) -> Credentials | None:
        """Return the credentials, if there are any and they are of one of these kinds."""
        found = await self._login.credentials()
        return found if found is not None and found.kind in kinds else None

    async def _offered(self) -> Credentials | None:
        """Return the credentials, if there are any and they are for a token service."""
        return await self._shown(Kind.PASSWORD, Kind.IDENTITY_TOKEN)

    async def _basic(self) -> Authorization | None:
        shown = await self._shown(Kind.PASSWORD)
        return Authorization(shown.basic(), identity=True, shown=shown) if shown is not None else None

    async def _bearer(self, challenge: Challenge, url: URL, scopes: tuple[str, ...]) -> Authorization:
        try:
            realm = url.join(URL(challenge.realm))  # some are relative
            refusal = self._trust.refusal(realm)
        except ValueError:
            realm, refusal = url, "its token realm is not an address"
        key = TokenKey(str(realm), challenge.service, tuple(sorted(scopes)))
        before = self._tokens.kept(key)
        # While a token is good, nobody is asked for credentials.
        if before is None and (token := await self._shown(Kind.REGISTRY_TOKEN)) is not None:
            return Authorization(f"Bearer {token.password.reveal()}", identity=True, shown=token)
        if refusal is not None:
            raise UpstreamBroken(f"{self._wire.namespace}: {refusal}", namespace=self._wire.namespace)
        if before is None and (said := self._refusals.get(key)) is not None and said.shown == await self._offered():
            raise LoginRefused(
                str(said), namespace=said.namespace, upstream_status=said.upstream_status or 401, shown=said.shown
            )
        try:
            kept = await self._tokens.get(key, lambda: self._fetch(realm, challenge.service, key.scopes))
        except LoginRefused as error:
            if error.shown is not None:
                self._refusals[key] = error
            raise
        fresh = before is None or before.value != kept.value
        return Authorization(f"Bearer {kept.value}", kept.identity, kept.value, key, fresh)

    async def _fetch(self, realm: URL, service: str, scopes: tuple[str, ...]) -> Token:
        try:
            async with asyncio.timeout(_TOKEN_PATIENCE):
                answer, shown = await self._ask(realm, service, scopes)
                try:
                    if answer.status != 200:  # noqa: PLR2004
                        raise await self._token_refused(answer, shown)
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
            return parse_token(body, identity=shown is not None)
        except ValueError as error:
            raise UpstreamBroken(f"{self._wire.namespace}: {error}", namespace=self._wire.namespace) from None

    async def _ask(self, realm: URL, service: str, scopes: tuple[str, ...]) -> tuple[Answer, Credentials | None]:
        """Ask the realm, through redirects; return its answer, and the credentials that were shown on the way."""
        asked = [("service", service)] if service else []
        url = realm.extend_query([*asked, *(("scope", scope) for scope in scopes)])
        credentials = await self._offered()
        if credentials is not None and not self._may_show(url):
            credentials = None
        if credentials is not None and credentials.kind is Kind.IDENTITY_TOKEN:
            return await self._exchange_token(realm, service, scopes, credentials), credentials
        shown = None
        for _ in range(redirect.MAX_HOPS + 1):
            headers = {"Accept": "application/json"}
            if credentials is not None and self._may_show(url):
                headers["Authorization"] = credentials.basic()
                shown = credentials
            answer = await self._wire.send("GET", url, headers, kind="token")
            if answer.status not in redirect.STATUSES:
                return answer, shown
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

    async def _exchange_token(
        self, realm: URL, service: str, scopes: tuple[str, ...], credentials: Credentials
    ) -> Answer:
        """Trade an identity token in (RFC 6749 §6; distribution, docs/spec/auth/oauth.md). It follows no redirect."""
        form = {
            "grant_type": "refresh_token",
            "service": service,
            "client_id": "registry-mirror",
            "refresh_token": credentials.password.reveal(),
            "scope": " ".join(scopes),
        }
        body = urlencode({name: value for name, value in form.items() if value}).encode()
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        return await self._wire.send("POST", realm, headers, kind="token", body=body)

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

    async def _token_refused(self, answer: Answer, shown: Credentials | None) -> UpstreamError:
        body = await self._wire.read_error(answer)
        said = quote_error(body, self._known_secrets())
        tail = f": {said}" if said else ""
        namespace, status, host = self._wire.namespace, answer.status, answer.url.host
        if status in (401, 403):
            why = named(shown) if shown is not None else "a token without credentials"
            return LoginRefused(
                f"{namespace}: its token service {host} refused {why} ({status}){tail}",
                namespace=namespace,
                upstream_status=status,
                shown=shown,
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

    async def refusal(self, answer: Answer, shown: Credentials) -> LoginRefused:
        """Return the error for a registry that refuses what it was shown."""
        said = quote_error(await self._wire.read_error(answer), self._known_secrets())
        return LoginRefused(
            f"{self._wire.namespace}: {self._origin.host} refused {named(shown)} ({answer.status})"
            + (f": {said}" if said else ""),
            namespace=self._wire.namespace,
            upstream_status=answer.status,
            shown=shown,
        )

    def _denied(self, why: str) -> UpstreamDenied:
        return UpstreamDenied(
            f"{self._wire.namespace}: {self._origin.host} {why}", namespace=self._wire.namespace, upstream_status=401
        )


def named(shown: Credentials) -> str:
    """Say what was shown, for a sentence."""
    what = "user name and password" if shown.kind is Kind.PASSWORD else shown.kind.value
    return f"the configured {what}"
