"""What a configuration comes to, in sentences: where upstreams are asked and as whom, and what rules do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.config.units import Size, show_duration, show_rate
from mirror.config.values import ITSELF

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mirror.config import BudgetRule, Config, CredentialConfig, PullRule, UpstreamConfig


def meaning(config: Config) -> list[str]:
    """Return a line for each thing that the keys alone do not tell."""
    lines = [line for upstream in config.upstreams.values() for line in _upstream(upstream)]
    lines += [f"pulls {number}. {_pull(rule)}" for number, rule in enumerate(config.pulls, 1)]
    if config.pulls:
        lines.append("pulls: what none of these matches is allowed")
    lines += [
        f"with less than {Size(percent=rule.below * 100)} of a rate limit left, {_saving(rule)}"
        for rule in config.budget
    ]
    if not config.budget:
        lines.append("nothing is saved as a rate limit runs out")
    return lines


def _upstream(upstream: UpstreamConfig) -> Iterator[str]:
    if upstream.endpoints:
        labels = [f"{ITSELF} ({each.label})" if each.itself else each.label for each in upstream.endpoints]
        order = "in this order" if upstream.endpoint_order == "written" else "the quickest that is well first"
        telling = [ITSELF if each.itself else each.label for each in upstream.endpoints if each.authoritative]
        yield f"{upstream.name} is asked at {_listed(labels)}, {order}; what a tag means, only at {_listed(telling)}"
    if upstream.credentials:
        bound = [_credential(credential) for credential in upstream.credentials if credential.repositories]
        free = [credential.name for credential in upstream.credentials if not credential.repositories]
        names = _listed([*bound, *free])
        yield f"{upstream.name} is asked as {names}: first whose repository it is, then who has most left"
    if upstream.max_rate:
        yield f"{upstream.name} sends layers at {show_rate(upstream.max_rate)} at most, in all"


def _credential(credential: CredentialConfig) -> str:
    return f"{credential.name} (for {', '.join(credential.repositories)} alone)"


def _pull(rule: PullRule) -> str:
    terms = []
    if rule.require_digest:
        terms.append("by digest only")
    if rule.min_age:
        terms.append(f"a tag's new digest only once it is known for {show_duration(rule.min_age)}")
    return ": ".join(
        [rule.written(), *([" and ".join(terms)] if terms else []), *([rule.reason] if rule.reason else [])]
    )


def _saving(rule: BudgetRule) -> str:
    parts = [f"cached tags are good for at least {show_duration(rule.ttl)}"] if rule.ttl else []
    parts += ["nothing is prefetched or revalidated behind an answer"] if not rule.prefetch else []
    parts += ["layers that count are not read ahead"] if not rule.read_ahead else []
    return _listed(parts) if parts else "nothing is saved"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
