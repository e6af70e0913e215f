"""Whose turn it is: with which of an upstream's credentials a request is made, and with which next if those fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachetools import LRUCache

from mirror.errors import UpstreamDenied, UpstreamError, UpstreamLimited
from mirror.upstream.accounts import ANONYMOUS, COUNTED
from mirror.upstream.logins import Nobody

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mirror.config.credentials import Credentials
    from mirror.upstream.accounts import Accounts
    from mirror.upstream.logins import Group, Login, LoginRefused, Logins
    from mirror.upstream.wire import Answer

ASIDE = 300.0  # seconds that refused credentials are not used, while there are others

_SWITCH = 0.1  # share of the limit by which others must have more left to be asked with: a change costs a token
_REPOSITORIES = 4096  # of which it is remembered who was let in
_DENIALS = (401, 403, 404)  # what those are told who may not see a repository


class Resting(UpstreamLimited):
    """Nothing was sent: whoever may ask rests, the first of them for `retry_after` seconds more."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Somebody who may ask. `rank` is 0 for those who are closest to the repository."""

    login: Login
    rank: int
    known: bool  # was let in there before: what they are told of it is so

    @property
    def stranger(self) -> bool:
        """Whether nothing is shown."""
        return isinstance(self.login, Nobody) or self.login.name == ANONYMOUS


class Turn:
    """The way of one request through the credentials; it is iterated over until somebody has an answer."""

    def __init__(
        self,
        namespace: str,
        accounts: Accounts,
        kind: str,
        candidates: Sequence[Candidate],
        aside: Sequence[tuple[Candidate, str]] = (),
    ) -> None:
        """`aside` are those who are not to ask, and why."""
        self.candidates = candidates
        self._namespace = namespace
        self._accounts = accounts
        self._kind = kind
        self._now: Candidate | None = None
        self._failures: list[tuple[Candidate, UpstreamError | None]] = [  # None: rests
            (each, _set_aside(namespace, each.login.name, why)) for each, why in aside
        ]
        self._limited: Answer | None = None
        self._denied: tuple[Candidate, Answer] | None = None

    def __iter__(self) -> Iterator[Login]:
        """Yield who is to ask next. Those who rest are passed over, and so, after a denial, are those farther off."""
        for candidate in self.candidates:
            if self._denied is not None and candidate.rank > self._denied[0].rank:
                return
            if self._rest(candidate):
                self._failures.append((candidate, None))
                continue
            self._now = candidate
            yield candidate.login

    @property
    def exhausted(self) -> bool:
        """Whether everybody rests."""
        return all(self._rest(candidate) for candidate in self.candidates)

    def failed(self, error: UpstreamError) -> None:
        """Note that whoever asked was refused, limited, or has no credentials now."""
        assert self._now is not None  # noqa: S101  somebody asked
        if isinstance(error, UpstreamLimited):
            self._accounts.limited(self._now.login.name, self._kind, error.retry_after)
        self._failures.append((self._now, error))

    def limited(self, answer: Answer, retry_after: float | None) -> None:
        """Note an answer that limits; its body was read."""
        assert self._now is not None  # noqa: S101  somebody asked
        self._accounts.limited(self._now.login.name, self._kind, retry_after)
        self._failures.append((self._now, None))
        self._limited = answer

    def doubts(self, answer: Answer) -> bool:
        """Say whether somebody else might be told something else; if so the answer is kept, without its body."""
        assert self._now is not None  # noqa: S101  somebody asked
        alone = len(self.candidates) == 1 and not self._failures
        if answer.status not in _DENIALS or self._now.known or alone:
            return False
        self._denied = self._denied or (self._now, answer)
        return True

    def outcome(self) -> Answer:
        """Return the answer that counts where nobody was let in, or raise why there is none.

        A denial does not count where somebody could not ask who has more to do with the repository.
        """
        if self._denied is not None and not any(self._outweighs(other) for other, _ in self._failures):
            return self._denied[1]
        rests = [rest for each, error in self._failures if not _is_refusal(error) and (rest := self._rest(each))]
        if self._limited is not None:
            self._limited.rest = min(rests, default=None)
            return self._limited
        errors = [error for _, error in self._failures if error is not None]
        limits = [error for error in errors if isinstance(error, UpstreamLimited)]
        if limits:
            limits[0].retry_after = min(rests, default=limits[0].retry_after)
            raise limits[0]
        if rests or not errors:
            raise self._resting(min(rests, default=0.0))
        raise errors[0]

    def _outweighs(self, other: Candidate) -> bool:
        """Say whether what `other` would be told counts for more than the denial."""
        assert self._denied is not None  # noqa: S101
        denied = self._denied[0]
        return other.rank < denied.rank or other.known or (denied.stranger and not other.stranger)

    def _rest(self, candidate: Candidate) -> float:
        return self._accounts.rest(candidate.login.name, self._kind)

    def _resting(self, seconds: float) -> Resting:
        names = [candidate.login.name for candidate in self.candidates]
        whose = f", whoever asks ({', '.join(names)})" if len(names) > 1 else ""
        return Resting(
            f"{self._namespace} limits requests and asked to be left alone for {seconds:.0f} s more{whose}",
            namespace=self._namespace,
            upstream_status=429,
            retry_after=seconds,
        )


class Turns:
    """The credentials of one registry, and what became of those that were used."""

    def __init__(self, namespace: str, logins: Logins, accounts: Accounts) -> None:
        self._namespace = namespace
        self._logins = logins
        self._accounts = accounts
        accounts.credentials = logins.names
        self._let_in: LRUCache[str, tuple[str, ...]] = LRUCache(_REPOSITORIES)  # names by repository, the last first
        self._refused: dict[str, Credentials | None] = {}  # by name: what those showed that are set aside
        # Set aside before this process began: whoever started it again may have put them right.
        self._untried = {name for name in logins.names(None) if accounts.aside(name) is not None}

    async def begin(self, kind: str, repository: str) -> Turn:
        """Return who may make a request of this kind, in their order."""
        everybody = self._ordered(kind, repository, await self._logins.of(repository))
        if len(everybody) == 1:
            return Turn(self._namespace, self._accounts, kind, everybody)
        aside = [(each, why) for each in everybody if (why := await self._aside(each.login)) is not None]
        if not aside or len(aside) == len(everybody):
            return Turn(self._namespace, self._accounts, kind, everybody)
        out = [each for each, _ in aside]
        return Turn(self._namespace, self._accounts, kind, [each for each in everybody if each not in out], aside)

    async def order(self, kind: str, repository: str) -> list[str]:
        """Return the names of whoever would be asked with, in that order; those who rest or are set aside come last."""
        names = [each.login.name for each in self._ordered(kind, repository, await self._logins.of(repository))]
        return sorted(
            names, key=lambda name: (self._accounts.aside(name) is not None, self._accounts.rest(name, kind) > 0)
        )

    async def renewed(self, repository: str, login: Login, refused: Credentials | None) -> Login | None:
        """Return whoever has other credentials in place of those that were refused; None: nobody has."""
        if refused is None or not await self._logins.renew(repository, login, refused):
            return None
        everybody = [each for group in await self._logins.of(repository) for each in group]
        return next((each for each in everybody if each.name == login.name), everybody[0])

    def let_in(self, repository: str, login: Login, *, identity: bool) -> None:
        """Note that somebody was let in there; `identity`: something was shown, so it is good."""
        name = login.name
        names = self._let_in.get(repository, ())
        if names[:1] != (name,):
            self._let_in[repository] = (name, *(each for each in names if each != name))
        if identity and (name in self._refused or name in self._untried):
            self._refused.pop(name, None)
            self._untried.discard(name)
            self._accounts.restored(name)

    def set_aside(self, login: Login, refused: LoginRefused) -> None:
        """Do not use credentials for a while that the upstream refuses."""
        name = login.name
        told = name not in self._untried and self._refused.get(name) == refused.shown
        if told and self._accounts.aside(name) is not None:
            return
        self._untried.discard(name)
        self._refused[name] = refused.shown
        self._accounts.set_aside(name, str(refused), ASIDE)

    def _ordered(self, kind: str, repository: str, groups: Sequence[Group]) -> list[Candidate]:
        known = self._let_in.get(repository, ())
        return [
            Candidate(login, rank, login.name in known)
            for rank, group in enumerate(groups)
            for login in self._by_share(group, known[0] if known else None, _SWITCH if kind == COUNTED else 1.0)
        ]

    def _by_share(self, group: Group, last: str | None, much: float) -> Group:
        """Put whoever has the most left first; but whoever was used last, as long as nobody has `much` more."""
        if len(group) == 1:
            return group
        left = {login: self._accounts.left(login.name) for login in group}
        most = max(left.values())
        return tuple(sorted(group, key=lambda login: (login.name != last or left[login] < most - much, -left[login])))

    async def _aside(self, login: Login) -> str | None:
        """Say why somebody's credentials are set aside, if they are still the ones that were refused."""
        name = login.name
        why = self._accounts.aside(name)
        if why is None:
            self._refused.pop(name, None)
            return None
        if name in self._untried:
            return None
        try:
            shown = await login.credentials()
        except UpstreamError:
            return why
        # Where another process set them aside, those that are here now are taken for the ones that it showed.
        return why if self._refused.setdefault(name, shown) == shown else None


def _set_aside(namespace: str, name: str, why: str) -> UpstreamDenied:
    return UpstreamDenied(
        f"{namespace}: its credentials {name!r} are set aside for a few minutes: {why.removeprefix(f'{namespace}: ')}",
        namespace=namespace,
        upstream_status=401,
    )


def _is_refusal(error: UpstreamError | None) -> bool:
    return error is not None and not isinstance(error, UpstreamLimited)
