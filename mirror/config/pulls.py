"""The `pulls:` section: what may be pulled at all, and on which terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.config.globs import covers, placed
from mirror.config.schema import PullSection
from mirror.config.sections import all_known, kind, read_section
from mirror.config.values import PullRule

if TYPE_CHECKING:
    from collections.abc import Container

    from mirror.config.document import Document, Location, Tree

_PLACE = "pulls[]"
_ALLOWING = ("require_digest", "min_age")  # what only an allowed pull can have


def read_pulls(document: Document, tree: Tree, upstreams: Container[str], *, wildcard: bool) -> tuple[PullRule, ...]:
    """Return the rules in their order; what none of them matches is allowed."""
    if tree is None:
        return ()
    if not isinstance(tree, list):
        document.blame(
            ("pulls",), f'is {kind(tree)}, and should be a list of rules; write - {{deny: "docker.io/**", reason: "…"}}'
        )
        return ()
    rules: list[tuple[int, PullRule]] = []
    for number, entry in enumerate(tree):
        location: Location = ("pulls", number)
        if entry is None:
            document.blame(location, "is empty; write a rule, or leave it away")
            continue
        _check_keys(document, entry, location)
        section = read_section(PullSection, document, entry, location, _PLACE)
        if section is None or (section.allow is None) == (section.deny is None):
            continue
        key = "deny" if section.allow is None else "allow"
        glob = section.allow or section.deny or ""
        match = placed(document, (*location, key), glob, upstreams, wildcard=wildcard)
        before = next((earlier for earlier, rule in rules if covers(rule.match, match)), None)
        if before is not None:
            document.blame(
                (*location, key), f"is never reached, because pulls[{before}] matches all of it; put this rule first"
            )
        rule = PullRule(
            match=match,
            allow=section.deny is None,
            reason=section.reason,
            require_digest=section.require_digest,
            min_age=section.min_age,
        )
        rules.append((number, rule))
    return tuple(rule for _, rule in rules)


def _check_keys(document: Document, entry: Tree, location: Location) -> None:
    """Look at which keys are there, so that a wrong value beside them hides nothing."""
    if not isinstance(entry, dict):
        return
    given = {key for key, value in entry.items() if value is not None}
    if {"allow", "deny"} <= given:
        document.blame((*location, "deny"), "stands beside allow; make two rules of them")
    elif not {"allow", "deny"} & given and all_known(entry, _PLACE):
        document.blame(location, 'says neither allow nor deny; write {allow: "…"} or {deny: "…"}')
    elif "deny" in given:
        for key in _ALLOWING:
            if key in given:
                document.blame((*location, key), "stands beside deny, and what is denied has no terms; leave it away")
    elif "reason" in given:
        document.blame((*location, "reason"), "stands beside allow, and is said only of what is denied; leave it away")
