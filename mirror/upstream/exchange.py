"""One request to a registry, with everything that it takes to have it answered: challenges, tokens, redirects."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cachetools import LRUCache, TTLCache

from mirror.errors import UpstreamBroken, UpstreamError, UpstreamLimited
from mirror.store.dealings import Dealings
from mirror.upstream import redirect
from mirror.upstream.accounts import COUNTED, Accounts
from mirror.upstream.authorizer import Authorizer
from mirror.upstream.backoff import parse_retry_after
from mirror.upstream.challenge import Challenge, first, parse_challenges
from mirror.upstream.logins import LoginRefused, NoCredentials, OneLogin
from mirror.upstream.trust import Trust
from mirror.upstream.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yarl import URL

    from mirror.config.credentials import Credentials
    from mirror.upstream.authorizer import Authorization
    from mirror.upstream.logins import Login, Logins
    from mirror.upstream.turns import Turn
    from mirror.upstream.wire import Answer, Wire

_IDENTITIES = 64  # of one registry, that are remembered at once
_CLEARED_FOR = 60.0  # seconds for which credentials that were refused somewhere are known to be good all the same
# Docker Hub looks at the password only where a repository is named. Other endpoints refuse one that they do not know.
_PING_SCOPES = {"docker.io": "repository:ratelimitpreview/test:pull"}
_API_PATH = re.compile(r"/v2/(.+)/(?:manifests|blobs|tags|referrers)/[^/]+")


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of the registry. `scope` is the token scope that it takes; nothing: a token for no repository."""

    kind: str  # manifest, blob, tags, referrers, ping
    method: str
    url: URL
    scope: str
    repository: str  # its name without the namespace; nothing: none in particular
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def limit(self) -> str:
        """Return what limits, and the rests after them, tell apart."""
        return f"{self.kind} {self.method}"

    @property
    def counted(self) -> bool:
        """Say whether it uses up what is left of a limit."""
        return self.limit == COUNTED


class Exchange:
    """Asks one registry. Holds what was learnt about how it, and the hosts that it redirects to, want to be asked."""

    def __init__(
        self,
        registry: URL,
        wire: Wire,
        *,
        logins: Logins | None = None,
        trust: Trust | None = None,
        accounts: Accounts | None = None,
    ) -> None:
        self._registry = registry
        self._wire = wire
        self._logins = logins or OneLogin()
        self._trust = trust or Trust(registry)
        self._accounts = accounts or Accounts(wire.namespace, None, book=Dealings(None), clock=time.time)
        self._turns = Turns(wire.namespace, self._logins, self._accounts)
        self.order = self._turns.order
        self.date: str | None = None  # what the registry's clock said last (RFC 9110 §6.6.1)
        # One for each identity: a token that one has got is never used for another.
        self._own: LRUCache[Login, Authorizer] = LRUCache(_IDENTITIES)
        # Hosts behind redirects that are registries themselves (registry.k8s.io -> *.pkg.dev). They see no credentials.
        self._others: LRUCache[URL, Authorizer] = LRUCache(64)
        self._cleared: TTLCache[str, bool] = TTLCache(_IDENTITIES, _CLEARED_FOR)

    async def send(self, ask: Ask) -> Answer:
        """Return the answer, of whatever status; the caller closes it.

        Where one login is refused or limited, the next is asked with at once. Raise `Resting` where all of them rest,
        without having sent anything; `UpstreamBroken` for a redirect that must not be followed, `UpstreamDenied` where
        a challenge cannot be met, and whatever failure the wire or a token service has.
        """
        turn = await self._turns.begin(ask.limit, ask.repository)
        if ask.counted and turn.exhausted:
            await self._look(ask, turn)
        for login in turn:
            try:
                answer = await self._renewing(ask, login)
            except LoginRefused as refused:
                if await self._is_about_login(login, refused):
                    self._turns.set_aside(login, refused)
                turn.failed(refused)
                continue
            except (NoCredentials, UpstreamLimited) as failure:
                turn.failed(failure)
                continue
            if answer.status == 429:  # noqa: PLR2004
                await self._wire.read_error(answer)
                turn.limited(answer, parse_retry_after(answer.headers.get("Retry-After")))
                continue
            if answer.status < 500:  # noqa: PLR2004
                self._accounts.answered(login.name, ask.limit)
            if turn.doubts(answer):
                await self._wire.read_error(answer)
                continue
            if answer.status < 400:  # noqa: PLR2004
                self._turns.let_in(ask.repository, login, identity=not answer.public)
            return answer
        return turn.outcome()

    async def login(self, repository: str = "") -> Credentials | None:
        """Return the credentials that are shown first for a repository, or for none in particular; None: none."""
        turn = await self._turns.begin(self.ping().limit, repository)
        return await turn.candidates[0].login.credentials()

    def ping(self) -> Ask:
        """Return the question whether the registry is there, and, if it asks for credentials, whether they are good."""
        url = self._registry.with_path(f"{self._registry.path.rstrip('/')}/v2/", encoded=True)
        scope = "" if self._accounts.elsewhere else _PING_SCOPES.get(self._wire.namespace, "")
        return Ask("ping", "GET", url, scope, "")

    async def _renewing(self, ask: Ask, login: Login) -> Answer:
        """Ask with one login, and once more where it is refused and has newer credentials."""
        try:
            answer = await self._follow(ask, login)
        except LoginRefused as refused:
            other = await self._turns.renewed(ask.repository, login, refused.shown)
            if other is None:
                raise
        else:
            # 403 may be about the repository, or an end of the password's life (private ECR).
            if answer.status != 403:  # noqa: PLR2004
                return answer
            try:
                other = await self._turns.renewed(ask.repository, login, answer.shown)
            except BaseException:
                answer.close()
                raise
            if other is None:
                return answer
            answer.close()
        return await self._follow(ask, other)

    async def _look(self, ask: Ask, turn: Turn) -> None:
        """See by a HEAD, which is not counted, whether there is something left again of a limit that was used up."""
        for candidate in turn.candidates:
            if self._accounts.look(candidate.login.name):
                with suppress(UpstreamError):
                    (await self._follow(replace(ask, method="HEAD"), candidate.login)).close()

    async def _is_about_login(self, login: Login, refused: LoginRefused) -> bool:
        """Say whether it is the credentials that were refused, wherever they are shown.

        Some token services refuse those that are good where they are not for that repository, or where there is none
        (ghcr.io, GitLab): where that may be so, they are shown once more for no repository at all.
        """
        if refused.shown is None:
            return False
        if refused.upstream_status == 401 and not self._authorizer(login).identified:  # noqa: PLR2004
            return True
        if login.name in self._cleared:
            return False
        try:
            (await self._follow(self.ping(), login)).close()
        except LoginRefused as again:
            return again.shown is not None
        except UpstreamError:
            return False
        self._cleared[login.name] = True
        return False

    async def _follow(self, ask: Ask, login: Login) -> Answer:
        own = self._authorizer(login)
        url, public = ask.url, True
        for _ in range(redirect.MAX_HOPS + 1):
            answer = await self._authorized(ask, url, own, login)
            public = answer.public = public and answer.public
            if answer.status == 401 and answer.shown is not None:  # noqa: PLR2004
                raise await own.refusal(answer, answer.shown)
            if answer.status not in redirect.STATUSES:
                return answer
            answer.close()
            try:
                url = redirect.next_hop(url, answer.headers.get("Location", ""))
            except ValueError as error:
                raise self._broken(f"sent {error}, which is not followed", answer.status) from None
        raise self._broken("redirects without end", None)

    def secrets(self) -> tuple[str, ...]:
        """Return what must not be repeated to anyone, whichever host it was for."""
        authorizers = (*self._own.values(), *self._others.values())
        return (*self._logins.secrets(), *(secret for each in authorizers for secret in each.secrets()))

    async def close(self) -> None:
        """End token fetches that are under way."""
        for authorizer in (*self._own.values(), *self._others.values()):
            await authorizer.close()
        await self._logins.close()

    async def _authorized(self, ask: Ask, url: URL, own_authorizer: Authorizer, login: Login) -> Answer:
        """Send one hop, and meet its challenge. An answer that is still a refusal afterwards is returned as it is."""
        own = url.origin() == self._registry.origin()
        authorizer = own_authorizer if own else self._other(url)
        scopes = _scopes(url) if not own else (ask.scope,) if ask.scope else ()

        used = await authorizer.known(scopes)
        answer = await self._send(ask, url, used, login)
        if not await self._refuses(answer, used):
            return answer

        challenges = parse_challenges(answer.all("WWW-Authenticate"))
        if used is not None and not used.fresh:
            # What was kept is no longer good. A challenge that comes in answer to a token may lead nowhere (nvcr.io),
            # so the request goes out bare, once, for one that leads somewhere.
            answer.close()
            authorizer.refused(used)
            used = None
            answer = await self._send(ask, url, None, login)
            if not await self._refuses(answer, None):
                return answer
            challenges = parse_challenges(answer.all("WWW-Authenticate"))
        if used is None:
            if not challenges and own:
                challenges = await self._ping(answer)
            if not challenges or (answer.status == 403 and not authorizer.may_meet(challenges)):  # noqa: PLR2004
                return answer
            answer.close()
            used = await authorizer.answer(challenges, url, scopes)
            answer = await self._send(ask, url, used, login)
            if not await self._refuses(answer, used):
                return answer
            challenges = parse_challenges(answer.all("WWW-Authenticate"))

        # A good token that covers too little: once more, with what the challenge names on top.
        bearer = first(challenges, "bearer")
        wider = bearer.scopes if bearer is not None and bearer.insufficient else ()
        if used.token is not None and set(wider) - set(scopes or ()):
            answer.close()
            used = await authorizer.answer(challenges, url, tuple(dict.fromkeys((*(scopes or ()), *wider))))
            answer = await self._send(ask, url, used, login)
        if answer.status == 401 and used is not None:  # noqa: PLR2004
            authorizer.refused(used)
        return answer

    async def _send(self, ask: Ask, url: URL, used: Authorization | None, login: Login) -> Answer:
        headers = {**ask.headers, "Authorization": used.header} if used is not None else ask.headers
        answer = await self._wire.send(ask.method, url, headers, kind=ask.kind)
        answer.public = answer.public and (used is None or not used.identity)
        answer.shown = used.shown if used is not None else None
        if url.origin() == self._registry.origin():
            self.date = answer.headers.get("Date", self.date)
            self._accounts.note(login.name, answer.headers, answer.status)
        return answer

    async def _refuses(self, answer: Answer, used: Authorization | None) -> bool:
        """Say whether the answer is one that credentials, or other ones, might change."""
        if answer.status == 401:  # noqa: PLR2004
            return True
        if answer.status == 403:  # noqa: PLR2004  Artifactory, at times, to those who come without
            return used is None
        if answer.status != 400 or used is None:  # noqa: PLR2004
            return False
        # public.ecr.aws says 400 DENIED to a token that has expired (aws/containers-roadmap#2835); no body to a HEAD.
        return answer.response.method == "HEAD" or b"DENIED" in await self._wire.read_error(answer)

    async def _ping(self, refused: Answer) -> tuple[Challenge, ...]:
        """Ask `/v2/` for the challenge that `refused` came without (gcr.io); its scope is a placeholder."""
        url = self._registry.with_path(self._registry.path.rstrip("/") + "/v2/")
        try:
            answer = await self._wire.send("GET", url, {}, kind="ping")
        except BaseException:
            refused.close()
            raise
        answer.close()
        return parse_challenges(answer.all("WWW-Authenticate"))

    def _authorizer(self, login: Login) -> Authorizer:
        found = self._own.get(login)
        if found is None:
            found = Authorizer(self._registry, self._wire, self._trust, login, known=self.secrets)
            self._own[login] = found
        return found

    def _other(self, url: URL) -> Authorizer:
        origin = url.origin()
        if origin not in self._others:
            self._others[origin] = Authorizer(origin, self._wire, Trust(origin))
        return self._others[origin]

    def _broken(self, what: str, status: int | None) -> UpstreamBroken:
        return UpstreamBroken(f"{self._wire.namespace} {what}", namespace=self._wire.namespace, upstream_status=status)


def _scopes(url: URL) -> tuple[str, ...] | None:
    """Return the scope that a registry behind a redirect takes, as its path shows it; None: its challenge says."""
    match = _API_PATH.search(url.path)
    return (f"repository:{match[1]}:pull",) if match else None
