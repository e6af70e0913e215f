"""Thrift: what is left undone as an upstream's rate limit runs out (`budget` of the configuration).

What is cached is asked for less often; what nobody waits for is not fetched; and of the last requests a few are kept
for images that are not here at all: whoever pulls what is here can do with what a tag meant before.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from mirror.errors import NameUnknown, UpstreamLimited

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirror.config import BudgetRule
    from mirror.oci.name import Repository
    from mirror.upstream.budget import Budget
    from mirror.upstream.protocol import Upstreams

RESERVE = 0.02  # of a limit: for what is not here at all. Two of Docker Hub's hundred are an index and its image
THROUGH = "registry-mirror"  # `docker-ratelimit-source` of a mirror, which tells what is left of its upstream's limit
_ASKING = "manifest HEAD"
_BLOBS_FREE = frozenset({"docker.io"})  # upstreams that are known to count manifests alone


class Thrift:
    """The rules, by how much of an upstream's limit is left. `clock` gives seconds since the epoch."""

    def __init__(
        self, rules: Sequence[BudgetRule], upstreams: Upstreams, clock: Callable[[], float] = time.time
    ) -> None:
        self._upstreams = upstreams
        self._clock = clock
        self.reconfigure(rules)

    def reconfigure(self, rules: Sequence[BudgetRule]) -> None:
        """Go by other rules from now on."""
        self._rules = sorted(rules, key=lambda rule: rule.below)

    def rule(self, repository: Repository) -> BudgetRule | None:
        """Return the narrowest rule that applies now; None: nothing is saved. Raise `NameUnknown`."""
        if not self._rules:
            return None
        share = self._upstreams.of(repository.namespace).accounts.share(repository.name)
        return None if share is None else next((rule for rule in self._rules if share < rule.below), None)

    def reads_ahead(self, repository: Repository) -> bool:
        """Say whether blobs may be fetched that nobody waits for yet."""
        if repository.namespace in _BLOBS_FREE:
            return True
        try:
            rule = self.rule(repository)
        except NameUnknown:  # a reload may just have taken it away
            return False
        return rule is None or rule.read_ahead

    def rests(self, repository: Repository) -> str | None:
        """Return why nobody can even be asked what a tag is now: all that may ask were told to leave upstream alone."""
        accounts = self._upstreams.of(repository.namespace).accounts
        names = list(accounts.credentials(repository.name)) if accounts.credentials is not None else []
        if accounts.bypassed or not names or not all(accounts.rest(name, _ASKING) for name in names):
            return None
        return f"{repository.namespace} limits requests, and asked to be left alone"

    def kept_from_spare(self) -> float:
        """Return the share of a limit, 0 to 1, that is kept from whatever no client waits for."""
        return max((rule.below for rule in self._rules if not rule.prefetch), default=0.0)

    def check_spare(self, repository: Repository, what: str) -> None:
        """Raise `UpstreamLimited` where what is left is kept for clients. `what` is not done, in words."""
        rule = self.rule(repository)
        if rule is not None and not rule.prefetch:
            raise self._limited(
                repository, f"{what}: less than {rule.below:.0%} of the requests that {repository.namespace} allows "
                "are left, and a rule of `budget` keeps those for what clients wait for"
            )  # fmt: skip

    def check(self, repository: Repository, gets: int, what: str) -> None:
        """Raise `UpstreamLimited` where so many counted requests are too many for what is here in an older form.

        `what` takes them, in words.
        """
        left = self._left(repository)
        if left is None or gets == 0:
            return
        limit, remaining = left
        reserve = math.ceil(limit * RESERVE) if self._rules else 0
        if remaining < min(gets + reserve, limit):
            raise self._limited(
                repository, f"{what} takes {gets} of the requests that {repository.namespace} limits, and of {limit} "
                f"only {remaining} are left"
            )  # fmt: skip

    def _left(self, repository: Repository) -> tuple[int, int] | None:
        """Return the limit and what remains of it; None: no limit is known, or it need not be that which is used."""
        accounts = self._upstreams.of(repository.namespace).accounts
        share, budget = accounts.share(repository.name), accounts.best(repository.name)
        if share is None or budget is None or not budget.limit or accounts.bypassed or budget.source == THROUGH:
            return None  # a mirror between sees to it itself: what it has is not counted
        return budget.limit, round(share * budget.limit)

    def _limited(self, repository: Repository, text: str) -> UpstreamLimited:
        budget = self._upstreams.of(repository.namespace).accounts.best(repository.name)
        wait = budget.exhausted(self._clock()) if budget is not None else 0.0
        return UpstreamLimited(text, namespace=repository.namespace, retry_after=wait or None)


def told(budget: Budget | None, now: float) -> dict[str, str]:
    """Return the headers that tell a mirror below what is left of an upstream's limit, as far as that is known.

    Never that nothing is: what this mirror has it gives, and what it cannot get it refuses itself.
    """
    if budget is None or not budget.limit or budget.remaining is None or (share := budget.share(now)) is None:
        return {}
    window = f";w={budget.window:.0f}" if budget.window else ""
    remaining = max(1, round(share * budget.limit))
    return {
        "ratelimit-limit": f"{budget.limit}{window}",
        "ratelimit-remaining": f"{remaining}{window}",
        "docker-ratelimit-source": THROUGH,
    }
