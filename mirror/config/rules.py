"""The `freshness:` section: how long what is cached may be served before upstream is asked again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mirror.config.globs import EVERYTHING, placed
from mirror.config.schema import RuleSection
from mirror.config.sections import kind, read_section
from mirror.config.values import FreshnessRule

if TYPE_CHECKING:
    from collections.abc import Container

    from mirror.config.document import Document, Location, Tree

BUILT_IN = FreshnessRule(EVERYTHING, ttl=60.0, stale_while_revalidate=0.0, stale_if_error=math.inf, immutable=False)


def read_freshness(
    document: Document, tree: Tree, upstreams: Container[str], *, wildcard: bool
) -> tuple[FreshnessRule, ...]:
    """Return the rules in their order; the last one always matches everything."""
    if tree is None:
        return (BUILT_IN,)
    if not isinstance(tree, list):
        document.blame(
            ("freshness",), f'is {kind(tree)}, and should be a list of rules; write - {{match: "**", ttl: 1m}}'
        )
        return (BUILT_IN,)
    rules: list[FreshnessRule] = []
    for number, entry in enumerate(tree):
        location: Location = ("freshness", number)
        if any(rule.match == EVERYTHING for rule in rules):
            document.blame(location, 'is never reached, because a rule before it matches "**"; put that rule last')
        if entry is None:
            document.blame(location, "is empty; write a rule, or leave it away")
            continue
        section = read_section(RuleSection, document, entry, location, "freshness[]")
        if section is None:
            continue
        if section.immutable and isinstance(entry, dict) and {"ttl", "stale_while_revalidate"} & entry.keys():
            document.blame(location, "is immutable, so it is never asked for again; leave ttl and stale_while_… away")
        rules.append(
            FreshnessRule(
                match=placed(document, (*location, "match"), section.match, upstreams, wildcard=wildcard),
                ttl=section.ttl,
                stale_while_revalidate=section.stale_while_revalidate,
                stale_if_error=section.stale_if_error,
                immutable=section.immutable,
            )
        )
    if not rules or rules[-1].match != EVERYTHING:
        rules.append(BUILT_IN)
    return tuple(rules)
