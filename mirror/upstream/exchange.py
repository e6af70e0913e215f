"""One request to a registry, with everything that it takes to have it answered: challenges, tokens, redirects."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachetools import LRUCache

from mirror.errors import UpstreamBroken
from mirror.upstream import redirect
from mirror.upstream.authorizer import Authorizer
from mirror.upstream.challenge import Challenge, first, parse_challenges
from mirror.upstream.trust import Trust

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yarl import URL

    from mirror.upstream.authorizer import Authorization, Credentials
    from mirror.upstream.wire import Answer, Wire

_API_PATH = re.compile(r"/v2/(.+)/(?:manifests|blobs|tags|referrers)/[^/]+")


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of the registry. `scope` is the token scope that it takes."""

    kind: str  # manifest, blob, tags, referrers
    method: str
    url: URL
    scope: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Exchange:
    """Asks one registry. Holds what was learnt about how it, and the hosts that it redirects to, want to be asked."""

    def __init__(
        self, registry: URL, wire: Wire, *, credentials: Credentials | None = None, realms: tuple[str, ...] = ()
    ) -> None:
        self._registry = registry
        self._wire = wire
        self._own = Authorizer(registry, wire, Trust(registry, realms), credentials)
        # Hosts behind redirects that are registries themselves (registry.k8s.io -> *.pkg.dev). They see no credentials.
        self._others: LRUCache[URL, Authorizer] = LRUCache(64)

    async def send(self, ask: Ask) -> Answer:
        """Return the answer, of whatever status; the caller closes it.

        Raise `UpstreamBroken` for a redirect that must not be followed, `UpstreamDenied` where a challenge cannot be
        met, and whatever failure the wire or a token service has.
        """
        url, public = ask.url, True
        for _ in range(redirect.MAX_HOPS + 1):
            answer = await self._authorized(ask, url)
            public = answer.public = public and answer.public
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
        return tuple(s for authorizer in (self._own, *self._others.values()) for s in authorizer.secrets())

    async def close(self) -> None:
        """End token fetches that are under way."""
        for authorizer in (self._own, *self._others.values()):
            await authorizer.close()

    async def _authorized(self, ask: Ask, url: URL) -> Answer:
        """Send one hop, and meet its challenge. An answer that is still a refusal afterwards is returned as it is."""
        own = url.origin() == self._registry.origin()
        authorizer = self._own if own else self._other(url)
        scopes = (ask.scope,) if own else _scopes(url)

        used = await authorizer.known(scopes)
        answer = await self._send(ask, url, used)
        if not await self._refuses(answer, used, authorizer):
            return answer

        challenges = parse_challenges(answer.all("WWW-Authenticate"))
        if used is not None and not used.fresh:
            # What was kept is no longer good. A challenge that comes in answer to a token may lead nowhere (nvcr.io),
            # so the request goes out bare, once, for one that leads somewhere.
            answer.close()
            authorizer.refused(used)
            used = None
            answer = await self._send(ask, url, None)
            if not await self._refuses(answer, None, authorizer):
                return answer
            challenges = parse_challenges(answer.all("WWW-Authenticate"))
        if used is None:
            if not challenges and own:
                challenges = await self._ping()
            if not challenges:
                return answer
            answer.close()
            used = await authorizer.answer(challenges, url, scopes)
            answer = await self._send(ask, url, used)
            if not await self._refuses(answer, used, authorizer):
                return answer
            challenges = parse_challenges(answer.all("WWW-Authenticate"))

        # A good token that covers too little: once more, with what the challenge names on top.
        bearer = first(challenges, "bearer")
        if used.token is not None and bearer is not None and bearer.insufficient and set(bearer.scopes) - set(scopes):
            answer.close()
            used = await authorizer.answer(challenges, url, tuple(dict.fromkeys((*scopes, *bearer.scopes))))
            answer = await self._send(ask, url, used)
        if answer.status == 401 and used is not None:  # noqa: PLR2004
            authorizer.refused(used)
        return answer

    async def _send(self, ask: Ask, url: URL, used: Authorization | None) -> Answer:
        headers = {**ask.headers, "Authorization": used.header} if used is not None else ask.headers
        answer = await self._wire.send(ask.method, url, headers, kind=ask.kind)
        answer.public = used is None or not used.identity
        return answer

    async def _refuses(self, answer: Answer, used: Authorization | None, authorizer: Authorizer) -> bool:
        """Say whether the answer is one that credentials, or other ones, might change."""
        if answer.status == 401:  # noqa: PLR2004
            return True
        if answer.status == 403:  # noqa: PLR2004  Artifactory, at times, to those who come without
            return used is None and authorizer.has_credentials
        if answer.status != 400 or used is None:  # noqa: PLR2004
            return False
        # public.ecr.aws says 400 DENIED to a token that has expired (aws/containers-roadmap#2835); no body to a HEAD.
        return answer.response.method == "HEAD" or b"DENIED" in await self._wire.read_error(answer)

    async def _ping(self) -> tuple[Challenge, ...]:
        """Ask `/v2/` for the challenge that a real request came back without (gcr.io); its scope is a placeholder."""
        url = self._registry.with_path(self._registry.path.rstrip("/") + "/v2/")
        answer = await self._wire.send("GET", url, {}, kind="ping")
        answer.close()
        return parse_challenges(answer.all("WWW-Authenticate"))

    def _other(self, url: URL) -> Authorizer:
        origin = url.origin()
        if origin not in self._others:
            self._others[origin] = Authorizer(origin, self._wire, Trust(origin))
        return self._others[origin]

    def _broken(self, what: str, status: int | None) -> UpstreamBroken:
        return UpstreamBroken(f"{self._wire.namespace} {what}", namespace=self._wire.namespace, upstream_status=status)


def _scopes(url: URL) -> tuple[str, ...]:
    """Return the scope that a registry behind a redirect takes, as its path shows it; none: its challenge says."""
    match = _API_PATH.search(url.path)
    return (f"repository:{match[1]}:pull",) if match else ()
